"""Batch choice and slots together, against a deque and a dict: rows wait, sessions close, slots are used again."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tidegate.engine.lane import WINDOW_BATCHES, Queued, RowQueue
from tidegate.engine.slots import SlotTable, slots_of

CAPACITY, CHUNK_ROWS, FEATURES = 12, 4, 1


class QueueMachine(RuleBasedStateMachine):
    """A slot table and the row queue of its sessions."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.table = SlotTable(3, CAPACITY, CHUNK_ROWS, seed)
        self.queue = RowQueue(FEATURES)
        self.scratch = np.zeros(CAPACITY, np.int32)
        self.open: dict[int, int] = {}  # reference -> slot
        self.closed: set[int] = set()  # references
        self.waiting: deque[tuple[int, int]] = deque()  # (reference, number of the row)
        self.ran: dict[int, int] = {}  # the last row that ran, by reference
        self.rows = 0

    @precondition(lambda self: len(self.open) < CAPACITY - 1)
    @rule(count=st.integers(1, 4))
    def take_slots(self, count: int) -> None:
        """Free slots, none of them in use, those freed last first."""
        count = min(count, CAPACITY - 1 - len(self.open))
        slots = self.table.take(count)
        refs = self.table.refs(slots).tolist()
        assert len(set(slots.tolist())) == count
        assert not set(slots.tolist()) & set(self.open.values())
        assert not set(refs) & self.closed
        self.open.update(zip(refs, slots.tolist(), strict=True))

    @rule()
    def take_too_many(self) -> None:
        """More than there are takes none."""
        with pytest.raises(IndexError):
            self.table.take(CAPACITY - len(self.open))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_slots(self, data: st.DataObject) -> None:
        """Sessions close, whether rows of theirs wait or not; chunks that are empty now are named."""
        refs = data.draw(st.lists(st.sampled_from(sorted(self.open)), min_size=1, max_size=6, unique=True))
        slots = [self.open.pop(ref) for ref in refs]
        emptied = self.table.give(np.array(slots, np.int64)).tolist()
        used = {slot // CHUNK_ROWS for slot in self.open.values()}
        assert emptied == sorted({slot // CHUNK_ROWS for slot in slots} - used)
        self.closed |= set(refs)

    @precondition(lambda self: self.open or self.closed)
    @rule(data=st.data(), repeat=st.sampled_from([1, 1, 1, 50, 700]))
    def wait(self, data: st.DataObject, repeat: int) -> None:
        """Rows of open sessions (and of closed ones, which were admitted before) join the queue."""
        known = sorted(self.open) + sorted(self.closed)[-3:]
        refs = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=8)) * repeat
        numbers = np.arange(self.rows, self.rows + len(refs))
        self.rows += len(refs)
        self.queue.append(
            Queued(
                ref=np.array(refs, np.int64),
                request=numbers,
                row=numbers.astype(np.int32),
                step=numbers,
                time=numbers,
                reset=np.zeros(len(refs), bool),
                created=np.zeros(len(refs), bool),
                refused=np.zeros(len(refs), np.uint8),
                deadline=np.full(len(refs), np.inf),
                arrived=np.zeros(len(refs)),
                values=numbers[:, None].astype(np.float64),
            )
        )
        self.waiting.extend(zip(refs, numbers.tolist(), strict=True))

    @rule(rows_max=st.integers(1, 14))
    def batch(self, rows_max: int) -> None:
        """The oldest row of each slot in the window; each session's rows come in their order."""
        batch = self.queue.take(rows_max, self.scratch)
        wanted = self._oldest(rows_max)
        assert list(zip(batch.ref.tolist(), batch.request.tolist(), strict=True)) == wanted
        assert batch.values[:, 0].tolist() == [float(number) for _, number in wanted]
        slots = slots_of(batch.ref).tolist()
        assert len(set(slots)) == len(slots)
        assert self.table.alive(batch.ref).tolist() == [ref in self.open for ref, _ in wanted]
        for ref, number in wanted:
            assert self.ran.get(ref, -1) < number
            self.ran[ref] = number

    def _oldest(self, rows_max: int) -> list[tuple[int, int]]:
        """Takes the batch from the deque, row by row."""
        batch: list[tuple[int, int]] = []
        left: list[tuple[int, int]] = []
        slot = {ref: int(slots_of(np.array([ref]))[0]) for ref, _ in self.waiting}
        for _ in range(min(len(self.waiting), WINDOW_BATCHES * rows_max)):
            row = self.waiting.popleft()
            busy = slot[row[0]] in [slot[ref] for ref, _ in batch]
            (left if busy or len(batch) == rows_max else batch).append(row)
        self.waiting.extendleft(reversed(left))
        return batch

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.table.in_use == len(self.open)
        assert self.table.free == CAPACITY - 1 - len(self.open)
        assert self.table.taken_from(0, CAPACITY).tolist() == sorted(self.open.values())

    @invariant()
    def references(self) -> None:
        """Those of open sessions live and point at their slots; no other ever does."""
        refs = np.array([*self.open, *self.closed], np.int64)
        assert self.table.alive(refs).tolist() == [True] * len(self.open) + [False] * len(self.closed)
        assert slots_of(refs[: len(self.open)]).tolist() == list(self.open.values())


def test_queues() -> None:
    """No order of opening, closing, waiting and batches parts queue from deque, or lets a stale reference live."""
    run_state_machine_as_test(QueueMachine, settings=settings(max_examples=200))


@pytest.mark.soak
def test_many_queues() -> None:
    """The same in two thousand examples."""
    run_state_machine_as_test(QueueMachine, settings=settings(max_examples=2000))
