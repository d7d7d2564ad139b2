"""The load itself: messages made once, sent as bytes, latencies taken from the time they were meant to go.

Messages ask for "the next step" (step 0), so that one message of a session can be sent again and again. A message's
sequence number is appended to its bytes: protobuf takes fields in any order.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np

from tidegate.client import AsyncClient
from tidegate.client.connection import channel_options, new_routing_key
from tidegate.client.failures import from_call, from_status, reason_named
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import prediction_pb2, types_pb2

METHOD = "/tidegate.v1.PredictionService/StreamPredict"
CONNECTIONS_MAX = 8
IN_FLIGHT_MAX = 100_000  # of one stream in open loop; a server that far behind has lost
GRACE_SECONDS = 10.0  # for the last replies
SEQUENCE_TAG = 0x10  # field 2, varint


class Load(NamedTuple):
    """What to send. `rate`: observations a second in all; None: closed loop."""

    address: str
    model: str
    sessions: int
    streams: int
    batch: int
    rate: float | None
    seconds: float
    warmup: float


@dataclass
class Result:
    """What came of it: replies that came in the measured time, latencies (s) of what was meant to go in it."""

    seconds: float
    messages: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    by_stream: list[int] = field(default_factory=list)
    observations: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def fairness(self) -> float:
        """The slowest stream's messages over the mean."""
        mean = sum(self.by_stream) / max(1, len(self.by_stream))
        return min(self.by_stream) / mean if mean else 0.0

    def percentile(self, percent: float) -> float:
        """Latency in seconds; 0 when nothing was measured."""
        return float(np.percentile(np.frombuffer(self.latencies), percent)) if self.latencies else 0.0


@dataclass
class Clock:
    """The measured time, by time.perf_counter."""

    start: float
    end: float

    def counts(self, moment: float) -> bool:
        """Whether what happens then is measured."""
        return self.start <= moment < self.end


def encode_varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def make_messages(ids: Sequence[str], batch: int, features: int) -> tuple[list[bytes], list[bytes]]:
    """A stream's messages: what binds its aliases (sent once, it steps too), and what is sent again and again."""
    values = np.random.default_rng(len(ids)).standard_normal((len(ids), features)).astype("<f4")
    if batch == 1:
        rows = zip(ids, values, strict=True)
        return [], [as_message(observation=types_pb2.Observation(session_id=name, values=row)) for name, row in rows]
    binding, again = [], []
    for start in range(0, len(ids), batch):
        part = slice(start, min(start + batch, len(ids)))
        message = types_pb2.ObservationBatch(rows=part.stop - part.start, aliases=range(part.start, part.stop))
        message.dtype, message.values = types_pb2.DTYPE_FLOAT32, values[part].tobytes()
        again.append(as_message(batch=message))
        message.session_ids.extend(ids[part])
        binding.append(as_message(batch=message))
    return binding, again


def as_message(**payload: Any) -> bytes:
    """A message on the stream, but for its sequence number."""
    return prediction_pb2.StreamPredictRequest(**payload).SerializeToString()


class StreamLoad:
    """One stream: sends its messages in turn and takes the replies' times."""

    def __init__(self, call: Any, load: Load, ids: list[str], features: int, clock: Clock, result: Result) -> None:
        self._call = call
        self._sessions = len(ids)
        self._binding, self._messages = make_messages(ids, load.batch, features)
        self._clock = clock
        self._result = result
        self._sent: dict[int, float] = {}
        self._sequence = 0
        self.answered = 0

    async def prepare(self, config: bytes) -> None:
        """Sends the config and binds aliases."""
        await self._call.write(config)
        for message in self._binding:
            await self._send(message, 0.0)
            await self._receive()

    async def _send(self, message: bytes, intended: float) -> None:
        self._sequence += 1
        self._sent[self._sequence] = intended
        await self._call.write(message + bytes((SEQUENCE_TAG,)) + encode_varint(self._sequence))

    async def _receive(self) -> bool:
        """Takes one reply; False when the stream ended and none was due."""
        reply = await self._call.read()
        now = time.perf_counter()
        if reply is grpc.aio.EOF:
            if self._sent:
                raise TidegateError(Reason.UNREACHABLE, "the server ended a stream")
            return False
        response = prediction_pb2.StreamPredictResponse.FromString(reply)
        intended = self._sent.pop(response.sequence)
        if self._clock.counts(intended):
            self._result.latencies.append(now - intended)
        if self._clock.counts(now):
            self.answered += 1
            self._count(response)
        return True

    def _count(self, response: prediction_pb2.StreamPredictResponse) -> None:
        """Predictions and errors of one reply."""
        self._result.messages += 1
        if response.HasField("error"):
            self._result.errors[from_status(response.error).reason.name] += 1
        elif response.HasField("batch"):
            for error in response.batch.errors:
                self._result.errors[reason_named(error.reason).name] += 1
            self._result.observations += response.batch.rows - len(response.batch.errors)
        else:
            self._result.observations += 1

    async def closed_loop(self) -> None:
        """The next message when the last one was answered."""
        turn = 0
        while (now := time.perf_counter()) < self._clock.end:
            await self._send(self._messages[turn], now)
            await self._receive()
            turn = (turn + 1) % len(self._messages)

    async def open_loop(self, first: float, interval: float) -> None:
        """Each message at its time, whatever the replies do."""
        receiver = asyncio.create_task(self._receive_all())
        try:
            await self._send_all(first, interval)
            await receiver
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)

    async def _send_all(self, intended: float, interval: float) -> None:
        """Every message until the end, at its time or, when that has passed, now."""
        turn = 0
        while intended < self._clock.end:
            if (ahead := intended - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            if len(self._sent) >= IN_FLIGHT_MAX:
                raise TidegateError(Reason.INBOX_FULL, "the server is too far behind the rate asked for")
            await self._send(self._messages[turn], intended)
            turn, intended = (turn + 1) % len(self._messages), intended + interval
        await self._call.done_writing()

    async def _receive_all(self) -> None:
        """Replies until the server has sent the last and ends the stream."""
        while await self._receive():
            pass

    @property
    def rows(self) -> float:
        """Observations a message, on average."""
        return self._sessions / len(self._messages)


async def generate(load: Load) -> Result:
    """Runs the load; raises TidegateError when the server cannot be reached or ends a stream."""
    ids = [f"bench-{uuid.uuid4().hex[:8]}-{index}" for index in range(load.sessions)]
    async with AsyncClient(load.address) as client:
        about = (await client.model(load.model)).description
        assert about is not None
        try:
            return await run_streams(load, ids, len(about.names))
        except grpc.RpcError as error:
            raise from_call(error) from None
        finally:
            await client.close_sessions(load.model, ids)


async def run_streams(load: Load, ids: list[str], features: int) -> Result:
    """Opens the streams, binds, loads, gathers."""
    count = min(load.streams, CONNECTIONS_MAX)
    options = [*channel_options(load.address), ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(load.address, options=options) for _ in range(count)]
    result, clock = Result(load.seconds), Clock(0.0, 0.0)
    calls = [channels[i % count].stream_stream(METHOD)(metadata=new_routing_key()) for i in range(load.streams)]
    streams = [
        StreamLoad(call, load, ids[index :: load.streams], features, clock, result) for index, call in enumerate(calls)
    ]
    try:
        await run_loops(load, streams, clock)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    result.by_stream = [stream.answered for stream in streams]
    return result


async def run_loops(load: Load, streams: list[StreamLoad], clock: Clock) -> None:
    """Readies all streams, sets the clock, runs each stream's loop; in open loop their times are spread evenly."""
    config = as_message(config=prediction_pb2.StreamConfig(model=load.model))
    await asyncio.gather(*(stream.prepare(config) for stream in streams))
    begin = time.perf_counter()
    clock.start = begin + load.warmup
    clock.end = clock.start + load.seconds
    loops = [
        stream.closed_loop()
        if load.rate is None
        else stream.open_loop(begin + index * stream.rows / load.rate, stream.rows * len(streams) / load.rate)
        for index, stream in enumerate(streams)
    ]
    try:
        async with asyncio.timeout(load.warmup + load.seconds + GRACE_SECONDS):
            await asyncio.gather(*loops)
    except TimeoutError:
        problem = f"replies were still missing {GRACE_SECONDS:g} s after the end"
        raise TidegateError(Reason.DEADLINE_EXCEEDED, problem) from None
