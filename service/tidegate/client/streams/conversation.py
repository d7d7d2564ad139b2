"""One StreamPredict call, from its opening to its end.

A task of its own writes, because gRPC takes one write at a time and cancels the whole call when a write is cancelled:
a caller that gives up must not take the others with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from tidegate.client.failures import from_call
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import prediction_pb2

Request = prediction_pb2.StreamPredictRequest
Response = prediction_pb2.StreamPredictResponse


class Conversation:
    """Sends requests, the first of them with the config, and hands out what comes back."""

    def __init__(self, call: Any, config: prediction_pb2.StreamConfig) -> None:
        self._call = call
        self._config: prediction_pb2.StreamConfig | None = config
        self._outgoing: asyncio.Queue[Request | None] = asyncio.Queue()

    def send(self, request: Request) -> None:
        """Queues a request."""
        if self._config is not None:  # with the first payload: a write after the config's refusal would hide its reason
            request.config.CopyFrom(self._config)
            self._config = None
        self._outgoing.put_nowait(request)

    def finish(self) -> None:
        """Sends nothing more; the server answers what it has and ends the call."""
        self._outgoing.put_nowait(None)

    async def run(self, hand_out: Callable[[Response], None]) -> TidegateError:
        """Reads until the call is over; returns what ended it."""
        writing = asyncio.create_task(self._write())
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                hand_out(response)
            return TidegateError(Reason.UNREACHABLE, "the server ended the stream")
        except grpc.RpcError as failure:
            return from_call(failure)
        finally:
            writing.cancel()
            self._call.cancel()

    async def _write(self) -> None:
        """Writes what is queued until None or the call's end."""
        try:
            while (request := await self._outgoing.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call is over; the reader knows why
