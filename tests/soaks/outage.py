"""The store fails under running sessions: Redis hangs or is away for half a minute, or comes back empty.

At `interval` steps go on, the lag shows in metrics and in health, and after the store's return all becomes durable: the
server is killed then, and nothing is missing. At `step` answers wait, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import urllib.error
from pathlib import Path

from tests.services import RunningRedis
from tests.soaks.crash import patiently
from tests.soaks.fleet import Fleet, make_model
from tests.soaks.servers import Place

AWAY_SECONDS = 30.0
LAG_SECONDS_MAX = 10.0  # of this server: unhealthy above
LEASE_SECONDS = 3.0  # who stands still as it ends takes no step before the store says so, and that is away
SETTLED_SECONDS, SETTLED_TRIES_MAX = 0.5, 20
SAVED_SECONDS_MAX = 60.0
WAYS = ("hangs", "stopped", "comes back empty")


async def outage(
    folder: Path,
    redis: RunningRedis,
    sessions: int,
    level: str,
    way: str,
    away: float,
    lag_max: float = LAG_SECONDS_MAX,
    lease: float = LEASE_SECONDS,
    patience: float = 0.0,
) -> list[str]:
    """Runs it; returns what was measured, and raises AssertionError where a promise was broken."""
    models = folder / "models"
    make_model(models)
    limits = {"LIMITS__CHECKPOINT_LAG_SECONDS_MAX": str(lag_max), "LIMITS__LEASE_SECONDS": str(lease)}
    place = Place(models, "--store", redis.url, "--durability", level, **limits)
    lines = []
    async with place:
        fleet = Fleet([place.address], sessions, timeout_seconds=300.0)
        run = asyncio.create_task(fleet.run())
        rate = await _rate_before(fleet, run, sessions)
        await asyncio.to_thread(redis.freeze if way == "hangs" else redis.stop)
        if way == "comes back empty":
            redis.wipe()
        during = await (
            _goes_on(fleet, run, away, 0.3 * rate, patience) if level == "interval" else _waits(fleet, run, away)
        )
        lag, healthy = await place.metric("tidegate_checkpoint_lag_seconds"), await _healthy(place)
        lines.append(
            f"{level}, Redis {way}, {away:g} s: steps at {during / rate:.0%} of the rate before; lag {lag:.0f} s; "
            f"/readyz {'ready' if healthy else 'not ready'}"
        )
        assert lag > away * 0.8 or level == "step"
        assert healthy is (away < lag_max)
        await asyncio.to_thread(redis.thaw if way == "hangs" else redis.start)
        lines.append(f"  durable again {await _recovers(place, run):.1f} s after its return")
        await patiently(run, 2.0)
        await place.kill()
        await place.start()
        await patiently(run, 5.0)
        fleet.ending.set()
        await run
    faults = fleet.told.faults(models)
    assert not faults, faults[:5]
    lines.append(f"  then killed: {fleet.told.steps} predictions, each once, in order, same bytes")
    return lines


async def _rate(fleet: Fleet, run: asyncio.Task[None], seconds: float) -> float:
    began, before = time.monotonic(), fleet.told.steps
    await patiently(run, seconds)
    return (fleet.told.steps - before) / (time.monotonic() - began)


async def _rate_before(fleet: Fleet, run: asyncio.Task[None], sessions: int) -> float:
    """Steps a second, when each session has begun."""
    while len(fleet.told.answers) < sessions:
        await patiently(run, 0.02)
    await patiently(run, 3.0)
    while not (rate := await _rate(fleet, run, 3.0)):  # a machine may stand still for so long
        pass
    return rate


async def _goes_on(fleet: Fleet, run: asyncio.Task[None], away: float, more_than: float, patience: float) -> float:
    """Steps a second without the store, which are more than so many: at once, or within the patience, in seconds, for
    a machine that may stand still or be at something else."""
    began = time.monotonic()
    await patiently(run, away / 2)
    while (during := await _rate(fleet, run, away / 2)) <= more_than:
        assert time.monotonic() - began < patience, "steps do not go on"
    return during


async def _waits(fleet: Fleet, run: asyncio.Task[None], away: float) -> float:
    """Steps a second without the store, which are none, once the answers have come that were on their way."""
    await patiently(run, away / 2)
    for _ in range(SETTLED_TRIES_MAX):
        before = fleet.told.steps
        await patiently(run, SETTLED_SECONDS)
        if fleet.told.steps == before:
            break
    during = await _rate(fleet, run, away / 2)
    assert during == 0, "answers left that are not durable"
    return during


async def _recovers(place: Place, run: asyncio.Task[None]) -> float:
    """Seconds until all is durable again."""
    began = time.monotonic()
    while await place.metric("tidegate_checkpoint_lag_seconds") > 2.0 or not await _healthy(place):
        assert time.monotonic() - began < SAVED_SECONDS_MAX, "it does not recover"
        await patiently(run, 0.1)
    return time.monotonic() - began


async def _healthy(place: Place) -> bool:
    assert place.server is not None
    with contextlib.suppress(urllib.error.HTTPError):
        await asyncio.to_thread(place.server.get, "/readyz")
        return True
    return False


def main(sessions: int = 200, away: float = AWAY_SECONDS) -> list[str]:
    """Both levels, all ways."""
    lines = []
    for level in ("interval", "step"):
        for way in WAYS:
            with (
                tempfile.TemporaryDirectory() as name,
                tempfile.TemporaryDirectory() as data,
                RunningRedis(Path(data)) as redis,
            ):
                lines += asyncio.run(outage(Path(name), redis, sessions, level, way, away))
    return lines
