"""What a quality benchmark found beside what it must keep, and the server that it asked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from tests.servers import RunningServer
from tidegate.client import Client
from tidegate.config import default_models

CALL_SECONDS_MAX = 300.0


@dataclass(frozen=True)
class Bound:
    """One figure: it must be at least or at most its limit; without either it is only told."""

    name: str
    value: float
    at_least: float = float("-inf")
    at_most: float = float("inf")

    @property
    def kept(self) -> bool:
        """NaN keeps no bound."""
        return self.at_least <= self.value <= self.at_most

    def line(self) -> str:
        """As it is printed."""
        limits = [f"at least {self.at_least:g}"] if self.at_least > float("-inf") else []
        limits += [f"at most {self.at_most:g}"] if self.at_most < float("inf") else []
        return f"{self.name}: {self.value:.6g}" + (f"  ({', '.join(limits)})" if limits else "")


def report(bounds: Sequence[Bound]) -> int:
    """Prints them all; 0 if they are kept, else 1."""
    for bound in bounds:
        click.echo(("  " if bound.kept else "MISSED  ") + bound.line())
    return 0 if all(bound.kept for bound in bounds) else 1


@contextmanager
def served(models: Path | None = None) -> Iterator[Client]:
    """A client of a real server of a repository; without one, of the project's own."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "models"
        link.symlink_to((models or default_models()).resolve())
        with RunningServer(link) as server, Client(server.grpc, timeout_seconds=CALL_SECONDS_MAX) as client:
            yield client
