"""Batch choice: the oldest row of each session, in order, up to the limit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.choice import choose

SLOTS_MAX = 50


@given(
    queued=st.lists(st.integers(0, SLOTS_MAX - 1), max_size=200),
    rows_max=st.integers(1, 60),
    garbage=st.integers(-(2**31), 2**31 - 1),
)
def test_first_rows_in_order(queued: list[int], rows_max: int, garbage: int) -> None:
    """The first row of each session, oldest first, no more than the limit, whatever the scratch column holds."""
    scratch = np.full(SLOTS_MAX, garbage, np.int32)
    chosen = choose(np.array(queued, np.int64), rows_max, scratch)
    seen: set[int] = set()
    wanted = [row for row, slot in enumerate(queued) if not (slot in seen or seen.add(slot))]  # type: ignore[func-returns-value]
    assert chosen.tolist() == wanted[:rows_max]


@given(queued=st.lists(st.integers(0, 9), min_size=1, max_size=40), rows_max=st.integers(1, 5))
def test_repeated_choice_empties_the_queue(queued: list[int], rows_max: int) -> None:
    """Taking batch after batch runs every row once, each session's rows in their order."""
    scratch = np.zeros(10, np.int32)
    left = list(enumerate(queued))
    ran: list[tuple[int, int]] = []
    while left:
        chosen = set(choose(np.array([slot for _, slot in left]), rows_max, scratch).tolist())
        batch = [row for place, row in enumerate(left) if place in chosen]
        assert batch, "a queue that is not empty gives a batch"
        assert len({slot for _, slot in batch}) == len(batch)
        ran += batch
        left = [row for place, row in enumerate(left) if place not in chosen]
    assert sorted(ran) == list(enumerate(queued))
    for session in range(10):
        rows = [number for number, slot in ran if slot == session]
        assert rows == sorted(rows)
