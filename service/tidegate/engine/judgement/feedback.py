"""A session's own predictions as observations: what stands in for missing values, bridges gaps, and carries forecasts.

A number is taken as predicted (of a quantile head, the median); of a vocabulary, the likeliest stands in, one-hot.
Whatever is not predicted keeps its last value. Pure: NumPy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.model.manifest import Manifest

Rows = NDArray[np.float64]


class Feedback:
    """The way from a package's outputs back to its features."""

    def __init__(self, manifest: Manifest) -> None:
        names = [feature.name for feature in manifest.features]
        self.targets = np.array([names.index(target) for target in manifest.targets], np.intp)
        self.points = manifest.point_indices
        self.categorical = manifest.head.kind == "categorical"

    def stand_ins(self, outputs: Rows) -> Rows:
        """Raw outputs [n, outputs] to values of the targets [n, targets]."""
        if not self.categorical:
            return outputs[:, self.points]
        one_hot = np.zeros_like(outputs)
        one_hot[np.arange(len(outputs)), outputs.argmax(axis=1)] = 1.0
        return one_hot

    def observations(self, last: Rows, stand_ins: Rows) -> Rows:
        """`last` observations [n, features] with the targets [n, targets] replaced."""
        values = last.copy()
        values[:, self.targets] = stand_ins
        return values
