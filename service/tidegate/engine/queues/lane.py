"""A lane: one loaded version, its stepper, its slab, and the rows that wait for it.

Rows wait as columns, in chunks as they came, listed by turn: taking a batch costs by the rows taken and the chunks that
they lie in, never by the length of the queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.config import Durability
from tidegate.engine.judgement.imputation import Imputation
from tidegate.engine.judgement.rules import Policy
from tidegate.engine.memory.slab import Slab
from tidegate.engine.memory.slots import Refs, slots_of
from tidegate.engine.queues.block import Block, Scope
from tidegate.engine.queues.choice import assign_turns
from tidegate.engine.queues.layout import Layout, layout_of
from tidegate.engine.step.stepper import Stepper
from tidegate.errors import Reason, TidegateError
from tidegate.model.package import Package
from tidegate.model.scaling import unseen
from tidegate.model.sequence import Sequence, takes


@dataclass
class Queued:
    """Columns of rows that wait: all [n], values [n, features] in the package's order and units."""

    ref: NDArray[np.int64]
    request: NDArray[np.int64]
    row: NDArray[np.int32]
    step: NDArray[np.int64]
    time: NDArray[np.int64]
    reset: NDArray[np.bool_]
    created: NDArray[np.bool_]
    refused: NDArray[np.uint8]
    deadline: NDArray[np.float64]
    arrived: NDArray[np.float64]
    values: NDArray[np.float64]
    strict: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ref)

    def columns(self) -> list[NDArray[Any]]:
        return [getattr(self, name) for name in _NAMES]

    def take(self, rows: NDArray[np.int64] | slice) -> Queued:
        return Queued(*(column[rows] for column in self.columns()))

    def expire(self, stream: int, shift: int) -> None:
        """Marks the rows of a stream that went away."""
        self.deadline[self.request >> shift == stream] = -np.inf

    def refuse(self, refs: NDArray[np.int64], reason: Reason) -> None:
        """Marks the rows of these sessions."""
        self.refused[np.isin(self.ref, refs) & (self.refused == 0)] = reason


_NAMES = [field.name for field in fields(Queued)]


@dataclass
class _Held:
    """Rows of a session that is held, in order, and why it is not here any more (OK: nobody has said so)."""

    rows: list[Queued]
    reason: Reason = Reason.OK


class _Chunk:
    """Rows that were queued together, in the order of their turns, and how many of them are gone."""

    def __init__(self, rows: Queued, turns: NDArray[np.int64]) -> None:
        self._rows, self._turns = rows, turns
        self._start = 0

    def __len__(self) -> int:
        return len(self._turns) - self._start

    @property
    def turn(self) -> int:
        """The turn of its next row."""
        return int(self._turns[self._start])

    def take(self, rows_max: int) -> Queued:
        """Its rows of the next turn, at most so many."""
        end = int(np.searchsorted(self._turns, self.turn, side="right"))
        rows = slice(self._start, min(end, self._start + rows_max))
        self._start = rows.stop
        return self._rows.take(rows)

    def withdraw(self, refs: NDArray[np.int64]) -> tuple[Queued, NDArray[np.int64]]:
        """Removes what is left of these sessions; returns it with its turns."""
        rest, turns = self._rows.take(slice(self._start, None)), self._turns[self._start :]
        gone = np.isin(rest.ref, refs)
        self._rows, self._turns, self._start = rest.take(np.flatnonzero(~gone)), turns[~gone], 0
        return rest.take(np.flatnonzero(gone)), turns[gone]

    def expire(self, stream: int, shift: int) -> None:
        """See RowQueue.expire."""
        self._rows.expire(stream, shift)

    def refuse(self, refs: NDArray[np.int64], reason: Reason) -> None:
        """See RowQueue.refuse."""
        self._rows.refuse(refs, reason)


class RowQueue:
    """Rows by turn; see `choice`. A chunk is listed under the turn of its next row, the oldest chunk first."""

    def __init__(self) -> None:
        self._turns: dict[int, list[tuple[int, _Chunk]]] = {}  # heaps, by age
        self.turn = 0  # the next one: a slot whose own next one is not later has no row here
        self._begun = False  # some rows of that turn were taken
        self.rows = 0  # that have a turn; those that are held back have none
        self._chunks = 0
        self._held: dict[int, _Held] = {}  # by reference

    def __len__(self) -> int:
        return self.rows

    @property
    def under_way(self) -> bool:
        """Whether a batch took a part of the turn, and another part is here: what comes now could only follow it."""
        return self._begun and self.turn in self._turns

    def pass_by(self) -> None:
        """A batch had the next turn without waiting here. Only while the queue is empty."""
        self.turn += 1

    def append(self, rows: Queued, next_turn: NDArray[np.int64]) -> None:
        """Adds rows; `next_turn` is the slab's column for `assign_turns`."""
        turns = assign_turns(slots_of(rows.ref), next_turn, self.turn)
        if (turns[1:] < turns[:-1]).any():
            order = np.argsort(turns, kind="stable")
            rows, turns = rows.take(order), turns[order]
        self._chunks += 1
        self._list(self._chunks, _Chunk(rows, turns))
        self.rows += len(rows)

    def take(self, rows_max: int) -> Queued:
        """Removes and returns the next batch: rows of different sessions, oldest first, at most so many.

        There may be none, when all are of sessions that are held.
        """
        if self.turn not in self._turns:
            self.turn = min(self._turns)
        chunks = self._turns[self.turn]
        parts: list[Queued] = []
        room = rows_max
        while chunks and room:
            age, chunk = chunks[0]
            parts.append(chunk.take(room))
            room -= len(parts[-1])
            if not len(chunk) or chunk.turn > self.turn:
                heapq.heappop(chunks)
                if len(chunk):
                    self._list(age, chunk)
        self._begun = bool(chunks)
        if not chunks:
            del self._turns[self.turn]
            self.turn += 1
        self.rows -= rows_max - room
        rows = _joined(parts)
        return self._set_aside(rows) if self._held else rows

    @property
    def holding(self) -> bool:
        """Whether any session is held."""
        return bool(self._held)

    def hold(self, ref: int) -> None:
        """From now on rows of that session are held back, in order, until it is released."""
        self._held[ref] = _Held([])

    def release(self, refs: NDArray[np.int64], next_turn: NDArray[np.int64], first: Queued | None = None) -> None:
        """The rows of these sessions are taken again: `first`, then those that were held back, then the later ones."""
        rows = self.withdraw(refs)
        parts = [part for part in (first, rows) if part is not None]
        if parts:
            self.append(_joined(parts), next_turn)

    def held(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which sessions are held, [n]."""
        return np.isin(slots, slots_of(np.fromiter(self._held, np.int64, len(self._held))))

    def lost(self, ref: int) -> Reason:
        """Why a session that is held is not here any more, OK if nobody has said so."""
        return self._held[ref].reason

    def withdraw(self, refs: NDArray[np.int64]) -> Queued | None:
        """Removes and returns the rows of these sessions, each one's in order; None when there are none. They are held
        no more. Costs by the length of the queue."""
        aside = [rows for ref in refs.tolist() for rows in (self._held.pop(ref, None) or _Held([])).rows]
        listed = self._withdraw(refs)
        parts = aside if listed is None else [*aside, listed]
        return _joined(parts) if parts else None

    def _withdraw(self, refs: NDArray[np.int64]) -> Queued | None:
        """Those that have a turn."""
        listed = [entry for chunks in self._turns.values() for entry in chunks]
        found = [chunk.withdraw(refs) for _, chunk in listed]
        self._turns = {}
        for age, chunk in listed:
            if len(chunk):
                self._list(age, chunk)
        self._begun = self.under_way  # else what comes later would find a turn begun of which nothing is here
        parts = [rows for rows, _ in found if len(rows)]
        if not parts:
            return None
        rows = _joined(parts)
        self.rows -= len(rows)
        return rows.take(np.argsort(np.concatenate([turns for _, turns in found]), kind="stable"))

    def expire(self, stream: int, shift: int) -> None:
        """Marks the rows of a stream that went away, so that they are dropped unstepped when their turn comes."""
        for chunks in self._turns.values():
            for _, chunk in chunks:
                chunk.expire(stream, shift)
        for held in self._held.values():
            for rows in held.rows:
                rows.expire(stream, shift)

    def refuse(self, refs: NDArray[np.int64], reason: Reason) -> None:
        """Has the rows of these sessions, which are gone, be answered with the reason when their turn comes."""
        for chunks in self._turns.values():
            for _, chunk in chunks:
                chunk.refuse(refs, reason)
        for ref in self._held.keys() & set(refs.tolist()):
            self._held[ref].reason = reason
            for rows in self._held[ref].rows:
                rows.refuse(refs, reason)

    def _set_aside(self, rows: Queued) -> Queued:
        """Those of sessions that are not held."""
        held = np.array([ref in self._held for ref in rows.ref.tolist()])
        for row in np.flatnonzero(held).tolist():
            self._held[int(rows.ref[row])].rows.append(rows.take(slice(row, row + 1)))
        return rows.take(np.flatnonzero(~held)) if held.any() else rows

    def _list(self, age: int, chunk: _Chunk) -> None:
        heapq.heappush(self._turns.setdefault(chunk.turn, []), (age, chunk))


def _joined(parts: list[Queued]) -> Queued:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part.columns() for part in parts), strict=True)
    return Queued(*(np.concatenate(column) for column in columns))


class Lane:
    """One loaded version of one model. `number` is what sessions remember as their version."""

    def __init__(
        self,
        number: int,
        package: Package,
        stepper: Stepper,
        slab: Slab,
        durability: Durability = Durability.NONE,
    ) -> None:
        self.number = number
        self.package = package
        self.stepper = stepper
        self.slab = slab
        self.queue = RowQueue()
        self.retired = False
        self.durability = durability
        self.spare: tuple[Slab, Refs] | None = None  # room for the copy of one session, see histories/warming.py
        self.sessions = 0
        self.imputation = Imputation(package.manifest, unseen(package.manifest))
        self._identities = {session_id.encode(): number for number, session_id in enumerate(package.manifest.ids, 1)}
        gaps = package.manifest.gaps
        self.policy = Policy(
            package.frequency, gaps.gap_steps_max if gaps.policy == "impute" else 0, gaps.time_tolerance
        )
        self._layouts: dict[Scope, Layout] = {}

    @property
    def model(self) -> str:
        return self.package.manifest.name

    @property
    def version(self) -> str:
        return self.package.manifest.version

    @property
    def width(self) -> int:
        """Values of an observation, as clients send it."""
        return len(self.package.manifest.sent)

    @property
    def targets(self) -> int:
        return len(self.package.manifest.targets)

    def identify(self, ids: Iterable[bytes]) -> NDArray[np.int32] | None:
        """Which of the package's ids new sessions have, from 1 (0: none of them); None when the package knows none."""
        if not self._identities:
            return None
        return np.array([self._identities.get(session_id, 0) for session_id in ids], np.int32)

    def takes_as_it_is(self, block: Block) -> bool:
        """Whether the block's values are this version's, in its order and units."""
        return block.future is None and self.takes_plainly(block.scope, block.values.shape[1])

    def takes_plainly(self, scope: Scope, width: int) -> bool:
        """Whether so many values of the scope are this version's, in its order and units."""
        if not width == self.width == len(self.package.manifest.features):
            return False
        try:
            return self.layout(scope).plain
        except TidegateError:
            return False

    @cached_property
    def sequence(self) -> Sequence | None:
        """Takes many steps of one session at once; None where the model's steps cannot be taken so."""
        package = self.package
        return Sequence(package, self.slab.device["state"].device) if takes(package.manifest) else None

    def layout(self, scope: Scope) -> Layout:
        """How the scope's values map to this version's; raises TidegateError BAD_CONFIG or UNIT_MISMATCH."""
        layout = self._layouts.get(scope)
        if layout is None:
            layout = layout_of(scope, self.package)
            if len(self._layouts) >= 1024:  # streams name few; an unbounded cache would be a leak
                self._layouts.clear()
            self._layouts[scope] = layout
        return layout
