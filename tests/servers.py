"""Real servers for tests: child processes on free ports, each with its own settings, stopped again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.ports import free_port

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
PAGE_SECONDS_MAX = 60
HUNG = "Timeout ("  # what a server says whose end took too long, before all of its threads


class RunningServer:
    """A `tidegate serve` of its own. `grpc` and `http` are its addresses; `log` is what it wrote on standard error."""

    def __init__(self, models: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.models = models
        command = [sys.executable, "-m", "tidegate.cli", "serve", "--models", str(models)]
        self._log = models.parent / f"{models.name}-{os.getpid()}-{id(self)}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(free_port()), "--http-port", "0", *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(STOP_SECONDS_MAX)
            self.process.stdout.close()
            raise RuntimeError(f"the server did not start (exit code {self.process.returncode}): {self.log}")
        addresses = json.loads(line)
        self.grpc: str = addresses["grpc"]
        self.http: str = addresses["http"]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> str:
        """The body of an HTTP page, such as /metrics."""
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=PAGE_SECONDS_MAX) as response:
            return str(response.read().decode())

    def metric(self, series: str) -> float:
        """The value of one series, named as /metrics writes it; 0 when it is not there."""
        for line in self.get("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name == series:
                return float(value)
        return 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal and waits; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
            assert HUNG not in self.log, self.log
            return code
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
