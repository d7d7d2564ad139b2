"""The server below the services: ours and grpc.aio's take up the same calls alike, as a client sees them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from tests.wire.clients import PATIENCE_SECONDS, refused, until
from tidegate.wire.transport import choice, make_server, stream_of, unread_bytes
from tidegate.wire.transport.rpc import Rpc
from tidegate.wire.transport.server import CoreServer

OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 1 << 20)]
SERVICE = "test.Transport"
CALLS, MESSAGES = 300, 200


class Handlers:
    """What is served. `seen` holds what handlers found, `ended` how those ended that wait for ever."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ended: list[str] = []
        self.calls: list[weakref.ref[Rpc]] = []

    async def echo(self, message: bytes, context: Any) -> bytes:
        self._note(context)
        self.seen.append((dict(context.invocation_metadata()).get("key"), context.time_remaining()))
        return message

    async def refuse(self, message: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, f"no {message.decode()}", (("detail-bin", b"\0\1"),))
        raise AssertionError

    async def fail(self, message: bytes, _: Any) -> bytes:
        raise RuntimeError(message)

    async def wait(self, message: bytes, context: Any) -> bytes:
        self._note(context)
        try:
            self.seen.append(message)
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        raise AssertionError

    async def each(self, messages: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message + b"!"
            yield message + b"?"

    async def count(self, messages: AsyncIterator[bytes], _: Any) -> bytes:
        return b"%d" % len([message async for message in messages])

    async def short(self, _: object, context: Any) -> None:
        """Takes small messages as they come and waits with large ones, which it answers with their length."""
        self._note(context)
        stream, told = stream_of(context), asyncio.Event()
        asked, left, gone = 0, 0, False

        def take(message: bytes) -> bool:
            nonlocal asked
            if len(message) > 9:
                return False
            if message == b"stumble":
                raise ValueError(message)
            asked += 1
            stream.send(message, 1)
            return True

        def wrote(count: int) -> None:
            nonlocal left
            left += 1
            self.seen.append(count)
            told.set()

        def gave_up() -> None:
            nonlocal gone
            gone = True
            told.set()

        stream.tell(wrote, gave_up)
        try:
            while (message := await stream.read_while(take)) is not grpc.aio.EOF:
                await asyncio.sleep(0)
                asked += 1
                stream.send(b"%d" % len(message), 0)
            while left < asked and not gone:
                told.clear()
                await told.wait()
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "stumbled")
        finally:
            self.ended.append("over")
            await stream.close()

    async def pour(self, message: bytes, context: Any) -> None:
        """Writes until that fails."""
        with contextlib.suppress(asyncio.CancelledError):
            try:
                while True:
                    await context.write(message)
            except (asyncio.InvalidStateError, grpc.aio.BaseError):
                pass
            self.ended.append("gone")
            return
        self.ended.append("cancelled")

    def _note(self, context: Any) -> None:
        if isinstance(context, Rpc):
            self.calls.append(weakref.ref(context))

    def by_name(self) -> dict[str, grpc.RpcMethodHandler]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return {
            **{name: unary(getattr(self, name)) for name in ("echo", "refuse", "fail", "wait")},
            **{name: stream(getattr(self, name)) for name in ("each", "short")},
            "upper": unary(self.echo, request_deserializer=bytes.lower, response_serializer=bytes.upper),
            "count": grpc.stream_unary_rpc_method_handler(self.count),
            "pour": grpc.unary_stream_rpc_method_handler(self.pour),
        }


class Served:
    """A running server and a channel to it."""

    def __init__(self, server: Any, handlers: Handlers, address: str, channel: grpc.aio.Channel) -> None:
        self.server, self.handlers, self.address, self.channel = server, handlers, address, channel

    def unary(self, name: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{name}")

    def stream(self, name: str, **arguments: Any) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/{name}")(**arguments)


@contextlib.asynccontextmanager
async def serving(patch: pytest.MonkeyPatch, way: str = "ours") -> AsyncIterator[Served]:
    """Stops the server at the end, unless the test has done so."""
    patch.setenv(choice.VARIABLE, way)
    server, handlers = make_server(OPTIONS), Handlers()
    assert isinstance(server, grpc.aio.Server) == (way == "aio")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers.by_name()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(server, handlers, f"127.0.0.1:{port}", channel)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await server.stop(0)


@pytest.fixture(params=["ours", "aio"])
async def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    async with serving(monkeypatch, request.param) as served:
        yield served


async def code(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await call
    error = caught.value
    return error.code(), error.details() or "", dict(error.trailing_metadata() or ())


class TestUnary:
    async def test_answers_metadata_and_deadlines(self, served: Served) -> None:
        """A call has its message, its metadata, and the time that it has left; serializers are used where there are."""
        assert await served.unary("echo")(b"one", metadata=(("key", "value"),), timeout=49.9) == b"one"
        assert await served.unary("echo")(b"") == b""
        assert await served.unary("upper")(b"Two") == b"TWO"
        (key, left), (_, never), _ = served.handlers.seen
        assert key == "value"
        assert 0 < left <= 50  # it travels rounded up to a tenth of a second
        assert never is None

    async def test_many_at_once(self, served: Served) -> None:
        """Calls that come together are all answered, each its own."""
        echo = served.unary("echo")
        answers = await asyncio.gather(*(echo(b"%d" % number) for number in range(CALLS)))
        assert answers == [b"%d" % number for number in range(CALLS)]

    async def test_statuses(self, served: Served, caplog: pytest.LogCaptureFixture) -> None:
        """What a handler aborts with reaches the client whole; what it raises does not."""
        assert await code(served.unary("refuse")(b"such")) == (
            grpc.StatusCode.NOT_FOUND,
            "no such",
            {"detail-bin": b"\0\1"},
        )
        unknown, _, _ = await code(served.unary("fail")(b"secret"))
        assert unknown is grpc.StatusCode.UNKNOWN
        assert (await code(served.unary("missing")(b"")))[0] is grpc.StatusCode.UNIMPLEMENTED
        too_long, _, _ = await code(served.unary("echo")(bytes(2 << 20)))
        assert too_long is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "secret" in caplog.text
        assert await served.unary("echo")(b"goes on") == b"goes on"

    async def test_it_ends_with_its_client(self, served: Served) -> None:
        """A client that gives up, and a deadline that passes, end the handler."""
        call = served.unary("wait")(b"cancelled")
        await until(lambda: served.handlers.seen == [b"cancelled"], "the handler")
        call.cancel()
        await until(lambda: len(served.handlers.ended) == 1, "its end")
        assert (await code(served.unary("wait")(b"late", timeout=3.0)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: len(served.handlers.ended) == 2, "the other's end")

    async def test_answers_that_are_not_read(self, served: Served) -> None:
        """They are counted until they are taken, or their client is gone; by our server alone."""
        ours = isinstance(served.server, CoreServer)
        content, small_window = bytes(500_000), (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))
        channel = grpc.aio.insecure_channel(served.address, options=small_window)
        calls = [channel.unary_stream(f"/{SERVICE}/echo")(content) for _ in range(3)]
        counted = 3 * len(content) if ours else 0
        await until(lambda: len(served.handlers.seen) == 3 and unread_bytes(served.server) == counted, "three answers")
        assert await served.unary("echo")(b"another") == b"another"
        assert await calls[0].read() == content
        counted = 2 * len(content) if ours else 0
        await until(lambda: unread_bytes(served.server) == counted, "one less")
        for call in calls[1:]:
            call.cancel()
        await until(lambda: not unread_bytes(served.server), "none")
        await channel.close()

    async def test_it_is_over_before_it_has_begun(self, served: Served) -> None:
        """Calls whose deadline passes while the loop is busy leave nothing: the server answers others, and stops."""
        echo = served.unary("echo")
        assert await echo(b"connected") == b"connected"

        def give_up() -> list[grpc.StatusCode]:
            with grpc.insecure_channel(served.address) as channel:
                grpc.channel_ready_future(channel).result(PATIENCE_SECONDS)
                connected.set()
                busy.wait()
                method = channel.unary_unary(f"/{SERVICE}/echo")
                calls = [method.future(b"", timeout=0.05) for _ in range(20)]
                found = [call.exception().code() for call in calls]
                given_up.set()
                return found

        connected, busy, given_up = threading.Event(), threading.Event(), threading.Event()
        client = asyncio.create_task(asyncio.to_thread(give_up))
        await until(connected.is_set, "a connection")
        busy.set()
        given_up.wait(PATIENCE_SECONDS)  # this is the busy loop
        assert await client == 20 * [grpc.StatusCode.DEADLINE_EXCEEDED]
        assert await echo(b"after") == b"after"
        async with asyncio.timeout(PATIENCE_SECONDS):
            await served.server.stop(0)
        if isinstance(served.server, CoreServer):
            assert not served.server._calls


class TestStreams:
    async def test_generators(self, served: Served) -> None:
        """Handlers may be generators of answers, or take messages as an iterator."""
        call = served.stream("each")
        for number in range(3):
            await call.write(b"%d" % number)
            assert [await call.read(), await call.read()] == [b"%d!" % number, b"%d?" % number]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

        async def messages() -> AsyncIterator[bytes]:
            for _ in range(MESSAGES):
                yield b""

        assert await served.channel.stream_unary(f"/{SERVICE}/count")(messages()) == b"%d" % MESSAGES

    async def test_the_short_ways(self, served: Served) -> None:
        """Messages that are taken as they come and those that are waited with are answered in order, once each."""
        call, wanted = served.stream("short"), []
        sent = [b"%d" % number if number % 7 else bytes(10 + number) for number in range(MESSAGES)]

        async def send() -> None:
            for message in sent:
                await call.write(message)
            await call.done_writing()

        sending = asyncio.create_task(send())
        answers = []
        while (answer := await call.read()) is not grpc.aio.EOF:
            answers.append(answer)
        await sending
        wanted = [message if len(message) < 10 else b"%d" % len(message) for message in sent]
        assert answers == wanted
        assert await call.code() is grpc.StatusCode.OK
        assert served.handlers.seen == [len(message) < 10 for message in sent]

    async def test_what_taking_raises(self, served: Served) -> None:
        """It is raised where the handler waits."""
        call = served.stream("short")
        await call.write(b"fine")
        assert await call.read() == b"fine"
        await call.write(b"stumble")
        assert (await code(call.read()))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "stumbled")

    async def test_a_client_that_is_gone(self, served: Served) -> None:
        """It ends the handler that reads, and the one that writes; another stream of the same connection goes on."""
        other = served.stream("short")
        await other.write(b"before")
        assert await other.read() == b"before"
        gone = served.stream("short")
        await gone.write(b"now")
        assert await gone.read() == b"now"
        gone.cancel()
        await until(lambda: served.handlers.ended == ["over"], "the reader's end")
        pouring = served.channel.unary_stream(f"/{SERVICE}/pour")(bytes(1000))
        assert await pouring.read() == bytes(1000)
        pouring.cancel()
        await until(lambda: len(served.handlers.ended) == 2, "the writer's end")
        await other.write(b"after")
        assert await other.read() == b"after"


class TestStop:
    async def test_calls_have_their_grace(self, served: Served) -> None:
        """A call that ends within the grace is answered; new ones are not taken up."""
        call = served.stream("each")
        await call.write(b"a")
        assert await call.read() == b"a!"
        stopping = asyncio.create_task(served.server.stop(PATIENCE_SECONDS))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        own = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(served.address, options=own) as channel:
            refused, _, _ = await code(channel.unary_unary(f"/{SERVICE}/echo")(b""))
        assert refused is grpc.StatusCode.UNAVAILABLE
        assert await call.read() == b"a?"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        async with asyncio.timeout(PATIENCE_SECONDS):
            await stopping

    async def test_those_that_do_not_end_are_cancelled(self, served: Served) -> None:
        waiting = served.unary("wait")(b"for ever")
        await until(lambda: bool(served.handlers.seen), "the handler")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await served.server.stop(0.05)
        await until(lambda: served.handlers.ended == ["cancelled"], "its end")
        assert (await code(waiting))[0] in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


async def test_who_gives_up_a_stop_may_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop goes on meanwhile."""
    async with serving(monkeypatch) as served:
        waiting = served.unary("wait")(b"")
        await until(lambda: bool(served.handlers.seen), "the handler")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await served.server.stop(0.2)
        assert not served.handlers.ended
        async with asyncio.timeout(PATIENCE_SECONDS):
            await served.server.stop(PATIENCE_SECONDS)
        assert served.handlers.ended == ["cancelled"]
        await code(waiting)


async def test_a_unary_call_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is UNDECODABLE_MESSAGE, and says so in its details; grpc.aio's server waits until the deadline."""
    async with serving(monkeypatch) as served:
        error = await refused(served.channel.stream_unary(f"/{SERVICE}/echo")(iter([])))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_MESSAGE")
        assert not served.handlers.seen


async def test_nothing_is_kept_of_calls_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a garbage collector too: gRPC's core waits for each call to be let go when the server stops."""
    gc.collect()
    gc.disable()
    try:
        async with serving(monkeypatch) as served:
            calls = served.handlers.calls
            await served.unary("echo")(b"")
            for way in ("ends", "cancelled"):
                call = served.stream("short")
                await call.write(b"a")
                assert await call.read() == b"a"
                if way == "ends":
                    await call.done_writing()
                    assert await call.read() is grpc.aio.EOF
                else:
                    call.cancel()
            await until(lambda: not any(kept() for kept in calls), "the end of every call")
            assert len(calls) == 3
    finally:
        gc.enable()


@pytest.mark.parametrize(("what", "value"), [("PARTS", (*choice.PARTS, "NoSuchPart")), ("OLDEST", (99, 0))])
def test_a_grpc_with_other_parts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str, value: tuple[Any, ...]
) -> None:
    """Where an inner part of grpc is missing, or it is old, grpc.aio's server is taken, and the log says so."""
    assert all(hasattr(cygrpc, part) for part in choice.PARTS)
    monkeypatch.setattr(choice, what, value)
    monkeypatch.setattr(grpc.aio, "server", lambda options: ("theirs", options))
    assert make_server(OPTIONS) == ("theirs", OPTIONS)
    assert ("NoSuchPart" if what == "PARTS" else "since 99.0") in caplog.text


def test_grpc_aio_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, as it stands by default."""
    monkeypatch.setenv(choice.VARIABLE, "aio")
    monkeypatch.setattr(grpc.aio, "server", lambda options: ("theirs", options))
    with caplog.at_level(logging.INFO):
        assert make_server(OPTIONS) == ("theirs", OPTIONS)
    assert "calls are taken up by grpc.aio" in caplog.text
