"""Sessions that leave this replica: saved where they moved, then released; or deleted where they were closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from tidegate.checkpoints import Key
from tidegate.durability.arrivals import Arrivals
from tidegate.engine.loop import EngineHost
from tidegate.engine.sessions.departures import Departure
from tidegate.store.protocol import Store

ROWS = 4096  # of one request
OnLost = Callable[[Sequence[Key], Sequence[int]], None]  # keys, and references of those that are not resident any more


class Exits:
    """Sees sessions out. `on_lost` is told of those that another replica had taken meanwhile, also where they were to
    be deleted."""

    def __init__(self, host: EngineHost, store: Store, arrivals: Arrivals, on_lost: OnLost) -> None:
        self.saved = 0
        self._host, self._store, self._arrivals, self._on_lost = host, store, arrivals, on_lost

    @property
    def waiting(self) -> bool:
        """Whether something has left and the store does not know it yet."""
        departures = self._host.engine.departures
        return bool(departures.departing or departures.closed or self._arrivals.releases)

    @property
    def unsaved(self) -> bool:
        """Whether what is not in the store yet would be lost by a crash."""
        departures = self._host.engine.departures
        moved = any(departure.checkpoint is not None for departure in departures.departing.values())
        return moved or bool(departures.closed)

    async def leave(self) -> None:
        """Tells the store of all that has left. Raises StoreError: then the rest is told again."""
        departures = self._host.engine.departures
        if departures.waiting:
            await self._host.call(departures.settle)
        while departures.departing:
            await self._see_out(list(islice(departures.departing.values(), ROWS)))
        while releases := self._arrivals.releases[:ROWS]:
            await self._store.release(*_columns(releases))
            del self._arrivals.releases[: len(releases)]
        while departures.closed:
            ended = list(islice(departures.closed, ROWS))
            stay = await self._store.delete(ended)
            for key in ended:
                del departures.closed[key]
            if stay:
                self._on_lost(stay, ())

    async def _see_out(self, part: Sequence[Departure]) -> None:
        rows = [departure.checkpoint for departure in part if departure.checkpoint is not None]
        epochs = [departure.epoch for departure in part if departure.checkpoint is not None]
        lost = await self._store.save(rows, epochs) if rows else []
        self.saved += len(rows) - len(lost)
        for departure in part:  # it is not saved again, whatever becomes of the release
            self._host.engine.departures.departing[departure.key] = replace(departure, checkpoint=None)
        gone = set(lost)
        if lost:
            self._on_lost(lost, [departure.ref for departure in part if departure.key in gone])
        kept = [(departure.key, departure.epoch) for departure in part if departure.key not in gone]
        if kept:
            await self._store.release(*_columns(kept))
        for departure in part:
            del self._host.engine.departures.departing[departure.key]


def _columns(pairs: Sequence[tuple[Key, int]]) -> tuple[list[Key], list[int]]:
    return [key for key, _ in pairs], [epoch for _, epoch in pairs]
