"""Batch choice: at most one step a session, oldest first, up to the row limit.

A row's turn is decided when it is queued: the turn after its session's last queued row, and not before the turn that is
next. Rows of one turn are then all of different sessions, and a batch is a slice of the next turn. Choosing from the
queue anew in each iteration was rejected: one session with a long queue made every iteration search it.
Pure: no torch, no grpc, no asyncio.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Turns = NDArray[np.int64]


def assign_turns(slots: NDArray[np.int64], next_turn: Turns, now: int) -> Turns:
    """Turns of new rows [n], in row order; `next_turn` has an entry for each slot and is advanced.

    `now` is the turn that is next. A slot may stand in several rows: they get one turn after the other.
    """
    turns = np.maximum(next_turn[slots], now)
    places = np.arange(len(slots))
    last = np.empty(len(slots), np.int64)
    next_turn[slots] = places  # as scratch: where a slot stands twice, the last write wins
    np.take(next_turn, slots, out=last)
    if (last != places).any():
        turns += _ranks(slots)
    next_turn[slots] = turns + 1  # again the last row of a slot wins, and it has the latest turn
    return turns


def _ranks(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows of the same slot stand before each row."""
    order = np.argsort(slots, kind="stable")
    together = slots[order]
    starts = np.flatnonzero(np.concatenate(([True], together[1:] != together[:-1])))
    lengths = np.diff(np.concatenate((starts, [len(slots)])))
    ranks = np.empty(len(slots), np.int64)
    ranks[order] = np.arange(len(slots)) - np.repeat(starts, lengths)
    return ranks
