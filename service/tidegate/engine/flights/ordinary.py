"""Ordinary batches: every row is the next step of a healthy session, complete and in time. Most batches are.

They need none of what `flight.py` does for the others, so two passes in C do (native/columns.c): one looks whether the
batch is ordinary and prepares the step, one writes what the sessions remember. They change nothing that the general
way would not, to the bit; a batch in which one row is not ordinary goes the general way as a whole. So does one whose
step was not finite.
"""

from __future__ import annotations

import logging
from ctypes import CDLL, Structure, addressof, c_double, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.flights.flight import Flight, conclude
from tidegate.engine.judgement.imputation import Imputed
from tidegate.engine.judgement.rules import Verdicts
from tidegate.engine.memory.slots import Refs
from tidegate.engine.queues.block import Addresses, Block
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.engine.replies import Replies, Singles
from tidegate.engine.step.stepper import StepBatch, StepResult, Ticket
from tidegate.native import address, library

log = logging.getLogger(__name__)
_ROWS = 4096  # more are rare
_UNDER_WAY, _NOBODY = np.zeros(_ROWS, np.bool_), np.zeros(_ROWS, np.int32)  # nobody writes to them

_COLUMNS = (
    *("freed", "taken", "leaving", "unsaved", "diverged", "version", "next_turn", "step", "steps_seen", "event_time"),
    *("digest", "active_at", "last_input", "reply", "missing_run", "reply_gap", "reply_flags", "reply_imputed"),
)
FOUND = ("slots", "step_after", "seen", "seen_after", "time_after", "valid_time", "digest")


class _Columns(Structure):
    """See columns.h."""

    _fields_ = (
        *((name, c_void_p) for name in _COLUMNS),
        *((name, c_int64) for name in ("base", "slab", "lane", "features", "outputs", "imputed_bytes", "interval")),
        ("tolerance", c_double),
    )


class Rows(Structure):
    """See columns.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "messages")),
        ("given", Addresses),
        *((name, c_void_p) for name in FOUND),
    )
    rows: int
    messages: int
    given: Addresses


def looker_of(lane: Lane) -> Looker | None:
    """None where the C parts are not, or sessions keep what they do not write: earlier states, or observations."""
    native, schema = library(), lane.slab.schema
    return None if native is None or schema.past or schema.kept_steps else Looker(lane, native)


class Looker:
    """Makes flights of a lane's ordinary batches."""

    def __init__(self, lane: Lane, native: CDLL) -> None:
        slab, policy, manifest = lane.slab, lane.policy, lane.package.manifest
        self._lane, self._native = lane, native
        self._columns = _Columns(
            base=slab.slots.base,
            slab=slab.number,
            lane=lane.number,
            features=len(manifest.features),
            outputs=manifest.outputs,
            imputed_bytes=slab.host["reply_imputed"].shape[1],
            interval=policy.frequency.nanoseconds if policy.frequency.even else -1,
            tolerance=policy.time_tolerance,
        )
        arrays = {**slab.host, **slab.slots.columns, "leaving": slab.leaving, "unsaved": slab.unsaved}
        arrays["next_turn"] = slab.next_turn
        for name in _COLUMNS:
            setattr(self._columns, name, address(arrays[name]))  # they never move
        self.where = addressof(self._columns)

    def look(self, block: Block, refs: Refs, now: float) -> Ordinary | None:
        """The flight of a block whose values are the package's, with references to its rows' sessions (0: unknown)."""
        lane, rows, at = self._lane, len(refs), block.at
        found = np.empty((len(FOUND), rows), np.int64)
        start, stride = address(found), 8 * rows
        described = Rows(rows, 0, at, *range(start, start + len(FOUND) * stride, stride))
        described.given.refs = address(refs)
        slab = lane.slab
        if not self.looks(addressof(described), slab.slots.grown, lane.queue.turn, now):
            return None
        lane.queue.pass_by()
        slots, _, seen, _, time_after, _, _ = found
        identity = slab.host["identity"][slots] if "identity" in slab.host else _NOBODY[:rows]
        fresh = _UNDER_WAY[:rows] if rows <= _ROWS else np.zeros(rows, np.bool_)
        if len(identity) < rows:
            identity = np.zeros(rows, np.int32)
        batch = StepBatch(slots, block.values, fresh, seen, time_after, identity, lies=(start, at.values))
        return Ordinary(lane, block, refs, batch, self, found, start, described)

    def looks(self, rows: int, grown: int, turn: int, now: float) -> bool:
        """Whether the `Rows` at that address are ordinary; see columns.c."""
        return bool(self._native.tidegate_look(self.where, rows, grown, turn, now))

    def commits(self, rows: int, values: int, now: float) -> None:
        """Writes what the sessions of the `Rows` at that address remember; at `values` float64 [rows, outputs] are the
        replies."""
        self._native.tidegate_commit(self.where, rows, values, now)


@dataclass
class Ordinary:
    """A flight, as `flight.Flight` is one. `found` holds what `look` found, one row a column; `described` the addresses
    of all columns."""

    lane: Lane
    rows: Block
    refs: Refs
    batch: StepBatch
    looker: Looker
    found: NDArray[np.int64]
    found_at: int
    described: Structure
    result: StepResult | None = None
    _posted: Ticket | None = None

    @property
    def expected_seconds(self) -> float:
        """What the step will probably take."""
        return self.lane.stepper.expected_seconds(len(self.batch))

    def run(self) -> None:
        """The step. Changes the slab and nothing else of the engine."""
        try:
            self.result = self.lane.stepper.launch(self.batch, self.lane.slab.device).collect()
        except Exception:  # an allocation that fails, a device that is lost: these rows fail, the server goes on
            log.exception("the step of %d rows of %s failed", len(self.batch), self.lane.model)

    def post(self, bell: int) -> bool:
        """Has the stepper's own threads take the step, if it has any; `collect` when the eventfd `bell` has been
        written to."""
        try:
            self._posted = self.lane.stepper.post(self.batch, self.lane.slab.device, bell)
        except Exception:
            log.exception("the step of %d rows of %s could not be posted", len(self.batch), self.lane.model)
        return self._posted is not None

    def collect(self) -> None:
        """The step was posted, and is done."""
        assert self._posted is not None
        try:
            self.result = self._posted.collect()
        except Exception:
            log.exception("what came of the step of %d rows of %s", len(self.batch), self.lane.model)

    def conclude(self, now: float) -> Replies:
        """Writes what the sessions remember; returns the answers."""
        result = self.result
        if result is None or not (result.whole or result.finite.all()):
            return conclude(self._general(), now)
        values_at = result.lies or address(result.values)
        self.looker.commits(addressof(self.described), values_at, now)
        rows = len(self.batch)
        blank = np.zeros(rows, np.int64)  # nobody writes to it
        _, step_after, _, seen_after, _, valid_time, _ = self.found
        return Replies(
            request=self.rows.request,
            row=self.rows.row,
            outcome=np.zeros(rows, np.uint8),
            values=result.values,
            step=step_after,
            expected=step_after,
            steps_seen=seen_after,
            flags=blank.view(np.uint8)[:rows],
            imputed=np.zeros((rows, self.lane.slab.host["reply_imputed"].shape[1]), np.uint8),
            gap=blank.view(np.uint16)[:rows],
            valid_time=valid_time,
            head=self.lane.package.manifest.head,
            plainly=True,
            messages=self.rows.messages,
            singles=self._singles(values_at),
        )

    def _singles(self, values_at: int) -> Singles:
        at, stride = self.found_at, 8 * len(self.batch)
        return Singles(
            ids=self.rows.ids,
            id_bytes=self.rows.at.id_bytes,
            sequence=self.rows.at.sequence,
            step=at + stride,
            steps_seen=at + 3 * stride,
            valid_time=at + 5 * stride,
            values=values_at,
        )

    def _general(self) -> Flight:
        """The same as any other flight, for what can still go wrong."""
        block, batch, found = self.rows, self.batch, self.found
        rows, features = block.values.shape
        nothing, no = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
        queued = Queued(
            ref=self.refs,
            request=block.request,
            row=block.row,
            step=block.step,
            time=block.time,
            reset=no,
            created=no,
            refused=np.zeros(rows, np.uint8),
            deadline=block.deadline,
            arrived=block.arrived,
            values=block.values,
            strict=no,
        )
        blank = np.zeros((rows, features), np.bool_)
        targets = np.zeros((rows, len(self.lane.imputation.feedback.targets)), np.bool_)
        return Flight(
            lane=self.lane,
            rows=queued,
            slots=batch.slots,
            verdicts=Verdicts(np.zeros(rows, np.uint8), nothing, found[1], found[1].copy()),
            digest=found[6].view(np.uint64),
            advancing=np.arange(rows),
            imputed=Imputed(block.values, blank, blank.astype(np.uint16), targets),
            batch=batch,
            gap=None,
            result=self.result,
        )
