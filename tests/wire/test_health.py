"""Health, on our server and on grpc.aio's: what a watcher is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.wire.clients import PATIENCE_SECONDS
from tidegate.wire.health import NOT_SERVING, SERVICE, SERVING, UNKNOWN, Health
from tidegate.wire.transport import choice, make_server

ASKED = health_pb2.HealthCheckRequest(service="asked")


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture(params=["ours", "aio"])
async def stub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, health: Health) -> AsyncIterator[Any]:
    """A client of a server that has nothing else."""
    monkeypatch.setenv(choice.VARIABLE, request.param)
    server = make_server([("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, health.handlers()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(PATIENCE_SECONDS):
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(0)


async def test_a_service_that_becomes_known(stub: Any, health: Health) -> None:
    """Its watcher is told SERVICE_UNKNOWN and stays, and is told each other status that there is when it looks, once;
    what is told of another service, or again, is no news."""
    watch = stub.Watch(ASKED)
    assert (await watch.read()).status == UNKNOWN
    for status in (SERVING, NOT_SERVING, SERVING):
        health.tell(["another"], status)
        health.tell(["asked"], status)
        health.tell(["asked"], status)
        assert (await watch.read()).status == status
        assert (await stub.Check(ASKED)).status == status
    watch.cancel()


async def test_watchers_leave(stub: Any, health: Health) -> None:
    """The others of the same service are told of what changes afterwards."""
    watches = [stub.Watch(ASKED) for _ in range(3)]
    assert [(await watch.read()).status for watch in watches] == 3 * [UNKNOWN]
    for status in (SERVING, NOT_SERVING):
        watches.pop(0).cancel()
        health.tell(["asked"], status)
        assert {(await watch.read()).status for watch in watches} == {status}
    watches[0].cancel()
