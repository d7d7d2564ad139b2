"""PredictionService. Handlers take and give raw bytes, so that what cannot be decoded is refused in our own words.

Messages of a stream go to the engine as they come, and answers leave as soon as they are there. Reading stops while the
stream's window is full (its answers are not taken) or the engine is; then HTTP/2 flow control holds the client back.
"""

from __future__ import annotations

import asyncio
import logging
import time

import grpc
import numpy as np

from tidegate.checkpoints import Key
from tidegate.engine.forecasts.request import Forecast
from tidegate.engine.forecasts.request import ForecastRequest as Request
from tidegate.engine.queues.layout import load_units
from tidegate.errors import Reason, TidegateError
from tidegate.wire import codec, forecasts
from tidegate.wire.frontend import Call, FrontEnd
from tidegate.wire.guard import Context, Guard, Handlers
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs.forecast_pb2 import ForecastRequest
from tidegate.wire.transport import Stream, stream_of

log = logging.getLogger(__name__)


class PredictionService:
    """Predict, StreamPredict and Forecast."""

    def __init__(self, front: FrontEnd, guard: Guard) -> None:
        self._front = front
        self._guard = guard

    def handlers(self) -> Handlers:
        """By method name, for grpc's generic handler."""
        return {
            "Predict": grpc.unary_unary_rpc_method_handler(self._guard.unary(self.predict)),
            "Forecast": grpc.unary_unary_rpc_method_handler(self._guard.unary(self.forecast)),
            "StreamPredict": grpc.stream_stream_rpc_method_handler(self._guard.stream(self.stream_predict)),
        }

    async def predict(self, message: bytes, context: Context) -> bytes:
        """One message, one answer. A failed observation is the call's error."""
        front = self._front
        if front.unary >= front.limits.unary_calls_max or front.host.engine.full:
            raise TidegateError(Reason.INBOX_FULL)
        request = codec.parse(pb.PredictRequest, message)
        call = front.open()
        front.unary += 1
        try:
            if request.config.units:
                await asyncio.to_thread(load_units)
            self._ask(call, request, context.time_remaining())
            content, rows = await call.next_answer()
            call.wrote(rows)
        finally:
            front.unary -= 1
            front.close(call)
        answer = pb.StreamPredictResponse.FromString(content)
        if answer.HasField("error"):
            await self._guard.end(context, answer.error)
        if answer.HasField("batch"):
            return pb.PredictResponse(batch=answer.batch).SerializeToString()
        return pb.PredictResponse(prediction=answer.prediction).SerializeToString()

    async def forecast(self, message: bytes, _: Context) -> bytes:
        """Many scenarios, one answer each. A wrong scenario is named in the answer."""
        asked = codec.parse(ForecastRequest, message)
        front = self._front
        request = forecasts.request_of(asked, front.host.engine.catalog, front.limits)
        keys = [Key(request.tenant, request.model, scenario.session_id) for scenario in request.scenarios]
        call = front.open()  # a drain waits for it
        try:
            return await self._forecast(request, keys)
        finally:
            front.close(call)

    async def _forecast(self, request: Request, keys: list[Key]) -> bytes:
        front = self._front
        async with front.host.visit(keys, False) as refused:
            answers = await front.host.forecast(request)
        for place, key in enumerate(keys if refused else ()):
            if key in refused:
                answers[place] = Forecast(refused[key])
        front.check_unread()  # nothing has changed by it: safe to ask again, when others have read theirs
        portions = []
        for portion in forecasts.portions_of(answers):
            portions.append(portion)
            await asyncio.sleep(0)  # live rows go on between
        if len(portions) == 1:
            return portions[0]
        return await asyncio.to_thread(b"".join, portions)  # which lets the loop run

    async def stream_predict(self, context: Context) -> None:
        """Reads until the client ends, answers everything, ends. Drain: answers what was read, then UNAVAILABLE."""
        front = self._front
        if front.streams >= front.limits.streams_max:
            raise TidegateError(Reason.STREAM_LIMIT, limit=front.limits.streams_max)
        call, stream = front.open(), stream_of(context)
        front.streams += 1
        stream.tell(call.wrote, call.give_up)
        call.send = stream.send
        try:
            error = await self._read_until_end(call, stream)
            await call.below(messages=1, rows=1)
            if call.failed:
                raise TidegateError(Reason.INTERNAL)
            if error is not None:
                raise error
        finally:
            front.streams -= 1
            front.close(call)
            await stream.close()

    async def _read_until_end(self, call: Call, stream: Stream) -> TidegateError | None:
        """Queues messages until the client ends; returns the error that is to end the stream, if one is."""
        call.reader = asyncio.current_task()
        try:
            await self._read(call, stream)
        except TidegateError as error:
            return error
        except asyncio.CancelledError:
            if not (self._front.draining or call.failed) or call.reader is None:
                raise
            call.reader.uncancel()
            return None if call.failed else TidegateError(Reason.DRAINING)
        finally:
            call.reader = None
        return None

    async def _read(self, call: Call, stream: Stream) -> None:
        limits, host = self._front.limits, self._front.host
        while not call.gone and (message := await stream.read_while(call.take)) is not grpc.aio.EOF:
            await call.below(limits.stream_messages_max, limits.stream_rows_max)
            if host.engine.full:
                await host.room()
            if not call.take(message):
                request = codec.parse(pb.StreamPredictRequest, message)
                if request.config.units:
                    await asyncio.to_thread(load_units)
                self._accept(call, request)

    def _accept(self, call: Call, request: pb.StreamPredictRequest) -> None:
        """Takes one message. Errors of the config end the stream; those of a payload are its answer."""
        if request.HasField("config"):
            call.configure(request.config)
        if call.scope is None:
            raise TidegateError(Reason.BAD_CONFIG, "the first message has no config")
        try:
            if request.HasField("observation"):
                call.observe(request.sequence, request.observation)
            elif request.HasField("batch"):
                call.observe_batch(request.sequence, request.batch)
            elif request.HasField("history"):
                call.observe_history(request.sequence, request.history)
        except TidegateError as error:
            call.refuse(request.sequence, error)

    def _ask(self, call: Call, request: pb.PredictRequest, remaining: float | None) -> None:
        """Queues a unary call's payload."""
        call.configure(request.config)
        deadline = np.inf if remaining is None else time.monotonic() + remaining
        if request.HasField("observation"):
            call.observe(0, request.observation, deadline)
        elif request.HasField("batch"):
            if not request.batch.session_ids:
                raise TidegateError(Reason.BAD_BATCH, "a unary call has no aliases; name session_ids")
            call.observe_batch(0, request.batch, deadline)
        elif request.HasField("history"):
            call.observe_history(0, request.history, deadline)
        else:
            raise TidegateError(Reason.BAD_OBSERVATION, "the request has no observation, no batch and no history")
