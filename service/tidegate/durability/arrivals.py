"""Sessions that are asked for and are not in memory: claimed in the store, and made resident with their waiting rows.

A session that another replica holds is asked for again, until it is handed over or its owner's lease runs out; who
waits for too long is told SESSION_MOVED, or STORE_UNAVAILABLE when it was the store that did not answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from tidegate.checkpoints import Checkpoint, Key, unix_seconds
from tidegate.config import Limits
from tidegate.engine.loop import EngineHost
from tidegate.errors import Reason
from tidegate.store.protocol import Claim, Store

ROWS = 1024  # of one claim: what its answer costs the loop is felt by resident sessions
AGAIN_SECONDS = 0.05  # until a session is asked for again that another replica holds
Outcomes = dict[Key, Reason]

log = logging.getLogger(__name__)


class Arrivals:
    """Brings sessions in. `releases` are claims that came to nothing, to be given back."""

    def __init__(self, host: EngineHost, store: Store, limits: Limits, clock: Callable[[], float]) -> None:
        self.restored = 0
        self.moved = 0  # asked for in vain
        self.releases: list[tuple[Key, int]] = []
        self._host, self._store, self._clock = host, store, clock
        self._seconds_max = limits.handover_seconds_max
        self._idle_seconds_max = limits.idle_seconds_max
        self._pending: dict[Key, float] = {}  # since when
        self._later: dict[Key, tuple[float, Reason]] = {}  # until when it is not asked for again, and why not
        self._visitors: dict[Key, list[asyncio.Future[Reason]]] = {}
        self._visits: dict[Key, int] = {}
        host.engine.departures.visiting = self._visits

    @property
    def waiting(self) -> bool:
        """Whether a session is asked for that is not here."""
        return bool(self._pending) or bool(self._host.engine.admission.parking.wanted)

    async def ask(self, keys: Iterable[Key]) -> Outcomes:
        """Has sessions be resident, or their names be this replica's to open; returns those that cannot be, and why.
        To be ended by `end`."""
        loop, waiting = asyncio.get_running_loop(), dict[Key, asyncio.Future[Reason]]()
        for key in dict.fromkeys(keys):
            self._visits[key] = self._visits.get(key, 0) + 1
            if not self._touch(key):
                waiting[key] = loop.create_future()
                self._visitors.setdefault(key, []).append(waiting[key])
                self._pending.setdefault(key, self._clock())
        if waiting:
            self._host.on_waiting()
        outcomes = {key: await future for key, future in waiting.items()}
        return {key: outcome for key, outcome in outcomes.items() if outcome is not Reason.OK}

    def ask_again(self, keys: Iterable[Key]) -> None:
        """Claims that somebody wants, and that came to nothing here: asked for again, and handed over then."""
        for key in keys:
            self._pending.setdefault(key, self._clock())

    def end(self, keys: Iterable[Key]) -> None:
        """The visit is over: names that it did not use are given back."""
        for key in dict.fromkeys(keys):
            self._visits[key] -= 1
            if not self._visits[key]:
                del self._visits[key]
                self._give_back(key)

    async def fetch(self) -> None:
        """Asks the store for what is wanted. Raises StoreError: then all of it waits on."""
        parking = self._host.engine.admission.parking
        for key in list(parking.wanted):
            del parking.wanted[key]
            self._pending.setdefault(key, self._clock())
        departures = self._host.engine.departures
        here = [key for key in self._pending if self._is_here(key)]
        if here:
            await self._host.call(lambda: self._settle({key: Reason.OK for key in here if self._is_here(key)}))
        now = self._clock()
        keys = [
            key
            for key, since in self._pending.items()
            if now - since <= self._seconds_max  # else `give_up` has answered
            and not (key in self._later and self._later[key][0] > now)
            and not departures.under_way(key)
        ]
        for start in range(0, len(keys), ROWS):
            part = keys[start : start + ROWS]
            claims = await self._store.claim(part)
            await self._host.call(lambda part=part, claims=claims: self._take_in(part, claims))  # type: ignore[misc]

    def give_up(self) -> None:
        """Answers those who have waited for too long."""
        late = [key for key, since in self._pending.items() if self._clock() - since > self._seconds_max]
        if late:
            self._host.post(lambda: self._settle({key: self._why(key) for key in late if key in self._pending}))

    def refuse_all(self, reason: Reason) -> None:
        """Answers all who wait. Between iterations."""
        self._settle(dict.fromkeys(self._pending, reason))

    async def restore_all(self) -> None:
        """Makes all sessions of a store that nobody else uses resident, as far as there is room, but for those that
        were idle for so long that they would leave again: their time in the store goes on."""
        stay: Counter[tuple[str, str]] = Counter()
        since = unix_seconds(self._clock() - self._idle_seconds_max)
        async for found in self._store.scan():
            page = [row for row in found if not 0 < row.active_at < since]
            sessions, lanes = self._host.engine.sessions, self._host.engine.catalog.lanes.values()
            if not any(sessions.room(lane) >= len(page) for lane in lanes):
                break
            keys = [row.key for row in page]
            claims = await self._store.claim(keys)
            failed = cast(Outcomes, await self._host.call(lambda k=keys, c=claims: self._restore(k, c)))  # type: ignore[misc]
            self.releases += [(key, claim.epoch) for key, claim in zip(keys, claims, strict=True) if key in failed]
            stay.update((key.model, reason.name) for key, reason in failed.items())
        for (model, reason), count in stay.items():
            log.warning("%d sessions of %s stay in the store: %s", count, model, reason)

    def _take_in(self, keys: Sequence[Key], claims: Sequence[Claim]) -> None:
        """What the store said of these keys. Between iterations."""
        departures = self._host.engine.departures
        if self.releases:
            claimed = set(keys)
            self.releases = [entry for entry in self.releases if entry[0] not in claimed]
        departures.spared_since = self._clock()
        try:
            self._settle(self._found(keys, claims))
        finally:
            departures.spared_since = float("inf")

    def _found(self, keys: Sequence[Key], claims: Sequence[Claim]) -> Outcomes:
        """Makes sessions of what was claimed; what became of each that need not be asked for again."""
        outcomes = self._restore(keys, claims)
        again = self._clock() + AGAIN_SECONDS
        for key, claim in zip(keys, claims, strict=True):
            self._later.pop(key, None)
            if self._host.engine.departures.under_way(key):
                continue  # it left while it was asked for, and is asked for again
            full = outcomes.get(key) is Reason.SESSION_LIMIT
            if (full or not claim.epoch) and key in self._pending:
                self._later[key] = again, Reason.SESSION_LIMIT if full else Reason.SESSION_MOVED
            if full:
                self.releases.append((key, claim.epoch))  # asked for again when there may be room
            elif not claim.epoch:
                continue
            elif claim.damaged:
                outcomes[key] = Reason.SESSION_DAMAGED
            else:
                outcomes.setdefault(key, Reason.OK)
            if outcomes.get(key) is Reason.PACKAGE_MISMATCH:
                self.releases.append((key, claim.epoch))
        return {key: why for key, why in outcomes.items() if why is not Reason.SESSION_LIMIT}

    def _restore(self, keys: Sequence[Key], claims: Sequence[Claim]) -> Outcomes:
        """Makes sessions of the checkpoints; reserves the names of those that have none, or none that can be read."""
        engine, rows = self._host.engine, list[Checkpoint]()
        for key, claim in zip(keys, claims, strict=True):
            if not claim.epoch or self._is_here(key) or engine.departures.under_way(key):
                continue
            if claim.checkpoint is None:
                engine.sessions.reserved[key] = claim.epoch
            else:
                rows.append(claim.checkpoint)
        epochs = {key: claim.epoch for key, claim in zip(keys, claims, strict=True)}
        failed = engine.saving.restore(rows, epochs, self._clock())
        self.restored += len(rows) - len(failed)
        for key, why in failed.items():
            if why is Reason.SESSION_DAMAGED:
                engine.sessions.reserved[key] = epochs[key]
        return failed

    def _settle(self, outcomes: Outcomes) -> None:
        """Lets the rows go on and tells the visitors; gives back what nobody used."""
        for key, outcome in outcomes.items():
            self._pending.pop(key, None)
            self._later.pop(key, None)
            self.moved += outcome is Reason.SESSION_MOVED
            for visitor in self._visitors.pop(key, ()):
                if not visitor.done():
                    visitor.set_result(outcome)
        self._host.engine.go_on(outcomes)
        for key in outcomes:
            self._give_back(key)

    def _give_back(self, key: Key) -> None:
        """Has a name released that was reserved and that nobody uses."""
        if key not in self._visits:
            epoch = self._host.engine.sessions.reserved.pop(key, 0)
            if epoch:
                self.releases.append((key, epoch))

    def _why(self, key: Key) -> Reason:
        return self._later[key][1] if key in self._later else Reason.STORE_UNAVAILABLE

    def _is_here(self, key: Key) -> bool:
        return key.session_id in self._host.engine.sessions.names(key.tenant, key.model)

    def _touch(self, key: Key) -> bool:
        """Whether the session is here; it makes no room for a while then, but to be looked at is no activity."""
        sessions = self._host.engine.sessions
        ref = sessions.names(key.tenant, key.model).get(key.session_id)
        if ref is not None:
            slab, slot = sessions.place(ref)
            slab.asked_at[slot] = self._clock()
        return ref is not None
