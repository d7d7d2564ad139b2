"""What we are compared with: the peers' servers, and workers that measure in process. Each a child on its cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.benchmarks.gload import BenchmarkError, Target
from tests.benchmarks.machine import REPOSITORY, on_cores
from tests.benchmarks.ours import SMALL, Size
from tests.ports import free_port

PEERS = Path(__file__).with_name("peers")
ECHO_METHOD = "/peer.P/Stream"
SAID_SHOWN = 2000  # characters of what a failed child wrote


class Child:
    """A peer's process, with a thread for each of its cores, stopped when the block ends."""

    def __init__(self, command: list[str], cores: Sequence[int], size: Size = SMALL, engine: str = "torch") -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`
        threads = str(len(cores))
        peer = {"PEER_THREADS": threads, "OMP_NUM_THREADS": threads, "PEER_SIZE": size.name, "PEER_ENGINE": engine}
        with on_cores(cores):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                cwd=REPOSITORY,
                env={**os.environ, **peer},
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

    def __init__(self, cores: Sequence[int], kind: str, size: Size = SMALL) -> None:
        self.port = free_port()
        echo = ["echo"] if kind == "echo" else []
        command = [sys.executable, str(PEERS / "batcher.py"), str(self.port), *echo]
        super().__init__(command, cores, size, kind)
        self.line()  # "ready"

    def target(self, messages: Path) -> Target:
        """Where gload sends such messages."""
        return Target(self.port, ECHO_METHOD, messages, self.process.pid)


class Worker(Child):
    """tests/benchmarks/worker.py: measures in a process of its own, for as long and with as many rows as it is told."""

    def __init__(self, core: int, kind: str, size: Size) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.worker", kind, str(size.hidden), str(size.layers)]
        super().__init__(command, (core,), size, "ort" if kind == "ort" else "torch")
        self.line()  # "ready"

    def measure(self, rows: int, seconds: float) -> dict[str, float]:
        """What it measured in so many seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{rows} {seconds}\n")
        self.process.stdin.flush()
        measured: dict[str, float] = json.loads(self.line())
        return measured


def write_peer_messages(folder: Path, python: str = sys.executable) -> None:
    """raw.<i> and, by the Python of an environment that has tritonclient, triton.<i>."""
    made = subprocess.run([python, str(PEERS / "payload.py"), str(folder)], check=False, capture_output=True, text=True)
    if made.returncode:
        raise BenchmarkError(f"payload.py failed:\n{made.stderr}")
