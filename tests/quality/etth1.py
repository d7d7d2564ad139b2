"""ETTh1: one step, forecasts, and gaps, through a real server: python -m tests.quality etth1

Errors are in units of the training part's standard deviation, over the test part of 2,880 hours and all seven
variables, as the literature has them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.quality.bounds import Bound, report
from tests.quality.judge import Backtests, mean_absolute, mean_square, trained, with_gaps
from tidegate.training.evaluation.backtest import Plan, Track
from tidegate.training.evaluation.rivals import PERSISTENCE, Rivals, fit_rivals
from tidegate.training.evaluation.scores import MODEL, one_step_cases, path_cases, score_overall
from tidegate.training.evaluation.streams import Stream, recipe_streams
from tidegate.training.recipe import load_recipe

RECIPE = Path(__file__).with_name("etth1.toml")
SECONDS_MAX, MSE_MAX, MAE_MAX = 60.0, 0.092, 0.190
FORECAST_MSE_MAX = {24: 0.30, 48: 0.345, 96: 0.40, 168: 0.46}
MISSING_SHARE, BLOCK_STEPS, SEED = 0.3, 24, 0
IMPUTED_MSE_MAX, OBSERVED_GROWTH_MAX = 0.32, 1.13


def measure() -> list[Bound]:
    """Trains, serves, streams; every figure beside its bound."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(RECIPE)
        model = trained(recipe, Path(folder) / "models")
        package = model.package
        streams = recipe_streams(recipe, package.manifest)
        rivals = fit_rivals(streams, package.target_indices, package.frequency)
        gapped, missing = with_gaps(streams[0], MISSING_SHARE, BLOCK_STEPS, SEED)
        with Backtests(model) as backtests:
            tracks = backtests.run(streams, Plan(horizon=max(FORECAST_MSE_MAX)))
            with_gap = backtests.run([gapped])[0]
    return [
        Bound("training, seconds", model.seconds, at_most=SECONDS_MAX),
        *one_step(tracks, rivals, package.manifest.targets),
        *forecasts(tracks, rivals),
        *gaps(tracks[0], with_gap, missing, rivals),
    ]


def one_step(tracks: Sequence[Track], rivals: Rivals, targets: Sequence[str]) -> list[Bound]:
    """Overall, and each variable beside persistence."""
    errors = {who: theirs[:, 0] / rivals.spread for who, theirs in one_step_cases(tracks, rivals).errors.items()}
    bounds = [
        Bound("one step, MSE", mean_square(errors[MODEL]), at_most=MSE_MAX),
        Bound("one step, MAE", mean_absolute(errors[MODEL]), at_most=MAE_MAX),
    ]
    for who, theirs in errors.items():
        if who != MODEL:
            bounds += [Bound(f"one step, MSE of {who}", mean_square(theirs))]
    for place, target in enumerate(targets):
        own, last = (mean_square(errors[who][:, place]) for who in (MODEL, PERSISTENCE))
        bounds.append(Bound(f"one step, MSE of {target}, at most persistence's", own, at_most=last))
    return bounds


def forecasts(tracks: Sequence[Track], rivals: Rivals) -> list[Bound]:
    """Mean over all steps up to the horizon and all windows within the test part."""
    cases = path_cases(tracks, rivals)
    found = {steps: score_overall(cases, steps, rivals.spread) for steps in FORECAST_MSE_MAX}
    return [
        Bound(f"forecasts of {steps}, MSE", found[steps].path_mse[MODEL], at_most=most)
        for steps, most in FORECAST_MSE_MAX.items()
    ]


def gaps(whole: Track, gapped: Track, missing: np.ndarray, rivals: Rivals) -> list[Bound]:
    """What stood in for missing steps against what was there, and the steps that were observed against no gaps."""
    stream: Stream = whole.stream
    scored = np.zeros(len(missing), np.bool_)
    scored[stream.start : stream.end] = True
    truth = stream.values[:, rivals.targets]
    own, without = ((track.predicted - truth) / rivals.spread for track in (gapped, whole))
    observed = scored & ~missing
    growth = mean_square(own[observed]) / mean_square(without[observed])
    last = np.where(missing, 0, np.arange(len(missing)))
    held = (truth[np.maximum.accumulate(last)] - truth) / rivals.spread
    return [
        Bound("gaps, MSE of imputed steps", mean_square(own[missing]), at_most=IMPUTED_MSE_MAX),
        Bound("gaps, MSE of holding the last value", mean_square(held[missing])),
        Bound("gaps, MSE at observed steps, times that without gaps", growth, at_most=OBSERVED_GROWTH_MAX),
        Bound(
            "gaps, MAE at observed steps, times that without gaps",
            mean_absolute(own[observed]) / mean_absolute(without[observed]),
        ),
    ]


if __name__ == "__main__":
    sys.exit(report(measure()))
