"""Real services for tests: child processes on private ports, in folders of their own, stopped again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.ports import free_port

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
PORTS_TRIED_MAX = 5  # one that was free may be taken before the service has it


class RunningRedis:
    """A redis-server (or `valkey-server`, by `program`) that has on disk what it said it has: `address`, `url`. Its
    data is in `folder` and outlives `stop` and `start`, and so does its port."""

    def __init__(self, folder: Path, program: str = "redis-server") -> None:
        self._folder, self._program = folder, program
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        for attempt in range(PORTS_TRIED_MAX):
            self.port = free_port()
            try:
                self.start()
                return
            except RuntimeError:
                if attempt == PORTS_TRIED_MAX - 1:
                    raise

    @staticmethod
    def missing(program: str = "redis-server") -> bool:
        """Whether it is not installed."""
        return shutil.which(program) is None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        """Starts it, on the same port and with the same data as before, and waits until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        options = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._program} did not start: {self.log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it as an operator does; a frozen one too."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a crash does."""
        self._end(signal.SIGKILL)

    def wipe(self) -> None:
        """Removes the data of one that is stopped: it will come back empty."""
        assert self._process is None
        shutil.rmtree(self._folder / "appendonlydir")

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False

    def __enter__(self) -> RunningRedis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """One that a module's tests share, each under a prefix of its own. A test that stops it starts it again."""
    if RunningRedis.missing():
        pytest.skip("redis-server is not installed: make services")
    with RunningRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running
