"""The row queue: batches of different sessions, each session's rows in their order, nothing lost."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidegate.engine.queues.lane import Queued, RowQueue
from tidegate.errors import Reason

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


def test_a_turn_is_under_way_between_its_batches() -> None:
    """It is while a part of it is taken and a part is not, whatever is queued behind it."""
    queue, next_turn, seen = RowQueue(), next_turns(), []
    assert not queue.under_way
    queue.append(queued([1, 2, 3, 1]), next_turn)
    for rows_max in (2, 2, 2):
        seen.append(queue.under_way)
        queue.take(rows_max)
    assert seen == [False, True, False]
    assert not queue.under_way
    queue.append(queued([1, 2]), next_turn)
    queue.take(1)
    queue.withdraw(np.array([1, 2]))
    assert not queue.under_way
    queue.pass_by()
    queue.append(queued([3, 4]), next_turn)
    assert not queue.under_way


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


@given(
    sessions=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    taken=st.integers(0, 6),
    more=st.lists(st.integers(0, 3), max_size=10),
)
def test_a_session_that_is_held(sessions: list[int], taken: int, more: list[int]) -> None:
    """Rows of a session that is held do not come out until it is released, whether their turn has come by then or not;
    then they come in their order, behind what was to come first; other sessions' rows come as before."""
    queue, next_turn = RowQueue(), next_turns()
    queue.append(queued(sessions), next_turn)
    queue.hold(2)
    out: list[tuple[int, int]] = []

    def take() -> None:
        rows = queue.take(2)
        out.extend(zip(rows.ref.tolist(), rows.request.tolist(), strict=True))

    for _ in range(taken):
        if len(queue):
            take()
    if more:
        queue.append(queued(more, first=len(sessions)), next_turn)
    assert not any(session == 2 for session, _ in out)
    assert queue.held(np.arange(4)).tolist() == [False, False, True, False]
    queue.release(np.array([2]), next_turn, queued([2], first=1000))
    assert not queue.holding
    while len(queue):
        take()
    everything = sessions + more
    for session in range(4):
        mine = [number for owner, number in out if owner == session]
        wanted = [number for number, owner in enumerate(everything) if owner == session]
        assert mine == ([1000, *wanted] if session == 2 else wanted)


def test_what_is_held_is_marked_too() -> None:
    """Rows that are held back are dropped with their stream, and refused with their session, whose reason is told."""
    queue, next_turn = RowQueue(), next_turns()
    queue.append(queued([5, 6, 5], first=10), next_turn)
    queue.hold(5)
    queue.hold(6)
    while len(queue):
        assert not len(queue.take(10))
    queue.expire(5, 1)  # requests 10 and 11
    queue.refuse(np.array([6]), Reason.SESSION_MOVED)
    assert (queue.lost(6), queue.lost(5)) == (Reason.SESSION_MOVED, Reason.OK)
    rows = queue.withdraw(np.array([5, 6]))
    assert rows is not None
    assert rows.request.tolist() == [10, 12, 11]
    assert np.isinf(rows.deadline).tolist() == [True, False, True]
    assert not queue.holding
