"""What a resident session costs, above its raw state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.clients import Client, Stream, at_rest, batch, observation
from tidegate.wire.stubs import session_pb2 as pb

SESSIONS, ROWS = 100_000, 10_000
RAW_BYTES = 2 * 64 * 4  # h and c of one layer of 64, in float32
BUDGET_BYTES = 400


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    random_package(folder, hidden=64)
    return folder


async def step_all(stream: Stream) -> None:
    """One step of each session, in batches that bind no aliases; every row must succeed."""
    for low in range(0, SESSIONS, ROWS):
        ids = [f"station-{number:06}" for number in range(low, low + ROWS)]
        answer = await stream.predict_batch(batch(ids, np.ones((ROWS, 4))))
        assert not answer.errors


def rss(server: RunningServer) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


async def test_100_000_sessions_cost_at_most_400_bytes_each_over_their_state(
    models: Path, record_property: pytest.RecordProperty
) -> None:
    """100,000 sessions of hidden 64 are opened and stepped through batches; the process grows by at most 400 bytes a
    session beyond h and c, all columns, names and replies included. A second step of all costs nothing more, and
    closing them gives the memory back (all but a tenth).
    """
    with RunningServer(models) as server:
        async with Client(server.grpc) as client:
            stream = client.stream()
            await stream.predict_batch(batch(["warm"] * ROWS, np.ones((ROWS, 4))))  # buffers of messages of this size
            before = rss(server)
            await step_all(stream)
            after = rss(server)
            assert server.metric('tidegate_sessions_resident{model="random",version="1"}') == SESSIONS + 1
            over_state = (after - before) / SESSIONS - RAW_BYTES
            record_property("bytes_a_session_over_state", round(over_state))
            print(f"{over_state:.0f} bytes a session over its raw state")
            assert over_state <= BUDGET_BYTES
            await step_all(stream)
            assert rss(server) - after < SESSIONS * 40
            for low in range(0, SESSIONS, ROWS):
                ids = [f"station-{number:06}" for number in range(low, low + ROWS)]
                closed = pb.BatchCloseSessionsRequest(model="random", session_ids=ids)
                assert (await client.sessions.BatchCloseSessions(closed)).done == ROWS
            await stream.predict(observation("warm", [1, 2, 3, 4]))
            await stream.finish()
            await at_rest(server)
            assert rss(server) - before < 0.1 * (after - before)
