"""Sessions that leave this replica: saved where they moved, then released; or deleted where they were closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from tidegate.checkpoints import Key
from tidegate.durability.arrivals import Arrivals
from tidegate.engine.departures import Departure
from tidegate.engine.loop import EngineHost
from tidegate.store.protocol import Store

ROWS = 4096  # of one request
Entry = TypeVar("Entry")
OnLost = Callable[[Sequence[Key], Sequence[int]], None]  # keys, and references of those that are not resident any more


class Exits:
    """Sees sessions out. `on_lost` is told of those that another replica had taken meanwhile."""

    def __init__(self, host: EngineHost, store: Store, arrivals: Arrivals, on_lost: OnLost) -> None:
        self.saved = 0
        self._host, self._store, self._arrivals, self._on_lost = host, store, arrivals, on_lost
        self._closed: dict[Key, None] = {}
        host.engine.sessions.on_closed = self._note_closed

    @property
    def waiting(self) -> bool:
        """Whether something has left and the store does not know it yet."""
        departures = self._host.engine.departures
        return bool(departures.departing or self._closed or self._arrivals.releases)

    @property
    def unsaved(self) -> bool:
        """Whether what is not in the store yet would be lost by a crash."""
        departing = self._host.engine.departures.departing
        return bool(self._closed) or any(departure.checkpoint is not None for departure in departing.values())

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
        for ended in _cut(list(self._closed)):
            await self._store.delete(ended)
            for key in ended:
                del self._closed[key]

    def _note_closed(self, key: Key) -> None:
        self._closed[key] = None

    async def _see_out(self, part: Sequence[Departure]) -> None:
        rows = [departure.checkpoint for departure in part if departure.checkpoint is not None]
        epochs = [departure.epoch for departure in part if departure.checkpoint is not None]
        lost = await self._store.save(rows, epochs) if rows else []
        self.saved += len(rows) - len(lost)
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


def _cut(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), ROWS):
        yield entries[start : start + ROWS]
