"""Batch choice and slots together, against a list and a dict: rows wait, sessions close, slots are used again."""

from __future__ import annotations

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

from tidegate.engine.memory.slots import SlotTable, slots_of
from tidegate.engine.queues.lane import Queued, RowQueue

CAPACITY, CHUNK_ROWS = 12, 4


class QueueMachine(RuleBasedStateMachine):
    """A slot table and the row queue of its sessions."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.table = SlotTable(3, CAPACITY, CHUNK_ROWS, seed)
        self.queue = RowQueue()
        self.next_turn = np.zeros(CAPACITY, np.int64)
        self.open: dict[int, int] = {}  # reference -> slot
        self.closed: set[int] = set()  # references
        self.waiting: list[tuple[int, int, int]] = []  # (turn, reference, number of the row)
        self.plain_next: dict[int, int] = {}  # the turn after a slot's last row
        self.now = 0
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
        self.next_turn[slots] = 0  # as Slab.open does
        self.plain_next.update((slot, 0) for slot in slots.tolist())

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

    @precondition(lambda self: self.open)
    @rule(data=st.data(), repeat=st.sampled_from([1, 1, 1, 50, 700]))
    def wait(self, data: st.DataObject, repeat: int) -> None:
        """Rows of open sessions join the queue; they stay when their session closes and its slot is used again."""
        refs = data.draw(st.lists(st.sampled_from(sorted(self.open)), min_size=1, max_size=8)) * repeat
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
                strict=np.zeros(len(refs), bool),
            ),
            self.next_turn,
        )
        for ref, number in zip(refs, numbers.tolist(), strict=True):
            slot = int(slots_of(np.array([ref]))[0])
            turn = max(self.plain_next[slot], self.now)
            self.plain_next[slot] = turn + 1
            self.waiting.append((turn, ref, number))

    @precondition(lambda self: self.waiting)
    @rule(rows_max=st.integers(1, 14))
    def batch(self, rows_max: int) -> None:
        """As many rows of the next turn as fit, none of a later one; each session's rows come in their order."""
        batch = self.queue.take(rows_max)
        self.now = max(self.now, min(turn for turn, _, _ in self.waiting))
        due = {number: ref for turn, ref, number in self.waiting if turn == self.now}
        numbers = batch.request.tolist()
        assert len(numbers) == min(rows_max, len(due))
        assert batch.ref.tolist() == [due[number] for number in numbers]
        assert batch.values[:, 0].tolist() == [float(number) for number in numbers]
        assert self.table.alive(batch.ref).tolist() == [ref in self.open for ref in batch.ref.tolist()]
        living = [slot for ref, slot in self.open.items() if ref in batch.ref]
        assert len(set(living)) == sum(ref in self.open for ref in batch.ref.tolist())
        self.waiting = [row for row in self.waiting if row[2] not in set(numbers)]
        self.now += len(numbers) == len(due)
        for number in numbers:
            assert self.ran.get(due[number], -1) < number
            self.ran[due[number]] = number

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """All rows of some sessions leave, each session's in their order; they may wait anew, and come first then."""
        names = sorted({ref for _, ref, _ in self.waiting} | self.open.keys())
        refs = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        rows = self.queue.withdraw(np.array(refs, np.int64))
        found = [] if rows is None else list(zip(rows.ref.tolist(), rows.request.tolist(), strict=True))
        for ref in refs:
            mine = [number for _, other, number in sorted(self.waiting) if other == ref]
            assert [number for other, number in found if other == ref] == mine
        assert {ref for ref, _ in found} <= set(refs)
        self.waiting = [row for row in self.waiting if row[1] not in refs]
        for slot in {slot for ref, slot in self.open.items() if ref in refs}:
            self.next_turn[slot] = self.plain_next[slot] = 0

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
        assert [self.table.lives(ref) for ref in refs.tolist()] == self.table.alive(refs).tolist()
        assert slots_of(refs[: len(self.open)]).tolist() == list(self.open.values())


def test_queues() -> None:
    """No order of opening, closing, waiting and batches loses or doubles a row, or lets a stale reference live."""
    run_state_machine_as_test(QueueMachine, settings=settings(max_examples=200))


@pytest.mark.soak
def test_many_queues() -> None:
    """The same in two thousand examples."""
    run_state_machine_as_test(QueueMachine, settings=settings(max_examples=2000))
