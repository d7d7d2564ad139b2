"""Batch choice: at most one step a session, oldest first, up to the row limit.

Sorting the queue by session was rejected: one scatter and one gather through a scratch column find each session's
first row in linear time. Pure: no torch, no grpc, no asyncio.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def choose(slots: NDArray[np.int64], rows_max: int, scratch: NDArray[np.int32]) -> Rows:
    """Indices (ascending) of the rows to run now.

    `slots` [n] are the sessions of the queued rows, oldest first. `scratch` has an entry for each slot; what it holds
    does not matter.
    """
    places = np.arange(len(slots), dtype=np.int32)
    scratch[slots[::-1]] = places[::-1]  # where a slot stands twice the last write wins: its oldest row
    first: Rows = np.flatnonzero(scratch[slots] == places)[:rows_max]
    return first
