"""Missing values: the session's own predictions stand in for its targets, its last values for the rest.

A session without memory (new, or just reset) has neither: the feature's mean stands in. Pure: NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RUN_MAX = np.iinfo(np.uint16).max


@dataclass
class Memory:
    """What n sessions remember: reply float32 [n, targets], last_input float64 [n, features] and missing_run uint16
    [n, features], and `blank` bool [n] where they remember nothing."""

    reply: NDArray[np.float32]
    last_input: NDArray[np.float64]
    missing_run: NDArray[np.uint16]
    blank: NDArray[np.bool_]


@dataclass
class Imputed:
    """values float64 [n, features] without NaN; missing bool and missing_run uint16 [n, features]."""

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]
    missing_run: NDArray[np.uint16]


def impute(
    values: NDArray[np.float64], memory: Memory, targets: NDArray[np.intp], means: NDArray[np.float64]
) -> Imputed:
    """Fills the NaNs of `values` [n, features]; `targets` are places of predicted features, `means` [features] raw."""
    missing = np.isnan(values)
    if not missing.any():
        return Imputed(values, missing, np.zeros(values.shape, np.uint16))
    stand_in = memory.last_input.copy()
    stand_in[:, targets] = memory.reply
    stand_in[memory.blank] = means
    before = np.where(memory.blank[:, None], 0, memory.missing_run).astype(np.int64)
    run = np.where(missing, np.minimum(before + 1, RUN_MAX), 0).astype(np.uint16)
    return Imputed(np.where(missing, stand_in, values), missing, run)
