"""Triton's sequence batcher, which dies or hangs now and then: it is started again and the load repeated."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.benchmarks import gload
from tests.benchmarks.gload import BenchmarkError, Load, Target
from tests.benchmarks.ours import SMALL, Size
from tests.benchmarks.programs import PEERS, Child, write_peer_messages
from tests.benchmarks.scenario import PeerMissingError, Settings
from tests.ports import free_port

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
START_SECONDS_MAX = 60
ATTEMPTS_MAX = 10  # of a load: about every third one kills it, more on a busy machine
CORES_MIN = 0.2  # under full load; below, it hangs, as it does before it dies, and its figure would flatter ours
WARM_SECONDS = 0.5  # of one stream: a burst on a cold server kills it more often


class Triton(Child):
    """The server of a venv."""

    def __init__(self, cores: Sequence[int], venv: Path, size: Size) -> None:
        self.port = free_port()
        super().__init__([str(PEERS / "run-triton"), str(venv), str(self.port)], cores, size)

    def listens(self) -> bool:
        """Waits until it does; False when it died or takes too long."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.2)
            else:
                return True
        return False


class Tritons:
    """One that is up and warm whenever it is loaded, as often as it dies. `starts` counts them."""

    def __init__(self, settings: Settings, cores: Sequence[int], size: Size = SMALL) -> None:
        if settings.triton_venv is None:
            raise PeerMissingError(
                "--triton-venv names no environment with Triton's server; README.md says how to make one"
            )
        self._venv, self._cores, self._size = settings.triton_venv, cores, size
        self._messages = settings.folder / "peers"
        self._server: Triton | None = None
        self.starts = 0
        write_peer_messages(self._messages, str(self._venv / "bin" / "python"))

    def load(self, streams: int, connections: int, seconds: float, rate: float | None = None) -> Load:
        """As gload.run; raises BenchmarkError when no attempt ended well."""
        for attempt in range(ATTEMPTS_MAX):
            try:
                load = gload.run(self._up(), streams, connections, seconds, rate)
                if rate is None and load.cpu < CORES_MIN:
                    raise BenchmarkError("it stood still")
                return load
            except BenchmarkError as why:
                self._stop()
                if attempt == ATTEMPTS_MAX - 1:
                    raise BenchmarkError(f"Triton died or hung {ATTEMPTS_MAX} times: {why}") from None
                print("  Triton died or hung, and is started again", flush=True)
        raise AssertionError

    def _up(self) -> Target:
        if self._server is not None:
            return self._target(self._server)
        self._server = Triton(self._cores, self._venv, self._size)
        self.starts += 1
        if not self._server.listens():
            raise BenchmarkError("it did not start")
        target = self._target(self._server)
        gload.run(target, 1, 1, WARM_SECONDS)
        return target

    def _target(self, server: Triton) -> Target:
        return Target(server.port, METHOD, self._messages / "triton", server.process.pid)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        self.load(1, 1, WARM_SECONDS)  # it takes long to start, and that is not to be between the runs
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
