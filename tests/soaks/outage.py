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
SAVED_SECONDS_MAX = 60.0
SHARE_MIN = 0.3  # of the rate of before, at which steps go on
HELD_UP_SECONDS_MAX = 30.0  # by the machine, which may stand still for a while
WAYS = ("hangs", "stopped", "comes back empty")


async def outage(folder: Path, redis: RunningRedis, sessions: int, level: str, way: str, away: float) -> list[str]:
    """Runs it; returns what was measured, and raises AssertionError where a promise was broken."""
    models = folder / "models"
    make_model(models)
    limits = {"LIMITS__CHECKPOINT_LAG_SECONDS_MAX": str(LAG_SECONDS_MAX)}
    place = Place(models, "--store", redis.url, "--durability", level, **limits)
    lines = []
    async with place:
        fleet = Fleet([place.address], sessions, timeout_seconds=300.0)
        run = asyncio.create_task(fleet.run())
        await patiently(run, 3.0)
        rate = await _rate(fleet, run, 3.0)
        gone = time.monotonic()
        await asyncio.to_thread(redis.freeze if way == "hangs" else redis.stop)
        if way == "comes back empty":
            redis.wipe()
        await patiently(run, away / 2)
        during = await _going(fleet, run, away / 2, SHARE_MIN * rate if level == "interval" else 0.0)
        lag, healthy = await place.metric("tidegate_checkpoint_lag_seconds"), await _healthy(place)
        lines.append(
            f"{level}, Redis {way}, {away:g} s: steps at {during / rate:.0%} of the rate before; lag {lag:.0f} s; "
            f"/readyz {'ready' if healthy else 'not ready'}"
        )
        if level == "interval":
            assert during > SHARE_MIN * rate, "steps do not go on"
            assert away * 0.8 < lag < time.monotonic() - gone + LAG_SECONDS_MAX
        else:
            assert during == 0, "answers left that are not durable"
        assert healthy is (lag < LAG_SECONDS_MAX)
        await asyncio.to_thread(redis.thaw if way == "hangs" else redis.start)
        began = time.monotonic()
        while await place.metric("tidegate_checkpoint_lag_seconds") > 2.0 or not await _healthy(place):
            assert time.monotonic() - began < SAVED_SECONDS_MAX, "it does not recover"
            await patiently(run, 0.1)
        lines.append(f"  durable again {time.monotonic() - began:.1f} s after its return")
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


async def _going(fleet: Fleet, run: asyncio.Task[None], seconds: float, wanted: float) -> float:
    """The rate in the first time so long in which it is as `wanted`; that of the last where it never is."""
    until = time.monotonic() + HELD_UP_SECONDS_MAX
    while (rate := await _rate(fleet, run, seconds)) <= wanted and wanted and time.monotonic() < until:
        pass
    return rate


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
