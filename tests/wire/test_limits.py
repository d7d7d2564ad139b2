"""Limits: each refuses what is above it, by its reason, and takes it again when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import numpy as np
import psutil
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.clients import Client, at_rest, batch, observation, refusal_of, refused, unary, until
from tests.wire.inprocess import in_process
from tidegate.wire.stubs import session_pb2 as pb

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
X = [1.0, 2.0, 3.0, 4.0]
SESSIONS, STREAMS = 8, 4
NO_LARGER_WINDOW = ("grpc.http2.bdp_probe", 0)  # else a client takes more than it reads


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Small in everything."""
    models = tmp_path_factory.mktemp("repository") / "models"
    random_package(models)
    flags = {
        "sessions": SESSIONS,
        "streams": STREAMS,
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
    streams[0] = client.stream()
    assert (await streams[0].predict(observation(name, X))).step == STREAMS + 2
    for stream in streams:
        assert await stream.finish() == []
    await close(client, name)
    await at_rest(server)  # else the next test's streams are refused


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


async def test_answers_that_nobody_reads(tmp_path: Path) -> None:
    """Unary calls of every service are refused while their bytes are above the limit; streams go on, and when the
    answers are taken, or their clients are gone, so do calls."""
    random_package(tmp_path)
    async with (
        in_process(tmp_path, unary_bytes_max=500_000) as running,
        Client(running.grpc, NO_LARGER_WINDOW) as client,
    ):
        stream = client.stream()
        await stream.predict(observation("a", X))
        request = unary(batch([f"b-{row}" for row in range(16_384)], np.ones((16_384, 4))))  # one step of the model
        ask = client.channel.unary_stream(
            "/tidegate.v1.PredictionService/Predict", request_serializer=lambda message: message.SerializeToString()
        )
        unread = [ask(request), ask(request)]
        await until(lambda: running.server.front.unread_bytes > 500_000, "two answers that nobody reads")
        for call in (client.predict(observation("a", X)), client.sessions.ListSessions(pb.ListSessionsRequest())):
            error = await refused(call)
            assert (error.reason, error.code) == ("INBOX_FULL", FULL)
        assert (await stream.predict(observation("a", X))).step == 2
        assert await unread[0].read()
        await until(lambda: running.server.front.unread_bytes < 500_000, "room")
        assert (await client.predict(observation("a", X))).prediction.step == 3
        unread[1].cancel()
        await until(lambda: not running.server.front.unread_bytes, "nothing is unread")


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_NOFILE"), reason="of another process only on Linux")
async def test_no_file_descriptor_left(models: Path) -> None:
    """Streams that are open go on, whatever they do for the first time: binding aliases, say."""
    with RunningServer(models) as running:
        async with Client(running.grpc) as client:
            stream = client.stream()
            await stream.predict(observation("a", X))
            process = psutil.Process(running.process.pid)
            allowed = process.rlimit(psutil.RLIMIT_NOFILE)
            process.rlimit(psutil.RLIMIT_NOFILE, (3, allowed[1]))
            rows = await stream.predict_batch(batch(["x", "y"], [X, X], aliases=[0, 1]))
            process.rlimit(psutil.RLIMIT_NOFILE, allowed)
            assert list(rows.steps) == [1, 1]
            assert await stream.finish() == []


async def test_memory_of_sessions_is_limited(tmp_path: Path) -> None:
    """state_bytes_max counts every column of every session; what is above it is SESSION_LIMIT."""
    random_package(tmp_path)
    async with in_process(tmp_path) as running:
        row_bytes = running.lane().slab.row_bytes
    async with in_process(tmp_path, state_bytes_max=5 * row_bytes) as running, Client(running.grpc) as client:
        ids = names(6)
        rows = await client.stream().predict_batch(batch(ids, [X] * 6))
        assert [(error.row, error.reason) for error in rows.errors] == [(5, "SESSION_LIMIT")]
        fork = pb.ForkSessionRequest(model="random", session_id=ids[0], new_session_id="copy")
        assert (await refused(client.sessions.ForkSession(fork))).reason == "SESSION_LIMIT"
        await close(client, ids[0])
        assert (await client.predict(observation(ids[5], X))).prediction.created


async def test_idle_sessions_are_closed(tmp_path: Path) -> None:
    """A session that is not stepped for idle_seconds_max is gone: unknown at its next step, new at step 1."""
    random_package(tmp_path)
    limits = {"idle_seconds_max": 0.2, "sweep_seconds": 0.02}
    async with in_process(tmp_path, **limits) as running, Client(running.grpc) as client:
        stream, sessions = client.stream(), running.server.sessions
        await stream.predict_batch(batch(["a", "b"], [X, X], aliases=[0, 1]))
        await until(lambda: not len(sessions), "both are closed")
        assert sessions.closed["random", "idle"] == 2
        assert refusal_of((await stream.ask(observation("a", X, 2))).error).reason == "SESSION_NOT_FOUND"
        rows = await stream.predict_batch(batch([], [X, X], aliases=[0, 1], steps=[2, 1]))
        assert [(error.row, error.reason) for error in rows.errors] == [(0, "SESSION_NOT_FOUND")]
        assert list(rows.steps) == [0, 1]
