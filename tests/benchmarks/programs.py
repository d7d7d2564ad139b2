"""What is compared: our server, the peers' servers, and workers that measure in process. Each a child on one core."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.benchmarks.gload import BenchmarkError, Target
from tests.benchmarks.machine import REPOSITORY, on_core
from tests.packages import random_package
from tests.servers import RunningServer

PEERS = Path(__file__).with_name("peers")
MODEL = "lstm"
METHOD = "/tidegate.v1.PredictionService/StreamPredict"
ECHO_METHOD = "/peer.P/Stream"
TRITON_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
START_SECONDS_MAX = 60
SAID_SHOWN = 2000  # characters of what a failed child wrote
TRITON_STARTS_MAX = 6  # it sometimes dies while it starts


class Ours(RunningServer):
    """`tidegate serve` with one LSTM, 5 features in and 5 targets out, one thread a step."""

    def __init__(self, folder: Path, core: int, hidden: int = 64, layers: int = 1) -> None:
        models = Path(tempfile.mkdtemp(dir=folder)) / "models"
        package = random_package(models, MODEL, hidden=hidden, layers=layers, features=5, targets=5)
        self.state_bytes = 4 * package.state_width
        with on_core(core):
            super().__init__(models, "--device", "cpu", "--threads", "1")

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
        others = {outcome: count for outcome, count in self.steps().items() if outcome != "OK"}
        if others:
            raise BenchmarkError(f"our server refused observations: {others}")


class Child:
    """A peer's process, stopped when the block ends."""

    def __init__(self, command: list[str], core: int, environment: dict[str, str] | None = None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`
        with on_core(core):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
            )

    def line(self) -> str:
        """Its next line; raises BenchmarkError when it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self._said.seek(0)
            last = self._said.read().decode(errors="replace")[-SAID_SHOWN:]
            raise BenchmarkError(f"ended with exit code {code}: {self.process.args!r}\n{last}")
        return line

    def ended(self) -> bool:
        """Whether it is gone by itself, or will be in a moment."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        return self.process.poll() is not None

    def stop(self) -> None:
        """Ends it."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Batcher(Child):
    """peers/batcher.py: "echo", or the forty-line batcher on "torch" or "ort"."""

    def __init__(self, core: int, kind: str) -> None:
        self.port = free_port()
        echo = ["echo"] if kind == "echo" else []
        command = [sys.executable, str(PEERS / "batcher.py"), str(self.port), *echo]
        super().__init__(command, core, {"PEER_ENGINE": kind, "OMP_NUM_THREADS": "1"})
        self.line()  # "ready"

    def target(self, messages: Path) -> Target:
        """Where gload sends such messages."""
        return Target(self.port, ECHO_METHOD, messages, self.process.pid)


class Triton(Child):
    """Triton's sequence batcher (see peers/run-triton)."""

    def __init__(self, core: int, venv: Path) -> None:
        for _ in range(TRITON_STARTS_MAX):
            self.port = free_port()
            super().__init__([str(PEERS / "run-triton"), str(venv), str(self.port)], core)
            if self._listens():
                return
            self.stop()
        raise BenchmarkError(f"Triton did not start in {TRITON_STARTS_MAX} attempts")

    def target(self, messages: Path) -> Target:
        """Where gload sends such messages."""
        return Target(self.port, TRITON_METHOD, messages, self.process.pid)

    def _listens(self) -> bool:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.2)
            else:
                return True
        return False


class Worker(Child):
    """tests/benchmarks/worker.py: measures in a process of its own, for as long as it is told."""

    def __init__(self, core: int, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.worker", *map(str, arguments)]
        super().__init__(command, core, {"OMP_NUM_THREADS": "1"})
        self.line()  # "ready"

    def measure(self, seconds: float) -> dict[str, float]:
        """What it measured in so many seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        measured: dict[str, float] = json.loads(self.line())
        return measured


def write_peer_messages(folder: Path, python: str = sys.executable) -> None:
    """raw.<i> and, by the Python of an environment that has tritonclient, triton.<i>."""
    made = subprocess.run([python, str(PEERS / "payload.py"), str(folder)], check=False, capture_output=True, text=True)
    if made.returncode:
        raise BenchmarkError(f"payload.py failed:\n{made.stderr}")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
