"""Measures of errors: pure functions over arrays. NaN marks what is not scored, and a mean over nothing is NaN.

Errors are predicted minus observed, [cases, targets], in whatever unit they come.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def count(errors: Array) -> NDArray[np.int64]:
    """Scored cases of each target."""
    counts: NDArray[np.int64] = np.isfinite(errors).sum(axis=0)
    return counts


def mean(values: Array) -> Array:
    """Mean over the cases of each target, without NaN."""
    scored = np.isfinite(values)
    sums = np.where(scored, values, 0.0).sum(axis=0)
    counts = scored.sum(axis=0)
    means: Array = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means


def mae(errors: Array) -> Array:
    """Mean absolute error of each target."""
    return mean(np.abs(errors))


def mse(errors: Array) -> Array:
    """Mean squared error of each target."""
    return mean(errors * errors)


def rmse(errors: Array) -> Array:
    """Root mean squared error of each target."""
    root: Array = np.sqrt(mse(errors))
    return root


def bias(errors: Array) -> Array:
    """Mean error of each target: above 0 where predictions are too high."""
    return mean(errors)


def naive_scale(values: Array, season: int) -> Array:
    """What MASE divides by (Hyndman & Koehler 2006): the mean of |x_t - x_{t-season}| over a training part [steps,
    targets]. NaN where it is 0 or unknown, since then nothing can be scaled by it."""
    if len(values) <= season:
        return np.full(values.shape[1], np.nan)
    scale = mae(values[season:] - values[:-season])
    return np.where(scale > 0, scale, np.nan)


def mase(errors: Array, scales: Array) -> Array:
    """Mean absolute scaled error: errors each divided by the scale of its series, [cases, targets] or [targets]."""
    return mean(np.abs(errors) / scales)


def skill(error: Array, of_baseline: Array) -> Array:
    """1 - error / baseline's error: 1 is perfect, 0 as good as the baseline, below 0 worse. NaN where that has none."""
    known = of_baseline > 0
    return np.where(known, 1.0 - error / np.where(known, of_baseline, 1.0), np.nan)


def accuracy(probabilities: Array, observed: Array) -> float:
    """Share of cases whose likeliest category is the one observed; both [cases, categories], observed one-hot."""
    known = np.isfinite(observed).all(axis=1) & np.isfinite(probabilities).all(axis=1)
    if not known.any():
        return float("nan")
    hits = probabilities[known].argmax(axis=1) == observed[known].argmax(axis=1)
    return float(hits.mean())
