"""Ages as inputs: for how many steps now a target has not been observed, its own prediction standing in.

Two columns a target, after the masks and time intervals of GRU-D (Che et al. 2018, doi:10.1038/s41598-018-24271-9):
whether it was missing, and log(1 + age). They come from a table, so that a row's bits are the same whatever it is
computed with. The words of a vocabulary are missing together, and have one pair. Pure: NumPy alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tidegate.model.manifest import AGE_COLUMNS, Manifest

AGE_MAX = np.iinfo(np.uint16).max  # older is as old


class Ages:
    """The age inputs of one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self.width = manifest.age_width
        self.targets = self.width // AGE_COLUMNS
        self.table = age_table()

    def columns(self, ages: NDArray[np.uint16] | None, rows: int) -> NDArray[np.float32]:
        """float32 [rows, width] of ages [rows, targets], 0 where a target was observed; None: all were."""
        if ages is None:
            return np.zeros((rows, self.width), np.float32)
        return self.table[ages[:, : self.targets]].reshape(rows, self.width)


@cache
def age_table() -> NDArray[np.float32]:
    """float32 [AGE_MAX + 1, AGE_COLUMNS]."""
    ages = np.arange(AGE_MAX + 1)
    return np.stack([ages > 0, np.log1p(ages)], axis=1).astype(np.float32)


def older(ages: NDArray[np.uint16], steps: NDArray[np.int64] | int) -> NDArray[np.uint16]:
    """After so many more steps without an observation."""
    grown: NDArray[np.uint16] = np.minimum(ages.astype(np.int64) + steps, AGE_MAX).astype(np.uint16)
    return grown
