"""Late observations and corrections through a real server: on streams, in batches, and unary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.identity.feeds import DERIVED, Connection, derived_package
from tests.servers import RunningServer
from tidegate import Client
from tidegate.wire.stubs import prediction_pb2, prediction_pb2_grpc, types_pb2

HOUR, START = 3600, 1_700_000_000
LATENESS, SESSIONS, STEPS = 3, 50, 9
CREATED, DUPLICATE, REVISED = 1, 2, 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One model of each kind, all of which allow for observations that are three steps late."""
    models = tmp_path_factory.mktemp("late") / "models"
    for name in DERIVED:
        derived_package(models, name, rewind_steps=LATENESS, lateness_steps=LATENESS)
    with RunningServer(models) as running:
        yield running


def observation(session: str, step: int, hour: int | None = None, value: float | None = None) -> Any:
    """One whose values follow from its hour or number, unless it is wrong."""
    number = hour if hour is not None else step
    values = [number * 0.5, -1.0, 2.0] if value is None else [value] * 3
    message = types_pb2.Observation(session_id=session, step=step, values=values)
    if hour is not None:
        message.event_time.FromSeconds(START + hour * HOUR)
    return message


class Unary:
    """Predict, one observation a call."""

    def __init__(self, address: str, model: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = prediction_pb2_grpc.PredictionServiceStub(self._channel)
        self._config = prediction_pb2.StreamConfig(model=model)

    def __call__(self, message: Any) -> Any:
        request = prediction_pb2.PredictRequest(config=self._config, observation=message)
        return self._stub.Predict(request, timeout=30).prediction

    def __enter__(self) -> Unary:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()


@pytest.mark.parametrize("model", DERIVED)
def test_one_at_a_time(server: RunningServer, model: str) -> None:
    """By number and by time: the answer says that it is revised, and is what a session says that got all in order."""
    with Unary(server.grpc, model) as predict:
        for step in range(1, 7):
            wanted = predict(observation("in-order", step, step))
        for step in (1, 2, 4, 6):
            predict(observation("by-number", step, step))
        for hour in (1, 2, 4, 6):
            predict(observation("by-time", 0, hour))
        predict(observation("by-number", 4, 4, value=7.0))
        for session, steps in (("by-number", (3, 4, 5)), ("by-time", (0, 0))):
            hours = (3, 4, 5) if session == "by-number" else (3, 5)
            for step, hour in zip(steps, hours, strict=True):
                answer = predict(observation(session, step, hour))
                assert answer.revised
                assert not answer.created
            assert (answer.step, list(answer.values)) == (6, list(wanted.values))
            assert answer.valid_time == wanted.valid_time
            assert answer.steps_seen == 6
            again = predict(observation(session, steps[-1], hours[-1]))
            assert (again.duplicate, again.revised, list(again.values)) == (True, True, list(wanted.values))
        for session in ("by-number", "by-time"):
            following = predict(observation(session, 7, 7))
            assert not following.revised
            assert list(following.values) == list(predict(observation("in-order", 7, 7)).values)


@pytest.mark.parametrize("model", DERIVED)
def test_in_batches(server: RunningServer, model: str) -> None:
    """Fifty sessions on one stream, each step of each late by up to three, some wrong at first: in the end the same
    bytes as of sessions that got all in order, and the flags say what was revised."""
    random = np.random.default_rng(1)
    values = random.normal(3.0, 2.0, (SESSIONS, STEPS, 3)).astype("<f4")
    values[random.random(values.shape) < 0.1] = np.nan
    arrivals: list[list[tuple[int, bool]]] = []
    for _ in range(SESSIONS):
        keyed = [(step + int(random.integers(0, LATENESS + 1)) * (step > 0), step, True) for step in range(STEPS)]
        keyed += [(step, step, False) for key, step, _ in keyed if key < step + LATENESS and random.random() < 0.3]
        arrivals.append([(step, right) for _, step, right in sorted(keyed, key=lambda x: (x[0], x[2], x[1]))])
    with Connection(server.grpc) as connection:
        stream = connection.stream(model)
        revised = 0
        for tick in range(max(map(len, arrivals))):
            rows = [(s, *arrivals[s][tick]) for s in range(SESSIONS) if tick < len(arrivals[s])]
            stream.observe_batch(
                types_pb2.ObservationBatch(
                    rows=len(rows),
                    session_ids=[f"late-{s}" for s, _, _ in rows],
                    steps=[step + 1 for _, step, _ in rows],
                    values=b"".join((values[s, step] + np.float32(not right)).tobytes() for s, step, right in rows),
                )
            )
            flags = np.frombuffer(stream.answer().batch.flags, np.uint8)
            revised += int((flags & REVISED > 0).sum())
        late = [len(rows) - len({step for step, _ in rows}) for rows in arrivals]
        assert revised > sum(late)
        for step in range(STEPS + 1):
            batch = types_pb2.ObservationBatch(rows=SESSIONS, session_ids=[f"calm-{s}" for s in range(SESSIONS)])
            last = step == STEPS
            batch.values = np.ones((SESSIONS, 3), "<f4").tobytes() if last else values[:, step].tobytes()
            stream.observe_batch(batch)
            wanted = stream.answer().batch.values
        batch.session_ids[:] = [f"late-{s}" for s in range(SESSIONS)]
        stream.observe_batch(batch)
        assert stream.answer().batch.values == wanted
        stream.end()


def test_what_is_told_of_the_model(server: RunningServer) -> None:
    """The description says how late an observation may be; the client names a revised prediction so."""
    with Client(server.grpc) as client:
        about = client.model("words").description
        assert about is not None
        assert (about.lateness_steps, about.replay_steps) == (LATENESS, 0)
        with Unary(server.grpc, "words") as predict:
            session = client.session("words", "told")
            for _ in range(3):
                assert not session.step([1.0, 0.0, 0.0]).revised
            assert predict(observation("told", 2, value=0.0)).revised
            session.step([1.0, 0.0, 0.0])
            with pytest.raises(grpc.RpcError, match="the step was taken long ago"):
                predict(observation("told", 1))
