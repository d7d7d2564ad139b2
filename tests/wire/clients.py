"""Clients for tests: the generated stubs on grpc.aio, builders of messages, and what a refusal must look like."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from numpy.typing import ArrayLike, NDArray

from tests.servers import RunningServer
from tidegate.errors import DOMAIN, MEANINGS, Reason
from tidegate.wire.stubs import model_pb2_grpc, prediction_pb2_grpc, session_pb2_grpc
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

PATIENCE_SECONDS = 60.0  # what a test waits for comes long before, or never
INTERNALS = re.compile(r"Traceback|File \"|\.py\b|/work|/tmp|site-packages|numpy|torch|0x[0-9a-f]{6}", re.IGNORECASE)
Payload = types.Observation | types.ObservationBatch | types.History


class Refusal(NamedTuple):
    """What a client can read from an error."""

    code: grpc.StatusCode
    reason: str
    message: str
    variables: dict[str, str]


def code_of(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)


def refusal_of(status: Status) -> Refusal:
    """Reads a status; it must hold one ErrorInfo of ours and its reason's code, and say what to do."""
    info = ErrorInfo()
    (detail,) = status.details
    assert detail.Unpack(info)
    assert info.domain == DOMAIN
    check_text(info.reason, status.code, status.message)
    return Refusal(code_of(status.code), info.reason, status.message, dict(info.metadata))


def check_text(reason: str, code: int, message: str) -> None:
    """A text must end with what to do next and show nothing of the inside."""
    meaning = MEANINGS[Reason[reason]]
    assert code == meaning.code
    assert message.endswith(meaning.hint)
    assert not INTERNALS.search(message), message


async def refused(call: Awaitable[object]) -> Refusal:
    """Awaits a call that must fail, and reads its error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await call
    return read_error(caught.value)


def read_error(error: grpc.aio.AioRpcError) -> Refusal:
    """A failed call's error; its status and its details must agree."""
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    assert details is not None, f"{error.code()}: {error.details()}"
    status = Status.FromString(details)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return refusal_of(status)


def config(model: str = "random", **fields: Any) -> pb.StreamConfig:
    return pb.StreamConfig(model=model, **fields)


def observation(session_id: str, values: Iterable[float], step: int = 0, **fields: Any) -> types.Observation:
    return types.Observation(session_id=session_id, step=step, values=values, **fields)


def batch(
    ids: Sequence[str],
    values: ArrayLike,
    *,
    aliases: Sequence[int] = (),
    steps: Sequence[int] = (),
    times: Sequence[int] = (),
    resets: Sequence[int] = (),
    dtype: int = types.DTYPE_FLOAT32,
) -> types.ObservationBatch:
    """An ObservationBatch; `values` is [rows, features]."""
    matrix = np.asarray(values, "<f8" if dtype == types.DTYPE_FLOAT64 else "<f4")
    return types.ObservationBatch(
        rows=len(matrix),
        session_ids=ids,
        aliases=aliases,
        steps=steps,
        event_times_unix_ns=times,
        dtype=types.DType.Name(dtype),
        values=matrix.tobytes(),
        reset=bytes(resets),
    )


def history(
    session_id: str,
    values: ArrayLike,
    first_step: int = 1,
    *,
    times: Sequence[int] = (),
    dtype: int = types.DTYPE_FLOAT64,
    **fields: Any,
) -> types.History:
    """A History; `values` is [steps, features]."""
    matrix = np.asarray(values, "<f8" if dtype == types.DTYPE_FLOAT64 else "<f4")
    return types.History(
        session_id=session_id,
        first_step=first_step,
        steps=len(matrix),
        event_times_unix_ns=times,
        dtype=types.DType.Name(dtype),
        values=matrix.tobytes(),
        **fields,
    )


def values_of(answer: types.PredictionBatch) -> NDArray[np.float32]:
    """[rows, targets]"""
    return np.frombuffer(answer.values, "<f4").reshape(answer.rows, -1)


def unary(payload: Payload, model: str = "random", **fields: Any) -> pb.PredictRequest:
    """A unary prediction's request."""
    request = pb.PredictRequest(config=config(model, **fields))
    if isinstance(payload, types.Observation):
        request.observation.CopyFrom(payload)
    elif isinstance(payload, types.History):
        request.history.CopyFrom(payload)
    else:
        request.batch.CopyFrom(payload)
    return request


class Stream:
    """One StreamPredict, message by message. The config goes with the first."""

    def __init__(self, call: Any, given: pb.StreamConfig | None) -> None:
        self.call = call
        self.sequence = 0
        self._config = given

    async def send(self, payload: Payload | None = None, given: pb.StreamConfig | None = None) -> int:
        """Writes one message and returns its sequence."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.call.write(self.request(payload, given))
        return self.sequence

    def request(self, payload: Payload | None, given: pb.StreamConfig | None = None) -> pb.StreamPredictRequest:
        """The stream's next message."""
        given = given or self._config
        self._config = None
        self.sequence += 1
        request = pb.StreamPredictRequest(sequence=self.sequence, config=given)
        if isinstance(payload, types.Observation):
            request.observation.CopyFrom(payload)
        elif isinstance(payload, types.History):
            request.history.CopyFrom(payload)
        elif payload is not None:
            request.batch.CopyFrom(payload)
        return request

    async def receive(self) -> pb.StreamPredictResponse:
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await self.call.read()
        assert answer is not grpc.aio.EOF
        assert isinstance(answer, pb.StreamPredictResponse)
        return answer

    async def ask(self, payload: Payload, given: pb.StreamConfig | None = None) -> pb.StreamPredictResponse:
        """Sends one message and waits for its answer."""
        sequence = await self.send(payload, given)
        answer = await self.receive()
        assert answer.sequence == sequence
        return answer

    async def predict(self, payload: types.Observation) -> types.Prediction:
        answer = await self.ask(payload)
        assert answer.HasField("prediction"), answer
        return answer.prediction

    async def predict_batch(self, payload: types.ObservationBatch) -> types.PredictionBatch:
        answer = await self.ask(payload)
        assert answer.HasField("batch"), answer
        return answer.batch

    async def finish(self) -> list[pb.StreamPredictResponse]:
        """Ends the sending; returns the answers that were still to come. The stream must end OK."""
        await self.call.done_writing()
        return await self.rest()

    async def rest(self) -> list[pb.StreamPredictResponse]:
        """All answers until the end; raises AioRpcError unless that is OK."""
        answers = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (answer := await self.call.read()) is not grpc.aio.EOF:
                answers.append(answer)
        return answers


class Client:
    """Every stub on one channel of its own."""

    def __init__(self, address: str, *options: tuple[str, int]) -> None:
        self.channel = grpc.aio.insecure_channel(
            address,
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1), *options],
        )
        self.predictions: Any = prediction_pb2_grpc.PredictionServiceStub(self.channel)
        self.sessions: Any = session_pb2_grpc.SessionServiceStub(self.channel)
        self.models: Any = model_pb2_grpc.ModelServiceStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    def stream(self, model: str = "random", **fields: Any) -> Stream:
        """A stream whose first message will say so."""
        return Stream(self.predictions.StreamPredict(), config(model, **fields))

    def bare_stream(self) -> Stream:
        """A stream without a config."""
        return Stream(self.predictions.StreamPredict(), None)

    async def predict(self, payload: Payload, model: str = "random", **fields: Any) -> pb.PredictResponse:
        """One unary prediction."""
        answer = await self.predictions.Predict(unary(payload, model, **fields), timeout=PATIENCE_SECONDS)
        assert isinstance(answer, pb.PredictResponse)
        return answer


async def until(condition: Callable[[], bool], what: str) -> None:
    """Returns when the condition holds; a server in another process can only be asked again and again."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"this never came: {what}")


GAUGES = ("tidegate_streams_open", "tidegate_unary_calls_open", "tidegate_inbox_rows", "tidegate_outbox_messages")


async def at_rest(server: RunningServer) -> None:
    """Returns when the server has no stream, no unary prediction, nothing queued and nothing to send."""
    await until(
        lambda: all(f"\n{name} 0.0\n" in page for page in [server.get("/metrics")] for name in GAUGES),
        f"all of {', '.join(GAUGES)} at 0",
    )
