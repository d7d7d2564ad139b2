"""This replica's life sign in a shared store, and what it hears there: which of its sessions others want.

A process that was frozen until its lease ran out may have lost sessions to others without knowing. It notices by its
own clock, which then jumps between two beats, and steps nothing before it has asked the store which are still its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tidegate.checkpoints import Key
from tidegate.durability.exits import OnLost
from tidegate.engine.loop import EngineHost
from tidegate.store.protocol import Renewal, Store, StoreError

BEAT_SECONDS = 0.05  # between two renewals: how soon a session that is wanted elsewhere begins to leave
STALL_SECONDS = 0.5  # a gap between two beats that a busy process may have
ROWS = 4096  # of one question

log = logging.getLogger(__name__)


def asked_to_end() -> bool:
    """Whether this task was cancelled: a library may swallow that (asyncio.wait_for of Python 3.11 does, which Redis'
    client sends by, when what it waits for is done at that moment). For loops that nothing else ends."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Lease:
    """Renews, hands over, and doubts. `on_lost` is told of sessions that another replica has meanwhile, `on_away` of
    life signs that the store does not answer."""

    def __init__(
        self,
        host: EngineHost,
        store: Store,
        seconds: float,
        on_lost: OnLost,
        on_strays: Callable[[Sequence[Key]], None],
        on_away: Callable[[StoreError], None],
        clock: Callable[[], float],
    ) -> None:
        self.handed_over = 0
        self.failures = 0  # life signs that the store did not answer
        self._host, self._store, self._seconds, self._clock = host, store, seconds, clock
        self._on_lost, self._on_strays, self._on_away = on_lost, on_strays, on_away
        self.renewed_at = clock()  # when the last life sign was given that the store has answered
        self._beat = self.renewed_at
        self._faulty = False
        self._doubts = self._settled = 0  # how often it came to doubt, and for how many of them it has made sure

    async def run(self) -> None:
        """Beats and renews for ever; a store that does not answer is tried again."""

        async def beat() -> None:  # beside the renewals: a store that hangs is no freeze of this process
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                self.may_step()

        beats = asyncio.create_task(beat())
        try:
            while not asked_to_end():
                await asyncio.sleep(BEAT_SECONDS)
                await self._renew_surely()
        finally:
            beats.cancel()

    async def _renew_surely(self) -> None:
        """One life sign. A fault that nobody thought of is logged, the first time of a row: without any more life signs
        others would take the sessions of a replica that is well."""
        try:
            await self.renew()
        except Exception:
            if not self._faulty:
                log.exception("a life sign failed")
            self._faulty = True
        else:
            self._faulty = False

    async def renew(self) -> None:
        """One life sign."""
        self.may_step()  # notices a jump of the clock
        asked = self._clock()
        try:
            renewal = await self._store.renew()
        except StoreError as error:
            self.failures += 1
            self._on_away(error)  # nobody else notices while there is nothing to save and nothing is asked for
            return
        if asked - self.renewed_at >= self._seconds:
            self._doubts += 1  # cut off from the store for so long: others may not have been
        self.renewed_at = asked
        self._hear(renewal)

    def _let_go(self, wanted: Sequence[Key]) -> None:
        """Hands over; what is wanted of this replica, and is not here, was claimed in vain and is to be given back."""
        departures, sessions = self._host.engine.departures, self._host.engine.sessions
        departures.leave(wanted, "moved")
        self._on_strays(
            [
                key
                for key in wanted
                if not departures.under_way(key) and key.session_id not in sessions.names(key.tenant, key.model)
            ]
        )

    def _hear(self, renewal: Renewal) -> None:
        engine = self._host.engine
        if renewal.lost:
            self._host.post(engine.saving.all_again)
        if renewal.wanted:
            self.handed_over += len(renewal.wanted)
            self._host.post(lambda: self._let_go(renewal.wanted))
        if renewal.wanted or renewal.lost or not self.sure:
            self._host.on_waiting()

    def may_step(self) -> bool:
        """Whether the sessions here are this replica's, for all it knows."""
        now, signed = self._clock(), self.renewed_at
        frozen = now - self._beat
        # A store that is away is no freeze: then the lease ends between two beats like any others.
        if frozen >= self._seconds or (frozen > STALL_SECONDS and self._beat - signed < self._seconds <= now - signed):
            self._doubts += 1
            self._host.on_waiting()
        self._beat = now
        return self.sure

    @property
    def age_seconds(self) -> float:
        """How long ago the last life sign was given that the store has answered."""
        return self._clock() - self.renewed_at

    @property
    def sure(self) -> bool:
        """Whether it has no doubt left."""
        return self._doubts == self._settled

    async def make_sure(self) -> None:
        """In doubt, asks the store which sessions are still here; then steps go on. Raises StoreError."""
        if self.sure:
            return
        doubts = self._doubts
        self._hear(await self._store.renew())  # what is still ours cannot be taken from now on
        for keys, epochs in self._host.engine.saving.claims():
            for start in range(0, len(keys), ROWS):
                part = slice(start, start + ROWS)
                lost = await self._store.lost(keys[part], epochs[part])
                if lost:
                    self._on_lost(lost, ())
        await self._host.caught_up()  # those that are lost are forgotten before any other is stepped
        self._settled = doubts
        self._host.wake()
