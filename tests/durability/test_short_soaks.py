"""The soaks of tests/soaks in short: the same promises, with few sessions and few faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services import RunningRedis, redis_server
from tests.soaks import crash, outage, replicas, residency, unreplayed

__all__ = ["redis_server"]
pytestmark = pytest.mark.slow


async def test_killed_twice(tmp_path: Path) -> None:
    """Every prediction once, in order, with the bytes of a calm run."""
    await crash.killed(f"sqlite:{tmp_path / 'sessions.db'}", tmp_path, sessions=200, kills=2)


async def test_killed_on_redis(tmp_path: Path, redis_server: RunningRedis) -> None:
    """The same, by a store that others may use."""
    await crash.killed(redis_server.url + "?prefix=killed", tmp_path, sessions=200, kills=1)


async def test_clients_that_replay_nothing(tmp_path: Path) -> None:
    """At `step` nothing that was acknowledged is gone."""
    await unreplayed.killed(f"sqlite:{tmp_path / 'sessions.db'}", tmp_path, sessions=100, kills=2)


async def test_two_replicas(tmp_path: Path) -> None:
    """One killed, one frozen, one drained, one more added."""
    (tmp_path / "redis").mkdir()
    with started(tmp_path / "redis") as redis:
        await replicas.shared(tmp_path, redis, sessions=40, replicas=2, calm=0.5)


@pytest.mark.parametrize(("level", "way"), [("interval", "comes back empty"), ("step", "hangs")])
async def test_redis_is_away(tmp_path: Path, level: str, way: str) -> None:
    """Steps go on, or wait; nothing is lost. Its limits allow for a machine that stands still."""
    patient = {"lag_max": 120.0, "lease": 20.0, "patience": 60.0}
    (tmp_path / "redis").mkdir()
    with started(tmp_path / "redis") as redis:
        await outage.outage(tmp_path, redis, sessions=20, level=level, way=way, away=4.0, **patient)


async def test_more_sessions_than_slots(tmp_path: Path) -> None:
    """Six thousand sessions, a thousand slots."""
    await residency.random_access(f"sqlite:{tmp_path / 'sessions.db'}", tmp_path, stored=6_000, slots=1_500)


def started(folder: Path) -> RunningRedis:
    """A Redis that the test alone uses."""
    if RunningRedis.missing():
        pytest.skip("redis-server is not installed: make services")
    return RunningRedis(folder)
