"""What stands around every handler: errors become statuses with details, and no stack trace reaches a client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
from google.rpc.status_pb2 import Status

from tidegate.errors import Reason, TidegateError
from tidegate.metrics import Metrics
from tidegate.wire.status import ending, reason_of, status_of

log = logging.getLogger(__name__)
Context = Any  # grpc.aio.ServicerContext: grpc ships no types
Handlers = dict[str, grpc.RpcMethodHandler]
Answer = TypeVar("Answer")
UnaryHandler = Callable[[bytes, Context], Awaitable[bytes]]


class Guard:
    """Wraps handlers. `admit` raises what new unary calls are refused with."""

    def __init__(self, metrics: Metrics, admit: Callable[[], None]) -> None:
        self._metrics = metrics
        self._admit = admit

    def unary(self, handler: UnaryHandler) -> UnaryHandler:
        """A handler of raw bytes."""

        async def admitted(message: bytes, context: Context) -> bytes:
            self._admit()
            return await handler(message, context)

        async def guarded(message: bytes, context: Context) -> bytes:
            return await self._answer(admitted(message, context), context, "a call failed")

        return guarded

    def handlers(self, methods: Mapping[str, UnaryHandler]) -> Handlers:
        """Unary handlers by method name, for grpc's generic handler."""
        return {name: grpc.unary_unary_rpc_method_handler(self.unary(method)) for name, method in methods.items()}

    def stream(self, handler: Callable[[Context], Awaitable[None]]) -> Callable[[object, Context], Awaitable[None]]:
        """A handler that reads and writes the context itself."""

        async def guarded(_: object, context: Context) -> None:
            await self._answer(handler(context), context, "a stream failed")

        return guarded

    async def _answer(self, work: Awaitable[Answer], context: Context, failed: str) -> Answer:
        """What the work comes to, or the call's end with a status; `failed` says so in the log of what nobody knows."""
        try:
            try:
                return await work
            except TidegateError as error:
                status = status_of(error)  # which fails for what is no text
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            log.exception(failed)
            status = status_of(TidegateError(Reason.INTERNAL))
        await self.end(context, status)
        raise AssertionError("abort raises")

    async def end(self, context: Context, status: Status) -> None:
        """Ends the call with the status. Raises, as `context.abort` does."""
        self._metrics.calls_failed[reason_of(status)] += 1
        await context.abort(*ending(status))
