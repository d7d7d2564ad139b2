"""Missing values: the session's own predictions stand in for its targets, its last values for the rest.

A session without memory (new, or just reset) has neither: what the package says of the feature stands in (`unseen` in
`model/scaling.py`). A static covariate that is not sent again is not missing, nor is an output, which nobody sends.
Pure: NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.judgement.feedback import Feedback
from tidegate.model.ages import AGE_MAX
from tidegate.model.manifest import Manifest


@dataclass
class Memory:
    """What n sessions remember: reply float64 [n, outputs], last_input float64 [n, features] and missing_run uint16
    [n, features], `blank` bool [n] where they remember nothing; `gap` int64 [n], steps that are missing since."""

    reply: NDArray[np.float64]
    last_input: NDArray[np.float64]
    missing_run: NDArray[np.uint16]
    blank: NDArray[np.bool_]
    gap: NDArray[np.int64]


@dataclass
class Imputed:
    """values float64 [n, features] without NaN; missing bool and missing_run uint16 [n, features], without the features
    that may be left out; predicted bool [n, targets]: the session's own prediction stands in."""

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]
    missing_run: NDArray[np.uint16]
    predicted: NDArray[np.bool_]


class Imputation:
    """The rules for one package's features. `means` float64 [features] raw: what a feature is before it was seen."""

    def __init__(self, manifest: Manifest, means: NDArray[np.float64]) -> None:
        self.feedback = Feedback(manifest)
        self.means = means
        self._expected = np.array([feature.role not in ("static", "output") for feature in manifest.features])

    def impute(self, values: NDArray[np.float64], memory: Memory) -> Imputed:
        """Fills the NaNs of `values` [n, features]. A word of a vocabulary is missing as a whole."""
        absent, targets = np.isnan(values), self.feedback.targets
        if not absent.any():
            run = np.zeros(values.shape, np.uint16)
            return Imputed(values, absent, run, np.zeros((len(values), len(targets)), bool))
        if self.feedback.categorical:
            absent[:, targets] = absent[:, targets].any(1, keepdims=True)
        stand_in = self.feedback.observations(memory.last_input, self.feedback.stand_ins(memory.reply))
        stand_in[memory.blank] = self.means
        missing = absent & self._expected
        before = np.where(memory.blank[:, None], 0, memory.missing_run + memory.gap[:, None])
        run = np.where(missing, np.minimum(before + 1, AGE_MAX), 0).astype(np.uint16)
        return Imputed(np.where(absent, stand_in, values), missing, run, absent[:, targets])

    def carry(
        self, values: NDArray[np.float64], last: NDArray[np.float64], run: NDArray[np.uint16]
    ) -> tuple[NDArray[np.float64], NDArray[np.uint16]]:
        """Fills the NaNs of T steps of one session, `values` [T, features], of which no target is missing (an output
        is, and stands for nothing); `last` [features] is what it took before them, `run` [features] its missing_run.

        Returns the values, and the run after them.
        """
        absent = np.isnan(values)
        if not absent.any():
            return values, np.zeros_like(run)
        known = np.where(absent, -1, np.arange(len(values))[:, None])
        source = np.maximum.accumulate(known, axis=0)
        filled = np.where(source < 0, last, np.take_along_axis(values, np.maximum(source, 0), axis=0))
        since = np.where((known >= 0).any(0), (~absent)[::-1].argmax(0), len(values) + run.astype(np.int64))
        return filled, np.where(self._expected, np.minimum(since, AGE_MAX), 0).astype(np.uint16)
