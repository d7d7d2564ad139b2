"""One task that does all that a store is asked for, in turn: so no two requests for a session can overtake each other.

A round: sessions that left are seen out, those that are asked for are brought in, answers that are held are made
durable; and, each interval, everything that moved is saved. Where the store fails, all of it waits for the next round:
steps go on meanwhile, and the lag says how old what is not saved may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import numpy as np

from tidegate.checkpoints import Key
from tidegate.config import Limits
from tidegate.durability.arrivals import AGAIN_SECONDS, Arrivals
from tidegate.durability.exits import Exits
from tidegate.durability.lease import Lease, asked_to_end
from tidegate.durability.passes import Marks, Passes
from tidegate.engine.loop import EngineHost
from tidegate.errors import Reason, TidegateError
from tidegate.store.protocol import Store, StoreError

FAILED_SECONDS = 0.2  # until a store that failed is tried again
EXPIRE_SECONDS = 60.0  # between two looks for stored sessions that are past their time
DAMAGE_SECONDS = 60.0  # between two lines about damaged checkpoints: who asks for one may do so again and again
CLOSE_SECONDS_MAX = 0.5  # for the store's end when time is up: one that hangs is left as it is

_FAULT = "a round of checkpoints failed"

log = logging.getLogger(__name__)


class Durability:
    """Keeps the sessions of one engine in a store. Construct, `start`, `stop`."""

    def __init__(
        self,
        host: EngineHost,
        store: Store,
        limits: Limits,
        mark: Callable[[], Marks],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0  # rounds that the store broke off
        self.lost = 0  # sessions that another replica took
        self.store = store
        self.departures = host.engine.departures
        self._host, self._limits, self._clock = host, limits, clock
        self.arrivals = Arrivals(host, store, limits, clock)
        self.exits = Exits(host, store, self.arrivals, self._discard)
        self.passes = Passes(host, store, mark, self.exits, self._discard, clock)
        self.lease = Lease(host, store, limits.lease_seconds, self._discard, self.arrivals.ask_again, self._away, clock)
        self._next_pass = self._next_expiry = self._next_damage = clock()
        self._damage_told = 0
        self._failing = False
        self._failed_at = clock()
        self._wake = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        host.visit, host.on_waiting = self.visit, self._wake.set
        if store.shared:
            host.may_step = self.lease.may_step

    @property
    def lag_seconds(self) -> float:
        """How long ago the oldest change that is not saved may have been; 0 when all is."""
        at_risk = self.exits.unsaved or self.passes.unsaved
        return self._clock() - self.passes.clean_at if at_risk else 0.0

    @property
    def lease_age_seconds(self) -> float:
        """How long ago the store answered a life sign; 0 where it is this replica's alone."""
        return self.lease.age_seconds if self.store.shared else 0.0

    @property
    def lagging(self) -> bool:
        """Whether the lag is longer than it may be, or a shared store has not answered for so long, which nothing
        unsaved would tell: the server is not healthy, and takes no new sessions."""
        most = self._limits.checkpoint_lag_seconds_max
        if self.lease_age_seconds > most:
            return True
        return self._clock() - self.passes.clean_at > most and self.lag_seconds > most

    @property
    def rows_parked(self) -> int:
        """Rows that wait for their sessions."""
        return self._host.engine.admission.parking.rows

    @property
    def rows_parked_max(self) -> int:
        """Rows at which streams are no longer read."""
        return self._limits.parked_rows_max

    @property
    def saved(self) -> int:
        """Checkpoints written."""
        return self.passes.saved + self.exits.saved

    async def start(self) -> None:
        """Opens the store; makes the sessions of one that is this replica's alone resident. Raises StoreError."""
        await self.store.start()
        if self.store.shared:
            asked = self._clock()
            await self.store.renew()
            self.lease.renewed_at = asked
        else:
            await self.arrivals.restore_all()
            restored, damaged = self.arrivals.restored, self.store.damaged
            if restored or damaged:
                level = logging.WARNING if damaged else logging.INFO
                log.log(level, "restored %d sessions; %d damaged", restored, damaged)
            self._damage_told = damaged
        self.passes.clean_at = self._next_pass = self._clock()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run())]
        if self.store.shared:
            self._tasks.append(loop.create_task(self.lease.run()))

    async def stop(self) -> None:
        """Saves what moved, once more, gives the sessions of a shared store to whoever asks next, and closes it.
        Nothing must move meanwhile."""
        self._stopping = True
        self._wake.set()
        closing_seconds_max: float | None = None  # for as long as who stops it waits
        try:
            if self._tasks:
                await self._tasks[0]  # a round is never cut off: what it took would be lost on its way
                await self._last_rounds()
        except asyncio.CancelledError:
            log.error("time is up: %s", self._unfinished())
            closing_seconds_max = CLOSE_SECONDS_MAX
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(closing_seconds_max):
                    await self.store.stop()

    def _unfinished(self) -> str:
        """What kept the end waiting, for the log."""
        departures = self._host.engine.departures
        stages = {
            "the round that was under way is not done": not self._tasks[0].done(),
            "sessions that leave are not in the store": self.exits.waiting,
            "sessions that are to leave have rows in a queue": departures.waiting,
            f"what moved in the last {self.lag_seconds:.1f} s is not saved": self.passes.unsaved,
            "requests for sessions are not answered": self.arrivals.waiting,
        }
        told = [stage for stage, holds in stages.items() if holds]
        return ", ".join(told) or "the last round is not done"

    async def _last_rounds(self) -> None:
        """Until all is saved and given back; who stops the server says for how long."""
        while not asked_to_end():
            try:
                await self.round(last=True)
            except StoreError as error:
                self._failed(error)
            except Exception:
                log.exception(_FAULT)
            else:
                if not (self.exits.waiting or self.passes.unsaved or self._host.engine.departures.waiting):
                    return
            await asyncio.sleep(FAILED_SECONDS)
        raise asyncio.CancelledError

    @asynccontextmanager
    async def visit(self, keys: Sequence[Key], changed: bool) -> AsyncIterator[Mapping[Key, Reason]]:
        """Has sessions stay here for a command; yields those that cannot be had, and why. What a command `changed` is
        durable at the end. Raises STORE_UNAVAILABLE when it is done, but not durable in time."""
        kept = [key for key in keys if self._host.engine.catalog.durable(key.model)]
        await self._sure()
        try:
            yield await self.arrivals.ask(kept)
        finally:
            self.arrivals.end(kept)
        if changed and kept:
            try:
                async with asyncio.timeout(self._limits.handover_seconds_max):
                    await self.passes.now(kept)
            except TimeoutError:
                raise TidegateError(Reason.STORE_UNAVAILABLE, "it is done, but not yet in the store") from None

    async def _sure(self) -> None:
        """Waits while it is in doubt which sessions are this replica's; raises STORE_UNAVAILABLE after too long."""
        until = self._clock() + self._limits.handover_seconds_max
        while self.store.shared and not self.lease.sure:
            if self._clock() > until:
                raise TidegateError(Reason.STORE_UNAVAILABLE)
            await asyncio.sleep(AGAIN_SECONDS)

    async def round(self, last: bool = False) -> None:
        """All that there is to do; raises StoreError when the store does not do it."""
        self._wake.clear()
        await self._between()
        now = self._clock()
        if last or self._failing or now >= self._next_pass:
            await self.passes.full(self._between)
            self._next_pass = now + self._limits.checkpoint_seconds
        if now >= self._next_expiry:
            await self.store.expire()
            self._next_expiry = now + EXPIRE_SECONDS
        if last and self.store.shared:
            await self._release_all()

    async def _release_all(self) -> None:
        def all_leave() -> None:
            for keys, _ in self._host.engine.saving.claims():
                self._host.engine.departures.leave(keys, "drain")

        await self._host.call(all_leave)
        await self.exits.leave()

    async def _between(self) -> None:
        """What does not wait for a long pass."""
        self.arrivals.give_up()
        self._host.engine.sessions.lagging = self.lagging
        await self.lease.make_sure()
        await self.exits.leave()
        await self.arrivals.fetch()
        await self.exits.leave()  # what made room for them
        await self.passes.urgent()
        await self.passes.group()

    async def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience()):
                    await self._wake.wait()
            if self._failing and not self._stopping:
                await asyncio.sleep(FAILED_SECONDS)
            try:
                await self.round()
            except StoreError as error:
                self._failed(error)
            except Exception:
                log.exception(_FAULT)
                await asyncio.sleep(FAILED_SECONDS)
            else:
                self._went_well()
            self._tell_of_damage()
            self.arrivals.give_up()
            self._host.engine.sessions.lagging = self.lagging

    def _patience(self) -> float:
        """Until the next round, if nothing calls for it."""
        if self._failing:
            return FAILED_SECONDS
        soon = self.arrivals.waiting or self.exits.waiting or self._host.engine.departures.waiting
        due = max(0.0, self._next_pass - self._clock())
        return min(due, AGAIN_SECONDS) if soon else due

    def _discard(self, keys: Sequence[Key], departed: Sequence[int]) -> None:
        """Another replica has these sessions now: what is here of them is old."""
        self.lost += len(keys)

        def discard() -> None:
            refs = self._host.engine.saving.discard(keys)
            self.passes.lose(keys, np.append(refs, np.array(departed, np.int64)))

        self._host.post(discard)

    def _tell_of_damage(self) -> None:
        """Of checkpoints that were met since it told last, at most once in a while."""
        met, now = self.store.damaged, self._clock()
        if met > self._damage_told and now >= self._next_damage:
            log.warning("%d checkpoints are damaged: see SESSION_DAMAGED", met - self._damage_told)
            self._damage_told, self._next_damage = met, now + DAMAGE_SECONDS

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        self._away(error)

    def _away(self, error: StoreError) -> None:
        """Says so once an outage, whoever notices; from then on rounds are made often."""
        if not self._failing:
            log.error("checkpoints are not saved: %s", error)
            self._wake.set()
        self._failing = True
        self._failed_at = self._clock()

    def _went_well(self) -> None:
        """After a round. One that had nothing to tell the store proves nothing of a shared one: a life sign does."""
        if self._failing and (not self.store.shared or self.lease.renewed_at > self._failed_at):
            log.info("checkpoints are saved again")
            self._failing = False
