"""The demo's server: a child process, and what its metrics say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, Any

import click

from tidegate.config import without_settings
from tidegate.signals import ENDS, SIGNALLED

READY_SECONDS_MAX = 60.0
DRAIN_SECONDS_MAX = 45.0


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
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            env=without_settings(os.environ),
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
        self._log.close()
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


def run_in_order(demo: Coroutine[Any, Any, int]) -> int:
    """Its exit status. A signal that ends us cancels it, as Ctrl-C does, so that no server is left to itself; one that
    is ignored (nohup) stays so."""
    ended: list[int] = []

    async def attended() -> int:
        task = asyncio.current_task()
        assert task is not None
        for number in ENDS:
            if signal.getsignal(number) != signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, _end, task, ended, number)
        return await demo

    try:
        return asyncio.run(attended())
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except asyncio.CancelledError:
        return SIGNALLED + ended[0]


def _end(task: asyncio.Task[int], ended: list[int], number: int) -> None:
    """Once: the end is under way."""
    if not ended:
        task.cancel()
    ended.append(number)


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
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as response:
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
