"""A counter that stands at 10,000,000 and goes on by about 0.1: python -m tests.quality counter

float32 has steps of 1 up there, so that a model which saw or predicted it in float32 could not do better than the last
value. The increments have a cycle of 24 steps: whoever sees differences foretells them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from tests.quality.bounds import Bound, report
from tests.quality.judge import Array, Backtests, trained
from tidegate.training.evaluation.rivals import PERSISTENCE, fit_rivals
from tidegate.training.evaluation.scores import MODEL, one_step_cases
from tidegate.training.evaluation.streams import Stream
from tidegate.training.recipe import make_recipe

STEPS, TRAINING, TEST = 2_400, 1_680, 1_920
START, INCREMENT = 1e7, 0.1
OF_MEAN_INCREMENT_MAX = 0.5  # of the error of adding the mean increment, which knows no difference
RECIPE = {
    "name": "counter",
    "data": {"source": "drawn", "frequency": "h", "validation": TRAINING, "test": TEST},
    "features": [{"name": "meter", "input": False}],
    "inputs": {"lags": [1, 2, 12, 23, 24]},
    "network": {"hidden_size": 32, "head": {"output": "change"}},
    "training": {"epochs": 30, "streams": 8, "stretch": 240, "refit": False},
}


def counter(seed: int) -> Array:
    """The readings [steps]."""
    random = np.random.default_rng(seed)
    steps = np.arange(STEPS)
    increments = INCREMENT * (1 + 0.6 * np.sin(2 * np.pi * steps / 24) + random.normal(0, 0.05, STEPS))
    readings: Array = START + np.cumsum(increments)
    return readings


def measure() -> list[Bound]:
    """Trains on it, serves it, streams it."""
    readings = counter(seed=0)
    stream = Stream("meter", None, readings[:, None], TRAINING, TEST, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        model = trained(make_recipe(RECIPE), Path(folder) / "models", pd.DataFrame({"meter": readings}))
        with Backtests(model) as backtests:
            tracks = backtests.run([stream])
    package = model.package
    errors = one_step_cases(tracks, fit_rivals([stream], package.target_indices, package.frequency)).errors
    own, last = (float(np.abs(errors[who]).mean()) for who in (MODEL, PERSISTENCE))
    increments = np.diff(readings[TEST - 1 :])
    mean_alone = float(np.abs(increments - np.diff(readings[:TRAINING]).mean()).mean())
    return [
        Bound("MAE", own, at_most=OF_MEAN_INCREMENT_MAX * mean_alone),
        Bound("MAE of persistence (the mean increment)", last),
        Bound("MAE of adding the mean increment", mean_alone),
    ]


if __name__ == "__main__":
    sys.exit(report(measure()))
