"""HTTP connections: few, short, and never in the way of gRPC or of the exit."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path

from prometheus_client import Gauge

from tests.servers import RunningServer
from tests.wire.clients import PATIENCE_SECONDS, Client, observation, until
from tests.wire.inprocess import InProcess, in_process

X = [1.0, 2.0, 3.0, 4.0]
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
DESCRIPTORS = 256  # what a server has in these tests
PAGE_BYTES = 32 * 1024 * 1024  # more than all buffers hold
TURNS = 1000  # of the event loop, which server and client share: more than a close takes


async def connected(server: RunningServer | InProcess) -> Connection:
    return await asyncio.open_connection(*server.http.split(":"))


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes the connection."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65_536):
            content += part
    return content


async def rest_soon(reader: asyncio.StreamReader) -> bytes:
    """The same, when it must have closed it or be about to."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await rest(reader)


async def deaf(running: InProcess) -> Connection:
    """A peer that asks for a page larger than all buffers, and does not read on once it comes."""
    Gauge("large", "x" * PAGE_BYTES, registry=running.server.metrics.registry)
    reader, writer = await asyncio.open_connection(*running.http.split(":"))
    writer.write(SCRAPE)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    return reader, writer


class TestLimit:
    async def test_silent_connections_leave_descriptors_for_grpc(self, models: Path) -> None:
        """More silent HTTP connections than the process may have descriptors keep no new gRPC client out."""
        with RunningServer(models, "--limits-http-idle-seconds-max", "600") as server:
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            silent = [await connected(server) for _ in range(DESCRIPTORS + 50)]
            async with Client(server.grpc) as client:
                assert (await client.predict(observation("a", X))).prediction.step == 1
            assert server.get("/readyz") == "ok\n"
            for _, writer in silent:
                writer.close()

    async def test_the_newest_stay(self, models: Path) -> None:
        """Above the limit the oldest connections are closed; probes and scrapes go on all the while."""
        flags = "--limits-http-connections-max", "8", "--limits-http-idle-seconds-max", "600"
        with RunningServer(models, *flags) as server:
            silent = [await connected(server) for _ in range(50)]
            ends = [asyncio.create_task(rest(reader)) for reader, _ in silent]
            for _ in range(10):
                assert server.get("/livez") == "ok\n"
                assert server.metric("tidegate_streams_open") == 0
            await until(lambda: all(end.done() for end in ends[:42]), "the oldest are closed")
            silent += [await connected(server) for _ in range(8)]
            await until(lambda: all(end.done() for end in ends), "then the others")
            reader, writer = silent[-1]
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            for _, writer in silent:
                writer.close()

    async def test_one_that_does_not_read_is_closed_too(self, models: Path) -> None:
        """A peer that asks and does not read loses its place like one that is silent, with what it did not read."""
        async with in_process(models, http_connections_max=2, http_idle_seconds_max=600) as running:
            reader, writer = await deaf(running)
            others = [await connected(running) for _ in range(2)]
            assert len(await rest_soon(reader)) < PAGE_BYTES
            for _, other in [*others, (reader, writer)]:
                other.close()


class TestTime:
    async def test_silence_ends_a_connection(self, models: Path) -> None:
        """A connection with no request, with half of one, and one that is kept alive after its answers are closed."""
        with RunningServer(models, "--limits-http-idle-seconds-max", "6") as server:

            async def answers(sent: bytes) -> int:
                reader, writer = await connected(server)
                writer.write(sent)
                content = await rest_soon(reader)
                writer.close()
                return content.count(b"HTTP/1.1 200")

            assert await asyncio.gather(*map(answers, (b"", GET[:12], GET, GET + SCRAPE + GET))) == [0, 0, 1, 3]

    async def test_a_body_is_not_waited_for(self, models: Path) -> None:
        """No page reads a body: the connection of one that does not come ends with the answer, and not after a time."""
        async with in_process(models) as running:
            reader, writer = await connected(running)
            writer.write(POST)
            await reader.readuntil(b"405: Method Not Allowed")
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert reader.at_eof()
            writer.close()

    async def test_who_does_not_read_cannot_hold_the_exit(self, models: Path) -> None:
        """A peer whose page cannot be written does not keep the server from its exit."""
        async with in_process(models, drain_seconds_max=1, http_idle_seconds_max=600) as running:
            _, writer = await deaf(running)
            running.server.stop()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running.running
            writer.close()


async def test_peers_that_speak_something_else_are_not_logged(server: RunningServer) -> None:
    """A gRPC client at the wrong port, TLS, and junk: each is closed, and the log says nothing, since they come again
    for ever."""
    for words in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"junk\r\n\r\n",
    ):
        reader, writer = await connected(server)
        writer.write(words)
        assert not (await rest_soon(reader)).startswith(b"HTTP/1.1 200")
        writer.close()
    assert server.get("/livez") == "ok\n"
    assert " ERROR " not in server.log
    assert "Traceback" not in server.log
