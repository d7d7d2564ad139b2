"""While a step runs in the engine's thread: what arrives, what is cancelled, closed or reset meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from tests.wire.clients import (
    PATIENCE_SECONDS,
    Client,
    Stream,
    batch,
    observation,
    refusal_of,
    refused,
    unary,
    until,
    values_of,
)
from tests.wire.inprocess import Gate, InProcess, gate, in_process
from tidegate.model import reference
from tidegate.model.package import Package, load_package
from tidegate.wire.stubs import model_pb2, session_pb2
from tidegate.wire.stubs import prediction_pb2 as pb

X = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], [0.0, -1.0, 0.5, 2.0]])


@pytest.fixture
async def running(models: Path) -> AsyncIterator[InProcess]:
    async with in_process(models) as running:
        yield running


@pytest.fixture
async def client(running: InProcess) -> AsyncIterator[Client]:
    async with Client(running.grpc) as client:
        yield client


@pytest.fixture
async def held(running: InProcess, client: Client) -> AsyncIterator[Gate]:
    """A gate with one step (of the session `busy`, its first) waiting at it."""
    with gate(running.lane()) as held:
        busy = asyncio.ensure_future(client.predict(observation("busy", X[0], 1)))
        await held.taken()
        yield held
        held.open()
        assert (await busy).prediction.step == 1


@pytest.fixture
def package(models: Path) -> Package:
    return load_package(models / "random" / "1")


def ids(running: InProcess) -> set[bytes]:
    """All sessions that live."""
    return set(running.server.sessions.names("", "random"))


async def test_what_arrives_meanwhile_is_the_next_batch(
    running: InProcess, client: Client, held: Gate, package: Package
) -> None:
    """Rows that come while a step runs are stepped together after it, at most one a session at a time, and right."""
    stream = client.stream()
    for step in range(3):
        await stream.send(batch([f"feed-{row}" for row in range(5)], np.tile(X[step], (5, 1))))
    await until(lambda: running.server.host.engine.inbox.rows == 16, "all rows are in the inbox")
    held.open()
    answers = await stream.finish()
    assert held.rows == [1, 5, 5, 5]
    for step, answer in enumerate(answers):
        np.testing.assert_allclose(values_of(answer.batch)[4], reference.predict(package, X).raw[step], atol=1e-5)


async def test_reads_go_on_and_commands_wait(running: InProcess, client: Client, held: Gate) -> None:
    """During a step what needs no session is answered; a session call is answered after it, as the step left it."""
    call = asyncio.ensure_future(client.sessions.GetSession(get("busy")))
    await until(lambda: bool(running.commands), "the command is queued")
    assert len((await client.models.ListModels(model_pb2.ListModelsRequest())).models) == 1
    assert (await refused(client.predict(observation("x", X[0]), "none"))).reason == "MODEL_NOT_FOUND"
    assert not call.done()
    held.open()
    assert (await call).session.step == 1


@pytest.fixture
async def waiting(running: InProcess, client: Client, held: Gate) -> Stream:
    """A stream of the session `busy`: its second step waits at the gate, its third in the queue behind it."""
    stream = client.stream()
    await stream.send(observation("busy", X[1], 2))
    await stream.send(observation("busy", X[2], 3))
    await until(lambda: running.server.host.engine.inbox.rows == 3, "all rows are in the inbox")
    held.let(1)
    await held.taken(2)
    return stream


async def test_a_session_closed_meanwhile(running: InProcess, client: Client, held: Gate, waiting: Stream) -> None:
    """The step under way is answered, then the session ends, and what is still queued of it is SESSION_NOT_FOUND."""
    request = session_pb2.BatchCloseSessionsRequest(model="random", session_ids=["busy"])
    call = asyncio.ensure_future(client.sessions.BatchCloseSessions(request))
    await until(lambda: bool(running.commands), "the command is queued")
    held.open()
    second, third = await waiting.finish()
    assert second.prediction.step == 2
    error = refusal_of(third.error)
    assert (error.reason, error.variables) == ("SESSION_NOT_FOUND", {})
    assert (await call).done == 1
    assert ids(running) == set()


async def test_a_session_closed_and_opened_again_meanwhile(
    running: InProcess, client: Client, held: Gate, waiting: Stream
) -> None:
    """What was queued for a session that was closed never steps the new one of the same id (and the same slot)."""
    close = session_pb2.BatchCloseSessionsRequest(model="random", session_ids=["busy"])
    reopen = session_pb2.BatchOpenSessionsRequest(model="random", session_ids=["busy"])
    calls = [client.sessions.BatchCloseSessions(close), client.sessions.BatchOpenSessions(reopen)]
    both = asyncio.gather(*(asyncio.ensure_future(call) for call in calls))
    await until(lambda: len(running.commands) == 2, "both commands are queued")
    held.open()
    await both
    second, third = await waiting.finish()
    assert second.prediction.step == 2
    assert refusal_of(third.error).reason == "SESSION_NOT_FOUND"
    assert (await client.sessions.GetSession(get("busy"))).session.step == 0


async def test_a_session_reset_meanwhile(
    running: InProcess, client: Client, held: Gate, waiting: Stream, package: Package
) -> None:
    """The step under way is answered, then the state is zero, and what is queued goes on from there."""
    request = session_pb2.BatchResetSessionsRequest(model="random", session_ids=["busy"])
    call = asyncio.ensure_future(client.sessions.BatchResetSessions(request))
    await until(lambda: bool(running.commands), "the command is queued")
    held.open()
    second, third = await waiting.finish()
    assert (second.prediction.step, second.prediction.steps_seen) == (2, 2)
    assert (third.prediction.step, third.prediction.steps_seen) == (3, 1)
    np.testing.assert_allclose(third.prediction.values, reference.predict(package, X[2:]).raw[0], atol=1e-5)
    assert (await call).done == 1


async def test_a_session_forked_meanwhile(
    running: InProcess, client: Client, held: Gate, waiting: Stream, package: Package
) -> None:
    """The copy has the step under way and not what was queued behind it."""
    request = session_pb2.ForkSessionRequest(model="random", session_id="busy", new_session_id="copy")
    call = asyncio.ensure_future(client.sessions.ForkSession(request))
    await until(lambda: bool(running.commands), "the command is queued")
    held.open()
    await waiting.finish()
    assert (await call).session.step == 2
    answer = (await client.predict(observation("copy", X[2], 3))).prediction
    np.testing.assert_allclose(answer.values, reference.predict(package, X).raw[2], atol=1e-5)


class TestInbox:
    """A step is held; the inbox is full at 64 rows."""

    @pytest.fixture
    async def running(self, models: Path) -> AsyncIterator[InProcess]:
        async with in_process(models, inbox_rows_max=64, unary_calls_max=2) as running:
            yield running

    async def test_a_full_inbox_refuses_unary_calls_alone(self, running: InProcess, client: Client, held: Gate) -> None:
        """Unary predictions are INBOX_FULL; streams are held back, then answered; session calls are taken."""
        streams, inbox = [client.stream() for _ in range(3)], running.server.host.engine.inbox
        await streams[0].send(batch([f"feed-{row}" for row in range(63)], np.tile(X[0], (63, 1))))
        await until(lambda: inbox.rows >= inbox.rows_max, "a full inbox")
        error = await refused(client.predict(observation("new", X[0])))
        assert (error.reason, error.code) == ("INBOX_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED)
        for stream in streams[1:]:
            for step in range(3):
                await stream.send(observation(f"single-{id(stream)}", X[step], step + 1))
        call = asyncio.ensure_future(client.sessions.GetSession(get("busy")))
        await until(lambda: bool(running.commands), "the command is queued")
        held.open()
        assert (await call).session.step == 1
        assert [answer.batch.rows for answer in await streams[0].finish()] == [63]
        for stream in streams[1:]:
            assert [answer.prediction.step for answer in await stream.finish()] == [1, 2, 3]
        assert (await client.predict(observation("new", X[0]))).prediction.step == 1

    async def test_the_inbox_stays_near_its_limit(self, running: InProcess, client: Client, held: Gate) -> None:
        """However many streams send, the inbox never holds more than a message beyond its limit; all are answered."""
        rows, messages, streams = 50, 10, [client.stream() for _ in range(4)]
        deepest = 0

        async def watch() -> None:
            nonlocal deepest
            while True:
                deepest = max(deepest, running.server.host.engine.inbox.rows)
                await asyncio.sleep(0)

        async def feed(stream: Stream) -> int:
            for _ in range(messages):
                await stream.send(batch([f"feed-{id(stream)}-{row}" for row in range(rows)], np.tile(X[0], (rows, 1))))
            return sum(len(answer.batch.errors) for answer in await stream.finish())

        watching = asyncio.create_task(watch())
        feeding = [asyncio.create_task(feed(stream)) for stream in streams]
        await until(lambda: running.server.host.engine.full, "a full inbox")
        held.open()
        assert [await task for task in feeding] == [0] * len(streams)
        watching.cancel()
        assert 64 <= deepest < 64 + rows

    async def test_unary_calls_above_the_limit_are_refused(
        self, running: InProcess, client: Client, held: Gate
    ) -> None:
        """One unary prediction too many at once is INBOX_FULL; one that ends makes room."""
        second = asyncio.ensure_future(client.predict(observation("other", X[0])))
        await until(lambda: running.server.front.unary == 2, "both calls are there")
        assert (await refused(client.predict(observation("third", X[0])))).reason == "INBOX_FULL"
        held.open()
        await second
        assert (await client.predict(observation("third", X[0]))).prediction.step == 1


class TestGone:
    """A caller that is gone: what it had queued is not stepped, opens no session and leaves nothing behind."""

    async def test_a_unary_call_is_cancelled(self, running: InProcess, client: Client, held: Gate) -> None:
        """Before its step, for a new session and for one that lives."""
        calls = [
            client.predictions.Predict(unary(observation(name, X[1], step))) for name, step in (("a", 1), ("busy", 2))
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: running.server.host.engine.inbox.rows == 3, "all rows are in the inbox")
        for task in tasks:
            task.cancel()
        await until(lambda: running.server.front.unary == 1, "the calls have ended")
        held.open()
        await until(lambda: running.at_rest, "rest")
        assert ids(running) == {b"busy"}
        assert (await client.sessions.GetSession(get("busy"))).session.step == 1
        assert held.rows == [1]

    async def test_a_deadline_passes(self, running: InProcess, client: Client, held: Gate) -> None:
        """A unary call whose deadline passes before its step is DEADLINE_EXCEEDED, and may be tried again as it was."""
        for name, step in (("a", 1), ("busy", 2)):
            call = client.predictions.Predict(unary(observation(name, X[1], step)), timeout=0.1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: running.server.front.unary == 1, "the calls have ended")
        held.open()
        await until(lambda: running.at_rest, "rest")
        assert ids(running) == {b"busy"}
        assert (await client.predict(observation("busy", X[1], 2))).prediction.step == 2

    async def test_a_row_past_its_deadline_is_not_stepped(self, running: InProcess, held: Gate) -> None:
        """Also while its caller is still there: the row is answered DEADLINE_EXCEEDED, and no session was opened."""
        call = running.server.front.open()
        call.configure(pb.StreamConfig(model="random"))
        call.observe(1, observation("late", X[0], 1), deadline=0.0)
        call.observe_batch(2, batch(["late", "busy"], X[:2]), deadline=0.0)
        held.open()
        first, second = [(await call.next_answer())[0] for _ in range(2)]
        single, rows = map(pb.StreamPredictResponse.FromString, (first, second))
        running.server.front.close(call)
        assert refusal_of(single.error).reason == "DEADLINE_EXCEEDED"
        assert [error.reason for error in rows.batch.errors] == ["DEADLINE_EXCEEDED"] * 2
        assert ids(running) == {b"busy"}

    @pytest.mark.parametrize("admitted", [False, True])
    async def test_a_stream_is_cancelled(self, running: InProcess, client: Client, held: Gate, admitted: bool) -> None:
        """What it had in the inbox or in the queue of its model is not stepped."""
        stream = client.stream()
        await stream.send(observation("feed", X[0], 1))
        await stream.send(batch(["feed"] * 2 + ["other"] * 2, X[[1, 2, 0, 1]]))
        await until(lambda: running.server.host.engine.inbox.rows == 6, "all rows are in the inbox")
        if admitted:
            held.let(1)
            await held.taken(2)
        stream.call.cancel()
        await until(lambda: not running.server.front.streams, "the stream has ended")
        held.open()
        await until(lambda: running.at_rest, "rest")
        assert ids(running) == ({b"busy", b"feed", b"other"} if admitted else {b"busy"})
        if admitted:
            assert (await client.sessions.GetSession(get("feed"))).session.step == 1

    async def test_a_session_call_is_cancelled(self, running: InProcess, client: Client, held: Gate) -> None:
        """A command whose caller is gone before its turn is not carried out."""
        request = session_pb2.OpenSessionRequest(model="random", session_id="new")
        call = asyncio.ensure_future(client.sessions.OpenSession(request))
        await until(lambda: bool(running.commands), "the command is queued")
        call.cancel()
        await until(lambda: all(command.cancelled() for command in running.commands), "gone")
        held.open()
        await until(lambda: running.at_rest, "rest")
        assert ids(running) == {b"busy"}


async def test_a_step_that_fails_is_answered(
    running: InProcess, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When a step raises, its rows are INTERNAL, their sessions wait for a reset, and the server goes on."""
    await client.predict(observation("a", X[0], 1))
    with monkeypatch.context() as patch:
        patch.setattr(running.lane().stepper, "launch", lambda *_: 1 / 0)
        patch.setattr(running.server.host.engine.admission, "quick", lambda *_: None)  # which is C alone
        stream = client.stream()
        error = refusal_of((await stream.ask(observation("a", X[1], 2))).error)
        assert (error.reason, error.code) == ("INTERNAL", grpc.StatusCode.INTERNAL)
        rows = await stream.predict_batch(batch(["a", "b"], X[:2]))
        assert [error.reason for error in rows.errors] == ["SESSION_DIVERGED", "INTERNAL"]
        assert (await refused(client.predict(observation("c", X[1])))).reason == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text
    assert refusal_of((await stream.ask(observation("a", X[1], 2))).error).reason == "SESSION_DIVERGED"
    assert (await stream.predict(observation("a", X[1], 2, reset=True))).step == 2
    assert (await stream.predict(observation("d", X[1]))).step == 1


async def test_a_call_that_fails_is_answered(
    running: InProcess, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a handler or a command raises, the client reads INTERNAL and no more, and the log says the rest."""
    sessions = running.server.sessions
    monkeypatch.setattr(sessions, "info", lambda *_: 1 / 0)
    error = await refused(client.sessions.GetSession(get("a")))
    assert (error.reason, error.code) == ("INTERNAL", grpc.StatusCode.INTERNAL)
    monkeypatch.setattr(running.server.catalog, "resolve", lambda *_: 1 / 0)
    stream = client.stream()
    await stream.send(observation("a", X[0]))
    assert (await refused(stream.rest())).reason == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text


async def test_a_drain_finishes_what_was_read(running: InProcess, client: Client, held: Gate, waiting: Stream) -> None:
    """From the drain's begin probes say no and calls are refused; the queued steps are answered; then streams end."""
    running.server.stop()
    await until(lambda: running.server.front.draining, "the drain has begun")
    async with aiohttp.ClientSession() as http:
        assert (await http.get(f"http://{running.http}/readyz")).status == 503
        assert (await http.get(f"http://{running.http}/livez")).status == 200
    health = await client.health.Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    for call in (
        client.predict(observation("x", X[0])),
        client.sessions.GetSession(get("busy")),
        client.models.ListModels(model_pb2.ListModelsRequest()),
        client.stream().rest(),
    ):
        error = await refused(call)
        assert (error.reason, error.code) == ("DRAINING", grpc.StatusCode.UNAVAILABLE)
    held.open()
    assert [(await waiting.receive()).prediction.step for _ in range(2)] == [2, 3]
    assert (await refused(waiting.rest())).reason == "DRAINING"
    await asyncio.wait_for(asyncio.shield(running.running), PATIENCE_SECONDS)


def get(name: str) -> session_pb2.GetSessionRequest:
    return session_pb2.GetSessionRequest(model="random", session_id=name)
