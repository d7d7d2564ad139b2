"""Slots: which rows of a slab are taken, and references to them that can never be mistaken for another session's.

A reference packs generation, slab and slot in one int64. A slot's generation goes up when it is given back and starts
at random in each process, so that a stale reference, even one from before a restart, matches nothing.
Slot 0 is spare: padding rows read it, and rows that are not finite are written to it. Pure: no torch, grpc or asyncio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPARE_SLOT = 0
SLOT_BITS, SLAB_BITS, GENERATION_BITS = 27, 5, 31
SLOTS_MAX, SLABS_MAX = 1 << SLOT_BITS, 1 << SLAB_BITS
_GENERATION_MASK = (1 << GENERATION_BITS) - 1

Slots = NDArray[np.int64]
Refs = NDArray[np.int64]
NewArray = Callable[[int, str], NDArray[Any]]


def slots_of(refs: Refs) -> Slots:
    """The slots that references point to."""
    return refs & (SLOTS_MAX - 1)


def slabs_of(refs: Refs) -> NDArray[np.int64]:
    """The slabs that references point into."""
    return (refs >> SLOT_BITS) & (SLABS_MAX - 1)


class SlotTable:
    """The free list and the generations of one slab of `capacity` slots (slot 0 not counted among the free)."""

    def __init__(
        self, slab: int, capacity: int, chunk_rows: int, seed: int | None = None, new: NewArray = np.zeros
    ) -> None:
        if not (0 <= slab < SLABS_MAX and chunk_rows > 0 and 1 < capacity <= SLOTS_MAX):
            raise ValueError(f"slab {slab} of {capacity} slots in chunks of {chunk_rows} is out of range")
        self.capacity = capacity
        self.chunk_rows = chunk_rows
        self.in_use = 0
        self._slab = slab
        self.base = int(np.random.default_rng(seed).integers(_GENERATION_MASK))
        self._freed = new(capacity, "uint32")  # times that a slot was given back
        self._taken = new(capacity, "bool")
        self._stack = new(capacity, "int32")  # free slots, the next one on top
        self._stacked = 0
        self.grown = 1  # slots from this one on were never in use; slot 0 is spare
        self.chunk_use = np.zeros(-(-capacity // chunk_rows), np.int64)  # slots in use, a chunk

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """What tells whether a reference is alive, with `base`: times that each slot was given back, and which are in
        use."""
        return {"freed": self._freed, "taken": self._taken}

    @property
    def free(self) -> int:
        """How many slots can still be taken."""
        return self.capacity - 1 - self.in_use

    def take(self, count: int) -> Slots:
        """`count` free slots, most recently freed first; raises IndexError when there are fewer."""
        if count > self.free:
            raise IndexError(f"{count} slots asked, {self.free} free")
        recycled = min(count, self._stacked)
        self._stacked -= recycled
        fresh = np.arange(self.grown, self.grown + count - recycled, dtype=np.int64)
        self.grown += len(fresh)
        again = self._stack[self._stacked : self._stacked + recycled][::-1].astype(np.int64)
        slots = np.concatenate((again, fresh))
        self._taken[slots] = True
        self.in_use += count
        np.add.at(self.chunk_use, slots // self.chunk_rows, 1)
        return slots

    def give(self, slots: Slots) -> NDArray[np.int64]:
        """Frees slots in use (each once); returns the chunks that now hold nothing."""
        if not self._taken[slots].all() or len(np.unique(slots)) != len(slots):
            raise ValueError("a slot was given back that is not in use")
        self._taken[slots] = False
        self._freed[slots] += np.uint32(1)
        self._stack[self._stacked : self._stacked + len(slots)] = slots
        self._stacked += len(slots)
        self.in_use -= len(slots)
        chunks = slots // self.chunk_rows
        np.subtract.at(self.chunk_use, chunks, 1)
        touched: NDArray[np.int64] = np.unique(chunks)
        empty: NDArray[np.int64] = touched[self.chunk_use[touched] == 0]
        return empty

    def refs(self, slots: Slots) -> Refs:
        """References to slots as they are now."""
        generations = (self._freed[slots].astype(np.int64) + self.base) & _GENERATION_MASK
        refs: Refs = generations << (SLOT_BITS + SLAB_BITS) | self._slab << SLOT_BITS | slots
        return refs

    def alive(self, refs: Refs) -> NDArray[np.bool_]:
        """Which references still point at the session that they were made for. They must be of this slab."""
        slots = slots_of(refs)
        inside = slots < self.grown
        slots = np.where(inside, slots, SPARE_SLOT)
        alive: NDArray[np.bool_] = inside & self._taken[slots] & (self.refs(slots) == refs)
        return alive

    def lives(self, ref: int) -> bool:
        """`alive` of one."""
        slot = ref & SLOTS_MAX - 1
        if slot >= self.grown or not self._taken[slot]:
            return False
        generation = (int(self._freed[slot]) + self.base) & _GENERATION_MASK
        return ref == generation << (SLOT_BITS + SLAB_BITS) | self._slab << SLOT_BITS | slot

    def taken_from(self, start: int, count: int) -> Slots:
        """At most `count` slots in use, in order, from slot `start` on: for listings in constant memory."""
        found: list[Slots] = []
        missing = count
        for low in range(max(start, 1), self.grown, self.chunk_rows):
            part = np.flatnonzero(self._taken[low : min(low + self.chunk_rows, self.grown)])[:missing] + low
            found.append(part)
            missing -= len(part)
            if missing == 0:
                break
        return np.concatenate(found).astype(np.int64) if found else np.empty(0, np.int64)
