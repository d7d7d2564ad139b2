"""The listener: takes up calls and finds their handlers. The part of grpc.aio's server that is used here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from grpc._cython import cygrpc

from tidegate.wire.transport.pump import Event, Pump
from tidegate.wire.transport.rpc import Metadata, Rpc


class CallDetails(NamedTuple):
    """What a generic handler is asked with."""

    method: str
    invocation_metadata: Metadata


class CoreServer:
    """A gRPC server. Construct and use it on one event loop."""

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server([(key.encode(), value) for key, value in options], False)
        self._server.register_completion_queue(self._queue)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._calls: set[Rpc] = set()
        self._pump: Pump | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._none_left: asyncio.Future[None] | None = None

    @property
    def unread_bytes(self) -> int:
        """Of answers to unary calls that their clients have not taken. gRPC holds them, and bounds them by nothing."""
        return 0 if self._pump is None else self._pump.unread_bytes

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Asked for every call, the first one first."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """What generated code adds as generic handlers besides."""

    def add_insecure_port(self, address: str) -> int:
        """The port; raises RuntimeError when there is none to be had."""
        port = int(self._server.add_http2_port(address.encode()))
        if not port:
            raise RuntimeError(f"cannot listen on {address}")
        return port

    async def start(self) -> None:
        """Listens."""
        self._server.start()
        self._pump = Pump(self._queue, self._calls)
        self._ask()

    async def stop(self, grace_seconds: float) -> None:
        """Closes the listener; calls that are not over within the grace are cancelled. Returns when none is left. It
        goes on where whoever waits for it does not."""
        if self._pump is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(self._pump, grace_seconds))
        await asyncio.shield(self._stopping)

    async def _stop(self, pump: Pump, grace_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[None] = loop.create_future()
        self._server.shutdown(self._queue, lambda _: closed.set_result(None))
        await asyncio.wait((closed,), timeout=grace_seconds)
        self._server.cancel_all_calls()
        await closed
        if self._calls:
            self._none_left = loop.create_future()
            await self._none_left
        await pump.stop()
        self._server.destroy()

    def _ask(self) -> None:
        self._server.request_call(self._queue, self._queue, self._arrived)

    def _arrived(self, event: Event) -> None:
        if self._stopping is not None:
            return  # with or without a call: the server is closed
        self._ask()
        if not event.success:
            return
        method = event.call_details.method.decode(errors="replace")
        details = CallDetails(method, event.invocation_metadata)
        found = (handler for each in self._handlers if (handler := each.service(details)) is not None)
        assert self._pump is not None
        call = Rpc(event, next(found, _UNKNOWN), self._pump)
        call.run(self._over)
        self._calls.add(call)

    def _over(self, call: Rpc) -> None:
        self._calls.remove(call)
        if not self._calls and self._none_left is not None and not self._none_left.done():
            self._none_left.set_result(None)


async def _unknown(_: object, context: Any) -> None:
    """As gRPC's own servers do."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


_UNKNOWN = grpc.stream_stream_rpc_method_handler(_unknown)
