"""Slots and references: what is free, what lives, and that a stale reference never matches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.memory.slots import SLABS_MAX, SLOTS_MAX, SPARE_SLOT, SlotTable, slabs_of, slots_of


@given(slab=st.integers(0, SLABS_MAX - 1), count=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_references_unpack(slab: int, count: int, seed: int) -> None:
    """A reference gives back its slab and slot, is never 0 (which means none) and never negative."""
    table = SlotTable(slab, 64, 16, seed)
    slots = table.take(count)
    refs = table.refs(slots)
    assert slots_of(refs).tolist() == slots.tolist()
    assert set(slabs_of(refs).tolist()) == {slab}
    assert (refs > 0).all()
    assert SPARE_SLOT not in slots


def test_the_largest_numbers_fit() -> None:
    """The last slab, the last slot and any generation pack into a positive 64-bit reference."""
    table = SlotTable(SLABS_MAX - 1, SLOTS_MAX, 1 << 20, seed=1, new=np.zeros)
    table.base = (1 << 31) - 1
    last = np.array([SLOTS_MAX - 1], np.int64)
    ref = table.refs(last)
    assert ref[0] == 2**63 - 1
    assert slots_of(ref)[0] == SLOTS_MAX - 1
    assert slabs_of(ref)[0] == SLABS_MAX - 1


@given(rounds=st.lists(st.integers(1, 7), min_size=1, max_size=30), seed=st.integers(0, 2**32))
def test_stale_references_never_match(rounds: list[int], seed: int) -> None:
    """However often slots are reused, only the references of those that live now match."""
    table = SlotTable(0, 8, 4, seed)
    stale: list[int] = []
    for count in rounds:
        slots = table.take(count)
        refs = table.refs(slots)
        assert table.alive(refs).all()
        assert not table.alive(np.array(stale, np.int64)).any()
        table.give(slots)
        assert not table.alive(refs).any()
        stale += refs.tolist()
    assert len(set(stale)) == len(stale)


@given(first=st.integers(0, 2**32), second=st.integers(0, 2**32), reuse=st.integers(0, 5))
def test_references_of_another_process(first: int, second: int, reuse: int) -> None:
    """References of a table with another seed (the process before a restart) or of another slab match nothing."""
    before, after, other = SlotTable(0, 64, 16, first), SlotTable(0, 64, 16, second), SlotTable(1, 64, 16, second)
    for _ in range(reuse):
        before.give(before.take(3))
    old = before.refs(before.take(40))
    fresh = after.take(40)
    other.take(40)
    distance = (after.base - before.base) % (1 << 31)
    if distance > reuse:  # two seeds in two thousand million begin at the same generation
        assert not after.alive(old).any()
    assert not other.alive(after.refs(fresh)).any()


def test_a_table_without_a_seed_begins_at_random() -> None:
    """Two tables of one process begin at different generations."""
    bases = {SlotTable(0, 8, 4).base for _ in range(8)}
    assert len(bases) == 8


@given(forged=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_forged_references(forged: list[int]) -> None:
    """Any number may be asked for; what was not handed out does not live."""
    table = SlotTable(3, 16, 4, seed=5)
    handed_out = set(table.refs(table.take(5)).tolist())
    assert table.alive(np.array(forged, np.int64)).tolist() == [ref in handed_out for ref in forged]


def test_limits() -> None:
    """More than is free is refused and takes nothing; a slot that is not in use, or named twice, is not taken back."""
    table = SlotTable(0, 5, 2, seed=0)
    with pytest.raises(IndexError, match="5 slots asked, 4 free"):
        table.take(5)
    slots = table.take(4)
    assert table.free == 0
    with pytest.raises(ValueError, match="not in use"):
        table.give(np.array([slots[0], slots[0]]))
    table.give(slots[:1])
    with pytest.raises(ValueError, match="not in use"):
        table.give(slots[:1])
    with pytest.raises(ValueError, match="not in use"):
        table.give(np.array([SPARE_SLOT]))
    assert table.take(1).tolist() == slots[:1].tolist()


@pytest.mark.parametrize(
    ("slab", "capacity", "chunk_rows"), [(-1, 8, 4), (SLABS_MAX, 8, 4), (0, 1, 4), (0, SLOTS_MAX + 1, 4), (0, 8, 0)]
)
def test_tables_out_of_range(slab: int, capacity: int, chunk_rows: int) -> None:
    """A table that references could not name is refused."""
    with pytest.raises(ValueError, match="out of range"):
        SlotTable(slab, capacity, chunk_rows)


def test_emptied_chunks_are_reported_once() -> None:
    """Giving back the last slot of a chunk names that chunk, so that its memory can go."""
    table = SlotTable(0, 13, 4, seed=0)  # chunks: 1-3 (and the spare), 4-7, 8-11, 12
    table.take(12)
    assert table.give(np.array([4, 5, 12])).tolist() == [3]
    assert table.give(np.array([6, 7, 1])).tolist() == [1]
    assert table.give(np.array([2, 3, 8, 9, 10, 11])).tolist() == [0, 2]


@given(
    taken=st.integers(0, 40),
    gone=st.sets(st.integers(1, 40)),
    start=st.integers(0, 45),
    count=st.integers(0, 45),
    chunk_rows=st.integers(1, 50),
)
def test_listing_from_a_slot(taken: int, gone: set[int], start: int, count: int, chunk_rows: int) -> None:
    """`taken_from` is the slots in use, in order, from a slot on, as many as asked."""
    table = SlotTable(0, 42, chunk_rows, seed=0)
    slots = set(table.take(taken).tolist())
    closed = slots & gone
    table.give(np.array(sorted(closed), np.int64))
    wanted = [slot for slot in sorted(slots - closed) if slot >= start][:count]
    assert table.taken_from(start, count).tolist() == wanted
