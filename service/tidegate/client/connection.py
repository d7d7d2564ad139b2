"""The channel to a server, and unary calls on it: with a deadline, further attempts and plain errors.

A call about sessions waits until the streams have given back to the server what it lost of them, so that it never tells
of less than was answered.

gRPC's own types carry no annotations: they stay behind this module and `stream`, as Any.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol
from weakref import WeakSet

import grpc
import grpc.aio

from tidegate.client import forks
from tidegate.client.allowance import Allowance
from tidegate.client.failures import AGAIN, from_call, is_lost_connection, unreachable
from tidegate.client.patience import Patience
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import model_pb2_grpc, prediction_pb2_grpc, session_pb2_grpc

CALLS_MAX = 128  # unary calls at once; gRPC servers turn away bursts of a thousand
RECEIVE_BYTES_MAX = 64 * 1024 * 1024
KEEPALIVE_MILLISECONDS = 10_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 5_000
CONNECT_MILLISECONDS_MAX = 3_000  # one attempt, which a busy machine may take long to answer; core's name misleads
RECONNECT_MILLISECONDS_MIN = 100
RECONNECT_MILLISECONDS_MAX = 2_000
ROUTING_KEY = "x-tidegate-session"
SILENCE = (Reason.UNREACHABLE, Reason.CANCELLED, Reason.DEADLINE_EXCEEDED)  # may be said where no server is
LOOPBACK = ("127.", "localhost", "[::1]", "::1")


def new_routing_key() -> tuple[tuple[str, str], ...]:
    """Metadata that keeps calls which must meet the same sessions on one replica."""
    return ((ROUTING_KEY, uuid.uuid4().hex),)


def user_agent() -> str:
    """Who is calling."""
    try:
        return f"tidegate-python/{version('tidegate')}"
    except PackageNotFoundError:
        return "tidegate-python"


def channel_options(address: str) -> list[tuple[str, Any]]:
    """Pings while a call is open, quick reconnects, large replies; no HTTP proxy between us and our own machine."""
    return [
        ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MILLISECONDS_MIN),
        ("grpc.min_reconnect_backoff_ms", CONNECT_MILLISECONDS_MAX),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLISECONDS_MAX),
        ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
        ("grpc.primary_user_agent", user_agent()),
        ("grpc.enable_http_proxy", 0 if address.startswith(LOOPBACK) else 1),
    ]


class Recovering(Protocol):
    """A stream, as unary calls see it."""

    async def recovered(self, patience: Patience) -> None:
        """Returns when nothing that was answered is in doubt."""
        ...

    def forget(self, model: str, ids: Sequence[str]) -> None:
        """Sessions, if they are of its model, were closed or began anew by a command, which is durable."""
        ...

    async def abort(self) -> None:
        """Ends it at once."""
        ...


class Connection:
    """One channel, made on first use so that a client can be constructed outside an event loop.

    `reached`: the server has answered something, so that its address is right; `breaks` counts streams that broke.
    """

    def __init__(self, address: str, timeout_seconds: float) -> None:
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {timeout_seconds}; it must be above 0")
        if not address.strip():
            raise ValueError("the address is empty; give HOST:PORT")
        self.address = address
        self.timeout_seconds = timeout_seconds
        self.routing_key = new_routing_key()
        self.closed = self.reached = False
        self.breaks = 0
        self.allowance = Allowance()
        self.streams: WeakSet[Recovering] = WeakSet()
        self._room = asyncio.Semaphore(CALLS_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None

    @cached_property
    def channel(self) -> Any:
        """The channel itself."""
        if self.closed:
            raise TidegateError(Reason.CANCELLED, "the client is closed")
        forks.claim_grpc()
        return grpc.aio.insecure_channel(self.address, options=channel_options(self.address))

    @cached_property
    def predictions(self) -> Any:
        """Stub of the PredictionService."""
        return prediction_pb2_grpc.PredictionServiceStub(self.channel)

    @cached_property
    def sessions(self) -> Any:
        """Stub of the SessionService."""
        return session_pb2_grpc.SessionServiceStub(self.channel)

    @cached_property
    def models(self) -> Any:
        """Stub of the ModelService."""
        return model_pb2_grpc.ModelServiceStub(self.channel)

    def patience(self) -> Patience:
        """The time that one call may take."""
        return Patience(self.timeout_seconds, self.address)

    async def call(
        self,
        method: Any,
        request: Any,
        key: tuple[tuple[str, str], ...] | None = None,
        *,
        patience: Patience | None = None,
        repeatable: bool = True,
        about_sessions: bool = False,
        at_once: bool = False,
    ) -> Any:
        """One unary call; raises TidegateError.

        `repeatable`: done twice is as good as done once, so that it is made again after a lost connection.
        `about_sessions`: it asks for, or changes, what this client may have stepped. `patience`: the time of the
        caller's call, of which this one is a part. `at_once`: does not wait for others to end, which wait for it.
        """
        if patience is None:
            async with self.patience() as patience:
                return await self.call(
                    method,
                    request,
                    key,
                    patience=patience,
                    repeatable=repeatable,
                    about_sessions=about_sessions,
                    at_once=at_once,
                )
        while True:
            self.check_open()
            if about_sessions:
                await self._recovered(patience)
            self.check_open()
            breaks = self.breaks
            try:
                async with nullcontext() if at_once else self._room:
                    response = await method(request, timeout=patience.remaining, metadata=key or self.routing_key)
            except asyncio.CancelledError:  # of this task, or of the call: its channel was closed
                if self.closed and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise TidegateError(Reason.CANCELLED, "the client was closed") from None
                raise
            except grpc.RpcError as failure:
                await self._again(from_call(failure), repeatable, patience)
                continue
            self.reached = True
            # A server that began anew meanwhile may have answered before it was told what it had lost.
            if breaks == self.breaks or not (repeatable and about_sessions):
                return response

    def forget(self, model: str, ids: Sequence[str]) -> None:
        """Nothing of these sessions need ever be sent again."""
        for stream in list(self.streams):
            stream.forget(model, ids)

    async def _recovered(self, patience: Patience) -> None:
        for stream in list(self.streams):
            await stream.recovered(patience)

    async def _again(self, error: TidegateError, repeatable: bool, patience: Patience) -> None:
        """Waits, if another attempt may help; else raises the error."""
        self.check_open()
        self.reached = self.reached or error.reason not in SILENCE
        if error.reason is Reason.DEADLINE_EXCEEDED:
            raise patience.over()
        error, worth_it = unreachable(error), is_lost_connection(error) or error.reason in AGAIN
        if not (repeatable and self.reached and worth_it):
            raise error
        await patience.pause(error)

    def check_open(self) -> None:
        """Raises CANCELLED once closed, and in another process or event loop than that of the first call."""
        if self.closed:
            raise TidegateError(Reason.CANCELLED, "the client is closed")
        forks.claim_grpc()
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            problem = "the client was used in another event loop, where its streams are; make one in each loop"
            raise TidegateError(Reason.CANCELLED, problem)

    async def close(self) -> None:
        """Closes the channel; calls in progress end with CANCELLED."""
        self.closed = True
        try:
            await asyncio.gather(*(stream.abort() for stream in list(self.streams)))
        finally:
            if "channel" in self.__dict__:
                await self.channel.close()
