"""What checkpoints cost: the rate of the same load at `none`, `interval` and `step`, in turns on one machine."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.services import RunningRedis
from tests.soaks.fleet import FEATURES, MODEL, make_model
from tests.soaks.servers import Place
from tidegate import AsyncClient

SESSIONS, ROWS = 10_000, 250
STREAMS = 4
SECONDS, ROUNDS = 6.0, 3
LEVELS = ("none", "interval", "step")


async def rate(place: Place, seconds: float) -> float:
    """Rows a second of a few streams of batches that go through all sessions in turn."""
    rows = 0
    values = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype(np.float32)

    async def stream(number: int, client: AsyncClient, until: float) -> None:
        nonlocal rows
        mine = [f"{number}-{session}" for session in range(SESSIONS // STREAMS)]
        async with client.batches(MODEL) as batches:
            start = 0
            while asyncio.get_running_loop().time() < until:
                predictions = await batches.step(mine[start : start + ROWS], values)
                assert not predictions.errors, predictions.errors[0]
                rows += ROWS
                start = (start + ROWS) % len(mine)

    async with AsyncClient(place.address, timeout_seconds=60.0) as client, asyncio.TaskGroup() as group:
        until = asyncio.get_running_loop().time() + seconds
        for number in range(STREAMS):
            group.create_task(stream(number, client, until))
    return rows / seconds


async def levels(folder: Path, store_of: Callable[[str], str], seconds: float, rounds: int) -> list[str]:
    """A server a level, measured in turns; each level's share of the rate at `none`."""
    models = folder / "models"
    make_model(models)
    rates: dict[str, list[float]] = {level: [] for level in LEVELS}
    for _ in range(rounds):
        for level in LEVELS:
            async with Place(models, "--store", store_of(level), "--durability", level) as place:
                await rate(place, seconds / 3)  # opens the sessions
                rates[level].append(await rate(place, seconds))
    none = statistics.median(rates["none"])
    return [
        f"{level}: {statistics.median(found):,.0f} rows a second, {statistics.median(found) / none:.0%} of none"
        for level, found in rates.items()
    ]


def main(seconds: float = SECONDS, rounds: int = ROUNDS) -> list[str]:
    """On SQLite and on Redis."""
    lines = [f"{SESSIONS:,} sessions, {STREAMS} streams of batches of {ROWS}, client and server on this machine"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = asyncio.run(levels(folder, lambda level: f"sqlite:{folder / level}.db", seconds, rounds))
        lines += ["SQLite", *found]
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as data,
        RunningRedis(Path(data)) as redis,
    ):
        found = asyncio.run(levels(Path(name), lambda level: f"{redis.url}?prefix={level}", seconds, rounds))
        lines += ["Redis", *found]
    return lines
