"""Quick turns: few single observations or some batches, all ordinary, of a small model: stepped and answered where they
lie.

When few rows come at a time, the objects of a flight cost more than its step: then one row took half a millisecond of
Python. A turn uses columns that are made once a lane. What it finds is read before the next turn begins, so that
nothing is kept: answers that must wait (durability `step`) go by flights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ctypes import addressof
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

log = logging.getLogger(__name__)

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


def quick_of(lane: Lane, looker: Looker | None) -> QuickLane | None:
    """None where turns cannot be taken: for want of C parts, because of the model, or because answers must wait."""
    native = library()
    if looker is None or native is None or not lane.stepper.by_address or lane.durability is Durability.STEP:
        return None
    return QuickLane(lane, looker)


class QuickLane:
    """The columns of a lane's turns, and where they lie."""

    def __init__(self, lane: Lane, looker: Looker) -> None:
        manifest = lane.package.manifest
        self._lane, self._looker = lane, looker
        self._outputs, self._head = manifest.outputs, manifest.head
        self._space = lane.stepper.workspace()
        self._make_room(ROWS_MAX)

    def _make_room(self, rows: int) -> None:
        self._rows_max = rows
        self._refs = np.empty(rows, np.int64)
        self.found = np.empty((len(FOUND), rows + 8), np.int64)  # columns not a page apart: they share no cache set
        self.values = np.empty((rows, self._outputs))
        self._finite = np.ones(rows, np.bool_)
        found, stride = address(self.found), self.found.strides[0]
        lies = dict(zip(FOUND, range(found, found + len(FOUND) * stride, stride), strict=True))
        self._described = Rows(**lies)
        self._where = addressof(self._described)
        self._slots, self._answers = found, (lies["step_after"], lies["seen_after"], lies["valid_time"])
        self._results_at = address(self.values), address(self._finite)
        self._seen: inbox.Addresses | None = None  # what the description is about
        self._whole = Singles((), 0, 0, *self._answers, address(self.values))  # of batches

    def _see(self, at: inbox.Addresses) -> None:
        """Has the description be about these columns."""
        described = self._described
        for name in ("aliases", "parts", "tables", "step", "time", "values", "deadline", "reset"):
            setattr(described, name, getattr(at, name))
        described.refs = at.refs or address(self._refs)
        self._space.point(self._lane.slab.device, self._slots, at.values, *self._results_at)
        self._seen = at

    def turn(self, waiting: inbox.Singles, refs: list[int], now: float) -> Turn | Ordinary | None:
        """Steps and commits the rows, if all are ordinary; a flight that is stepped already where one is not finite.
        None: nothing has happened."""
        self._refs[: waiting.rows] = refs
        at, (values, _) = waiting.at, self._results_at
        singles = Singles(waiting.ids, at.id_bytes, at.sequence, *self._answers, values)
        return self._turn(waiting, singles, (), now)

    def turn_of_batches(self, waiting: inbox.Batches, now: float) -> Turn | Ordinary | None:
        """As `turn`; whose the rows are is looked up on the way."""
        if waiting.rows > self._rows_max:
            self._make_room(max(waiting.rows, 2 * self._rows_max))
        return self._turn(waiting, self._whole, waiting.messages, now)

    def _turn(
        self, waiting: inbox.Singles | inbox.Batches, singles: Singles, messages: Sequence[int], now: float
    ) -> Turn | Ordinary | None:
        rows, lane, at, described = waiting.rows, self._lane, waiting.at, self._described
        if self._seen is not at:  # not by what it says: freed columns' addresses are given away again
            self._see(at)
        described.rows, described.messages = rows, len(messages)
        slab = lane.slab
        if not self._looker.looks(self._where, slab.slots.grown, lane.queue.turn, now):
            return None
        lane.queue.pass_by()
        try:
            lost, seconds = lane.stepper.step_at(rows, self._space)
        except Exception:  # these rows fail, the server goes on
            log.exception("the step of %d rows of %s failed", rows, lane.model)
            return self._flight(waiting, None)
        if lost:
            return self._flight(waiting, seconds)
        self._looker.commits(self._where, singles.values, now)
        return Turn(waiting.request[:rows], singles, messages, self._head, self._outputs, lane, seconds, self)

    def _flight(self, waiting: inbox.Singles | inbox.Batches, seconds: float | None) -> Ordinary:
        """The turn as a flight that was stepped, in so many seconds, or failed; with copies of what it found."""
        rows, block = len(waiting), waiting.block()
        found, finite = self.found[:, :rows].copy(), self._finite[:rows].copy()
        self._finite.fill(True)
        slots, _, seen, _, time_after, _, _ = found
        no, nobody = np.zeros(rows, np.bool_), np.zeros(rows, np.int32)
        batch = StepBatch(slots, block.values, no, seen, time_after, nobody)
        result = None if seconds is None else StepResult(self.values[:rows].copy(), finite, seconds)
        refs = (waiting.refs if isinstance(waiting, inbox.Batches) else self._refs)[:rows].copy()
        return Ordinary(self._lane, block, refs, batch, self._looker, found, address(found), self._described, result)
