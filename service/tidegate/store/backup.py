"""Backup and restore: all rows of a store in a file, and back. The file is a store itself, which a server can open.

Servers may go on meanwhile. A session's row is whole, and sessions know nothing of each other, so there need not be one
moment that all rows are of: each is as old as its last checkpoint was when it was read.

Rejected: the copies that SQLite and Redis make (`VACUUM INTO`, `redis-cli --rdb`): they only fit the kind of store that
they came from, and bring rows along that have gone bad.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.protocol import PAGE_ROWS, Claim, Store, StoreError, Terms
from tidegate.store.sqlite import SqliteStore
from tidegate.store.sqlite_file import make_plain

ROWS = 1024  # taken, written and given back at once: whoever asks for one of them waits for so long
LEASE_SECONDS = 30.0  # longer than ROWS take; when this process is killed, its rows are free after it
BACKUP_SECONDS_MAX = 100 * 365 * 86_400.0  # rows of a backup do not run out by themselves


@dataclass(frozen=True)
class BackedUp:
    """How many sessions a backup holds, and how many damaged rows it leaves out."""

    sessions: int
    damaged: int


@dataclass
class Restored:
    """What became of a backup's sessions: put back; kept as the store has them; left, since a replica (named) has them
    in its memory. `damaged` are rows of the backup that cannot be read."""

    restored: int = 0
    kept: int = 0
    damaged: int = 0
    held: list[tuple[Key, str]] = field(default_factory=list)


async def back_up(source: Store, file: Path) -> BackedUp:
    """Copies all whole rows of a store to `file`, which is there when it is complete and not before. The store is
    started and stopped. Raises StoreError, also when there is such a file."""
    try:
        await asyncio.to_thread(_refuse_taken, file)
        with TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
            place = Path(folder) / file.name
            target = SqliteStore(place, Terms("backup", stored_seconds_max=BACKUP_SECONDS_MAX))
            async with _running(source), _running(target):
                sessions = await _copy(source, target)
            await asyncio.to_thread(_finish, place, file)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{file}: {error}") from error
    return BackedUp(sessions, source.damaged)


async def restore(source: Store, target: Store, *, overwrite: bool) -> Restored:
    """Puts rows back that the target does not have, has damaged, or has at an earlier step; with `overwrite`, all.
    Those that a live replica holds are left, and the replica is told to save them and let them go. Both stores are
    started and stopped. Raises StoreError: what was put back by then stays."""
    found = Restored()
    async with _running(source), _running(target):
        # Else every session that lives somewhere would be asked for, and handed over for nothing.
        known = await _steps(target) if target.shared and not overwrite else {}
        async for page in source.scan():
            rows = [row for row in page if known.get(row.key, -1) < row.step]
            found.kept += len(page) - len(rows)
            for part in _cut(rows):
                await _put_back(target, part, overwrite, found)
    found.damaged = source.damaged
    return found


@asynccontextmanager
async def _running(store: Store) -> AsyncIterator[None]:
    try:
        await store.start()
        yield
    finally:
        with contextlib.suppress(StoreError):  # whatever matters has been said by then
            await store.stop()


async def _copy(source: Store, target: Store) -> int:
    """Returns how many sessions there are. One that comes twice is kept as it came last."""
    sessions = 0
    async for rows in _gathered(source):
        keys = list(rows)
        claims = await target.claim(keys)
        epochs = [claim.epoch for claim in claims]
        await target.save(list(rows.values()), epochs)
        await target.release(keys, epochs)  # so that memory does not grow with the store
        sessions += sum(claim.checkpoint is None for claim in claims)
    return sessions


async def _gathered(source: Store) -> AsyncIterator[dict[Key, Checkpoint]]:
    """All rows by larger pages: Redis gives small ones, and each costs the file three commits."""
    rows: dict[Key, Checkpoint] = {}
    async for page in source.scan():
        rows |= {row.key: row for row in page}
        if len(rows) >= PAGE_ROWS:
            yield rows
            rows = {}
    if rows:
        yield rows


async def _put_back(target: Store, rows: Sequence[Checkpoint], overwrite: bool, found: Restored) -> None:
    """Claims these rows, saves those that are to be, and gives all back; adds to what was found."""
    await target.renew()
    keys = [row.key for row in rows]
    claims = await target.claim(keys)
    wanted = [place for place, claim in enumerate(claims) if claim.epoch and (overwrite or _older(claim, rows[place]))]
    lost = await target.save([rows[place] for place in wanted], [claims[place].epoch for place in wanted])
    mine = [place for place, claim in enumerate(claims) if claim.epoch]
    await target.release([keys[place] for place in mine], [claims[place].epoch for place in mine])
    found.restored += len(wanted) - len(lost)
    found.kept += len(mine) - len(wanted)
    found.held += [(key, claim.owner) for key, claim in zip(keys, claims, strict=True) if not claim.epoch]
    found.held += [(key, "another replica") for key in lost]


def _older(claim: Claim, row: Checkpoint) -> bool:
    """Whether the store has nothing that can be read, or something of an earlier step."""
    return claim.checkpoint is None or claim.checkpoint.step < row.step


async def _steps(store: Store) -> Mapping[Key, int]:
    return {row.key: row.step async for page in store.scan() for row in page}


def _cut(rows: Sequence[Checkpoint]) -> Iterator[Sequence[Checkpoint]]:
    for start in range(0, len(rows), ROWS):
        yield rows[start : start + ROWS]


def _finish(place: Path, file: Path) -> None:
    """Gives the complete file its name, for good."""
    make_plain(place)
    _refuse_taken(file)
    place.rename(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the name may be gone after a loss of power
    finally:
        os.close(folder)


def _refuse_taken(file: Path) -> None:
    if file.exists():
        raise StoreError(f"{file}: is there already, and may be a store in use; name another file, or remove that one")
