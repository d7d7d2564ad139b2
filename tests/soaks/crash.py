"""A server killed again and again: every client sees every prediction once, in order, with the bytes of a calm run."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from tests.services import RunningRedis
from tests.soaks.fleet import Fleet, make_model
from tests.soaks.servers import Place

BETWEEN_SECONDS = (0.5, 4.0)  # from a start to the next kill
LAST_SECONDS = 2.0


async def killed(store: str, folder: Path, sessions: int, kills: int, level: str = "interval") -> list[str]:
    """Runs it; returns what was measured, and raises AssertionError where a promise was broken."""
    models = folder / "models"
    make_model(models)
    place = Place(models, "--store", store, "--durability", level)
    late = []
    async with place:
        fleet = Fleet([place.address], sessions)
        run = asyncio.create_task(fleet.run())
        for _ in range(kills):
            await patiently(run, random.uniform(*BETWEEN_SECONDS))
            await place.kill()
            await place.start()
            ready, before = time.monotonic(), fleet.told.steps
            while fleet.told.steps == before:
                await patiently(run, 0.005)
            late.append(time.monotonic() - ready)
        await patiently(run, LAST_SECONDS)
        fleet.ending.set()
        await run
    faults = fleet.told.faults(models)
    assert not faults, faults[:5]
    assert len(fleet.told.answers) == sessions
    worst = max(late, default=0.0)
    return [
        f"{sessions} sessions, {kills} kills, {level}: {fleet.told.steps} predictions, each once, in order, same bytes",
        f"first prediction after the new server is ready: {sorted(late)[len(late) // 2]:.2f} s (worst {worst:.2f})",
    ]


async def patiently(run: Awaitable[None], seconds: float) -> None:
    """Waits, unless the clients fail meanwhile."""
    done, _ = await asyncio.wait([asyncio.ensure_future(run)], timeout=seconds)
    for task in done:
        task.result()


def main(sessions: int = 1000, kills: int = 10) -> list[str]:
    """On SQLite and on real Redis."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines += ["SQLite", *asyncio.run(killed(f"sqlite:{folder / 'sessions.db'}", folder, sessions, kills))]
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as data,
        RunningRedis(Path(data)) as redis,
    ):
        lines += ["Redis", *asyncio.run(killed(redis.url, Path(name), sessions, kills))]
    return lines
