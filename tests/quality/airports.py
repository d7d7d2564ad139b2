"""Hourly weather of three airports, a session each, one step, through a real server: python -m tests.quality airports

Errors are in units of the training part's standard deviation, precipitation as log(1 + 20 x), over what was observed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.quality.bounds import Bound, report
from tests.quality.judge import Array, Backtests, mean_absolute, mean_square, trained
from tidegate.model.manifest import Manifest
from tidegate.training.evaluation import baselines
from tidegate.training.evaluation.backtest import Track
from tidegate.training.evaluation.streams import recipe_streams
from tidegate.training.recipe import load_recipe

RECIPE = Path(__file__).with_name("airports.toml")
MSE_MAX = 0.117
RIDGE_LAGS = 24


def measure() -> list[Bound]:
    """Trains, serves, streams; every figure beside its bound."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(RECIPE)
        model = trained(recipe, Path(folder) / "models")
        manifest = model.package.manifest
        with Backtests(model) as backtests:
            tracks = backtests.run(recipe_streams(recipe, manifest))
    errors = errors_of(tracks, manifest)
    persistence = errors["persistence"]
    bounds = [
        Bound("training, seconds", model.seconds),
        Bound("one step, MSE", mean_square(errors["model"]), at_most=MSE_MAX),
        Bound(
            "one step, MAE, at most persistence's", mean_absolute(errors["model"]), at_most=mean_absolute(persistence)
        ),
        Bound("one step, MSE of persistence", mean_square(persistence)),
        Bound(f"one step, MSE of ridge on {RIDGE_LAGS} lags of all", mean_square(errors["ridge"])),
    ]
    for place, target in enumerate(manifest.targets):
        own, last = (mean_square(errors[who][:, place]) for who in ("model", "persistence"))
        bounds += [Bound(f"one step, MSE of {target}", own), Bound(f"one step, MSE of {target}, persistence", last)]
    return bounds


def errors_of(tracks: list[Track], manifest: Manifest) -> dict[str, Array]:
    """Errors [cases, targets] of the model and of what it is held against, on the same steps."""
    levels = [level(track.stream.values, manifest) for track in tracks]
    training = [values[: track.stream.fit] for values, track in zip(levels, tracks, strict=True)]
    spread = np.nanstd(np.concatenate(training), axis=0)
    ridge = baselines.fit_ridge(training, len(manifest.targets), RIDGE_LAGS, across=True)
    assert ridge is not None
    found: dict[str, list[Array]] = {"model": [], "persistence": [], "ridge": []}
    for values, track in zip(levels, tracks, strict=True):
        rows = np.arange(track.stream.start, track.stream.end)
        made = {
            "model": level(track.predicted, manifest)[rows],
            "persistence": baselines.persistence(values, rows - 1, 1)[:, 0],
            "ridge": ridge.forecast(values, rows - 1, 1, track.stream.fit)[:, 0],
        }
        for who, predicted in made.items():
            found[who].append((predicted - values[rows]) / spread)
    return {who: np.concatenate(parts) for who, parts in found.items()}


def level(values: Array, manifest: Manifest) -> Array:
    """Raw values of the features, which are the targets in order, as they are scored: amounts by their logarithm."""
    assert manifest.targets == tuple(feature.name for feature in manifest.features)
    log1p = np.array([feature.scaling.transform == "log1p" for feature in manifest.features])
    return np.where(log1p, np.copysign(np.log1p(np.abs(values)), values), values)


if __name__ == "__main__":
    sys.exit(report(measure()))
