"""A store in one SQLite file: the embedded default. Write-ahead log, one writer, one thread that is this store's own.

Rejected: aiosqlite, which is a thread too, with a queue of its own around it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.protocol import PAGE_ROWS, StoreError, opened, sealed

FORMAT = 1  # `user_version` of the file
BUSY_SECONDS_MAX = 5.0  # another process holds the file for so long: an error
Answer = TypeVar("Answer")

_TABLES = """
CREATE TABLE IF NOT EXISTS layouts (id INTEGER PRIMARY KEY, layout BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS sessions (
  tenant TEXT NOT NULL, model TEXT NOT NULL, session_id BLOB NOT NULL,
  version TEXT NOT NULL, fingerprint TEXT NOT NULL, step INTEGER NOT NULL,
  layout INTEGER NOT NULL REFERENCES layouts (id), content BLOB NOT NULL,
  PRIMARY KEY (tenant, model, session_id));
"""
_SAVE = """
INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET version = excluded.version, fingerprint = excluded.fingerprint, step = excluded.step,
  layout = excluded.layout, content = excluded.content
"""
_READ = """
SELECT s.rowid, s.tenant, s.model, s.session_id, s.version, s.fingerprint, s.step, l.layout,
  CAST(s.content AS BLOB)
FROM sessions s JOIN layouts l ON l.id = s.layout
"""


class SqliteStore:
    """Checkpoints in the file at `path`, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.damaged = 0
        self._path = path
        self._thread = ThreadPoolExecutor(1, "tidegate-store")
        self._file: sqlite3.Connection | None = None
        self._layouts: dict[bytes, int] = {}

    async def start(self) -> None:
        await self._run(self._open)

    async def stop(self) -> None:
        await self._run(self._close)
        self._thread.shutdown()

    async def save(self, rows: Sequence[Checkpoint]) -> None:
        await self._run(lambda: self._save(rows))

    async def load(self, keys: Sequence[Key]) -> list[Checkpoint | None]:
        return await self._run(lambda: [self._load(key) for key in keys])

    async def delete(self, keys: Sequence[Key]) -> None:
        await self._run(lambda: self._delete(keys))

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

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._file is None:
            raise StoreError(f"sqlite:{self._path}: is not open")
        return self._file

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(self._path, timeout=BUSY_SECONDS_MAX, isolation_level=None)
        file.text_factory = lambda text: text.decode("utf-8", "replace")  # a damaged row is found by its checksum
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = FULL")  # what is saved outlives the machine's power too
        (found,) = file.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            file.close()
            raise StoreError(f"sqlite:{self._path}: is of format {found}, and this server reads up to {FORMAT}")
        file.executescript(_TABLES)
        file.execute(f"PRAGMA user_version = {FORMAT}")
        self._layouts = {layout: number for number, layout in file.execute("SELECT id, layout FROM layouts")}
        self._file = file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _save(self, rows: Sequence[Checkpoint]) -> None:
        file = self._connection
        known = dict(self._layouts)
        file.execute("BEGIN IMMEDIATE")
        try:
            for layout in {row.layout for row in rows} - known.keys():
                number = file.execute("INSERT INTO layouts (layout) VALUES (?)", (layout,)).lastrowid
                assert number is not None
                known[layout] = number
            file.executemany(
                _SAVE,
                ((*row.key, row.version, row.fingerprint, row.step, known[row.layout], sealed(row)) for row in rows),
            )
            file.execute("COMMIT")
        except BaseException:
            if file.in_transaction:
                file.execute("ROLLBACK")
            raise
        self._layouts = known

    def _load(self, key: Key) -> Checkpoint | None:
        found = self._connection.execute(
            f"{_READ} WHERE s.tenant = ? AND s.model = ? AND s.session_id = ?", key
        ).fetchone()
        return None if found is None else self._whole(found)

    def _delete(self, keys: Sequence[Key]) -> None:
        file = self._connection
        file.execute("BEGIN IMMEDIATE")
        file.executemany("DELETE FROM sessions WHERE tenant = ? AND model = ? AND session_id = ?", keys)
        file.execute("COMMIT")

    def _page(self, start: int) -> tuple[list[Checkpoint], int, bool]:
        """The whole rows of a page, where the next begins, and whether there is one."""
        found = self._connection.execute(
            f"{_READ} WHERE s.rowid > ? ORDER BY s.rowid LIMIT ?", (start, PAGE_ROWS)
        ).fetchall()
        rows = [row for row in map(self._whole, found) if row is not None]
        return rows, found[-1][0] if found else start, len(found) == PAGE_ROWS

    def _whole(self, found: tuple[int, str, str, bytes, str, str, int, bytes, bytes]) -> Checkpoint | None:
        _, tenant, model, session_id, version, fingerprint, step, layout, content = found
        checkpoint = opened(Key(tenant, model, session_id), version, fingerprint, step, layout, content)
        self.damaged += checkpoint is None
        return checkpoint
