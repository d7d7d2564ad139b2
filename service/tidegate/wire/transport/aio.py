"""The short ways of `rpc.py`, for calls that grpc.aio's server has taken up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

import grpc

from tidegate.wire.transport.stream import GaveUp, Takes, Wrote

GONE = (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.BaseError)  # raised by writes to a call that is over


class AioStream:
    """See `stream.Stream`: by coroutines, and a task that writes."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._answers: deque[tuple[bytes, int]] = deque()
        self._some = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def read_while(self, takes: Takes) -> Any:
        while (message := await self._context.read()) is not grpc.aio.EOF and takes(message):
            pass
        return message

    def tell(self, wrote: Wrote, gave_up: GaveUp) -> None:
        self._writer = asyncio.create_task(self._write(wrote, gave_up))

    def send(self, answer: bytes, rows: int) -> None:
        self._answers.append((answer, rows))
        self._some.set()

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer

    async def _write(self, wrote: Wrote, gave_up: GaveUp) -> None:
        try:
            while True:
                while self._answers:
                    answer, rows = self._answers.popleft()
                    await self._context.write(answer)
                    wrote(rows)
                self._some.clear()
                await self._some.wait()
        except GONE:
            gave_up()
