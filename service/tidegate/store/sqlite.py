"""A store in one SQLite file: the embedded default. Write-ahead log, one writer, one thread that is this store's own.

The file is one process's alone, by a lock beside it. So every claim succeeds, who holds what need not be written, and a
claim is a read. Times in the file are Unix seconds; what is past its time stays until `expire`, and longer while held.
Who only reads needs no lock: the log lets readers in beside a writer, and each page of a scan is a read of its own.

Rejected: aiosqlite, which is a thread too, with a queue of its own around it. SQLite's exclusive locking mode, which
would shut out backups.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.protocol import PAGE_ROWS, Claim, Renewal, StoreError, Terms, opened, sealed
from tidegate.store.sqlite_file import (
    ACTIVE_FORMAT,
    FORMAT,
    Content,
    Identity,
    check_in_place,
    check_unchanged,
    identity,
    lock,
    open_file,
    open_to_read,
)

Answer = TypeVar("Answer")
Found = tuple[int, str, str, bytes, str, str, int, bytes, bytes, int]

_SAVE = """
INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET version = excluded.version, fingerprint = excluded.fingerprint, step = excluded.step,
  layout = excluded.layout, content = excluded.content, expires_at = excluded.expires_at,
  active_at = excluded.active_at
"""
# CAST: a damaged row may have a text where bytes were.
_COLUMNS = """s.tenant, s.model, CAST(s.session_id AS BLOB), s.version, s.fingerprint, s.step, CAST(l.layout AS BLOB),
  CAST(s.content AS BLOB)"""
_SCAN = f"""
SELECT s.rowid, {_COLUMNS}, {{active_at}} FROM sessions s JOIN layouts l ON l.id = s.layout
WHERE s.rowid > ? ORDER BY s.rowid LIMIT ?
"""
# CROSS JOIN: SQLite keeps the order, one look-up for each row that is asked for.
_MATCH = "s.tenant = a.tenant AND s.model = a.model AND s.session_id = a.session_id"
_CLAIM = f"""
SELECT a.place, {_COLUMNS}, s.active_at
FROM temp.asked a CROSS JOIN sessions s ON {_MATCH} CROSS JOIN layouts l ON l.id = s.layout
"""
_HERE = f"SELECT a.place FROM temp.asked a CROSS JOIN sessions s ON {_MATCH}"
# A row is found by its id's bytes; a damaged one may have them as text.
_MEND = "UPDATE OR IGNORE sessions SET session_id = CAST(session_id AS BLOB) WHERE typeof(session_id) = 'text'"
_READ, _WRITE = "BEGIN", "BEGIN IMMEDIATE"
_IS = "WHERE tenant = ? AND model = ? AND session_id = ?"


class SqliteStore:
    """Checkpoints in the file at `path`, which is made if it is not there. `clock` gives Unix seconds.

    `read_only`: for `scan` alone, of a file that is there, also while a server holds it; nothing can be claimed.
    """

    shared = False

    def __init__(
        self, path: Path, terms: Terms, clock: Callable[[], float] = time.time, *, read_only: bool = False
    ) -> None:
        self.damaged = 0
        self._path, self._terms, self._clock, self._read_only = path, terms, clock, read_only
        self._thread = ThreadPoolExecutor(1, "tidegate-store")
        self._lock: int | None = None
        self._file: sqlite3.Connection | None = None
        self._identity: Identity | None = None  # the file's at its opening
        self._format = FORMAT
        self._content: Content | None = None  # of a file that is read as it is
        self._layouts: dict[bytes, int] = {}
        self._held: dict[Key, int] = {}  # epochs; only the thread looks at it
        self._epoch = 0  # the last that was given

    async def start(self) -> None:
        await self._run(self._open)

    async def stop(self) -> None:
        await self._run(self._close)
        self._thread.shutdown()

    async def renew(self) -> Renewal:
        return Renewal()

    async def claim(self, keys: Sequence[Key]) -> list[Claim]:
        return await self._run(lambda: self._claim(keys))

    async def save(self, rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        return await self._run(lambda: self._save(rows, epochs))

    async def lost(self, keys: Sequence[Key], epochs: Sequence[int]) -> list[Key]:
        return await self._run(lambda: self._lost(keys, epochs))

    async def release(self, keys: Sequence[Key], epochs: Sequence[int]) -> None:
        await self._run(lambda: self._release(keys, epochs))

    async def delete(self, keys: Sequence[Key]) -> list[Key]:
        return await self._run(lambda: self._delete(keys))

    async def expire(self) -> int:
        """A page at a time, so that saves come in between."""
        expired = 0
        while gone := await self._run(self._expire):
            expired += gone
        return expired

    async def scan(self) -> AsyncIterator[list[Checkpoint]]:
        last = 0
        while True:
            page, last, more = await self._run(lambda start=last: self._page(start))  # type: ignore[misc]
            yield page
            if not more:
                return

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"sqlite:{self._path}: {error}") from error

    # Below, everything runs on the store's thread.

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._file is None:
            raise StoreError(f"sqlite:{self._path}: is not open")
        return self._file

    def _open(self) -> None:
        if self._read_only:
            self._file, self._format, self._content = open_to_read(self._path)
            return
        self._lock = lock(self._path)
        try:
            self._file = open_file(self._path, self._in(self._held_seconds))
            self._identity = identity(self._path)
            self._file.execute(_MEND)
            self._layouts = {layout: number for number, layout in self._file.execute("SELECT id, layout FROM layouts")}
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        finally:
            self._file = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _claim(self, keys: Sequence[Key]) -> list[Claim]:
        with self._transaction(_READ) as file:
            self._ask(keys)
            found: dict[int, Found] = {row[0]: row for row in file.execute(_CLAIM)}
        claims = []
        for place, key in enumerate(keys):
            if key not in self._held:
                self._epoch += 1
                self._held[key] = self._epoch
            checkpoint = self._whole(found[place]) if place in found else None
            claims.append(Claim(self._held[key], checkpoint, damaged=place in found and checkpoint is None))
        return claims

    def _save(self, rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        lost = set(self._lost([row.key for row in rows], epochs))
        kept = [(row, epoch) for row, epoch in zip(rows, epochs, strict=True) if row.key not in lost]
        known, expires_at = dict(self._layouts), self._in(self._held_seconds)
        with self._transaction() as file:
            for layout in {row.layout for row, _ in kept} - known.keys():
                number = file.execute("INSERT INTO layouts (layout) VALUES (?)", (layout,)).lastrowid
                assert number is not None
                known[layout] = number
            file.executemany(
                _SAVE,
                (
                    (
                        *(*row.key, row.version, row.fingerprint, row.step, known[row.layout]),
                        *(sealed(row), expires_at, row.active_at),
                    )
                    for row, _ in kept
                ),
            )
        self._layouts = known
        self._held.update((row.key, epoch) for row, epoch in kept)
        self._epoch = max([self._epoch, *(epoch for _, epoch in kept)])
        return list(lost)

    def _lost(self, keys: Sequence[Key], epochs: Sequence[int]) -> list[Key]:
        """Those that are held by another claim, or by none but are there."""
        strange = [key for key, epoch in zip(keys, epochs, strict=True) if self._held.get(key) != epoch]
        here = set(self._here(strange))
        return [key for key in strange if key in self._held or key in here]

    def _here(self, keys: Sequence[Key]) -> list[Key]:
        """Those that there are rows of."""
        if not keys:
            return []
        with self._transaction(_READ) as file:
            self._ask(keys)
            here = {place for (place,) in file.execute(_HERE)}
        return [key for place, key in enumerate(keys) if place in here]

    def _release(self, keys: Sequence[Key], epochs: Sequence[int]) -> None:
        held = [key for key, epoch in zip(keys, epochs, strict=True) if self._held.get(key) == epoch]
        expires_at = self._in(self._terms.stored_seconds_max)
        with self._transaction() as file:
            file.executemany(f"UPDATE sessions SET expires_at = ? {_IS}", ((expires_at, *key) for key in held))
        for key in held:
            del self._held[key]

    def _delete(self, keys: Sequence[Key]) -> list[Key]:
        held, others = [key for key in keys if key in self._held], [key for key in keys if key not in self._held]
        with self._transaction() as file:
            file.executemany(f"DELETE FROM sessions {_IS}", held)
        for key in held:
            self._held.pop(key, None)
        return self._here(others)

    def _expire(self) -> int:
        """Deletes up to a page of rows; of those that are held the time begins anew."""
        now, later = self._clock(), self._in(self._held_seconds)
        with self._transaction() as file:
            past = file.execute(
                "SELECT rowid, tenant, model, session_id FROM sessions WHERE expires_at <= ? LIMIT ?", (now, PAGE_ROWS)
            ).fetchall()
            kept = [(later, row) for row, *key in past if Key(*key) in self._held]
            gone = [(row,) for row, *key in past if Key(*key) not in self._held]
            file.executemany("UPDATE sessions SET expires_at = ? WHERE rowid = ?", kept)
            file.executemany("DELETE FROM sessions WHERE rowid = ?", gone)
        return len(gone)

    def _page(self, start: int) -> tuple[list[Checkpoint], int, bool]:
        """The whole rows of a page, where the next begins, and whether there is one."""
        scan = _SCAN.format(active_at="s.active_at" if self._format >= ACTIVE_FORMAT else "0")
        found = self._connection.execute(scan, (start, PAGE_ROWS)).fetchall()
        if self._content is not None:
            check_unchanged(self._path, self._content)
        rows = [row for row in map(self._whole, found) if row is not None]
        return rows, found[-1][0] if found else start, len(found) == PAGE_ROWS

    def _whole(self, found: Found) -> Checkpoint | None:
        _, tenant, model, session_id, version, fingerprint, step, layout, content, active_at = found
        checkpoint = opened(Key(tenant, model, session_id), version, fingerprint, step, layout, content, active_at)
        self.damaged += checkpoint is None
        return checkpoint

    def _ask(self, keys: Iterable[Key]) -> None:
        self._connection.execute("DELETE FROM temp.asked")
        self._connection.executemany(
            "INSERT INTO temp.asked VALUES (?, ?, ?, ?)", ((place, *key) for place, key in enumerate(keys))
        )

    @contextmanager
    def _transaction(self, begin: str = _WRITE) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; nothing is written to a file that has lost its name."""
        file = self._connection
        file.execute(begin)
        try:
            yield file
            if begin == _WRITE:
                check_in_place(self._path, self._identity)
            file.execute("COMMIT")
        except BaseException:
            if file.in_transaction:
                file.execute("ROLLBACK")
            raise

    @property
    def _held_seconds(self) -> float:
        return self._terms.held_seconds_max + self._terms.stored_seconds_max

    def _in(self, seconds: float) -> int:
        return int(self._clock() + seconds)
