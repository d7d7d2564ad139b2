"""The row queue against a deque: first in, first out, but for sessions that have a row in the batch already."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.lane import WINDOW_BATCHES, Queued, RowQueue

FEATURES, SESSIONS = 2, 12


def queued(sessions: list[int], numbers: range) -> Queued:
    """Rows of these sessions; every column tells the row's number."""
    rows = np.array(numbers, np.int64)
    return Queued(
        ref=np.array(sessions, np.int64),
        request=rows,
        row=rows.astype(np.int32),
        step=rows + 1,
        time=rows + 2,
        reset=rows % 2 == 0,
        created=rows % 3 == 0,
        refused=(rows % 5).astype(np.uint8),
        deadline=rows.astype(np.float64) + 0.5,
        arrived=rows.astype(np.float64) + 0.25,
        values=np.stack((rows, -rows), axis=1).astype(np.float64),
    )


def take_plainly(waiting: deque[tuple[int, int]], rows_max: int) -> list[tuple[int, int]]:
    """The oldest row of each session among those looked at, and the rest as it was."""
    batch: list[tuple[int, int]] = []
    left: list[tuple[int, int]] = []
    for _ in range(min(len(waiting), WINDOW_BATCHES * rows_max)):
        row = waiting.popleft()
        busy = row[0] in {session for session, _ in batch}
        (left if busy or len(batch) == rows_max else batch).append(row)
    waiting.extendleft(reversed(left))
    return batch


OPERATIONS = st.one_of(
    st.lists(st.integers(0, SESSIONS - 1), min_size=1, max_size=60),
    st.integers(1, 20),
    st.tuples(st.integers(600, 1500)),
)


@given(operations=st.lists(OPERATIONS, max_size=25))
def test_as_a_deque(operations: list[list[int] | int | tuple[int]]) -> None:
    """Appends (also large ones, which make room) and batches give the rows that a deque gives, columns and all."""
    queue, waiting, number = RowQueue(FEATURES), deque[tuple[int, int]](), 0
    scratch = np.zeros(SESSIONS, np.int32)
    for operation in operations:
        if isinstance(operation, int):
            batch = queue.take(operation, scratch)
            wanted = take_plainly(waiting, operation)
            assert list(zip(batch.ref.tolist(), batch.request.tolist(), strict=True)) == wanted
            everything = queued([0] * number, range(number))
            for name in vars(everything).keys() - {"ref"}:
                np.testing.assert_array_equal(getattr(batch, name), getattr(everything, name)[batch.request])
        else:
            sessions = (
                [place % SESSIONS for place in range(operation[0])] if isinstance(operation, tuple) else operation
            )
            queue.append(queued(sessions, range(number, number + len(sessions))))
            waiting.extend(zip(sessions, range(number, number + len(sessions)), strict=True))
            number += len(sessions)
        assert len(queue) == len(waiting)


def test_a_batch_does_not_change_later() -> None:
    """What was taken stays as it was while the queue goes on."""
    queue, scratch = RowQueue(FEATURES), np.zeros(SESSIONS, np.int32)
    queue.append(queued([1, 2, 3, 1, 2, 3], range(6)))
    for rows_max in (3, 1):
        batch = queue.take(rows_max, scratch)
        before = [column.copy() for column in batch.columns()]
        queue.append(queued([4] * 2000, range(100, 2100)))
        for column, was in zip(batch.columns(), before, strict=True):
            np.testing.assert_array_equal(column, was)


def test_a_session_far_behind_does_not_hold_up_others() -> None:
    """A long run of one session's rows costs the others a window's length, not the run's."""
    queue, scratch = RowQueue(FEATURES), np.zeros(SESSIONS, np.int32)
    queue.append(queued([1] * 100 + [2], range(101)))
    first_batches = [queue.take(10, scratch).ref.tolist() for _ in range(70)]
    assert first_batches[0] == [1]
    assert [1, 2] in first_batches


def test_expired_rows_keep_their_place() -> None:
    """Rows of a stream that went away are marked, wherever they wait; others are not."""
    queue, scratch = RowQueue(FEATURES), np.zeros(SESSIONS, np.int32)
    rows = queued([1, 2, 3, 4], range(4))
    rows.request[:] = [5 << 32 | 1, 6 << 32 | 1, 5 << 32 | 2, 7 << 32 | 5]
    queue.append(rows)
    queue.expire(5, 32)
    batch = queue.take(10, scratch)
    assert batch.ref.tolist() == [1, 2, 3, 4]
    assert (batch.deadline == -np.inf).tolist() == [True, False, True, False]
