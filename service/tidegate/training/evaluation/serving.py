"""A server of one version for as long as an evaluation takes: `tidegate serve` as a child process on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.config import without_settings
from tidegate.errors import ConfigError
from tidegate.signals import ENDS, SIGNALLED

READY_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 60.0
LOG_CHARACTERS = 2_000  # of its end, when it did not start


@contextmanager
def served(models: Path, name: str, version: str, device: str = "cpu") -> Iterator[str]:
    """The address of a server that serves this version alone; raises ConfigError when it does not start."""
    with _ended_in_order(), tempfile.TemporaryDirectory(prefix="tidegate-evaluation-") as folder:
        repository = Path(folder) / "models"
        (repository / name).mkdir(parents=True)
        (repository / name / version).symlink_to((models / name / version).resolve(), target_is_directory=True)
        with (Path(folder) / "log").open("w+b") as log, _process(repository, device, log.fileno()) as process:
            yield _address(process, Path(folder) / "log")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A signal that ends us leaves neither the server nor its folder behind: it unwinds as Ctrl-C does. One that is
    answered by somebody else is left to them; so are all in another thread than the main one, which alone may answer.
    """
    free = threading.current_thread() is threading.main_thread()
    ours = [number for number in ENDS if free and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # the end is under way
    sys.exit(SIGNALLED + number)


@contextmanager
def _process(repository: Path, device: str, log: int) -> Iterator[subprocess.Popen[bytes]]:
    """The child; ended by SIGTERM, and killed when that takes too long."""
    command = [sys.executable, "-m", "tidegate.cli", "serve", "--models", str(repository), "--device", device]
    ports = ["--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--log-level", "warning"]
    process = subprocess.Popen(
        [*command, *ports],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=without_settings(os.environ),
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits for the ready line, which is the first or the end of its output."""
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        return str(json.loads(line)["grpc"])
    except ValueError:
        process.wait(READY_SECONDS_MAX)
        said = log.read_text(errors="replace").strip()[-LOG_CHARACTERS:]
        raise ConfigError(f"the server for the evaluation did not start: {said}") from None
