"""What stands between a client and a server and does not hold: a TCP proxy that cuts, and a gRPC relay that meddles."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from tests.ports import free_port
from tidegate.wire.stubs import prediction_pb2

CHUNK_BYTES = 4096
STREAM = "/tidegate.v1.PredictionService/StreamPredict"
Request = prediction_pb2.StreamPredictRequest
Response = prediction_pb2.StreamPredictResponse


class CuttingProxy:
    """Forwards connections to `target`. Each is cut when so many bytes went through it as `lives` says (None: never),
    with a reset where `resets` says so, else with an end."""

    def __init__(
        self, target: str, lives: Callable[[], int | None] = lambda: None, resets: Callable[[], bool] = lambda: False
    ) -> None:
        self.target = target
        self.address = ""
        self.cuts = 0
        self._lives, self._resets = lives, resets
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CuttingProxy:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Takes connections, on the same port as before."""
        port = int(self.address.rpartition(":")[2]) if self.address else free_port()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def refuse(self) -> None:
        """Cuts everything and takes no connection until `listen`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Cuts everything that is open."""
        for writer in list(self._open):
            self._end(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        host, _, port = self.target.rpartition(":")
        try:
            there, to_server = await asyncio.open_connection(host, int(port))
        except OSError:
            self._end(writer)
            return
        ends = (writer, to_server)
        self._open.update(ends)
        life = [self._lives()]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, to_server, life, ends), self._pump(there, writer, life, ends))
        for end in ends:
            self._open.discard(end)
            end.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        life: list[int | None],
        ends: tuple[asyncio.StreamWriter, ...],
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if life[0] is not None:
                left = life[0]
                life[0] = max(0, left - len(data))
                if left <= len(data):
                    writer.write(data[:left])  # so that frames are cut too
                    self.cuts += 1
                    for end in ends:
                        self._end(end)
                    return
            writer.write(data)
            await writer.drain()
        for end in ends:
            end.close()

    def _end(self, writer: asyncio.StreamWriter) -> None:
        if self._resets():
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        else:
            writer.close()


class EndedError(Exception):
    """The relay ends the stream: with a bare status code, or (None) as if all were well."""

    def __init__(self, code: grpc.StatusCode | None) -> None:
        self.code = code
        super().__init__(str(code))


Answers = asyncio.Queue[bytes | grpc.aio.AioRpcError | EndedError | None]


class Relay:
    """A gRPC proxy that hands calls on to `target`, message by message, and lets a test meddle with streams.

    `on_request` is called with each request of a stream, which it may change, and returns what to answer in the
    server's place (None: the request goes on); it may raise EndedError. `on_response` may change an answer. `say` puts
    a message before the client as if the server had said it.
    """

    def __init__(
        self,
        target: str,
        on_request: Callable[[Request], Response | None] = lambda request: None,
        on_response: Callable[[Response], None] = lambda response: None,
    ) -> None:
        self._target, self._on_request, self._on_response = target, on_request, on_response
        self.requests: list[Request] = []
        self.ended = 0
        self.address = ""
        self._channel: Any = None
        self._server: Any = None
        self._answers: list[Answers] = []

    async def __aenter__(self) -> Relay:
        self._channel = grpc.aio.insecure_channel(self._target)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(None)
        await self._channel.close()

    def service(self, details: Any) -> Any:
        """grpc's generic handler: how a method is handled."""
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary(details.method))

    def say(self, response: Response) -> None:
        """To every stream."""
        for answers in self._answers:
            answers.put_nowait(response.SerializeToString())

    def _unary(self, method: str) -> Any:
        async def handle(message: bytes, context: Any) -> bytes:
            try:
                answer: bytes = await self._channel.unary_unary(method)(message, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))
                raise
            return answer

        return handle

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        answers: Answers = asyncio.Queue()
        self._answers.append(answers)
        call = self._channel.stream_stream(STREAM)()
        tasks = [
            asyncio.create_task(self._forth(requests, call, answers)),
            asyncio.create_task(self._back(call, answers)),
        ]
        try:
            while isinstance(answer := await answers.get(), bytes):
                yield answer
            if isinstance(answer, EndedError) and answer.code is not None:
                await context.abort(answer.code, "meddled with")
            elif isinstance(answer, grpc.aio.AioRpcError):
                await context.abort(answer.code(), answer.details(), tuple(answer.trailing_metadata()))
        finally:
            self._answers.remove(answers)
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forth(
        self,
        requests: AsyncIterator[bytes],
        call: Any,
        answers: Answers,
    ) -> None:
        async for message in requests:
            request = Request.FromString(message)
            self.requests.append(Request.FromString(message))
            try:
                answer = self._on_request(request)
            except EndedError as ended:
                self.ended += 1
                answers.put_nowait(ended)
                return
            if answer is None:
                await call.write(request.SerializeToString())
            else:
                answers.put_nowait(answer.SerializeToString())
        await call.done_writing()

    async def _back(self, call: Any, answers: Answers) -> None:
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                response = Response.FromString(answer)
                self._on_response(response)
                answers.put_nowait(response.SerializeToString())
            answers.put_nowait(None)
        except grpc.aio.AioRpcError as error:
            answers.put_nowait(error)
