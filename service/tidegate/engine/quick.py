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
from tidegate.engine import inbox
from tidegate.engine.lane import Lane
from tidegate.engine.ordinary import FOUND, Looker, Ordinary, Rows
from tidegate.engine.replies import Replies, Singles
from tidegate.engine.stepper import PIECE_ROWS, StepBatch, StepResult
from tidegate.model.manifest import Head
from tidegate.native import address, library

SECONDS_MAX = 1e-3  # of a step, which keeps the event loop
SHARED_SECONDS_MAX = 3e-4  # threads that share a step are worth their bell from here on
ROWS_MAX = PIECE_ROWS  # of single observations; more go by a flight, whose cost is then small beside the step's


@dataclass
class Turn:
    """A turn that was taken: who asked, and where the answers lie until the next one. `messages`: they are to the rows
    of so many batches, so many of each, and have no ids. `replies` copies them."""

    request: NDArray[np.int64]
    singles: Singles
    messages: Sequence[int]
    head: Head
    outputs: int
    lane: Lane
    seconds: float
    taken: QuickLane

    def __len__(self) -> int:
        return len(self.request)

    plainly = True  # as of Replies

    @cached_property
    def replies(self) -> Replies:
        """The same as columns: for who asks before the next turn."""
        rows = len(self)
        flags = np.zeros(rows, np.uint8)
        found = self.taken.found[:, :rows].copy()
        return Replies(
            request=self.request.copy(),
            row=np.concatenate([np.arange(n, dtype=np.int32) for n in self.messages or [1] * rows]),
            outcome=np.zeros(rows, np.uint8),
            values=self.taken.values[:rows].copy(),
            step=found[FOUND.index("step_after")],
            expected=found[FOUND.index("step_after")],
            steps_seen=found[FOUND.index("seen_after")],
            flags=flags,
            imputed=np.zeros((rows, self.lane.slab.host["reply_imputed"].shape[1]), np.uint8),
            gap=np.zeros(rows, np.uint16),
            valid_time=found[FOUND.index("valid_time")],
            head=self.head,
        )


class _Described(Structure):
    """See turn.c."""

    _fields_ = (*((name, c_void_p) for name in ("columns", "rows", "passes")), ("seconds", c_double))
    seconds: float


def quick_of(lane: Lane, looker: Looker | None) -> QuickLane | None:
    """None where turns cannot be taken: for want of C parts, because of the model, or because answers must wait."""
    native = library()
    if looker is None or native is None or not lane.stepper.by_address or lane.durability is Durability.STEP:
        return None
    return QuickLane(lane, looker, native)


class QuickLane:
    """The columns of a lane's turns, and where they lie."""

    def __init__(self, lane: Lane, looker: Looker, native: CDLL) -> None:
        manifest = lane.package.manifest
        self._lane, self._looker, self._native = lane, looker, native
        self._outputs, self._head = manifest.outputs, manifest.head
        self._seconds_max = SHARED_SECONDS_MAX if lane.stepper.shared else SECONDS_MAX
        self._space = lane.stepper.workspace()
        self.scope: inbox.Scope | None = None  # of rows that it is known to take
        self.width = 0  # the same
        self._make_room(ROWS_MAX)

    def _make_room(self, rows: int) -> None:
        self._refs = np.empty(rows, np.int64)
        self.found = np.empty((len(FOUND), rows + 8), np.int64)  # columns not a page apart: they share no cache set
        self.values = np.empty((rows, self._outputs))
        self._finite = np.empty(rows, np.bool_)
        found, stride = address(self.found), self.found.strides[0]
        lies = dict(zip(FOUND, range(found, found + len(FOUND) * stride, stride), strict=True))
        self._rows = Rows(**lies)
        self._described = _Described(self._looker.where, addressof(self._rows), self._space.where)
        self._where = addressof(self._described)
        self._slots, self._results_at = found, (address(self.values), address(self._finite))
        self._answers = lies["step_after"], lies["seen_after"], lies["valid_time"], address(self.values)
        self._seen: inbox.Addresses | None = None  # what the description is about
        self._whole = Singles((), 0, 0, *self._answers)  # of batches
        self._rows_max = rows

    def _see(self, at: inbox.Addresses) -> None:
        """Has the description be about these columns."""
        rows = self._rows
        for name in ("aliases", "parts", "tables", "step", "time", "values", "deadline", "reset"):
            setattr(rows, name, getattr(at, name))
        rows.refs = at.refs or address(self._refs)
        self._space.point(self._lane.slab.device, self._slots, at.values, *self._results_at)
        self._seen = at

    def takes(self, scope: inbox.Scope, width: int) -> bool:
        """Whether it is known to take such rows."""
        return scope is self.scope and width == self.width and not self._lane.retired

    def turn(self, waiting: inbox.Singles | inbox.Batches, refs: list[int], now: float) -> Turn | Ordinary | None:
        """Steps and commits the rows, if all are ordinary; a flight that is stepped already where one is not finite.
        None: nothing has happened. Whose rows batches are is looked up on the way; else `refs` says it."""
        rows, lane, at = waiting.rows, self._lane, waiting.at
        if lane.stepper.expected_seconds(rows) > self._seconds_max:
            return None
        if rows > self._rows_max:
            self._make_room(max(rows, 2 * self._rows_max))
        if self._seen is not at:  # not by what it says: freed columns' addresses are given away again
            self._see(at)
        if isinstance(waiting, inbox.Batches):
            messages, singles = waiting.messages, self._whole
        else:
            self._refs[:rows] = refs
            messages, singles = (), Singles(waiting.ids, at.id_bytes, at.sequence, *self._answers)
        described = self._rows
        described.rows, described.messages = rows, len(messages)
        lost = self._native.tidegate_turn(self._where, lane.slab.slots.grown, lane.queue.turn, now)
        if lost < 0:
            return None
        seconds = self._described.seconds
        lane.queue.pass_by()
        lane.stepper.pace.measured(rows, seconds)
        if lost:
            return self._flight(waiting, seconds)
        return Turn(waiting.request[:rows], singles, messages, self._head, self._outputs, lane, seconds, self)

    def _flight(self, waiting: inbox.Singles | inbox.Batches, seconds: float) -> Ordinary:
        """The turn as a flight that was stepped, in so many seconds; with copies of what it found."""
        rows, block = len(waiting), waiting.block()
        found, finite = self.found[:, :rows].copy(), self._finite[:rows].copy()
        slots, _, seen, _, time_after, _, _ = found
        no, nobody = np.zeros(rows, np.bool_), np.zeros(rows, np.int32)
        batch = StepBatch(slots, block.values, no, seen, time_after, nobody)
        result = StepResult(self.values[:rows].copy(), finite, seconds)
        refs = (waiting.refs if isinstance(waiting, inbox.Batches) else self._refs)[:rows].copy()
        return Ordinary(self._lane, block, refs, batch, self._looker, found, address(found), self._rows, result)
