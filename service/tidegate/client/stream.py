"""One StreamPredict call: what goes out, what is in flight, which answer is whose.

Many sessions share a stream. Each message has a sequence number and a future; answers are matched by number, so they
may come in any order. This is the only place that knows what has been asked and not answered: when the call breaks,
everything in flight fails with one exception, and the next message opens a new call. Re-sending what was in flight
instead belongs here too.

A task of its own writes, because gRPC takes one write at a time and cancels the whole call when a write is cancelled:
a caller that gives up must not take the others with it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tidegate.client.connection import Connection
from tidegate.client.failures import from_call, from_status
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import prediction_pb2

Request = prediction_pb2.StreamPredictRequest
Response = prediction_pb2.StreamPredictResponse
CLOSE_SECONDS_MAX = 1.0


@dataclass(slots=True)
class Asked:
    """A message that has no answer yet. The request is kept for the day that it is sent again."""

    request: Request
    answer: asyncio.Future[Response]


class PredictionStream:
    """Asks on one stream, which it opens when there is something to ask and none is open.

    `epoch` counts the calls opened so far: what a server remembers of a stream (aliases) is gone with its epoch.
    """

    def __init__(
        self,
        connection: Connection,
        config: prediction_pb2.StreamConfig,
        routing_key: tuple[tuple[str, str], ...],
    ) -> None:
        self.epoch = 0
        self._connection = connection
        self._config = config
        self._routing_key = routing_key
        self._sequence = 0
        self._in_flight: dict[int, Asked] = {}
        self._call: Any = None
        self._begun = False  # whether the call has been told its config
        self._outgoing: asyncio.Queue[Request | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def connect(self) -> int:
        """Opens a call if none is open, without waiting for the network; returns its epoch."""
        if self._call is None:
            self._connection.check_open()
            self._call = self._connection.predictions.StreamPredict(metadata=self._routing_key)
            self._outgoing, self._begun = asyncio.Queue(), False
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._read(self._call)), loop.create_task(self._write(self._call))]
            self.epoch += 1
        return self.epoch

    async def ask(self, *requests: Request) -> list[Response]:
        """Sends messages in this order and waits for the answer of each.

        Raises TidegateError: the observation's own error, or what broke the stream; the deadline is the caller's.
        Nothing is awaited before all are queued, so that what was built for `connect()`'s epoch goes out in it.
        """
        asked = [self._send(request) for request in requests]
        try:
            answers = await asyncio.gather(*(answer for _, answer in asked))
        finally:
            for sequence, _ in asked:
                self._in_flight.pop(sequence, None)
        for response in answers:
            if response.HasField("error"):
                raise from_status(response.error)
        return answers

    def _send(self, request: Request) -> tuple[int, asyncio.Future[Response]]:
        """Numbers a message, remembers it and queues it."""
        self.connect()
        self._sequence += 1
        request.sequence = self._sequence
        if not self._begun:  # with the first payload: a write after the config's refusal would hide its reason
            request.config.CopyFrom(self._config)
            self._begun = True
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._in_flight[self._sequence] = Asked(request, answer)
        self._outgoing.put_nowait(request)
        return self._sequence, answer

    async def _write(self, call: Any) -> None:
        """Writes what is queued until None or the call's end."""
        outgoing = self._outgoing
        try:
            while (request := await outgoing.get()) is not None:
                await call.write(request)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call is over; the reader knows why

    async def _read(self, call: Any) -> None:
        """Hands out answers until the call ends, then fails what is left."""
        error = TidegateError(Reason.CANCELLED, "the client was closed")
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                self._hand_out(response)
            error = TidegateError(Reason.UNREACHABLE, "the server ended the stream")
        except grpc.RpcError as failure:
            error = from_call(failure)
        finally:
            self._break(error)

    def _hand_out(self, response: Response) -> None:
        """Gives an answer to whoever asked; one that came too late has nobody."""
        asked = self._in_flight.pop(response.sequence, None)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(response)

    def _break(self, error: TidegateError) -> None:
        """The call is over: everything in flight fails, the next message opens another."""
        self._call = None
        self._tasks[1].cancel()
        in_flight, self._in_flight = self._in_flight, {}
        for asked in in_flight.values():
            if not asked.answer.done():
                asked.answer.set_exception(copied(error))

    async def close(self) -> None:
        """Ends the call: politely when nothing is in flight, else by cancelling it."""
        if self._call is None:
            return
        call, tasks = self._call, self._tasks
        if self._in_flight:
            call.cancel()
        self._outgoing.put_nowait(None)
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS_MAX)
        call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def copied(error: TidegateError) -> TidegateError:
    """One for each who waits: a shared exception would gather the tracebacks of all."""
    return TidegateError(error.reason, error.problem, **error.variables)
