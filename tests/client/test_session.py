"""A session stepped in lock-step, against a real server."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import AsyncClient, Client, Reason, TidegateError
from tidegate.client import Session
from tidegate.client import session as client_session
from tidegate.client.values.observations import Values
from tidegate.wire.stubs import prediction_pb2, types_pb2

MODEL = "random"
ROW = [0.1, -0.2, 0.3, 0.4]


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.session(MODEL, uuid.uuid4().hex)


def test_steps_are_numbered_from_one(session: Session) -> None:
    """The first step opens the session and says so; the following ones count on and have seen as many steps."""
    predictions = [session.step(ROW) for _ in range(3)]
    assert [p.step for p in predictions] == [p.steps_seen for p in predictions] == [1, 2, 3]
    assert [p.created for p in predictions] == [True, False, False]
    assert predictions[0].values.shape == (4,)
    assert predictions[0].values.dtype == np.float32
    assert predictions[0]["x2"] == predictions[0].values[2]
    with pytest.raises(KeyError, match="the targets are x0, x1, x2, x3"):
        predictions[0]["y"]


def test_mapping_and_sequence_say_the_same(client: Client) -> None:
    """A mapping in any order, a list and an array give the same bytes."""
    named = dict(zip(("x3", "x1", "x0", "x2"), (ROW[3], ROW[1], ROW[0], ROW[2]), strict=True))
    forms: list[Values] = [named, ROW, np.array(ROW)]
    answers = [client.session(MODEL, uuid.uuid4().hex).step(form).values.tobytes() for form in forms]
    assert len(set(answers)) == 1


def test_missing_values_are_named(session: Session) -> None:
    """None and NaN are imputed, and the prediction names the features."""
    prediction = session.step({"x0": 1.0, "x1": None, "x2": float("nan"), "x3": 0.0})
    assert prediction.imputed == ("x1", "x2")


def test_a_refused_step_takes_no_number(session: Session) -> None:
    """After a refusal, by client or server, the next step has the number that the refused one had."""
    session.step(ROW)
    for wrong, reason in (([1.0], Reason.BAD_OBSERVATION), ([float("inf")] * 4, Reason.BAD_OBSERVATION)):
        with pytest.raises(TidegateError) as refused:
            session.step(wrong)
        assert refused.value.reason is reason
    assert session.step(ROW).step == 2


def test_two_objects_share_one_place(client: Client, session: Session) -> None:
    """Session objects of one client for one id number on from each other."""
    session.step(ROW)
    assert client.session(MODEL, session.id).step(ROW).step == 2
    assert session.step(ROW).step == 3


def test_a_new_client_goes_on(server: RunningServer, session: Session) -> None:
    """A client that never saw the session numbers on from the server's last step."""
    session.step(ROW)
    with Client(server.grpc) as other:
        assert other.session(MODEL, session.id).step(ROW).step == 2


def test_a_stolen_step_is_never_papered_over(server: RunningServer, session: Session) -> None:
    """When another client stepped the session, the error names the step expected, again and again, until resync."""
    session.step(ROW)
    with Client(server.grpc) as other:
        thief = other.session(MODEL, session.id)
        thief.step(ROW)
        thief.step(ROW)
    for _ in range(2):
        with pytest.raises(TidegateError) as refused:
            session.step([1.0, 2.0, 3.0, 4.0])
        assert refused.value.reason is Reason.STEP_TOO_OLD
        assert refused.value.variables["expected_step"] == "4"
    info = session.resync()
    assert info is not None
    assert info.step == 3
    assert session.step(ROW).step == 4


async def test_a_step_whose_answer_was_lost_is_taken_once(server: RunningServer) -> None:
    """A step taken without its answer having come is answered as a duplicate when it is sent again."""
    async with AsyncClient(server.grpc) as client:
        session = client.session(MODEL, uuid.uuid4().hex)
        await session.step(ROW)
        lost = types_pb2.Observation(session_id=session.id, step=2, values=ROW)
        config = prediction_pb2.StreamConfig(model=MODEL)
        request = prediction_pb2.PredictRequest(config=config, observation=lost)
        answer = await client._connection.call(client._connection.predictions.Predict, request)
        again = await session.step(ROW)
        assert (again.step, again.duplicate) == (2, True)
        assert again.values.tolist() == list(answer.prediction.values)


def test_closed_by_another(server: RunningServer, session: Session) -> None:
    """A session that is gone is SESSION_NOT_FOUND, never begun in the middle; resync begins it anew."""
    session.step(ROW)
    session.step(ROW)
    with Client(server.grpc) as other:
        assert other.session(MODEL, session.id).close().step == 2
    with pytest.raises(TidegateError) as refused:
        session.step(ROW)
    assert refused.value.reason is Reason.SESSION_NOT_FOUND
    assert session.resync() is None
    assert session.step(ROW).created


def test_reset_close_fork_info(client: Client, session: Session) -> None:
    """Reset keeps the numbering, a fork goes its own way from the same place, and close frees the id."""
    session.step(ROW)
    fork = session.fork(session.id + "-fork")
    assert fork.step(ROW).values.tobytes() == session.step(ROW).values.tobytes()
    with pytest.raises(TidegateError) as refused:
        session.fork(fork.id)
    assert refused.value.reason is Reason.SESSION_EXISTS
    assert session.reset().steps_seen == 0
    after = session.step(ROW)
    assert (after.step, after.steps_seen) == (3, 1)
    assert session.step(ROW, reset=True).steps_seen == 1
    assert (fork.info().step, fork.info().id) == (2, fork.id)
    session.close()
    with pytest.raises(TidegateError) as gone:
        session.info()
    assert gone.value.reason is Reason.SESSION_NOT_FOUND
    assert session.step(ROW).created


def test_a_gap_between_times(server: RunningServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model bridges none, the error names both times and what to send, and rows of missing values do it."""
    monkeypatch.setattr(client_session, "EXPLAIN_SECONDS_MAX", 30.0)  # a machine may stand still for a second
    random_package(server.models, "strict", frequency="D")
    client.reload_models()
    session, day = client.session("strict", uuid.uuid4().hex), datetime(2024, 5, 1, tzinfo=UTC)
    session.step(ROW, time=day)
    with pytest.raises(TidegateError, match=r"from 2024-05-01 .* to 2024-05-04 .* \(D\).*missing values") as refused:
        session.step(ROW, time=day + timedelta(days=3))
    assert (refused.value.reason, refused.value.variables) == (Reason.STEP_GAP, {"expected_step": "2"})
    for days in (1, 2):
        session.step([None] * 4, time=day + timedelta(days=days))
    assert session.step(ROW, time=day + timedelta(days=3)).step == 4


def test_what_leads_out_is_said(server: RunningServer, client: Client, session: Session) -> None:
    """Whoever lost count is told of resync(), by a session and in a batch, and it helps."""
    session.step(ROW)
    with client.batches(MODEL) as batches:
        batches.step([session.id], [ROW])
        with pytest.raises(TidegateError, match=r"call resync\(\)") as refused:
            session.step([9.0] * 4)
        assert refused.value.reason is Reason.STEP_CONFLICT
        session.resync()
        assert session.step(ROW).step == 3
        (error,) = batches.step([session.id], [[9.0] * 4]).errors
        assert error.reason is Reason.STEP_CONFLICT
        assert error.message.count("call resync()") == 1
        batches.resync([session.id])
        assert batches.step([session.id], [ROW]).steps.tolist() == [4]
    client.close_sessions(MODEL, [session.id])
    with pytest.raises(TidegateError, match=r"call resync\(\)") as refused:
        session.step(ROW)
    assert refused.value.reason is Reason.SESSION_NOT_FOUND
    assert session.resync() is None
    assert session.step(ROW).step == 1


def test_times(server: RunningServer, client: Client) -> None:
    """A step's time gives the prediction's; it must go on, and a missing interval is a gap that is refused."""
    random_package(server.models, "hourly", frequency="h")
    assert "hourly/1" in client.reload_models().added
    session, begin = client.session("hourly", "clock"), datetime(2024, 1, 1, tzinfo=UTC)
    assert session.step(ROW, time=begin).valid_time == begin + timedelta(hours=1)
    second = session.step(ROW, time=np.datetime64("2024-01-01T01:00"))
    assert second.valid_time == begin + timedelta(hours=2)
    for hours, reason in ((1, Reason.TIME_NOT_INCREASING), (5, Reason.STEP_GAP)):
        with pytest.raises(TidegateError) as refused:
            session.step(ROW, time=begin + timedelta(hours=hours))
        assert refused.value.reason is reason
    assert session.info().last_event_time == begin + timedelta(hours=1)


def test_threads_share_a_session(session: Session) -> None:
    """Steps of one session from many threads take turns: every number is given once."""
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.extend(session.step(ROW).step for _ in range(20))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 161))


@pytest.fixture
async def aclient(server: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc) as client:
        yield client


async def test_thousands_of_sessions_on_a_few_streams(server: RunningServer, aclient: AsyncClient) -> None:
    """2,000 sessions at once, 3 steps each, get the predictions of one alone, on at most eight streams."""
    alone = aclient.session(MODEL, uuid.uuid4().hex)
    expected = [(await alone.step(ROW)).values.tobytes() for _ in range(3)]
    streams: list[float] = []

    async def run(index: int) -> list[bytes]:
        session = aclient.session(MODEL, f"crowd-{index}")
        answers = [(await session.step(ROW)).values.tobytes() for _ in range(3)]
        if index == 0:
            streams.append(await asyncio.to_thread(server.metric, "tidegate_streams_open"))
        return answers

    assert all(answers == expected for answers in await asyncio.gather(*(run(index) for index in range(2000))))
    assert 1 <= streams[0] <= 8


def test_unknown_model(client: Client) -> None:
    """A session of a model that is not served says so when it is first used."""
    with pytest.raises(TidegateError) as refused:
        client.session("nope", "a").step(ROW)
    assert refused.value.reason is Reason.MODEL_NOT_FOUND
