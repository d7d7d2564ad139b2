"""What a scenario is given and what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.machine import Cores
from tests.benchmarks.report import Finding


@dataclass(frozen=True)
class Settings:
    """How long and how often, where, and where Triton is installed, if it is."""

    runs: int
    seconds: float
    cores: Cores
    folder: Path
    triton_venv: Path | None = None


Run = Callable[[Settings], list[Finding]]


class Scenario(NamedTuple):
    """`slow` ones run only when they are asked for."""

    about: str
    run: Run
    slow: bool = False


class PeerMissingError(Exception):
    """A scenario whose peer is not here; the message says what to do."""
