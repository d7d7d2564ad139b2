"""Batch choice: every row gets its session's next turn, and no turn has two rows of one session."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.queues.choice import assign_turns

SLOTS = 12


@given(
    queued=st.lists(st.tuples(st.lists(st.integers(0, SLOTS - 1), max_size=40), st.integers(0, 6)), max_size=12),
)
def test_turns(queued: list[tuple[list[int], int]]) -> None:
    """A row's turn is the one after its session's last row, and not before the turn that is next, row by row."""
    next_turn, plain, now = np.zeros(SLOTS, np.int64), dict[int, int](), 0
    for slots, passed in queued:
        now += passed
        wanted = []
        for slot in slots:
            wanted.append(max(plain.get(slot, 0), now))
            plain[slot] = wanted[-1] + 1
        assert assign_turns(np.array(slots, np.int64), next_turn, now).tolist() == wanted
        for slot in range(SLOTS):
            assert next_turn[slot] == plain.get(slot, 0)
