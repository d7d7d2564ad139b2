"""Two streams of one model whose sizes differ by 1,000: python -m tests.quality scales

The streams are loads with a daily cycle and noise that lasts some hours, one of 2 and one of 2,000, each its own draw.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from tests.quality.bounds import Bound, report
from tests.quality.judge import Array, Backtests, trained
from tidegate.training.evaluation.rivals import fit_rivals
from tidegate.training.evaluation.scores import score_streams
from tidegate.training.evaluation.streams import Stream
from tidegate.training.recipe import make_recipe

HOURS, TRAINING, TEST = 2_400, 1_680, 1_920
SIZES = {"small": 2.0, "large": 2_000.0}
RECIPE = {
    "name": "scales",
    "data": {"source": "drawn", "time": "time", "id": "stream", "frequency": "h", "validation": 0.7, "test": 0.8},
    "features": [{"name": "load"}],
    "inputs": {"scaling": "running", "lags": [1, 23, 24], "calendar": ["hour_of_day"]},
    "network": {"hidden_size": 32, "head": {"output": "change"}},
    "training": {"epochs": 30, "streams": 8, "stretch": 240, "refit": False},
}


def load(size: float, seed: int) -> Array:
    """One stream [hours]."""
    random = np.random.default_rng(seed)
    noise = np.zeros(HOURS)
    for hour in range(1, HOURS):
        noise[hour] = 0.8 * noise[hour - 1] + random.normal(0, 0.05)
    hours = np.arange(HOURS)
    day = 0.4 * np.sin(2 * np.pi * hours / 24) + 0.15 * np.sin(4 * np.pi * hours / 24 + 1)
    values: Array = size * (1 + day + noise)
    return values


def measure() -> list[Bound]:
    """Trains on both, serves, streams both."""
    times = pd.date_range("2024-01-01", periods=HOURS, freq="h")
    drawn = {name: load(size, seed) for seed, (name, size) in enumerate(SIZES.items())}
    frames = [pd.DataFrame({"time": times, "stream": name, "load": values}) for name, values in drawn.items()]
    stamps = times.as_unit("ns").asi8
    streams = [Stream(name, stamps, values[:, None], TRAINING, TEST, HOURS) for name, values in drawn.items()]
    with tempfile.TemporaryDirectory() as folder:
        model = trained(make_recipe(RECIPE), Path(folder) / "models", pd.concat(frames, ignore_index=True))
        with Backtests(model) as backtests:
            tracks = backtests.run(streams)
    package = model.package
    rivals = fit_rivals(streams, package.target_indices, package.frequency)
    return [
        Bound(f"{score.stream}: MAE, at most persistence's", score.mae, at_most=score.persistence_mae)
        for score in score_streams(tracks, rivals, package.manifest.targets)
    ]


if __name__ == "__main__":
    sys.exit(report(measure()))
