"""Which rows are sent again, against a plain server that may have lost any of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.client.failures import RowError
from tidegate.client.streams.columns import Columns, Place, gather
from tidegate.client.streams.recovery import Recovery
from tidegate.errors import MEANINGS, Reason


class PlainServer:
    """Sessions and how often each step was taken; refuses as the rules say, strictly."""

    def __init__(
        self, sessions: dict[str, int], moved: Iterable[str] = (), widths: dict[str, int] | None = None
    ) -> None:
        self.last = dict(sessions)
        self.taken: list[tuple[str, int]] = []
        self.moved = set(moved)
        self.widths = widths or {}

    def step(self, rows: list[Place]) -> list[RowError]:
        """One round."""
        errors = []
        first_width = None
        for place, (columns, row) in enumerate(rows):
            name, step = columns.ids[row], int(columns.steps[row])
            width = self.widths.get(name, 1)
            reason = self.judge(name, step)
            if reason is None and first_width not in (None, width):
                reason = Reason.TARGETS_DIFFER
            if reason is None:
                first_width = width
                if step != self.last.get(name):
                    self.last[name] = step
                    self.taken.append((name, step))
                continue
            expected = self.last[name] + 1 if name in self.last and reason is not Reason.SESSION_MOVED else None
            errors.append(RowError(place, name, MEANINGS[reason].code, reason, "", expected))
        return errors

    def judge(self, name: str, step: int) -> Reason | None:
        if name in self.moved:
            return Reason.SESSION_MOVED
        if name not in self.last:
            return None if step == 1 else Reason.SESSION_NOT_FOUND
        if step == self.last[name]:
            return None  # a duplicate
        if step <= self.last[name]:
            return Reason.STEP_TOO_OLD
        return Reason.STEP_GAP if step > self.last[name] + 1 else None


def rows(name: str, first: int, last: int) -> list[Place]:
    """Kept rows of a session."""
    steps = np.arange(first, last + 1, dtype=np.uint64)
    columns = Columns([name] * len(steps), steps, np.zeros((len(steps), 1)))
    return [(columns, row) for row in range(len(steps))]


# A session: what is kept of it (first, last), what the server has (None: nothing), and how many targets it predicts.
SESSIONS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 6), st.none() | st.integers(0, 12), st.integers(1, 2), st.booleans()),
    max_size=6,
)


@given(SESSIONS)
def test_what_is_missing_is_taken_once_and_in_order(sessions: list[tuple[int, int, int | None, int, bool]]) -> None:
    """After a pass the server has all of every session that is settled, each missing step taken once, in order; a
    session is lost only where the server lacks more than is kept, or another client stepped it further."""
    kept, has, moved, widths = {}, {}, set(), {}
    for index, (first, more, server_last, width, is_moved) in enumerate(sessions):
        name = f"s{index}"
        kept[name] = rows(name, first, first + more)
        widths[name] = width
        if server_last is not None:
            has[name] = server_last
        if is_moved:
            moved.add(name)
    server = PlainServer(has, moved, widths)
    recovery = Recovery(kept)
    rounds = 0
    while sent := recovery.round():
        rounds += 1
        assert rounds <= 40
        recovery.learn(server.step(sent))
    assert recovery.waiting == moved
    for name, places in kept.items():
        first, last = (int(columns.steps[row]) for columns, row in (places[0], places[-1]))
        before = has.get(name, 0)
        missing = [step for taken, step in server.taken if taken == name]
        if name in moved:
            assert missing == []
        elif before > last or before < first - 1:
            assert name in recovery.lost
            assert missing == []
        else:
            assert name in recovery.settled
            assert missing == list(range(before + 1, last + 1))


def test_a_session_that_nothing_is_kept_of_is_lost() -> None:
    """It cannot be brought back."""
    recovery = Recovery({"a": []})
    assert recovery.round() == []
    assert recovery.lost == {"a"}


def test_a_gap_in_times_is_no_loss() -> None:
    """STEP_GAP with the very step that was sent (its time leaps) is nothing that sending again would mend."""
    recovery = Recovery({"a": rows("a", 1, 3)})
    error = RowError(0, "a", MEANINGS[Reason.STEP_GAP].code, Reason.STEP_GAP, "", 3)
    assert len(recovery.round()) == 1
    recovery.learn([error])
    assert recovery.lost == {"a"}


def test_a_hole_in_what_is_kept() -> None:
    """A step that the server lacks and nobody keeps cannot be given back: the session is lost, and no other."""
    (first, _, last), others = rows("a", 1, 3), rows("b", 1, 2)
    recovery = Recovery({"a": [first, last], "b": others})
    error = RowError(0, "a", MEANINGS[Reason.STEP_GAP].code, Reason.STEP_GAP, "", 2)
    while recovery.round():
        recovery.learn([error])
    assert (recovery.lost, recovery.settled) == ({"a"}, {"b"})


def test_rows_from_anywhere_make_messages() -> None:
    """Rows of different calls are put together in order, as float64, with what some have and others lack; rows with
    other features stand apart."""
    single = Columns(["a"], np.array([4], np.uint64), np.array([[0.1, 2.0]]), np.array([7]), np.array([1], np.uint8))
    many = Columns(["b", "c"], np.array([1, 2], np.uint64), np.array([[1, 2], [3, 4]], np.float32))
    wide = Columns(["d"], np.array([9], np.uint64), np.zeros((1, 3)), future=np.array([[5.0]], np.float32))
    first, second = gather([(many, 1), (single, 0), (wide, 0)])
    assert (first.ids, first.steps.tolist()) == (["c", "a"], [2, 4])
    assert first.values.tolist() == [[3.0, 4.0], [0.1, 2.0]]
    assert first.values.dtype == np.float64
    assert first.times is not None
    assert first.times.tolist() == [np.iinfo(np.int64).min, 7]
    assert first.reset is not None
    assert first.reset.tolist() == [0, 1]
    assert first.future is None
    assert (second.ids, second.values.shape) == (["d"], (1, 3))
    assert second.future is not None
    assert second.future.tolist() == [[5.0]]
