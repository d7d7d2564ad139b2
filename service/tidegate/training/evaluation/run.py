"""One evaluation from a package and its streams to scores: server up, streams through, everybody scored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from tidegate.client import Client
from tidegate.errors import ConfigError
from tidegate.model.package import Package, load_package
from tidegate.training.evaluation.backtest import Advance, Plan, Track, backtest
from tidegate.training.evaluation.rivals import Rivals, fit_rivals
from tidegate.training.evaluation.scores import (
    Cases,
    Overall,
    Score,
    StreamScore,
    one_step_cases,
    path_cases,
    score_accuracy,
    score_overall,
    score_streams,
    score_target,
)
from tidegate.training.evaluation.serving import served
from tidegate.training.evaluation.streams import Stream, scored

ORIGINS_MAX = 1_000  # of forecasts, in all, unless somebody asks for another distance between them
HORIZON_MAX = 1_000
TIMEOUT_SECONDS = 300.0  # of one call to the server: many forecasts at once take a while


@dataclass(frozen=True)
class Options:
    """How to evaluate. `horizons`: steps ahead that are reported. `every`: steps between the origins of forecasts; 0:
    as many as make about ORIGINS_MAX. `season` in steps; None: that of the package's frequency."""

    horizons: tuple[int, ...] = (1,)
    every: int = 0
    season: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) < 1 or max(self.horizons) > HORIZON_MAX:
            raise ConfigError(f"horizons must be from 1 to {HORIZON_MAX} steps")


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `accuracy` is of one-step predictions of a categorical head; None for another."""

    model: str
    version: str
    source: str
    frequency: str
    season: int | None
    streams: int
    steps: int
    origins: int
    seconds: float
    scores: list[Score] = field(default_factory=list)
    overall: list[Overall] = field(default_factory=list)
    by_stream: list[StreamScore] = field(default_factory=list)
    accuracy: float | None = None

    def record(self) -> dict[str, Any]:
        """For JSON: what is unknown is null."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)
        return plain


@dataclass(frozen=True, eq=False)
class Material:
    """What plots are drawn from."""

    package: Package
    tracks: list[Track]
    rivals: Rivals
    one_step: Cases
    paths: Cases | None


def evaluate_streams(
    folder: Path,
    streams: Sequence[Stream],
    options: Options | None = None,
    source: str = "",
    advance: Advance | None = None,
) -> tuple[Evaluation, Material]:
    """Evaluates the package in `folder` (`…/<name>/<version>`); raises ConfigError, PackageError, TidegateError."""
    options = options or Options()
    package, steps, began = load_package(folder), scored(streams), time.monotonic()
    rivals = fit_rivals(streams, package.target_indices, package.frequency, options.season)
    streams = [stream for stream in streams if stream.end > stream.start]
    plan = Plan(max(options.horizons), options.every or max(1, -(-steps // ORIGINS_MAX)))
    name, version = package.manifest.name, package.manifest.version
    with (
        served(folder.parent.parent, name, version, options.device) as address,
        Client(address, timeout_seconds=TIMEOUT_SECONDS) as client,
    ):
        tracks = backtest(client, package, streams, plan, advance)
    paths = path_cases(tracks, rivals) if plan.horizon > 1 else None
    material = Material(package, tracks, rivals, one_step_cases(tracks, rivals), paths)
    evaluation = Evaluation(
        model=name,
        version=version,
        source=source,
        frequency=package.manifest.frequency,
        season=rivals.season,
        streams=len(streams),
        steps=steps,
        origins=sum(len(track.origins) for track in tracks),
        seconds=round(time.monotonic() - began, 1),
        **_scores(material, sorted(set(options.horizons))),
    )
    return evaluation, material


def _scores(material: Material, horizons: Sequence[int]) -> dict[str, Any]:
    """The tables. One step ahead is scored on every step, more on the forecasts."""
    manifest, spread = material.package.manifest, material.rivals.spread
    scores, overall = [], []
    for horizon in horizons:
        cases = material.one_step if horizon == 1 or material.paths is None else material.paths
        scores += [score_target(cases, horizon, place, name) for place, name in enumerate(manifest.targets)]
        overall.append(score_overall(cases, horizon, spread))
    tables = {
        "scores": scores,
        "overall": overall,
        "by_stream": score_streams(material.tracks, material.rivals, manifest.targets),
    }
    return tables | (
        {"accuracy": score_accuracy(material.tracks, material.rivals)} if manifest.head.kind == "categorical" else {}
    )


def _plain(value: Any) -> Any:
    """Without what JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value
