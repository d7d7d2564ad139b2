"""Checkpoints of what moved, and what is durable by that.

A full pass saves all that has moved when it begins; when it is through, every message that was answered before is
durable, and streams are told so. Between passes, answers that are held (durability `step`) are let go in groups: all
that were held when a group began, behind one save of their sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tidegate.checkpoints import Key
from tidegate.durability.exits import Exits, OnLost
from tidegate.engine.loop import EngineHost
from tidegate.engine.sessions.saving import Taken
from tidegate.errors import Reason, TidegateError
from tidegate.store.protocol import Store

ROWS = 4096  # of one save: gather and copy are the loop's only work, and short


class Marks(Protocol):
    """How far each stream is answered now, to be told as durable later."""

    def tell(self, lost: Collection[Key]) -> None:
        """It is durable, but for these sessions."""
        ...


class Passes:
    """Saves. `on_lost` is told of sessions that another replica has meanwhile."""

    def __init__(
        self,
        host: EngineHost,
        store: Store,
        mark: Callable[[], Marks],
        exits: Exits,
        on_lost: OnLost,
        clock: Callable[[], float],
    ) -> None:
        self.saved = 0
        self.clean_at = clock()  # all that had moved by then is saved
        self._host, self._store, self._mark, self._exits = host, store, mark, exits
        self._on_lost, self._clock = on_lost, clock
        self._saving = host.engine.saving
        self._writing = Taken([], [])
        self._lost: set[Key] = set()  # since the last full pass
        self._urgent: list[tuple[Sequence[Key], asyncio.Future[None]]] = []

    @property
    def waiting(self) -> bool:
        """Whether someone waits for a save."""
        return bool(self._host.engine.held or self._urgent)

    @property
    def unsaved(self) -> bool:
        """Whether a crash would lose something."""
        return bool(self._writing.rows) or self._saving.unsaved() > 0

    async def now(self, keys: Sequence[Key]) -> None:
        """Returns when what these sessions are now is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._urgent.append((keys, future))
        self._host.on_waiting()
        await future

    def lose(self, keys: Collection[Key], refs: NDArray[np.int64]) -> None:
        """Sessions were lost: answers that are held must not say otherwise, nor may who waits for a save of them.
        Between iterations."""
        self._lost.update(keys)
        lost = set(keys)
        for wanted, future in self._urgent:
            if not future.done() and not lost.isdisjoint(wanted):
                future.set_exception(TidegateError(Reason.SESSION_MOVED))
        for held in (*self._host.engine.going, *self._host.engine.held):
            held.lose(refs)

    async def urgent(self) -> None:
        """Saves what someone waits for. Raises StoreError: they wait on."""
        urgent = [entry for entry in self._urgent if not entry[1].done()]
        self._urgent = list(urgent)
        if not urgent:
            return
        wanted = [key for keys, _ in urgent for key in keys]
        await self._save(await self._take(lambda: self._saving.take_these(wanted)))
        await self._exits.leave()  # those that were closed
        await self._host.caught_up()  # behind what is said of sessions that were lost
        under_way = self._host.engine.departures.under_way
        for keys, future in urgent:
            if future.done() or any(map(under_way, keys)):  # it leaves with rows in a queue: a later round says so
                continue
            future.set_result(None)
        self._urgent = [entry for entry in self._urgent if not entry[1].done()]

    async def group(self) -> None:
        """Lets held answers go behind a save of their sessions. Raises StoreError: they wait on."""
        engine = self._host.engine
        engine.going += engine.held
        engine.held = []
        if engine.going:
            refs = np.concatenate([held.refs for held in engine.going])
            await self._save(await self._take(lambda: self._saving.take_refs(refs)))
            await self._exits.leave()  # some of them, meanwhile
            await self._host.call(engine.let_go)

    async def full(self, between: Callable[[], Awaitable[None]]) -> None:
        """Saves all that has moved by now; `between` is done after each part. Raises StoreError."""
        began, marks = self._clock(), self._mark()
        self._saving.begin()
        while (taken := await self._take(lambda: self._saving.take(ROWS))).rows:
            await self._save(taken)
            await between()
        await self._exits.leave()
        await self._host.caught_up()  # behind what is said of sessions that were lost
        self.clean_at = began
        lost, self._lost = self._lost, set()
        marks.tell(lost)

    async def _take(self, take: Callable[[], Taken]) -> Taken:
        def taken() -> Taken:
            self._writing = take()  # at once: others may ask what is saved before this task goes on
            return self._writing

        return cast(Taken, await self._host.call(taken))

    async def _save(self, taken: Taken) -> None:
        """Saves what was taken; on failure it counts as moved again, at once: before those that left meanwhile are seen
        out."""
        if not taken.rows:
            return
        try:
            lost = await self._store.save(taken.rows, taken.epochs)
        except BaseException:  # whatever it was: nobody knows that it is saved
            self._saving.again(taken)
            raise
        finally:
            self._writing = Taken([], [])
        self.saved += len(taken.rows) - len(lost)
        if lost:
            self._on_lost(lost, ())
