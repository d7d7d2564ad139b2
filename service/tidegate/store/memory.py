"""A store in memory: nothing outlives the process. For tests, and as the plainest form of the contract.

Rows live on a shelf. Several stores may share one, each as a replica of its own, as they would share a Redis.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.protocol import PAGE_ROWS, Claim, Renewal, Terms, opened, sealed

Clock = Callable[[], float]


@dataclass
class Row:
    """What is known of a name. `owner` is "" when nobody holds it; `checkpoint` has its content sealed; `seized`: it
    was taken from an owner whose lease had run out, and who may wake up and save."""

    epoch: int
    owner: str
    expires_at: float
    checkpoint: Checkpoint | None = None
    seized: bool = False

    def lost_to(self, replica: str, epoch: int) -> bool:
        """Whether a claim of that epoch is past. A higher one than the row's own is not: the store lost that claim."""
        return self.epoch > epoch or (self.epoch == epoch and self.owner != replica)

    def held_by(self, replica: str, epoch: int) -> bool:
        return self.owner == replica and self.epoch == epoch


class Shelf:
    """Rows and leases. `clock` gives seconds, from wherever it began."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.rows: dict[Key, Row] = {}
        self.leases: dict[str, float] = {}  # a replica's, until when
        self.wanted: dict[str, set[Key]] = {}  # by owner
        self.generation = 0  # counts how often it was emptied
        self.epoch = 0  # the last that was given; never given again, so that an old claim is known for one

    def clear(self) -> None:
        """Empties it, as a Redis is that came back without its data."""
        self.rows.clear()
        self.leases.clear()
        self.wanted.clear()
        self.generation += 1

    def row(self, key: Key) -> Row | None:
        """The row, if it is there and not past its time."""
        row = self.rows.get(key)
        return None if row is None or row.expires_at <= self.clock() else row

    def alive(self, replica: str) -> bool:
        """Whether its lease has not run out."""
        return self.leases.get(replica, self.clock()) > self.clock()


class MemoryStore:
    """A replica's view of `shelf`. Without one it is alone, on a shelf of its own that goes by `clock`."""

    def __init__(self, terms: Terms, shelf: Shelf | None = None, clock: Clock = time.monotonic) -> None:
        self.shared = shelf is not None
        self.damaged = 0
        self._terms, self._me = terms, terms.replica
        self._shelf = Shelf(clock) if shelf is None else shelf
        self._generation = self._shelf.generation

    async def start(self) -> None:
        await self.renew()
        self._generation = self._shelf.generation

    async def stop(self) -> None:
        self._shelf.leases.pop(self._me, None)

    async def renew(self) -> Renewal:
        shelf = self._shelf
        shelf.leases[self._me] = shelf.clock() + self._terms.lease_seconds
        wanted = tuple(key for key in shelf.wanted.pop(self._me, ()) if self._owner(key) == self._me)
        lost = self._generation != shelf.generation
        self._generation = shelf.generation
        return Renewal(wanted, lost)

    async def claim(self, keys: Sequence[Key]) -> list[Claim]:
        return [self._claim(key) for key in keys]

    async def save(self, rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        lost = set(await self.lost([row.key for row in rows], epochs))
        for row, epoch in zip(rows, epochs, strict=True):
            if row.key not in lost:
                self._save(row, epoch)
        return list(lost)

    async def lost(self, keys: Sequence[Key], epochs: Sequence[int]) -> list[Key]:
        rows = ((key, epoch, self._shelf.row(key)) for key, epoch in zip(keys, epochs, strict=True))
        return [key for key, epoch, row in rows if row is not None and row.lost_to(self._me, epoch)]

    async def release(self, keys: Sequence[Key], epochs: Sequence[int]) -> None:
        for key, epoch in zip(keys, epochs, strict=True):
            row = self._shelf.row(key)
            if row is None or not row.held_by(self._me, epoch):
                continue
            row.owner, row.expires_at = "", self._in(self._terms.stored_seconds_max)
            if row.checkpoint is None:
                self._forget(key, row)

    async def delete(self, keys: Sequence[Key]) -> list[Key]:
        stay = []
        for key in keys:
            row = self._shelf.row(key)
            if row is not None and row.owner == self._me:
                self._forget(key, row)
            elif row is not None and (row.owner or row.checkpoint is not None):
                stay.append(key)
        return stay

    async def expire(self) -> int:
        rows, now = self._shelf.rows, self._shelf.clock()
        past = [key for key, row in rows.items() if row.expires_at <= now]
        for key in past:
            del rows[key]
        return len(past)

    async def scan(self) -> AsyncIterator[list[Checkpoint]]:
        keys = list(self._shelf.rows)
        for start in range(0, len(keys), PAGE_ROWS):
            rows = (self._open(self._shelf.row(key)) for key in keys[start : start + PAGE_ROWS])
            yield [row for row in rows if row is not None]

    def _claim(self, key: Key) -> Claim:
        shelf, row = self._shelf, self._shelf.row(key)
        if row is None:
            row = shelf.rows[key] = Row(0, "", 0)
        seized = row.owner not in ("", self._me)
        if seized and shelf.alive(row.owner):
            shelf.wanted.setdefault(row.owner, set()).add(key)
            return Claim(0, owner=row.owner)
        if row.owner != self._me:
            shelf.epoch += 1
            row.epoch, row.owner, row.seized = shelf.epoch, self._me, row.seized or seized
        row.expires_at = self._in(self._terms.held_seconds_max + self._terms.stored_seconds_max)
        checkpoint = self._open(row)
        return Claim(row.epoch, checkpoint, damaged=row.checkpoint is not None and checkpoint is None)

    def _save(self, checkpoint: Checkpoint, epoch: int) -> None:
        shelf, row = self._shelf, self._shelf.row(checkpoint.key)
        if row is None:
            row = shelf.rows[checkpoint.key] = Row(0, "", 0)
        shelf.epoch = max(shelf.epoch, epoch)
        row.epoch, row.owner = epoch, self._me
        row.checkpoint = checkpoint._replace(content=sealed(checkpoint))
        row.expires_at = self._in(self._terms.held_seconds_max + self._terms.stored_seconds_max)

    def _forget(self, key: Key, row: Row) -> None:
        """Drops the row; of one that was seized its epoch is kept for as long as a stored row is: who lost it and wakes
        up later finds that out, and does not bring an ended session back."""
        if row.seized:
            row.owner, row.checkpoint, row.expires_at = "", None, self._in(self._terms.stored_seconds_max)
        else:
            del self._shelf.rows[key]

    def _owner(self, key: Key) -> str:
        row = self._shelf.row(key)
        return "" if row is None else row.owner

    def _open(self, row: Row | None) -> Checkpoint | None:
        if row is None or row.checkpoint is None:
            return None
        found = row.checkpoint
        whole = opened(*found)
        self.damaged += whole is None
        return whole

    def _in(self, seconds: float) -> float:
        return self._shelf.clock() + seconds
