"""Feeds for real servers: ragged, with missing values and missing steps, sent alone or all mixed up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from tests.packages import random_package
from tidegate.model.package import Package
from tidegate.wire.stubs import prediction_pb2, prediction_pb2_grpc, types_pb2

LENGTH_MAX = 12
GAP_MAX = 3
GAPS = {"policy": "impute", "gap_steps_max": GAP_MAX}
LAGS = [{"feature": x, "steps": [1, 2, 7], "scales": [0.5, 1.0, 2.0]} for x in ("a", "b")]
BY_SESSION = [{"name": "a", "scaling": {"by": "running"}}, {"name": "b", "scaling": {"by": "instance"}}]
WORDS = [f"w{number}" for number in range(3)]
DERIVED: dict[str, dict[str, Any]] = {  # each takes three values and bridges gaps
    "lags-calendar": {
        "lags": LAGS,
        "calendar": [{"field": "hour_of_day"}, {"field": "month_of_year"}],
        "ids": ["nobody"],
    },
    "channels": {"lags": LAGS, "channel_independent": True, "head": {"output": "change", "hidden": [24]}},
    "by-session": {"lags": LAGS, "features": [*BY_SESSION, {"name": "c", "role": "past"}], "feedback": True},
    "ages": {"ages": True, "head": {"kind": "quantile", "levels": [0.1, 0.5, 0.9]}},
    "aged-channels": {"lags": LAGS, "ages": True, "channel_independent": True},
    "quantiles": {"head": {"kind": "quantile", "levels": [0.1, 0.5, 0.9], "hidden": [20, 12], "activation": "tanh"}},
    "words": {"features": [{"name": word} for word in WORDS], "targets": WORDS, "head": {"kind": "categorical"}},
}
Told = dict[str, list[bytes]]  # by session: its predictions, float32 as they came


@dataclass(frozen=True)
class Feed:
    """One session's observations: steps [n] (some left out) and values float32 [n, features] (some NaN)."""

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.float32]


def make_package(models: Path, name: str, hidden: int, targets: int, **fields: Any) -> Package:
    """A package of one past covariate and some targets, their scalings all different; every other one by log1p."""
    marks = [("target", f"y{place}") for place in range(targets)] + [("past", "z")]
    features = [
        {
            "name": x,
            "role": role,
            "scaling": {
                "transform": "log1p" if place % 2 else "none",
                "center": 0.25 * (place % 5) - 0.5,
                "scale": 0.5 + 0.25 * (place % 4),
            },
        }
        for place, (role, x) in enumerate(marks)
    ]
    names = [x for role, x in marks if role == "target"]
    return random_package(models, name, hidden=hidden, features=features, targets=names, **fields)


def derived_package(models: Path, name: str, **fields: Any) -> Package:
    """One of DERIVED: hourly, with a past covariate beside two targets unless it says otherwise."""
    features = [{"name": "a"}, {"name": "b"}, {"name": "c", "role": "past"}]
    given = {"features": features, "targets": ["b", "a"], "frequency": "h", "gaps": GAPS, "hidden": 40}
    return random_package(models, name, **given | DERIVED[name] | fields)  # type: ignore[arg-type]


def make_feeds(count: int, features: int, seed: int) -> list[Feed]:
    """Sessions of 1 to 12 observations; one value in twenty is missing, and one step in ten comes after a gap."""
    random = np.random.default_rng(seed)
    feeds = []
    for number in range(count):
        length = int(random.integers(1, LENGTH_MAX + 1))
        skipped = np.where(random.random(length) < 0.1, random.integers(1, GAP_MAX + 1, length), 0)
        skipped[0] = 0
        values = random.standard_normal((length, features)).astype(np.float32)
        values[random.random(values.shape) < 0.05] = np.nan
        feeds.append(Feed(f"s{number}", np.arange(1, length + 1) + skipped.cumsum(), values))
    return feeds


class Stream:
    """One StreamPredict call. Messages go out as they are sent; answers are read when they are wanted."""

    def __init__(self, channel: Any, model: str) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        stub = prediction_pb2_grpc.PredictionServiceStub(channel)
        self._answers = stub.StreamPredict(iter(self._queue.get, None))
        self._sequences = itertools.count(1)
        config = prediction_pb2.StreamConfig(model=model)
        self._queue.put(prediction_pb2.StreamPredictRequest(config=config))

    def observe(self, session: str, step: int, values: NDArray[np.float32]) -> int:
        """Sends one observation; returns its sequence."""
        observation = types_pb2.Observation(session_id=session, step=step, values=values.astype(float).tolist())
        return self._put(observation=observation)

    def observe_batch(self, rows: types_pb2.ObservationBatch) -> int:
        """Sends a batch; returns its sequence."""
        return self._put(batch=rows)

    def answer(self) -> Any:
        """The next answer; a failed observation is an error of the test."""
        response = next(self._answers)
        assert not response.HasField("error"), response.error
        assert not response.batch.errors, response.batch.errors[:3]
        return response

    def end(self) -> None:
        """Half-closes and sees the call end well."""
        self._queue.put(None)
        assert list(self._answers) == []

    def _put(self, **payload: Any) -> int:
        sequence = next(self._sequences)
        self._queue.put(prediction_pb2.StreamPredictRequest(sequence=sequence, **payload))
        return sequence


class Connection:
    """A channel to a server."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 1 << 26)])

    def stream(self, model: str) -> Stream:
        return Stream(self._channel, model)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


def take_alone(connection: Connection, model: str, feeds: list[Feed]) -> Told:
    """One session after another. All steps of one are sent at once: the engine takes one a session at a time."""
    told, stream = Told(), connection.stream(model)
    for feed in feeds:
        for step, values in zip(feed.steps.tolist(), feed.values, strict=True):
            stream.observe(f"alone-{feed.name}", step, values)
        answers = [stream.answer().prediction for _ in feed.steps]
        assert [answer.step for answer in answers] == feed.steps.tolist()
        told[feed.name] = [np.array(answer.values, np.float32).tobytes() for answer in answers]
    stream.end()
    return told


def take_mixed(connection: Connection, model: str, feeds: list[Feed], rows_max: int, seed: int) -> Told:
    """All at once: most sessions in batches of random size and order on two streams, the others on three streams of
    single observations; each session keeps to one stream."""
    random = np.random.default_rng(seed)
    parts = np.split(random.permutation(len(feeds)), (np.array([0.4, 0.8, 0.87, 0.94]) * len(feeds)).astype(int))
    groups = [[feeds[place] for place in part.tolist()] for part in parts]
    told = Told()
    with ThreadPoolExecutor(len(groups)) as pool:
        streams = [
            pool.submit(_in_batches, connection.stream(model), group, rows_max, seed + place)
            if place < 2
            else pool.submit(_in_singles, connection.stream(model), group, seed + place)
            for place, group in enumerate(groups)
        ]
        for stream in streams:
            told |= stream.result()
    return told


def _in_batches(stream: Stream, feeds: list[Feed], rows_max: int, seed: int) -> Told:
    """Aliases are bound where they are first used; even seeds send float64, odd ones float32."""
    random = np.random.default_rng(seed)
    dtype = types_pb2.DTYPE_FLOAT32 if seed % 2 else types_pb2.DTYPE_FLOAT64
    bound: set[int] = set()
    sent: dict[int, list[int]] = {}
    for places, steps in _draws(feeds, rows_max, random):
        values = np.stack([feeds[place].values[step] for place, step in zip(places, steps, strict=True)])
        naming = not bound.issuperset(places)
        bound.update(places)
        sequence = stream.observe_batch(
            types_pb2.ObservationBatch(
                rows=len(places),
                session_ids=[feeds[place].name for place in places] if naming else [],
                aliases=places,
                steps=[int(feeds[place].steps[step]) for place, step in zip(places, steps, strict=True)],
                dtype=dtype,
                values=values.astype("<f4" if seed % 2 else "<f8").tobytes(),
            )
        )
        sent[sequence] = places
    told: Told = {feed.name: [] for feed in feeds}
    for _ in sent:
        response = stream.answer()
        predictions = np.frombuffer(response.batch.values, "<f4").reshape(response.batch.rows, -1)
        for place, prediction in zip(sent[response.sequence], predictions, strict=True):
            told[feeds[place].name].append(prediction.tobytes())
    stream.end()
    return told


def _in_singles(stream: Stream, feeds: list[Feed], seed: int) -> Told:
    """Observations of many sessions one by one, in random order."""
    sent: dict[int, str] = {}
    for places, steps in _draws(feeds, 1, np.random.default_rng(seed)):
        feed, step = feeds[places[0]], steps[0]
        sent[stream.observe(feed.name, int(feed.steps[step]), feed.values[step])] = feed.name
    told: Told = {feed.name: [] for feed in feeds}
    for _ in sent:
        response = stream.answer()
        told[sent[response.sequence]].append(np.array(response.prediction.values, np.float32).tobytes())
    stream.end()
    return told


def _draws(feeds: list[Feed], rows_max: int, random: np.random.Generator) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of random size: sessions in random order, some more than once, each one's steps in their order."""
    order = random.permutation(np.repeat(np.arange(len(feeds)), [len(feed.steps) for feed in feeds])).tolist()
    taken = [0] * len(feeds)
    while order:
        places = [order.pop() for _ in range(min(len(order), int(random.integers(1, rows_max + 1))))]
        steps = []
        for place in places:
            steps.append(taken[place])
            taken[place] += 1
        yield places, steps
