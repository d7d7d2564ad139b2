"""The demo: a real server, a real year of weather, and 300 sessions more so that it has something to batch.

Everything goes through gRPC, as from anyone else: one session is Seattle's 2015, day by day; its neighbours are copies
of the year with some noise, most stepped by batches and some by single observations, all on the same day at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
import numpy as np
from numpy.typing import NDArray

from tidegate.cli.accuracy import Accuracy, Score
from tidegate.client import AsyncBatches, AsyncClient, AsyncSession
from tidegate.demo_screen import Screen, Summary
from tidegate.demo_year import Year, jittered, read_year

MODEL = "weather"
YEAR = 2015
IN_BATCHES = 240
BY_THEMSELVES = 60
READY_SECONDS_MAX = 60.0
DRAIN_SECONDS_MAX = 45.0


def run_demo(*, keep: bool, svg: Path | None) -> int:
    """Runs the demo; 0 when every error is below persistence's and the server drained cleanly, else 1."""
    try:
        return asyncio.run(demo(keep, svg))
    except KeyboardInterrupt:
        return 130


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
        alone = zip(self.singles, rows[IN_BATCHES:].tolist(), strict=True)
        times = np.full(IN_BATCHES, stamp)
        together = self.batches.step(self.ids, rows[:IN_BATCHES], times=times)
        predictions, *_ = await asyncio.gather(together, *(one.step(values, time=stamp) for one, values in alone))
        if predictions.errors:
            raise click.ClickException(f"{predictions.errors[0].id}: {predictions.errors[0].message}")


class Server:
    """`tidegate serve` as a child process, on free ports."""

    def __init__(self) -> None:
        self.grpc = ""
        self.http = ""
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    async def start(self) -> None:
        """Starts it and waits for its ready line; its log goes to a file that is shown when it fails."""
        command = [sys.executable, "-m", "tidegate.cli", "serve", "--port", "0", "--http-port", "0"]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=self._log
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                line = await self._process.stdout.readline()
            addresses = json.loads(line)
        except (TimeoutError, ValueError):
            raise click.ClickException(f"the server did not start:\n{self.log_tail()}") from None
        self.grpc, self.http = addresses["grpc"], addresses["http"]

    def log_tail(self) -> str:
        """The end of its log."""
        self._log.seek(max(0, os.fstat(self._log.fileno()).st_size - 4000))
        return self._log.read().decode(errors="replace").strip()

    async def interrupted(self) -> None:
        """Waits for Ctrl-C or for the server's own end."""
        assert self._process is not None
        async with on_interrupt() as interrupt:
            waits = [asyncio.ensure_future(interrupt.wait()), asyncio.ensure_future(self._process.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            waits[0].cancel()

    async def stop(self) -> int | None:
        """SIGTERM, then its exit status; None when it had to be killed or never ran."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            return None


@asynccontextmanager
async def on_interrupt() -> AsyncIterator[asyncio.Event]:
    """An event that Ctrl-C sets, instead of an exception in the middle of something."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, event.set)
    try:
        yield event
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Batching:
    """What the server's own metrics say: steps taken, rows a batch on average, and the bucket of the largest batch."""

    steps: float
    mean: float
    largest: float


def read_metrics(http: str) -> Batching:
    """Reads the server's /metrics."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as response:  # noqa: S310
        return parse_metrics(response.read().decode())


def parse_metrics(text: str) -> Batching:
    """Sums over labels of `tidegate_batch_rows` and `tidegate_steps_total`, in Prometheus' text format."""
    sums: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        value = line.rpartition(" ")[2]
        if name == "tidegate_batch_rows_bucket":
            edge = float(rest.partition('le="')[2].partition('"')[0])
            buckets[edge] = buckets.get(edge, 0.0) + float(value)
        elif name.startswith(("tidegate_batch_rows_", "tidegate_steps_total")):
            sums[name] = sums.get(name, 0.0) + float(value)
    count = sums.get("tidegate_batch_rows_count", 0.0)
    largest = min((edge for edge, rows in buckets.items() if rows >= count), default=0.0)
    mean = sums.get("tidegate_batch_rows_sum", 0.0) / count if count else 0.0
    return Batching(sums.get("tidegate_steps_total", 0.0), mean, largest)
