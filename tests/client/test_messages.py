"""What no message can hold is a TidegateError that says what to give instead, from every method."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.servers import RunningServer
from tidegate import AsyncClient, Reason, TidegateError
from tidegate.client import Generation, Scenario
from tidegate.client.values.messages import built, checked_ids
from tidegate.wire.stubs import forecast_pb2, session_pb2

MODEL = "random"
ROW = [0.0, 1.0, 2.0, 3.0]
HALF = "caf\udce9"  # what os.listdir gives for a name that is not UTF-8
Call = Callable[[AsyncClient], Awaitable[object]]


def anything(value: Any) -> Any:
    """What a caller without a type checker may give."""
    return value


async def listed(client: AsyncClient, **asked: str) -> None:
    async for _ in client.sessions(**asked):
        pass


async def batch_step(client: AsyncClient, *ids: str) -> object:
    async with client.batches(MODEL) as batches:
        return await batches.step(ids, [ROW] * len(ids))


async def batches_of(client: AsyncClient, model: str, version: str = "") -> None:
    async with client.batches(model, version=version):
        pass


CALLS: dict[str, tuple[Call, Reason]] = {
    "step": (lambda c: c.session(MODEL, HALF).step(ROW), Reason.BAD_SESSION_ID),
    "warm_up": (lambda c: c.session(MODEL, HALF).warm_up([ROW] * 3), Reason.BAD_SESSION_ID),
    "session.forecast": (lambda c: c.session(MODEL, HALF).forecast(3), Reason.BAD_SESSION_ID),
    "session.reset": (lambda c: c.session(MODEL, HALF).reset(), Reason.BAD_SESSION_ID),
    "session.close": (lambda c: c.session(MODEL, HALF).close(), Reason.BAD_SESSION_ID),
    "session.info": (lambda c: c.session(MODEL, HALF).info(), Reason.BAD_SESSION_ID),
    "session.resync": (lambda c: c.session(MODEL, HALF).resync(), Reason.BAD_SESSION_ID),
    "session.export": (lambda c: c.session(MODEL, HALF).export(), Reason.BAD_SESSION_ID),
    "session.rewind": (lambda c: c.session(MODEL, HALF).rewind(1), Reason.BAD_SESSION_ID),
    "session.fork": (lambda c: c.session(MODEL, HALF).fork("b"), Reason.BAD_SESSION_ID),
    "session.fork to it": (lambda c: c.session(MODEL, "a").fork(HALF), Reason.BAD_SESSION_ID),
    "batches.step": (lambda c: batch_step(c, "good", HALF), Reason.BAD_SESSION_ID),
    "forecast": (lambda c: c.forecast(MODEL, ["good", HALF], 3), Reason.BAD_SESSION_ID),
    "open_sessions": (lambda c: c.open_sessions(MODEL, ["good", HALF]), Reason.BAD_SESSION_ID),
    "reset_sessions": (lambda c: c.reset_sessions(MODEL, ["good", HALF]), Reason.BAD_SESSION_ID),
    "migrate_sessions": (lambda c: c.migrate_sessions(MODEL, ["good", HALF]), Reason.BAD_SESSION_ID),
    "close_sessions": (lambda c: c.close_sessions(MODEL, ["good", HALF]), Reason.BAD_SESSION_ID),
    "import_session": (lambda c: c.import_session(b"", id=HALF), Reason.BAD_SESSION_ID),
    "a model's name": (lambda c: c.model(HALF), Reason.MODEL_NOT_FOUND),
    "a batch's model": (lambda c: batches_of(c, HALF), Reason.MODEL_NOT_FOUND),
    "a forecast's model": (lambda c: c.forecast(HALF, ["a"], 3), Reason.MODEL_NOT_FOUND),
    "a list's model": (lambda c: listed(c, model=HALF), Reason.MODEL_NOT_FOUND),
    "a list's filter": (lambda c: listed(c, filter=f"id={HALF}*"), Reason.BAD_FILTER),
    "a version": (lambda c: c.model(MODEL, version=HALF), Reason.VERSION_NOT_FOUND),
    "a batch's version": (lambda c: batches_of(c, MODEL, HALF), Reason.VERSION_NOT_FOUND),
    "a horizon below 0": (lambda c: c.forecast(MODEL, ["a"], -1), Reason.BAD_FORECAST),
    "a session's horizon": (lambda c: c.session(MODEL, "a").forecast(-1), Reason.BAD_FORECAST),
    "a horizon too large": (lambda c: c.forecast(MODEL, ["a"], 2**32), Reason.BAD_FORECAST),
    "a scenario's horizon": (lambda c: c.forecast(MODEL, [Scenario("a", -1)], 3), Reason.BAD_FORECAST),
    "a seed": (lambda c: c.forecast(MODEL, [Scenario("a", seed=-1)], 3), Reason.BAD_FORECAST),
    "samples": (lambda c: c.forecast(MODEL, ["a"], 3, samples=-1), Reason.BAD_FORECAST),
    "top_k": (lambda c: c.forecast(MODEL, ["a"], 3, generation=Generation(top_k=-1)), Reason.BAD_FORECAST),
    "stop": (lambda c: c.forecast(MODEL, ["a"], 3, generation=Generation(stop=HALF)), Reason.BAD_FORECAST),
    "a step to rewind to": (lambda c: c.session(MODEL, "a").rewind(-1), Reason.STEP_NOT_RETAINED),
    "a step to fork at": (lambda c: c.session(MODEL, "a").fork("b", step=-1), Reason.STEP_NOT_RETAINED),
    "a number as id": (lambda c: c.session(MODEL, anything(7)).step(ROW), Reason.BAD_SESSION_ID),
    "a number in a batch": (lambda c: batch_step(c, "good", anything(7)), Reason.BAD_SESSION_ID),
    "a number among ids": (lambda c: c.close_sessions(MODEL, ["good", anything(7)]), Reason.BAD_SESSION_ID),
    "a text as ids": (lambda c: c.open_sessions(MODEL, "good"), Reason.BAD_SESSION_ID),
    "a number in a forecast": (lambda c: c.forecast(MODEL, ["good", Scenario(anything(7))], 3), Reason.BAD_SESSION_ID),
    "a number to fork to": (lambda c: c.session(MODEL, "a").fork(anything(7)), Reason.BAD_SESSION_ID),
    "half a horizon": (lambda c: c.session(MODEL, "a").forecast(anything(1.5)), Reason.BAD_FORECAST),
    "a first step": (lambda c: c.session(MODEL, "a").warm_up([ROW], first_step=-1), Reason.BAD_HISTORY),
}


@pytest.mark.parametrize(("call", "reason"), CALLS.values(), ids=CALLS.keys())
async def test_every_method_says_so(server: RunningServer, call: Call, reason: Reason) -> None:
    """The reason is that of what is wrong, the text names it, and the client goes on afterwards."""
    async with AsyncClient(server.grpc) as client:
        with pytest.raises(TidegateError, match=r"give (text|a list|a number|the number)") as refused:
            await call(client)
        assert refused.value.reason is reason
        assert str(refused.value).isascii()
        assert (await client.session(MODEL, uuid.uuid4().hex).step(ROW)).step == 1


async def test_nothing_was_done(server: RunningServer) -> None:
    """One such id in thousands is refused before anything is sent: the sessions before it are as they were."""
    async with AsyncClient(server.grpc) as client:
        run = uuid.uuid4().hex
        ids = [f"{run}-{row}" for row in range(20_000)]
        async with client.batches(MODEL) as batches:
            for call in (
                client.open_sessions(MODEL, [*ids, HALF]),
                batches.step([*ids, HALF], np.zeros((20_001, 4))),
            ):
                with pytest.raises(TidegateError, match="udce9") as refused:
                    await call
                assert refused.value.reason is Reason.BAD_SESSION_ID
            assert [session async for session in client.sessions(filter=f"id={run}*")] == []
            assert (await batches.step(ids[:2], [ROW] * 2)).steps.tolist() == [1, 1]


def test_what_can_be_held_is_held() -> None:
    """Ids of any whole characters pass, and a message is as its kind makes it."""
    assert checked_ids(()) == []
    assert checked_ids(np.array(["", "a", "ü", "\U0001f30a"])) == ["", "a", "ü", "\U0001f30a"]
    made = built(session_pb2.ForkSessionRequest, model="m", session_id="a", new_session_id="\U0001f30a", step=None)
    assert made == session_pb2.ForkSessionRequest(model="m", session_id="a", new_session_id="\U0001f30a")


def test_the_first_field_that_is_wrong_is_named() -> None:
    """Of several, the first; halves that would be a whole together are still two halves."""
    with pytest.raises(TidegateError, match="horizon is -1"):
        built(forecast_pb2.ForecastRequest, model="m", horizon=-1, samples=-2)
    with pytest.raises(TidegateError, match="ud83c"):
        checked_ids(["a", "\ud83c", "\udf0a"])
