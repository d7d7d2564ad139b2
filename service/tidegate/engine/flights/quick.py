"""Quick turns: few single observations or some batches, all ordinary, of a small model: stepped and answered where they
lie.

When few rows come at a time, the objects of a flight cost more than its step: then one row took half a millisecond of
Python. A turn uses columns that are made once a lane. What it finds is read before the next turn begins, so that
nothing is kept: answers that must wait (durability `step`) go by flights.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, Structure, addressof, c_double, c_void_p
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tidegate.config import Durability
from tidegate.engine.flights.ordinary import FOUND, Looker, Ordinary, Rows
from tidegate.engine.queues import gathered
from tidegate.engine.queues.block import Addresses, Scope
from tidegate.engine.queues.lane import Lane
from tidegate.engine.replies import Replies, Singles
from tidegate.engine.step.device import inline_seconds_max
from tidegate.engine.step.stepper import PIECE_ROWS, StepBatch, StepResult
from tidegate.model.manifest import Head
from tidegate.native import address, library

ROWS_MAX = PIECE_ROWS  # of single observations; more go by a flight, whose cost is then small beside the step's

_DESCRIBED = ("columns", "rows", "passes", "counts", "row_seconds")


@dataclass
class Turn:
    """A turn that was taken: who asked, and where the answers lie until the next one. `messages`: they are to the rows
    of so many batches, so many of each, and have no ids. `replies` copies them."""

    request: NDArray[np.int64]
    singles: Singles
    messages: Sequence[int]
    of: QuickLane

    plainly = True  # as of Replies

    def __len__(self) -> int:
        return len(self.request)

    @property
    def head(self) -> Head:
        return self.of.head

    @property
    def outputs(self) -> int:
        """Numbers a row."""
        return self.of.outputs

    @cached_property
    def replies(self) -> Replies:
        """The same as columns: for who asks before the next turn."""
        rows = len(self)
        flags = np.zeros(rows, np.uint8)
        found = self.of.found[:, :rows].copy()
        return Replies(
            request=self.request.copy(),
            row=np.concatenate([np.arange(n, dtype=np.int32) for n in self.messages or [1] * rows]),
            outcome=np.zeros(rows, np.uint8),
            values=self.of.values[:rows].copy(),
            step=found[FOUND.index("step_after")],
            expected=found[FOUND.index("step_after")],
            steps_seen=found[FOUND.index("seen_after")],
            flags=flags,
            imputed=np.zeros((rows, self.of.imputed_bytes), np.uint8),
            gap=np.zeros(rows, np.uint16),
            valid_time=found[FOUND.index("valid_time")],
            head=self.head,
        )


class _Described(Structure):
    """See turn.c."""

    _fields_ = (*((name, c_void_p) for name in _DESCRIBED), ("seconds", c_double))
    seconds: float


def takes_turns(lane: Lane) -> bool:
    """Whether its rows may go by quick turns: of a small model, and answers need not wait."""
    return lane.stepper.by_address and lane.durability is not Durability.STEP


def quick_of(lane: Lane, looker: Looker | None, counts: int) -> QuickLane | None:
    """None where turns cannot be taken: for want of C parts, because of the model, or because answers must wait. Turns
    are counted at the address `counts`: see metrics.py."""
    native = library()
    if looker is None or native is None or not takes_turns(lane):
        return None
    return QuickLane(lane, looker, native, counts)


class QuickLane:
    """The columns of a lane's turns, and where they lie."""

    def __init__(self, lane: Lane, looker: Looker, native: CDLL, counts: int) -> None:
        manifest = lane.package.manifest
        self.model, self.outputs, self.head = lane.model, manifest.outputs, manifest.head
        self.imputed_bytes = lane.slab.host["reply_imputed"].shape[1]
        self._lane, self._looker, self._counts = lane, looker, counts
        self._pace, self._take, self._count = lane.stepper.pace, native.tidegate_turn, native.tidegate_count_turn
        self._seconds_max = inline_seconds_max(lane.stepper.shared)
        self._space = lane.stepper.workspace()
        self.scope: Scope | None = None  # of rows that it is known to take
        self.width = 0  # the same
        self._make_room(ROWS_MAX)

    def _make_room(self, rows: int) -> None:
        self._refs = np.empty(rows, np.int64)
        self.found = np.empty((len(FOUND), rows + 8), np.int64)  # columns not a page apart: they share no cache set
        self.values = np.empty((rows, self.outputs))
        self._finite = np.empty(rows, np.bool_)
        found, stride = address(self.found), self.found.strides[0]
        lies = dict(zip(FOUND, range(found, found + len(FOUND) * stride, stride), strict=True))
        self._rows = Rows(**lies)
        self._described = _Described(
            columns=self._looker.where,
            rows=addressof(self._rows),
            passes=self._space.where,
            counts=self._counts,
            row_seconds=self._pace.where,
        )
        self._where = addressof(self._described)
        self._space.point(self._lane.slab.device, found, 0, address(self.values), address(self._finite))
        self._answers = lies["step_after"], lies["seen_after"], lies["valid_time"], address(self.values)
        self._seen: Addresses | None = None  # what the description is about
        self._whole = Singles((), 0, 0, *self._answers)  # of batches
        self._rows_max = rows

    def _see(self, at: Addresses) -> None:
        """Has the description be about these columns."""
        self._rows.given = at
        if not at.refs:
            self._rows.given.refs = address(self._refs)
        self._space.described.raw = at.values
        self._seen = at

    def takes(self, scope: Scope, width: int) -> bool:
        """Whether it is known to take such rows."""
        return scope is self.scope and width == self.width and not self._lane.retired

    def turn(self, waiting: gathered.Singles | gathered.Batches, refs: list[int], now: float) -> Turn | Ordinary | None:
        """Steps and commits the rows, if all are ordinary; a flight that is stepped already where one is not finite.
        None: nothing has happened. Whose rows batches are is looked up on the way; else `refs` says it."""
        rows, lane, at = waiting.rows, self._lane, waiting.at
        if lane.stepper.expected_seconds(rows) > self._seconds_max:
            return None
        if rows > self._rows_max:
            self._make_room(max(rows, 2 * self._rows_max))
        if self._seen is not at:  # not by what it says: freed columns' addresses are given away again
            self._see(at)
        if isinstance(waiting, gathered.Batches):
            messages, singles = waiting.messages, self._whole
        else:
            self._refs[:rows] = refs
            messages, singles = (), Singles(waiting.ids, at.id_bytes, at.sequence, *self._answers)
        described = self._rows
        described.rows, described.messages = rows, len(messages)
        lost = self._take(self._where, lane.slab.slots.grown, lane.queue.turn, now)
        if lost < 0:
            return None
        lane.queue.pass_by()
        return self._flight(waiting) if lost else Turn(waiting.request[:rows], singles, messages, self)

    def count(self, began: float, ended: float) -> None:
        """Counts the turn that was taken last."""
        self._count(self._where, began, ended)

    def _flight(self, waiting: gathered.Singles | gathered.Batches) -> Ordinary:
        """The turn as a flight that was stepped; with copies of what it found."""
        rows, block = len(waiting), waiting.block()
        found, finite = self.found[:, :rows].copy(), self._finite[:rows].copy()
        slots, _, seen, _, time_after, _, _ = found
        no, nobody = np.zeros(rows, np.bool_), np.zeros(rows, np.int32)
        batch = StepBatch(slots, block.values, no, seen, time_after, nobody)
        result = StepResult(self.values[:rows].copy(), finite, self._described.seconds)
        refs = (waiting.refs if isinstance(waiting, gathered.Batches) else self._refs)[:rows].copy()
        return Ordinary(self._lane, block, refs, batch, self._looker, found, address(found), self._rows, result)
