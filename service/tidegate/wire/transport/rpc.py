"""One call: what a handler of grpc.aio finds in its context, and the short ways of `stream.py`, which wake no task."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc

from tidegate.errors import Reason, TidegateError
from tidegate.wire.status import ending, status_of
from tidegate.wire.transport.pump import Event, Pump
from tidegate.wire.transport.stream import GaveUp, Takes, Wrote

log = logging.getLogger(__name__)
Metadata = tuple[tuple[str, str | bytes], ...]
_NO_FLAGS = 0
_SECONDS_MAX = 1e12  # a deadline beyond is none


class Rpc:
    """A call that a server has taken up."""

    def __init__(self, arrived: Event, handler: grpc.RpcMethodHandler, pump: Pump) -> None:
        """`arrived` is the event of the request, off that pump. Call `run` next."""
        self._pump = pump
        self._call = arrived.call
        self._handler = handler
        self._deadline: float = arrived.call_details.deadline
        self._metadata: Metadata = arrived.invocation_metadata
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._greeted = False  # initial metadata is sent
        self._over = False  # its status is sent, or the peer is gone
        self._ended: Callable[[Rpc], None] = _ignore
        self._reading = False  # a read is under way in gRPC's core
        self._reader: asyncio.Future[Any] | None = None  # waits for it
        self._takes: Takes = _take_none
        self._held: bytes | None = None  # read, while nobody waits for it
        self._writing = False  # an answer is under way
        self._leaving = 0  # the rows of that
        self._shut = False  # the handler has called `close`
        self._answers: deque[tuple[bytes, int]] = deque()
        self._wrote: Wrote = _ignore
        self._gave_up: GaveUp = _nothing
        self._status: tuple[grpc.StatusCode, str, Metadata] = (grpc.StatusCode.OK, "", ())

    def run(self, ended: Callable[[Rpc], None]) -> None:
        """Begins to handle it; `ended` is called when that is over."""
        self._ended = ended
        self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)
        self._task = self._loop.create_task(self._handle())
        self._task.add_done_callback(self._finished)  # also of one that is cancelled before it has begun

    # What grpc.aio's contexts have.

    def invocation_metadata(self) -> Metadata:
        """What the client sent before its messages."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline; None if it has none."""
        return None if self._deadline > _SECONDS_MAX else max(0.0, self._deadline - time.time())

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with a status. Raises grpc.aio.AbortError."""
        self._status = code, details, trailing_metadata
        raise grpc.aio.AbortError

    async def read(self) -> Any:
        """The next message; grpc.aio.EOF when the client has ended, or is gone."""
        message = await self.read_while(_take_none)
        deserialize = self._handler.request_deserializer
        return message if deserialize is None or message is grpc.aio.EOF else deserialize(message)

    async def write(self, message: Any) -> None:
        """Returns when the message is on its way. For one caller at a time. Raises InvalidStateError when the call is
        over."""
        if self._over:
            raise asyncio.InvalidStateError("the call is over")
        written: asyncio.Future[bool] = self._loop.create_future()
        operation = cygrpc.SendMessageOperation(self._serialized(message), _NO_FLAGS)
        self._start((*self._greeting(), operation), lambda event: _tell(written, event.success))
        if not await written:
            raise asyncio.InvalidStateError("the peer is gone")

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    # The short ways of stream.py.

    def read_while(self, takes: Takes) -> asyncio.Future[Any]:
        reader = self._reader = self._loop.create_future()
        self._takes = takes
        held, self._held = self._held, None
        if held is not None:
            self._received(held)
        elif not self._reading:
            self._read_on()
        return reader

    def tell(self, wrote: Wrote, gave_up: GaveUp) -> None:
        self._wrote, self._gave_up = wrote, gave_up

    async def close(self) -> None:
        self._shut = True
        self._answers, self._wrote, self._gave_up = deque(), _ignore, _nothing

    def send(self, answer: bytes, rows: int) -> None:
        if self._writing:  # one at a time; the next one follows by itself
            self._answers.append((answer, rows))
            return
        if self._over or self._shut:
            self._gave_up()
            return
        self._writing, self._leaving = True, rows
        operations = (cygrpc.SendMessageOperation(answer, _NO_FLAGS),)
        if not self._greeted:
            operations = (*self._greeting(), *operations)
        if error := self._call.start_server_batch(operations, self._left):
            _refused(error)

    def _left(self, event: Event) -> None:
        self._writing = False
        if not event.success:
            self._gave_up()
            return
        rows = self._leaving
        if self._answers:
            self.send(*self._answers.popleft())
        self._wrote(rows)

    # What gRPC's core says, and is told.

    def _start(self, operations: tuple[Any, ...], tag: Callable[[Event], None]) -> None:
        if error := self._call.start_server_batch(operations, tag):
            _refused(error)

    def _read_on(self) -> None:
        self._reading = True
        if error := self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._read):
            _refused(error)

    def _read(self, event: Event) -> None:
        self._reading = False
        self._pump.heard += 1
        self._received(event.batch_operations[0].message())

    def _received(self, message: bytes | None) -> None:
        reader = self._reader
        if reader is None or reader.done():  # whoever waited was cancelled
            self._held = message
            return
        if message is None:
            self._resolve(reader, grpc.aio.EOF)
            return
        try:
            if self._takes(message):
                if not self._over:
                    self._read_on()
                return
        except Exception as error:  # noqa: BLE001 - it is raised where the messages are waited for
            if not reader.done():
                reader.set_exception(error)
            return
        self._resolve(reader, message)

    def _resolve(self, reader: asyncio.Future[Any], message: Any) -> None:
        if reader.done():  # cancelled by what was taken, or not
            self._held = message
        else:
            reader.set_result(message)

    def _greeting(self) -> tuple[Any, ...]:
        """The operation that comes before the first message, or before the status."""
        if self._greeted:
            return ()
        self._greeted = True
        return (cygrpc.SendInitialMetadataOperation((), _NO_FLAGS),)

    def _serialized(self, message: Any) -> bytes:
        serialize = self._handler.response_serializer
        content: bytes = message if serialize is None else serialize(message)
        return content

    def _closed(self, event: Event) -> None:
        """The call has ended, by our status or because the client is gone or has given it up."""
        if event.batch_operations[0].cancelled():
            self._over = True
            if self._task is not None:
                self._task.cancel()

    # The handler.

    async def _handle(self) -> None:
        last, size = (), 0
        try:
            last, size = await self._behave()
        except grpc.aio.AbortError:
            pass
        except asyncio.CancelledError:
            self._status = grpc.StatusCode.CANCELLED, "", ()
        except Exception:
            log.exception("a handler failed")
            self._status = grpc.StatusCode.UNKNOWN, "the server failed", ()
        if not self._over:
            self._over = True
            code, details, trailing = self._status
            status = cygrpc.SendStatusFromServerOperation(trailing, code.value[0], details, _NO_FLAGS)
            self._start((*self._greeting(), *last, status), self._taken(size))
            self._pump.unread_bytes += size

    def _taken(self, size: int) -> Callable[[Event], None]:
        """What is called when a client has taken its last answer, of so many bytes, or is gone."""
        pump = self._pump

        def taken(_: Event) -> None:
            pump.unread_bytes -= size

        return taken

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._over = True
        self._call = None  # gRPC's core waits for it to be let go
        self._takes = _take_none
        self._ended(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a call could not be ended", exc_info=error)

    async def _behave(self) -> tuple[tuple[Any, ...], int]:
        """Runs the handler; the operation that sends its answer, if that is one, and the bytes of that."""
        handler = self._handler
        request: Any = self
        if not handler.request_streaming:
            request = await self.read()
            if request is grpc.aio.EOF:
                error = TidegateError(Reason.UNDECODABLE_MESSAGE, "the call ended without a request")
                await self.abort(*ending(status_of(error)))
        behaviour = (
            (handler.stream_stream if handler.request_streaming else handler.unary_stream)
            if handler.response_streaming
            else (handler.stream_unary if handler.request_streaming else handler.unary_unary)
        )
        outcome = behaviour(request, self)
        if inspect.isasyncgen(outcome):
            async for answer in outcome:
                await self.write(answer)
            return (), 0
        answer = await outcome
        if handler.response_streaming:
            return (), 0
        content = self._serialized(answer)
        return (cygrpc.SendMessageOperation(content, _NO_FLAGS),), len(content)


def _refused(error: int) -> NoReturn:
    """Of operations whose tag will not be called."""
    raise asyncio.InvalidStateError(f"gRPC refuses an operation with error {error}")


def _take_none(_: bytes) -> bool:
    return False


def _ignore(_: object) -> None:
    pass


def _nothing() -> None:
    pass


def _tell(future: asyncio.Future[bool], success: bool) -> None:
    if not future.done():
        future.set_result(success)
