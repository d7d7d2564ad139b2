"""How a client ends, whatever else happens meanwhile."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.servers import RunningServer
from tests.wire.clients import PATIENCE_SECONDS, until
from tidegate import AsyncClient, Reason, TidegateError
from tidegate.client.streams.feed import Feed

MODEL = "random"
ROW = [0.0, 1.0, 2.0, 3.0]


async def stepped(server: RunningServer) -> AsyncClient:
    """A client with a stream."""
    client = AsyncClient(server.grpc)
    await client.session(MODEL, uuid.uuid4().hex).step(ROW)
    return client


async def closing(client: AsyncClient) -> asyncio.Task[None]:
    """Its close, which has begun."""
    task = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    return task


async def check_closed(client: AsyncClient, server: RunningServer) -> None:
    """It refuses calls, and the server has no stream of it any more."""
    with pytest.raises(TidegateError, match="closed") as refused:
        await client.models()
    assert refused.value.reason is Reason.CANCELLED
    await until(lambda: server.metric("tidegate_streams_open") == 0, "the end of the stream")


async def test_a_session_made_meanwhile(server: RunningServer) -> None:
    """The first session of another model, made while the client closes, does not keep it from closing."""
    client = await stepped(server)
    task = await closing(client)
    late = client.session("another", "late")
    await task
    await check_closed(client, server)
    with pytest.raises(TidegateError, match="closed"):
        await late.step(ROW)


async def test_a_close_that_is_cancelled(server: RunningServer) -> None:
    """A close that is cancelled still ends the streams and the channel, and calls that wait are told."""
    client = await stepped(server)
    task = await closing(client)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await check_closed(client, server)


async def test_models_end_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model's streams wait for those of another."""
    client, together = AsyncClient(), asyncio.Barrier(3)
    for model in ("a", "b", "c"):
        client.session(model, "x")
    monkeypatch.setattr(Feed, "close", lambda _: together.wait())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await client.close()
