"""Revision: sessions that are taken back for an observation that comes late, and step what follows it again.

What a session is afterwards is, to the bit, what it would be had the observation come in its time: it is taken back to
a state that is retained, and from there on everything is a step like any other (`restep.py`). Several sessions
of a flight are revised together; its other rows are stepped before, and not touched.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.flights import flight as flights
from tidegate.engine.flights.flight import Flight
from tidegate.engine.flights.restep import take_again
from tidegate.engine.judgement.lateness import find, is_late, rehearse, state_before, with_late
from tidegate.engine.judgement.rules import ADVANCE, KNOWN, REVISE, Observed
from tidegate.engine.memory.kept import Observations, forget
from tidegate.engine.memory.slots import Slots
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.errors import Reason

log = logging.getLogger(__name__)


def make_flight(lane: Lane, rows: Queued, now: float) -> Flight:
    """A flight of the rows, with a revision for those that come late, where the package allows for it."""
    flight = flights.make_flight(lane, rows, now)
    if lane.package.manifest.lateness_steps:
        late = is_late(flight.verdicts.ruling, rows.step)
        if len(late):
            _revise(flight, late, now)
    return flight


def _revise(flight: Flight, late: NDArray[np.int64], now: float) -> None:
    """Finds places for the late rows; those that have none keep the ruling that they got."""
    lane, host, rows, ruling = flight.lane, flight.lane.slab.host, flight.rows, flight.verdicts.ruling
    observed = _observed(flight, late)
    places = find(host, flight.slots[late], observed, lane.package.manifest.lateness_steps)
    ruling[late[places.known]] = KNOWN
    moving = places.back > 0
    late, places, observed = late[moving], places.take(moving), _observed(flight, late[moving])
    if not len(late):
        return
    slots = flight.slots[late]
    sequence = with_late(host, slots, places, observed, rows.values[late])
    verdict, steps, judged = rehearse(state_before(host, slots, places.back), sequence, lane.policy)
    between = (judged > 1) & (observed.step == 0) & (verdict != ADVANCE)  # no number is free for it, or no time
    ruling[late] = np.where(verdict == ADVANCE, REVISE, np.where(between, Reason.TIME_NOT_INCREASING, verdict))
    good = verdict == ADVANCE
    if good.any():
        seconds = lane.stepper.expected_seconds(int(good.sum())) * int(steps[good].max())
        chosen = sequence.of(good)
        flight.revision = Revision(flight, late[good], places.back[good], chosen, now, seconds)


def _observed(flight: Flight, late: NDArray[np.int64]) -> Observed:
    rows = flight.rows
    return Observed(rows.step[late], rows.time[late], flight.digest[late], rows.reset[late], rows.refused[late])


class Revision:
    """The late rows of one flight: `back` [n] steps each, and what is taken instead."""

    def __init__(
        self,
        flight: Flight,
        rows: NDArray[np.int64],
        back: NDArray[np.int64],
        sequence: Observations,
        now: float,
        expected_seconds: float,
    ) -> None:
        self.expected_seconds = expected_seconds
        self._lane, self._ruling, self._rows = flight.lane, flight.verdicts.ruling, rows
        self._slots = flight.slots[rows]
        self._back, self._sequence, self._now = back, sequence, now

    def run(self) -> None:
        """Takes the sessions back and steps them again; one whose steps are not finite is quarantined."""
        slots, slab = self._slots, self._lane.slab
        before = {name: slab.host[name][slots] for name in self._columns}
        waits = before["steps_seen"] == 0  # a command has set its state to zero, and nothing was taken since
        retained = slab.host["retained"][slots] - self._back
        try:
            slab.take_back(slots, self._back)
            outcome = take_again(self._lane, slots, self._sequence, self._now)
        except Exception:  # no memory, say: these rows fail, the server goes on
            log.exception("the revision of %d sessions of %s failed", len(slots), self._lane.model)
            outcome = np.full(len(slots), Reason.INTERNAL, np.uint8)
        failed = np.flatnonzero(outcome != Reason.OK)
        if len(failed):
            self._quarantine(failed, before, slab.host["retained"][slots] - retained)
        slab.reset(slots[waits & (outcome == Reason.OK)])
        self._ruling[self._rows] = np.where(outcome == Reason.OK, REVISE, outcome)

    @property
    def _columns(self) -> list[str]:
        """What a session remembers of itself as it is now, on the host."""
        schema = self._lane.slab.schema
        return [column.past_of for column in schema.past if column.past_of in self._lane.slab.host]

    def _quarantine(self, failed: Slots, before: dict[str, NDArray[Any]], taken: NDArray[np.int64]) -> None:
        """They are as they were, but for the state: a reset helps, or going back to before the late observation. What
        they kept is no longer what led to where they are: they forget it, and nothing is late before it."""
        slab, slots = self._lane.slab, self._slots[failed]
        slab.host["retained"][slots] -= taken[failed]
        slab.host["retained_from"][slots] = np.minimum(slab.host["retained_from"][slots], slab.host["retained"][slots])
        forget(slab.host, slots, np.full(len(slots), slab.schema.kept_steps))
        for name in self._columns:
            slab.host[name][slots] = before[name][failed]
        slab.host["diverged"][slots] = True
