"""How good predictions are: mean absolute error beside persistence (tomorrow is as today), target by target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.model import reference
from tidegate.model.package import Package

Errors = NDArray[np.float64]


def mean_absolute_errors(predictions: NDArray[np.floating], observations: NDArray[np.float64]) -> Errors:
    """MAE [targets] of one-step predictions: predictions[t] is of observations[t + 1]; the last has nothing to meet."""
    errors: Errors = np.abs(predictions[:-1] - observations[1:]).mean(axis=0)
    return errors


def evaluate(package: Package, observations: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Streams raw observations [steps, features] from zero state through the reference; errors in raw units."""
    observed = observations[:, package.target_indices]
    own = mean_absolute_errors(reference.predict(package, observations).raw, observed)
    persistence = mean_absolute_errors(observed, observed)
    return {
        target: {"mae": round(float(own[i]), 4), "persistence_mae": round(float(persistence[i]), 4)}
        for i, target in enumerate(package.manifest.targets)
    }
