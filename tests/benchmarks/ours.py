"""Our server, as a child on its cores, and the sizes of its model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from tests.benchmarks.gload import BenchmarkError, Load, Target
from tests.benchmarks.machine import on_cores
from tests.packages import random_package
from tests.servers import RunningServer

MODEL = "lstm"
EXPECTED = ("OK", "CANCELLED")  # a load that ends gives up what is in flight: at most one message a stream
METHOD = "/tidegate.v1.PredictionService/StreamPredict"


class Size(NamedTuple):
    """Of the LSTM: 5 features in and 5 targets out. `name` is what the peers call it (PEER_SIZE)."""

    name: str
    hidden: int
    layers: int

    def __str__(self) -> str:
        return f"{self.hidden}x{self.layers}"


SMALL, MIDDLE, LARGE = Size("small", 64, 1), Size("middle", 128, 2), Size("large", 512, 2)


class Ours(RunningServer):
    """`tidegate serve` with one LSTM, a thread of the step on each of its cores."""

    def __init__(
        self,
        folder: Path,
        cores: Sequence[int],
        size: Size = SMALL,
        flags: Sequence[str] = ("--device", "cpu"),
    ) -> None:
        models = Path(tempfile.mkdtemp(dir=folder)) / "models"
        package = random_package(models, MODEL, hidden=size.hidden, layers=size.layers, features=5, targets=5)
        self.state_bytes = 4 * package.state_width
        with on_cores(cores):
            super().__init__(models, "--threads", str(len(cores)), *flags)

    def __enter__(self) -> Self:
        return self

    @property
    def port(self) -> int:
        return int(self.grpc.rpartition(":")[2])

    @property
    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def target(self, messages: Path) -> Target:
        """Where gload sends such messages."""
        return Target(self.port, METHOD, messages, self.process.pid)

    def step_share(self, load: Callable[[], Load]) -> tuple[Load, float]:
        """Runs a load; returns it, and the seconds of its steps over the server's CPU seconds meanwhile.

        From the load's first message to its last, the warm seconds included. Reading the metrics is not in it.
        """
        steps, cpu = self._step_seconds, self._cpu_seconds
        done = load()
        cpu = self._cpu_seconds - cpu
        return done, (self._step_seconds - steps) / cpu

    @property
    def _step_seconds(self) -> float:
        return self.metric("tidegate_step_seconds_sum")

    @property
    def _cpu_seconds(self) -> float:
        taken = psutil.Process(self.process.pid).cpu_times()
        return float(taken.user + taken.system)

    def steps(self) -> dict[str, float]:
        """How many observations ended how, by outcome."""
        counts = {}
        for line in self.get("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("tidegate_steps_total{"):
                counts[name.partition('outcome="')[2].partition('"')[0]] = float(value)
        return counts

    def check(self) -> None:
        """Raises BenchmarkError when an observation did not end in a new prediction: a refusal is quickly made."""
        others = {outcome: count for outcome, count in self.steps().items() if outcome not in EXPECTED}
        if others:
            raise BenchmarkError(f"our server refused observations: {others}")
