"""The channel to a server, and unary calls on it with a deadline and plain errors.

gRPC's own types carry no annotations: they stay behind this module and `stream`, as Any.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import grpc
import grpc.aio

from tidegate.client.failures import from_call
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import model_pb2_grpc, prediction_pb2_grpc, session_pb2_grpc

CALLS_MAX = 128  # unary calls at once; gRPC servers turn away bursts of a thousand
RECEIVE_BYTES_MAX = 64 * 1024 * 1024
KEEPALIVE_MILLISECONDS = 10_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 5_000
RECONNECT_MILLISECONDS_MIN = 100
RECONNECT_MILLISECONDS_MAX = 5_000
ROUTING_KEY = "x-tidegate-session"
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
        ("grpc.min_reconnect_backoff_ms", RECONNECT_MILLISECONDS_MIN),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLISECONDS_MAX),
        ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
        ("grpc.primary_user_agent", user_agent()),
        ("grpc.enable_http_proxy", 0 if address.startswith(LOOPBACK) else 1),
    ]


class Connection:
    """One channel, made on first use so that a client can be constructed outside an event loop."""

    def __init__(self, address: str, timeout_seconds: float) -> None:
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds is {timeout_seconds}; it must be above 0")
        self.address = address
        self.timeout_seconds = timeout_seconds
        self.routing_key = new_routing_key()
        self.closed = False
        self._room = asyncio.Semaphore(CALLS_MAX)

    @cached_property
    def channel(self) -> Any:
        """The channel itself."""
        if self.closed:
            raise TidegateError(Reason.CANCELLED, "the client is closed")
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

    async def call(self, method: Any, request: Any, key: tuple[tuple[str, str], ...] | None = None) -> Any:
        """One unary call; raises TidegateError."""
        self.check_open()
        try:
            async with self._room:
                return await method(request, timeout=self.timeout_seconds, metadata=key or self.routing_key)
        except grpc.RpcError as error:
            raise from_call(error) from None

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Turns what takes longer than a call may into DEADLINE_EXCEEDED."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                yield
        except TimeoutError:
            problem = f"no answer from {self.address} within {self.timeout_seconds:g} s"
            raise TidegateError(Reason.DEADLINE_EXCEEDED, problem) from None

    def check_open(self) -> None:
        """Raises CANCELLED once closed."""
        if self.closed:
            raise TidegateError(Reason.CANCELLED, "the client is closed")

    async def close(self) -> None:
        """Closes the channel; calls in progress end with CANCELLED."""
        self.closed = True
        if "channel" in self.__dict__:
            await self.channel.close()
