"""Migration: sessions of one version go on in another, with what they remember, or by taking what they keep there.

Where the versions remember alike, columns move. Else, where they take and give the same, the observations that a
session keeps are taken by the new version from zero state, in their order and under their numbers; what it can make no
step of (a gap that it does not bridge, a time off its grid) is left behind with all before it. Rows that are queued
follow. A session that cannot move stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.commands import Migrated, Way
from tidegate.engine.flights.restep import take_again
from tidegate.engine.judgement.lateness import rehearse
from tidegate.engine.judgement.rules import ADVANCE, Remembered
from tidegate.engine.memory import kept
from tidegate.engine.memory.kept import Observations
from tidegate.engine.memory.slab import Slab
from tidegate.engine.memory.slots import Refs, Slots, slots_of
from tidegate.engine.queues.lane import Lane
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog
from tidegate.engine.sessions.likeness import alike, handed_over, interchangeable, memory_of
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME

Ints = NDArray[np.int64]
Outcomes = NDArray[np.uint8]
Follow = Callable[[Refs, Refs], None]


class Migration:
    """Moves one model's sessions to `target`. `follow` is told of references that change: old [n] and new [n]."""

    def __init__(self, catalog: Catalog, sessions: Sessions, target: Lane, now: float, follow: Follow) -> None:
        self._catalog, self._sessions, self._target, self._now, self._follow = catalog, sessions, target, now, follow

    def run(self, tenant: str, ids: Sequence[bytes]) -> Migrated:
        """Moves those of the sessions that are resident; an id may stand there twice."""
        names = self._sessions.names(tenant, self._target.model)
        refs = np.array([names.get(session_id, 0) for session_id in ids], np.int64)
        result = Migrated(
            done=np.zeros(len(ids), bool),
            steps=np.zeros(len(ids), np.int64),
            errors=[(row, Reason.SESSION_NOT_FOUND) for row in np.flatnonzero(refs == 0).tolist()],
            ways=np.zeros(len(ids), np.uint8),
            replayed=np.zeros(len(ids), np.int64),
        )
        for slab, slots in list(self._sessions.by_slab(refs[refs != 0])):
            versions = slab.host["version"][slots]
            for number in np.unique(versions).tolist():
                mine = slots[versions == number]
                rows = [np.flatnonzero(refs == ref) for ref in slab.slots.refs(mine).tolist()]
                self._note(
                    result, rows, slab.host["step"][mine], *self._move(self._catalog.lanes[number], mine, tenant)
                )
        return result

    @staticmethod
    def _note(result: Migrated, rows: list[Ints], steps: Ints, way: Way, outcome: Outcomes, replayed: Ints) -> None:
        for place, mine in enumerate(rows):
            good = outcome[place] == Reason.OK
            result.done[mine], result.steps[mine] = good and way is not Way.ALREADY_THERE, steps[place]
            result.ways[mine] = way if good else Way.FAILED
            result.replayed[mine] = replayed[place] if good else 0
            if not good:
                result.errors += [(row, Reason(int(outcome[place]))) for row in mine.tolist()]

    def _move(self, source: Lane, slots: Slots, tenant: str) -> tuple[Way, Outcomes, Ints]:
        """Moves sessions of one version; returns how, and of each why not [n] and how many observations it took [n]."""
        fine, none = np.zeros(len(slots), np.uint8), np.zeros(len(slots), np.int64)
        if source is self._target:
            return Way.ALREADY_THERE, fine, none
        if not alike(source, self._target):
            return Way.REPLAY, *self._replay(source, slots, tenant)
        if source.slab is self._target.slab:
            self._stay(source, slots)
            return Way.STATE, fine, none
        return Way.STATE, self._carry(source, slots, tenant), none

    def _stay(self, source: Lane, slots: Slots) -> None:
        """In the same rows of the same slab: only who steps them changes."""
        slab, target = source.slab, self._target
        refs = slab.slots.refs(slots)
        self._requeue(source, slots, refs, refs)
        slab.host["version"][slots] = target.number
        identity = target.identify(_ids(slab, slots))
        if identity is not None:
            slab.host["identity"][slots] = identity
        slab.unsaved[slots] = True
        source.sessions -= len(slots)
        target.sessions += len(slots)
        self._catalog.drop_unused()

    def _carry(self, source: Lane, slots: Slots, tenant: str) -> Outcomes:
        """To rows of another slab, with all columns that fit; earlier states only where as many are retained."""
        old, new = source.slab, self._target.slab
        fresh, outcome = self._open(source, slots)
        moved = slots[: len(fresh)]
        names = set(memory_of(new.schema))
        if old.schema.past and [column.shape for column in old.schema.past] == [
            column.shape for column in new.schema.past
        ]:
            names |= {"retained", "retained_from", *(column.name for column in new.schema.past)}
        new.copy(fresh, old, moved, names)
        if old.schema.kept_steps and new.schema.kept_steps:
            count = np.minimum(kept.held(old.host, moved), new.schema.kept_steps)
            _keep_all(new, fresh, kept.last(old.host, moved, count))
        self._settle(source, moved, fresh, tenant)
        return outcome

    def _replay(self, source: Lane, slots: Slots, tenant: str) -> tuple[Outcomes, Ints]:
        """By what they keep, taken from zero state; returns why not [n], and how many observations each took [n]."""
        replayed = np.zeros(len(slots), np.int64)
        outcome = np.full(len(slots), Reason.PACKAGE_MISMATCH, np.uint8)
        if not interchangeable(source.package.manifest, self._target.package.manifest):
            return outcome, replayed
        host, has_ring = source.slab.host, source.slab.schema.kept_steps > 0
        count = kept.held(host, slots) if has_ring else replayed
        can = (count > 0) | (host["steps_seen"][slots] == 0)  # zero state needs no past
        places = np.flatnonzero(can)
        fresh, outcome[places] = self._open(source, slots[places])
        places = places[: len(fresh)]
        moving = slots[places]
        new = self._target.slab
        new.host["step"][fresh] = host["step"][moving]
        if has_ring:
            sequence = self._sequence(source, moving, count[places])
            has = sequence.length > 0
            new.host["step"][fresh[has]] = sequence.step[sequence.at(0, np.flatnonzero(has))] - 1
            try:
                outcome[places] = take_again(self._target, fresh, sequence, self._now)
            except Exception:
                new.close(fresh)
                raise
            replayed[places] = sequence.length
        zero = host["steps_seen"][moving] == 0
        new.reset(fresh[zero])
        good = outcome[places] == Reason.OK
        new.close(fresh[~good])
        self._settle(source, moving[good], fresh[good], tenant)
        return outcome, replayed

    def _sequence(self, source: Lane, slots: Slots, count: Ints) -> Observations:
        """What they keep as the new version takes it, from where on it can be taken without a break."""
        host = source.slab.host
        sequence = kept.last(host, slots, count)
        sequence.values = self._over(source, sequence.values)
        while True:
            has = np.flatnonzero(sequence.length > 0)
            first = sequence.at(0, has)
            before = _nothing(len(slots))
            before.step[has] = sequence.step[first] - 1
            ruling, _, judged = rehearse(before, sequence, self._target.policy)
            if (ruling == ADVANCE).all():
                break
            sequence = sequence.without(np.where(ruling == ADVANCE, 0, judged - 1))
        roles = [feature.role for feature in self._target.package.manifest.features]
        static = np.flatnonzero([role == "static" for role in roles])
        own = self._over(source, host["last_input"][slots[has]])[:, static]  # they may have been sent long ago
        given = sequence.values[first[:, None], static]
        sequence.values[first[:, None], static] = np.where(np.isnan(given), own, given)
        return sequence

    def _over(self, source: Lane, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return handed_over(source.package.manifest, self._target.package.manifest, values)

    def _open(self, source: Lane, slots: Slots) -> tuple[Slots, Outcomes]:
        """Rows in the target's slab for as many as there is room; and why there is none for the others, [n]."""
        old, target = source.slab, self._target
        outcome = np.zeros(len(slots), np.uint8)
        room = self._sessions.make_room(target, len(slots)) if len(slots) else 0
        outcome[room:] = Reason.SESSION_LIMIT
        moved = slots[:room]
        if not len(moved):
            return moved, outcome
        ids = _ids(old, moved)
        tenant = int(old.host["tenant"][moved[0]])
        return slots_of(target.slab.open(ids, target.number, tenant, self._now, target.identify(ids))), outcome

    def _settle(self, source: Lane, slots: Slots, fresh: Slots, tenant: str) -> None:
        """From now on the sessions are the fresh rows; the old ones are freed."""
        if not len(slots):
            return
        old, new = source.slab, self._target.slab
        new.host["active_at"][fresh] = old.host["active_at"][slots]
        new.asked_at[fresh] = old.asked_at[slots]
        new.epoch[fresh], new.unsaved[fresh] = old.epoch[slots], True
        before, after = old.slots.refs(slots), new.slots.refs(fresh)
        self._sessions.names(tenant, self._target.model).update(zip(_ids(old, slots), after.tolist(), strict=True))
        self._target.sessions += len(slots)
        self._requeue(source, slots, before, after)
        self._follow(before, after)
        self._sessions.free(old, slots)

    def _requeue(self, source: Lane, slots: Slots, before: Refs, after: Refs) -> None:
        """Rows that wait for the old version wait for the new one."""
        rows = source.queue.withdraw(before)
        source.slab.next_turn[slots] = 0
        if rows is None:
            return
        order = np.argsort(before)
        rows.ref = after[order[np.searchsorted(before[order], rows.ref)]]
        rows.values = self._over(source, rows.values)
        self._target.queue.append(rows, self._target.slab.next_turn)


def _ids(slab: Slab, slots: Slots) -> list[bytes]:
    return [slab.ids[slot] or b"" for slot in slots.tolist()]


def _nothing(sessions: int) -> Remembered:
    """Of n sessions without a past."""
    zeros = np.zeros(sessions, np.int64)
    time = np.full(sessions, NO_TIME, np.int64)
    return Remembered(zeros.copy(), zeros.copy(), time, zeros.astype(np.uint64), zeros.astype(bool))


def _keep_all(slab: Slab, slots: Slots, sequence: Observations) -> None:
    """Keeps observations that were taken elsewhere."""
    for place in range(len(sequence)):
        going = np.flatnonzero(sequence.length > place)
        rows = sequence.at(place, going)
        kept.keep(
            slab.host,
            slots[going],
            sequence.step[rows],
            sequence.time[rows],
            sequence.marks[rows],
            sequence.values[rows],
        )
