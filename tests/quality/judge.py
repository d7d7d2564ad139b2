"""What the benchmarks of trained recipes share: train, stream through a server, and take errors in standard units."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from tidegate.client import Client
from tidegate.model.package import Package
from tidegate.training.evaluation.backtest import Plan, Track, backtest
from tidegate.training.evaluation.serving import served
from tidegate.training.evaluation.streams import Stream
from tidegate.training.recipe import Recipe
from tidegate.training.trainer import train

Array = NDArray[np.float64]
CALL_SECONDS_MAX = 300.0


@dataclass(frozen=True, eq=False)
class Trained:
    """A recipe's package and the seconds that its training took."""

    package: Package
    folder: Path
    seconds: float


def trained(recipe: Recipe, models: Path, data: Any = None) -> Trained:
    """Trains it, and says how long that took."""
    began = time.monotonic()
    package = train(recipe, models, data)
    seconds = time.monotonic() - began
    click.echo(f"{recipe.name}: trained in {seconds:.1f} s")
    return Trained(package, models / recipe.name / package.manifest.version, seconds)


class Backtests(ExitStack):
    """Backtests of one package on one server, one after another."""

    def __init__(self, model: Trained) -> None:
        super().__init__()
        self._model = model

    def __enter__(self) -> Backtests:
        manifest = self._model.package.manifest
        models = self._model.folder.parent.parent
        address = self.enter_context(served(models, manifest.name, manifest.version))
        self._client = self.enter_context(Client(address, timeout_seconds=CALL_SECONDS_MAX))
        return self

    def run(self, streams: Sequence[Stream], plan: Plan | None = None) -> list[Track]:
        """One of them."""
        return backtest(self._client, self._model.package, streams, plan or Plan())


def with_gaps(stream: Stream, share: float, steps: int, seed: int) -> tuple[Stream, NDArray[np.bool_]]:
    """The stream with so large a share of its scored steps missing, in blocks; and which rows those are."""
    blocks = (stream.end - stream.start) // steps
    missing = np.zeros(len(stream.values), np.bool_)
    for block in np.random.default_rng(seed).permutation(blocks)[: round(share * blocks)].tolist():
        first = stream.start + block * steps
        missing[first : first + steps] = True
    values = stream.values.copy()
    values[missing] = np.nan
    return replace(stream, values=values), missing


def mean_square(errors: Array) -> float:
    """Over all that was observed."""
    return float(np.nanmean(errors**2))


def mean_absolute(errors: Array) -> float:
    """Over all that was observed."""
    return float(np.nanmean(np.abs(errors)))
