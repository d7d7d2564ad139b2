"""The row queue: batches of different sessions, each session's rows in their order, nothing lost."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidegate.engine.lane import Queued, RowQueue

SESSIONS = 12


def queued(sessions: list[int], first: int = 0) -> Queued:
    """Rows of these sessions, numbered from `first`; every column tells the row's number."""
    rows = np.arange(first, first + len(sessions))
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
        strict=rows % 7 == 0,
    )


def next_turns() -> NDArray[np.int64]:
    return np.zeros(SESSIONS, np.int64)


@given(
    operations=st.lists(
        st.lists(st.integers(0, SESSIONS - 1), min_size=1, max_size=60) | st.integers(1, 20), max_size=30
    )
)
def test_everything_comes_out_once(operations: list[list[int] | int]) -> None:
    """Whatever is appended and taken in whatever sizes: all columns of a row stay together, each row comes out once,
    a batch has one row a session and no more than asked, and a session's rows keep their order."""
    queue, next_turn = RowQueue(), next_turns()
    sessions: list[int] = []
    batches: list[Queued] = []
    for operation in operations:
        if isinstance(operation, list):
            queue.append(queued(operation, len(sessions)), next_turn)
            sessions += operation
        elif len(queue):
            batches.append(queue.take(operation))
            assert 1 <= len(batches[-1]) <= operation
    while len(queue):
        batches.append(queue.take(7))
    everything = queued(sessions)
    for batch in batches:
        assert len(set(batch.ref.tolist())) == len(batch)
        for column in fields(Queued):
            wanted = getattr(everything, column.name)[batch.request]
            np.testing.assert_array_equal(getattr(batch, column.name), wanted, err_msg=column.name)
    ran = [row for batch in batches for row in batch.request.tolist()]
    assert sorted(ran) == list(range(len(sessions)))
    for session in range(SESSIONS):
        rows = [row for row in ran if sessions[row] == session]
        assert rows == sorted(rows)


def test_a_batch_does_not_change_later() -> None:
    """What was taken stays as it was while the queue goes on."""
    queue, next_turn = RowQueue(), next_turns()
    queue.append(queued([1, 2, 3, 1, 2, 3]), next_turn)
    for rows_max in (3, 1):
        batch = queue.take(rows_max)
        before = [column.copy() for column in batch.columns()]
        queue.append(queued([4, 5] * 1000, 100), next_turn)
        for column, was in zip(batch.columns(), before, strict=True):
            np.testing.assert_array_equal(column, was)


def test_a_long_queue_of_one_session_holds_up_nobody() -> None:
    """A session with a hundred rows waiting shares the very next batch with one that has just come."""
    queue, next_turn = RowQueue(), next_turns()
    queue.append(queued([1] * 100), next_turn)
    assert queue.take(10).ref.tolist() == [1]
    queue.append(queued([2, 2], 100), next_turn)
    assert sorted(queue.take(10).ref.tolist()) == [1, 2]
    assert sorted(queue.take(10).ref.tolist()) == [1, 2]
    assert queue.take(10).ref.tolist() == [1]


def test_no_session_waits_for_ever() -> None:
    """With more sessions than a batch holds and new rows of some before each, all are served in turn."""
    queue, next_turn, served = RowQueue(), next_turns(), np.zeros(SESSIONS, int)
    queue.append(queued(list(range(SESSIONS))), next_turn)
    for first in range(100, 220):
        batch = queue.take(2)
        served[batch.ref] += 1
        queue.append(queued(batch.ref.tolist(), first), next_turn)
    assert served.sum() == 240
    assert served.max() - served.min() <= 1


def test_expired_rows_keep_their_place() -> None:
    """Rows of a stream that went away are marked, wherever they wait; others are not."""
    queue, next_turn = RowQueue(), next_turns()
    rows = queued([1, 2, 3, 4, 1])
    rows.request[:] = [5 << 32 | 1, 6 << 32 | 1, 5 << 32 | 2, 7 << 32 | 5, 5 << 32 | 3]
    queue.append(rows, next_turn)
    queue.expire(5, 32)
    batch = queue.take(10)
    assert batch.ref.tolist() == [1, 2, 3, 4]
    assert (batch.deadline == -np.inf).tolist() == [True, False, True, False]
    assert queue.take(10).deadline.tolist() == [-np.inf]
