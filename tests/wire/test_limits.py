"""Limits: each refuses what is above it, by its reason, and takes it again when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import grpc
import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.clients import Client, Stream, at_rest, batch, observation, refusal_of, refused, until
from tidegate.wire.stubs import session_pb2 as pb

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
X = [1.0, 2.0, 3.0, 4.0]
SESSIONS, STREAMS, INBOX_ROWS = 8, 4, 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Small in everything; `slow` takes some milliseconds a step."""
    models = tmp_path_factory.mktemp("repository") / "models"
    random_package(models)
    random_package(models, "slow", layers=3, hidden=512)
    flags = {
        "sessions": SESSIONS,
        "streams": STREAMS,
        "inbox-rows": INBOX_ROWS,
        "unary-calls": 2,
        "aliases": 16,
        "batch-message-rows": 512,
        "message-bytes": 65_536,
        "stream-messages": 4,
    }
    with RunningServer(models, *(f"--limits-{name}-max={value}" for name, value in flags.items())) as running:
        yield running


async def close(client: Client, *names: str) -> None:
    await client.sessions.BatchCloseSessions(pb.BatchCloseSessionsRequest(model="random", session_ids=names))


def names(count: int) -> list[str]:
    return [f"{uuid4().hex}-{index}" for index in range(count)]


async def test_streams_above_the_limit_are_refused(server: RunningServer, client: Client) -> None:
    """One stream too many is STREAM_LIMIT and says so at once; the others go on; one that ends makes room."""
    (name,) = names(1)
    streams = [client.stream() for _ in range(STREAMS)]
    for stream in streams:
        await stream.predict(observation(name, X))
    error = await refused(client.stream().rest())
    assert (error.reason, error.code, error.variables) == ("STREAM_LIMIT", FULL, {"limit": str(STREAMS)})
    assert (await streams[1].predict(observation(name, X))).step == STREAMS + 1
    assert await streams[0].finish() == []
    await until(lambda: server.metric("tidegate_streams_open") == STREAMS - 1, "room for a stream")
    assert (await client.stream().predict(observation(name, X))).step == STREAMS + 2
    await close(client, name)


class TestSessions:
    async def test_every_way_of_opening_is_refused_at_the_limit(self, client: Client) -> None:
        """Steps, opens and forks are SESSION_LIMIT for new sessions, while those that live are stepped."""
        ids = names(SESSIONS)
        stream = client.stream()
        await stream.predict_batch(batch(ids, [X] * SESSIONS))
        error = refusal_of((await stream.ask(observation("new", X))).error)
        assert (error.reason, error.code) == ("SESSION_LIMIT", FULL)
        assert (await refused(client.predict(observation("new", X)))).reason == "SESSION_LIMIT"
        request = pb.OpenSessionRequest(model="random", session_id="new")
        assert (await refused(client.sessions.OpenSession(request))).reason == "SESSION_LIMIT"
        fork = pb.ForkSessionRequest(model="random", session_id=ids[0], new_session_id="new")
        assert (await refused(client.sessions.ForkSession(fork))).reason == "SESSION_LIMIT"
        many = pb.BatchOpenSessionsRequest(model="random", session_ids=["new", ids[0], "newer"])
        answer = await client.sessions.BatchOpenSessions(many)
        assert [(error.row, error.reason) for error in answer.errors] == [(0, "SESSION_LIMIT"), (2, "SESSION_LIMIT")]
        assert list(answer.steps) == [0, 1, 0]
        rows = await stream.predict_batch(batch([ids[0], "new", "new", ids[1]], [X] * 4))
        assert [(error.row, error.reason) for error in rows.errors] == [(1, "SESSION_LIMIT"), (2, "SESSION_LIMIT")]
        assert list(rows.steps) == [2, 0, 0, 2]
        assert np.isnan(np.frombuffer(rows.values, "<f4").reshape(4, 4)[[1, 2]]).all()
        await close(client, *ids)
        assert (await stream.predict(observation("new", X))).created
        await close(client, "new")

    async def test_rows_that_fit_are_taken(self, client: Client) -> None:
        """A batch with more new sessions than there is room for opens the first of them, and the rest are refused."""
        ids = names(SESSIONS + 4)
        rows = await client.stream().predict_batch(batch([*ids, *ids], [X] * (2 * len(ids))))
        refused_rows = [error.row for error in rows.errors]
        assert refused_rows == [*range(SESSIONS, len(ids)), *range(len(ids) + SESSIONS, 2 * len(ids))]
        assert {error.reason for error in rows.errors} == {"SESSION_LIMIT"}
        assert list(rows.steps) == [*([1] * SESSIONS), *([0] * 4), *([2] * SESSIONS), *([0] * 4)]
        await close(client, *ids)

    async def test_two_streams_compete_for_the_last_place(self, client: Client) -> None:
        """Of two streams that open the same session or different ones at the limit, each gets an answer of its own."""
        ids = names(SESSIONS - 1)
        streams = [client.stream(), client.stream()]
        await streams[0].predict_batch(batch(ids, [X] * len(ids)))
        (new,) = names(1)
        for _ in range(20):
            answers = await asyncio.gather(
                *(stream.ask(observation(name, X)) for stream, name in zip(streams, (new, "n"), strict=True))
            )
            reasons = sorted(refusal_of(a.error).reason if a.HasField("error") else "OK" for a in answers)
            assert reasons == ["OK", "SESSION_LIMIT"]
            answers = await asyncio.gather(*(stream.ask(observation(new, X)) for stream in streams))
            reasons = sorted({refusal_of(a.error).reason if a.HasField("error") else "OK" for a in answers})
            assert reasons in (["OK"], ["SESSION_LIMIT"])
            await close(client, new, "n")
        await close(client, *ids)


async def test_a_message_above_the_limit_ends_its_stream_alone(client: Client) -> None:
    """The configured size holds: above it RESOURCE_EXHAUSTED, below it a row count above its own limit BAD_BATCH."""
    (name,) = names(1)
    stream, other = client.stream(), client.stream()
    await other.predict(observation(name, X))
    await stream.send(batch([name] * 512, np.ones((512, 33))))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.rest()
    assert caught.value.code() == FULL
    error = refusal_of((await other.ask(batch([name] * 513, np.ones((513, 4))))).error)
    assert (error.reason, "512" in error.message) == ("BAD_BATCH", True)
    error = refusal_of((await other.ask(batch([name], [X], aliases=[16]))).error)
    assert (error.reason, "below 16" in error.message) == ("BAD_BATCH", True)
    bulk = pb.BatchOpenSessionsRequest(model="random", session_ids=["x"] * 513)
    assert (await refused(client.sessions.BatchOpenSessions(bulk))).reason == "BAD_BATCH"
    await close(client, name)


class TestInbox:
    """While `slow` works through many steps of one session, the inbox is over its limit."""

    async def busy(self, server: RunningServer, client: Client, steps: int) -> Stream:
        stream = client.stream("slow")
        await stream.send(batch(["busy"] * steps, np.ones((steps, 4)), resets=[1] + [0] * (steps - 1)))
        await until(lambda: server.metric("tidegate_inbox_rows") >= INBOX_ROWS, "a full inbox")
        return stream

    async def test_a_full_inbox_refuses_unary_calls_alone(self, server: RunningServer, client: Client) -> None:
        """Unary predictions are INBOX_FULL; a stream is only held back, and a session call is answered."""
        (name,) = names(1)
        other = client.stream()
        await other.predict(observation(name, X, 1))
        busy = await self.busy(server, client, 300)
        error = await refused(client.predict(observation(name, X, 2)))
        assert (error.reason, error.code) == ("INBOX_FULL", FULL)
        assert server.metric("tidegate_inbox_rows") >= INBOX_ROWS
        for step in range(2, 12):
            await other.send(observation(name, X, step))
        request = pb.GetSessionRequest(model="slow", session_id="busy")
        assert (await client.sessions.GetSession(request)).session.steps_seen > 0
        assert (await busy.receive()).batch.rows == 300
        assert [answer.prediction.step for answer in await other.finish()] == list(range(2, 12))
        assert await busy.finish() == []
        assert (await client.predict(observation(name, X, 12))).prediction.step == 12
        await close(client, name)

    async def test_the_inbox_stays_near_its_limit(self, server: RunningServer, client: Client) -> None:
        """However much streams send, at most one message each is taken beyond the limit."""
        rows, messages = 64, 4
        streams = [client.stream("slow") for _ in range(STREAMS)]
        sending = [
            asyncio.ensure_future(self.send_many(stream, f"busy-{number}", rows, messages))
            for number, stream in enumerate(streams)
        ]
        depths: list[float] = []

        def drained() -> bool:
            depths.append(server.metric("tidegate_inbox_rows"))
            return all(task.done() for task in sending)

        await until(drained, "all is answered")
        assert max(depths) <= INBOX_ROWS + rows * STREAMS
        assert [await task for task in sending] == [messages * rows] * STREAMS
        await client.sessions.BatchCloseSessions(
            pb.BatchCloseSessionsRequest(model="slow", session_ids=[f"busy-{number}" for number in range(STREAMS)])
        )

    async def send_many(self, stream: Stream, name: str, rows: int, messages: int) -> int:
        """Returns the session's last step."""
        for _ in range(messages):
            await stream.send(batch([name] * rows, np.ones((rows, 4))))
        return int((await stream.finish())[-1].batch.steps[-1])

    async def test_unary_calls_above_the_limit_are_refused(self, server: RunningServer, client: Client) -> None:
        """One unary prediction too many at once is INBOX_FULL; one that ends makes room."""
        busy = client.stream("slow")
        await busy.send(batch(["busy"] * 63, np.ones((63, 4))))
        await until(lambda: server.metric("tidegate_inbox_rows") > 0, "the steps have begun")
        calls = [asyncio.ensure_future(client.predict(observation("busy", X), "slow")) for _ in range(2)]
        await until(lambda: server.metric("tidegate_unary_calls_open") == 2, "both calls are there")
        assert (await refused(client.predict(observation("busy", X), "slow"))).reason == "INBOX_FULL"
        assert min([(await call).prediction.step for call in calls]) > 63
        assert (await client.predict(observation("busy", X), "slow")).prediction.step > 65
        await busy.finish()
        await at_rest(server)
