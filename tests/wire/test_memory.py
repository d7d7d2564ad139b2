"""What a resident session costs, above its raw state."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.clients import Client, Stream, at_rest, batch
from tidegate.wire.stubs import session_pb2 as pb

SESSIONS, ROWS = 100_000, 10_000
RAW_BYTES = 2 * 64 * 4  # h and c of one layer of 64, in float32
BUDGET_BYTES = 400


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    random_package(folder, hidden=64)
    return folder


def batches() -> list[list[str]]:
    return [[f"station-{number:06}" for number in range(low, low + ROWS)] for low in range(0, SESSIONS, ROWS)]


async def step_all(stream: Stream) -> None:
    """One step of each session, in batches that bind no aliases; every row must succeed."""
    for ids in batches():
        answer = await stream.predict_batch(batch(ids, np.ones((ROWS, 4))))
        assert not answer.errors


def rss(server: RunningServer) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


async def close_all(client: Client) -> None:
    for ids in batches():
        closed = pb.BatchCloseSessionsRequest(model="random", session_ids=ids)
        assert (await client.sessions.BatchCloseSessions(closed)).done == ROWS


async def test_100_000_sessions_cost_at_most_400_bytes_each_over_their_state(models: Path) -> None:
    """100,000 sessions of hidden 64 are opened and stepped through batches; the process grows by at most 400 bytes a
    session beyond h and c: columns, names, replies and all. A second step of all costs nothing more. Closing them gives
    half of it back at once, and opening as many again needs no more than the first time.
    """
    with RunningServer(models) as server:
        async with Client(server.grpc) as client:
            stream = client.stream()
            await stream.predict_batch(batch([f"warm-{row}" for row in range(ROWS)], np.ones((ROWS, 4))))
            before = rss(server)
            await step_all(stream)
            opened = rss(server)
            assert server.metric('tidegate_sessions_resident{model="random",version="1"}') == SESSIONS + ROWS
            over_state = (opened - before) / SESSIONS - RAW_BYTES
            logging.getLogger(__name__).info(
                "%.0f bytes a session over its raw state", over_state
            )  # --log-cli-level=info
            assert over_state <= BUDGET_BYTES
            await step_all(stream)
            assert rss(server) - opened < SESSIONS * 100
            await close_all(client)
            assert rss(server) - before < 0.5 * (opened - before)
            await step_all(stream)
            assert rss(server) - opened < SESSIONS * 100
            await stream.finish()
            await at_rest(server)
