"""History on the wire: taken as one, answered as one, in the order of its stream."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.servers import RunningServer
from tests.wire.clients import Client, at_rest, batch, config, history, observation, refusal_of, refused, unary
from tidegate.engine.memory.record import unpack
from tidegate.model import reference
from tidegate.model.package import Package
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import session_pb2 as session
from tidegate.wire.stubs import types_pb2 as types

DAY_NS = 86_400 * 10**9
STEPS = 200


@pytest.fixture
def name() -> str:
    return uuid4().hex


def feed(steps: int = STEPS, features: int = 4, seed: int = 0) -> NDArray[np.float64]:
    """[steps, features], of numbers that float32 holds exactly."""
    return np.random.default_rng(seed).normal(size=(steps, features)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("dtype", [types.DTYPE_FLOAT32, types.DTYPE_FLOAT64])
async def test_a_history_gets_the_prediction_of_the_reference(
    client: Client, random_model: Package, name: str, dtype: int
) -> None:
    """By a unary call, and on a stream: the prediction after its last step, as the float64 reference has it."""
    x = feed()
    wanted = reference.predict(random_model, x).raw
    first = (await client.predict(history(name, x[:150], dtype=dtype))).prediction
    np.testing.assert_allclose(first.values, wanted[149], atol=1e-5)
    assert (first.session_id, first.step, first.steps_seen, first.created) == (name, 150, 150, True)
    stream = client.stream()
    second = (await stream.ask(history(name, x[150:], 151, dtype=dtype))).prediction
    np.testing.assert_allclose(second.values, wanted[-1], atol=1e-5)
    assert (second.step, second.created, second.duplicate) == (STEPS, False, False)
    again = (await stream.ask(history(name, x, dtype=dtype))).prediction
    assert again.duplicate
    assert again.values == second.values


async def test_exact_is_stepping_to_the_bit(client: Client, name: str) -> None:
    """The bytes of the prediction, and of the exported session, are those of observations one after another."""
    x = feed(60, features=3)
    stream = client.stream("station", units=["degF", "m/s", "mm"])
    for step in range(1, 61):
        wanted = (await stream.ask(observation(f"{name}-one", x[step - 1], step))).prediction
    found = (await stream.ask(history(f"{name}-all", x, exact=True))).prediction
    assert found.values == wanted.values
    rows = []
    for one in ("one", "all"):
        request = session.ExportSessionRequest(model="station", session_id=f"{name}-{one}")
        _, row = unpack((await client.sessions.ExportSession(request)).content)
        rows.append({column: value.tobytes() for column, value in row.items()})
    assert rows[0] == rows[1]


async def test_order_on_one_stream(client: Client, name: str) -> None:
    """Observations, histories and batches of one session on one stream are taken and answered in the order in which
    they were sent, without waiting in between."""
    x = feed()
    stream, calm = client.stream(), client.stream()
    wanted = [(await calm.predict(observation(f"{name}-calm", row, place))).values for place, row in enumerate(x, 1)]
    await stream.send(observation(name, x[0], 1))
    await stream.send(history(name, x[1:100], 2, exact=True))
    await stream.send(observation(name, x[100], 101))
    await stream.send(history(name, x[101:199], 102, exact=True))
    await stream.send(batch([name], x[199:], steps=[200], dtype=types.DTYPE_FLOAT64))
    answers = await stream.finish()
    assert [answer.sequence for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer.prediction.step for answer in answers[:4]] == [1, 100, 101, 199]
    for answer, step in zip(answers, (1, 100, 101, 199), strict=False):
        assert answer.prediction.values == wanted[step - 1]
    assert np.frombuffer(answers[4].batch.values, "<f4").tolist() == list(wanted[199])


async def test_intervals_flags_and_times(client: Client, server: RunningServer, name: str) -> None:
    """The prediction says what its last step says: for when it is, and what was missing."""
    x = feed(features=3)
    x[-1, 1] = np.nan
    times = [DAY_NS * day for day in range(1, STEPS + 1)]
    before = server.metric("tidegate_history_steps_total")
    answer = (await client.predict(history(name, x, times=times), "station")).prediction
    assert answer.valid_time.seconds == 86_400 * (STEPS + 1)
    assert list(answer.imputed_features) == [1]
    assert server.metric("tidegate_history_steps_total") == before + STEPS


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": 0}, "BAD_HISTORY"),
    "too many steps": ({"steps": 16_385}, "BAD_HISTORY"),
    "ragged": ({"steps": 7}, "BAD_HISTORY"),
    "no values": ({"values": b""}, "BAD_HISTORY"),
    "few times": ({"event_times_unix_ns": [1, 2]}, "BAD_HISTORY"),
    "dtype": ({"dtype": 9}, "BAD_HISTORY"),
    "step": ({"first_step": 2**63}, "BAD_HISTORY"),
    "ragged future": ({"future_covariates": b"1234567"}, "BAD_HISTORY"),
    "future": ({"future_covariates": np.zeros(10).tobytes()}, "BAD_OBSERVATION"),
    "narrow": ({"values": np.zeros(30).tobytes()}, "BAD_OBSERVATION"),
    "infinite": ({"values": np.full(40, np.inf).tobytes()}, "BAD_OBSERVATION"),
    "id": ({"session_id": "x" * 257}, "BAD_SESSION_ID"),
    "unknown": ({"first_step": 5}, "SESSION_NOT_FOUND"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_does_not_fit_is_refused(server: RunningServer, client: Client, name: str, case: str) -> None:
    """A history that does not fit is refused, unary or on a stream, which goes on; nothing is opened."""
    fields, reason = BAD[case]
    message = history(name, feed(10))
    for field, value in fields.items():
        if field == "event_times_unix_ns":
            message.event_times_unix_ns.extend(value)
        else:
            setattr(message, field, value)
    assert (await refused(client.predict(message))).reason == reason
    stream = client.stream()
    assert refusal_of((await stream.ask(message)).error).reason == reason
    request = session.GetSessionRequest(model="random", session_id=name)
    assert (await refused(client.sessions.GetSession(request))).reason == "SESSION_NOT_FOUND"
    assert (await stream.predict(observation(name, [1.0, 2.0, 3.0, 4.0]))).step == 1
    assert await stream.finish() == []
    await at_rest(server)


async def test_a_row_that_cannot_be_taken_is_named(client: Client, name: str) -> None:
    """The error says which row it was, and which step is expected; no row was taken."""
    x = feed()
    stream = client.stream()
    await stream.predict(observation(name, x[0], 1))
    bad = x[1:].copy()
    bad[120] = 1e300
    for exact in (False, True):
        error = refusal_of((await stream.ask(history(name, bad, 2, exact=exact))).error)
        assert (error.reason, error.code) == ("HISTORY_DIVERGED", grpc.StatusCode.FAILED_PRECONDITION)
        assert error.variables == {"expected_step": "2", "row": "120"}
        assert error.message.startswith("row 120 of the history")
    assert (await stream.predict(observation(name, x[1], 2))).steps_seen == 2


async def test_reset(client: Client, name: str) -> None:
    """A history may begin with a reset; the numbering goes on."""
    x = feed()
    stream = client.stream()
    await stream.ask(history(f"{name}-new", x[50:], exact=True))
    wanted = (await stream.ask(history(f"{name}-new", x[:10], 151, exact=True))).prediction
    await stream.ask(history(name, x[:50]))
    await stream.ask(history(name, x[50:], 51, reset=True, exact=True))
    found = (await stream.ask(history(name, x[:10], 201, exact=True))).prediction
    assert found.values == wanted.values
    assert (found.step, found.steps_seen) == (210, 160)


async def test_a_client_that_goes_away(server: RunningServer, client: Client, name: str) -> None:
    """Histories of a stream that is cancelled are dropped or taken whole; the server is at rest afterwards."""
    x = feed()
    stream = client.stream()
    for place in range(20):
        await stream.send(history(f"{name}-{place}", x, exact=True))
    stream.call.cancel()
    await at_rest(server)
    listed = await client.sessions.ListSessions(session.ListSessionsRequest(model="random", filter=f"id={name}*"))
    assert {found.step for found in listed.sessions} <= {0, STEPS}


async def test_a_request_without_a_payload(client: Client) -> None:
    """A unary call asks for something."""
    assert (await refused(client.predictions.Predict(pb.PredictRequest(config=config())))).reason == "BAD_OBSERVATION"
    assert (await client.predict(history(uuid4().hex, feed(1)))).prediction.step == 1
    assert unary(history("x", feed(1))).HasField("history")
