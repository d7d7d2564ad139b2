"""Taking kept observations again: each is a flight like any other, of the sessions that have one more to take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.flights.flight import commit, make_flight
from tidegate.engine.memory.kept import Mark, Observations
from tidegate.engine.memory.slots import Slots
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.errors import Reason


def take_again(lane: Lane, slots: Slots, sequence: Observations, now: float) -> NDArray[np.uint8]:
    """Steps n sessions through their observations; a session stops at the first one that fails.

    Returns why it did, a Reason's number [n], 0 where it did not.
    """
    outcome = np.zeros(len(slots), np.uint8)
    refs, zeroed = lane.slab.slots.refs(slots), sequence.marked(Mark.ZEROED)
    for place in range(len(sequence)):
        going = np.flatnonzero((sequence.length > place) & (outcome == Reason.OK))
        rows = sequence.at(place, going)
        again = slots[going[zeroed[rows]]]
        if len(again):
            lane.slab.reset(again)
        flight = make_flight(lane, _queued(sequence, rows, refs[going]), now)
        flight.run()
        outcome[going] = commit(flight, now)
    return outcome


def _queued(sequence: Observations, rows: NDArray[np.int64], refs: NDArray[np.int64]) -> Queued:
    """The rows as they came."""
    count = len(rows)
    return Queued(
        ref=refs,
        request=np.zeros(count, np.int64),
        row=np.arange(count, dtype=np.int32),
        step=sequence.sent[rows],
        time=sequence.time[rows],
        reset=sequence.marked(Mark.RESET)[rows],
        created=sequence.marked(Mark.CREATED)[rows],
        refused=np.zeros(count, np.uint8),
        deadline=np.full(count, np.inf),
        arrived=np.zeros(count),
        values=sequence.values[rows],
        strict=np.zeros(count, bool),
    )
