"""The demo: a real server, a real year of weather, and 300 sessions more so that it has something to batch.

Everything goes through gRPC, as from anyone else: one session is Seattle's 2015, day by day; its neighbours are copies
of the year with some noise, most stepped by batches and some by single observations, all on the same day at once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from tidegate.client import AsyncBatches, AsyncClient, AsyncSession
from tidegate.client.values.accuracy import Accuracy, Score
from tidegate.demo.child import Server, read_metrics, run_in_order
from tidegate.demo.screen import Screen, Summary
from tidegate.demo.year import Year, jittered, read_year

MODEL = "weather"
YEAR = 2015
IN_BATCHES = 240
BY_THEMSELVES = 60


def run_demo(*, keep: bool, svg: Path | None) -> int:
    """Runs the demo; 0 when every error is below persistence's and the server drained cleanly, else 1."""
    return run_in_order(demo(keep, svg))


async def demo(keep: bool, svg: Path | None) -> int:
    """Server up, year through, results, server down."""
    year = read_year(YEAR)
    screen = Screen(year)
    server = Server()
    try:
        await server.start()
        screen.say(f"server ready: gRPC on {server.grpc}, metrics on http://{server.http}/metrics")
        async with AsyncClient(server.grpc) as client:
            accuracy, seconds = await replay(client, year, screen)
        scores = accuracy.scores()
        batches = await asyncio.to_thread(read_metrics, server.http)
        if keep:
            screen.say(f"the server stays until Ctrl-C: try `tidegate sessions list --address {server.grpc}`")
            await server.interrupted()
    finally:
        code = await server.stop()
    screen.finish(Summary(scores, batches.steps, seconds, batches.mean, batches.largest, code), svg)
    return 0 if good(scores) and code == 0 else 1


def good(scores: list[Score]) -> bool:
    """Whether each target is predicted better than by its last value."""
    return all(score.model < score.persistence for score in scores)


async def replay(client: AsyncClient, year: Year, screen: Screen) -> tuple[Accuracy, float]:
    """Steps every session once a day; returns how good the predictions for Seattle were, and the seconds it took."""
    description = (await client.model(MODEL)).description
    assert description is not None
    year = year.ordered(description.names)
    accuracy = Accuracy(description.targets)
    targets = [description.names.index(name) for name in description.targets]
    station = client.session(MODEL, f"seattle-{YEAR}")
    async with client.batches(MODEL) as batches:
        neighbours = Neighbours.of(client, batches, year)
        begin = time.perf_counter()
        with screen:
            for day, stamp in enumerate(year.days):
                values = year.values[day].tolist()
                prediction, _ = await asyncio.gather(station.step(values, time=stamp), neighbours.step(day, stamp))
                observed = year.values[day, targets]
                expected = accuracy.observe(station.id, observed)
                accuracy.predicted(station.id, prediction.values)
                screen.show(day, description.targets, observed, expected)
        return accuracy, time.perf_counter() - begin


@dataclass(frozen=True)
class Neighbours:
    """The other sessions: `values` is [days, sessions, features], the first ones of which go in batches."""

    batches: AsyncBatches
    ids: list[str]
    singles: list[AsyncSession]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, client: AsyncClient, batches: AsyncBatches, year: Year) -> Neighbours:
        """Sessions under names of their own."""
        ids = [f"neighbour-{index}" for index in range(IN_BATCHES)]
        singles = [client.session(MODEL, f"lone-neighbour-{index}") for index in range(BY_THEMSELVES)]
        return cls(batches, ids, singles, jittered(year.values, IN_BATCHES + BY_THEMSELVES))

    async def step(self, day: int, stamp: np.datetime64) -> None:
        """All of them by one day."""
        rows = self.values[day]
        pairs = zip(self.singles, rows[IN_BATCHES:].tolist(), strict=True)
        alone = asyncio.gather(*(session.step(values, time=stamp) for session, values in pairs))
        times = np.full(IN_BATCHES, stamp)
        predictions, _ = await asyncio.gather(self.batches.step(self.ids, rows[:IN_BATCHES], times=times), alone)
        if predictions.errors:
            raise click.ClickException(f"{predictions.errors[0].id}: {predictions.errors[0].message}")
