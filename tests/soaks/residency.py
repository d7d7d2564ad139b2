"""A million stored sessions with fifty thousand slots: batches of random sessions, most of them not resident."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.services import RunningRedis
from tests.soaks.fleet import FEATURES, MODEL, make_model
from tests.soaks.servers import Place
from tidegate import AsyncClient

STORED, SLOTS = 1_000_000, 50_000
FILL_ROWS = 5_000  # sessions of one batch while they are made
ROWS, BATCHES = 1_000, 60
RESIDENT_BATCHES = 60


async def random_access(store: str, folder: Path, stored: int, slots: int) -> list[str]:
    """Makes the sessions, then steps random ones; returns what was measured."""
    models = folder / "models"
    make_model(models)
    random = np.random.default_rng(0)
    async with (
        Place(models, "--store", store, LIMITS__SESSIONS_MAX=str(slots)) as place,
        AsyncClient(place.address, timeout_seconds=300.0) as client,
    ):
        began = time.monotonic()
        for start in range(0, stored, FILL_ROWS):
            async with client.batches(MODEL) as batches:
                await _step(batches, range(start, min(start + FILL_ROWS, stored)), random)
        lines = [f"{stored:,} sessions opened and stepped once in {time.monotonic() - began:.0f} s, {slots:,} slots"]
        await _all_saved(place)
        async with client.batches(MODEL) as batches:
            hits, seconds = await _random(place, batches, stored, random)
            lines.append(
                f"random batches of {ROWS:,}: {hits:.1%} of the rows were resident ({slots / stored:.1%} expected); "
                f"{ROWS / seconds:,.0f} rows a second, {seconds / (ROWS * (1 - hits)) * 1e6:.0f} us a restored session"
            )
        async with client.batches(MODEL) as batches:
            few = random.choice(stored, ROWS, replace=False)
            began = time.monotonic()
            for _ in range(RESIDENT_BATCHES):
                await _step(batches, few, random)
            resident = (time.monotonic() - began) / RESIDENT_BATCHES
            lines.append(f"the same {ROWS:,} sessions again and again: {ROWS / resident:,.0f} rows a second")
        await _all_saved(place)
        count = await place.metric(f'tidegate_sessions_resident{{model="{MODEL}",version="1"}}')
        assert count <= slots
    return lines


async def _random(place: Place, batches: object, stored: int, random: np.random.Generator) -> tuple[float, float]:
    """The share of rows that were resident, and seconds a batch."""
    before = await place.metric("tidegate_sessions_restored_total")
    began = time.monotonic()
    for _ in range(BATCHES):
        await _step(batches, random.choice(stored, ROWS, replace=False), random)
    seconds = (time.monotonic() - began) / BATCHES
    restored = await place.metric("tidegate_sessions_restored_total") - before
    return 1 - restored / (ROWS * BATCHES), seconds


async def _step(batches: object, numbers: object, random: np.random.Generator) -> None:
    names = [f"s{number}" for number in numbers]  # type: ignore[attr-defined]
    values = random.normal(size=(len(names), FEATURES)).astype(np.float32)
    predictions = await batches.step(names, values)  # type: ignore[attr-defined]
    assert not predictions.errors, predictions.errors[0]


async def _all_saved(place: Place) -> None:
    while await place.metric("tidegate_checkpoint_lag_seconds") > 0:  # noqa: ASYNC110  # the server is another process
        await asyncio.sleep(0.1)


def main(stored: int = STORED, slots: int = SLOTS) -> list[str]:
    """On SQLite and on Redis."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines += ["SQLite", *asyncio.run(random_access(f"sqlite:{folder / 'sessions.db'}", folder, stored, slots))]
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as data,
        RunningRedis(Path(data)) as redis,
    ):
        lines += ["Redis", *asyncio.run(random_access(redis.url, Path(name), stored, slots))]
    return lines
