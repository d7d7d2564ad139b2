"""The SQLite file: its tables, how an older one is brought up, and the lock that keeps other servers out."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Set
from contextlib import closing
from pathlib import Path

from tidegate.store.protocol import StoreError

try:
    import fcntl
except ImportError:  # Windows has none; there SQLite's own locks still keep each call whole
    fcntl = None  # type: ignore[assignment]

FORMAT = 3  # `user_version` of the file; 1 had no `expires_at`, 2 no `active_at`
ACTIVE_FORMAT = 3  # the first that has it
APPLICATION = 0x54494445  # `application_id` of the file, "TIDE"; 0 in files of before it was set
_AS_IT_IS = "&immutable=1"  # of the URI
MODE = 0o600  # of a new file: what a session has seen is nobody else's business. SQLite gives its log the same
BUSY_SECONDS_MAX = 5.0  # another process, such as a backup, holds the file for so long: an error
_HEAD = b"SQLite format 3\0"  # which a file that SQLite has just made does not have yet: it is empty

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE layouts (id INTEGER PRIMARY KEY, layout BLOB NOT NULL UNIQUE);
CREATE TABLE sessions (
  tenant TEXT NOT NULL, model TEXT NOT NULL, session_id BLOB NOT NULL,
  version TEXT NOT NULL, fingerprint TEXT NOT NULL, step INTEGER NOT NULL,
  layout INTEGER NOT NULL REFERENCES layouts (id), content BLOB NOT NULL,
  expires_at INTEGER NOT NULL, active_at INTEGER NOT NULL,
  PRIMARY KEY (tenant, model, session_id));
CREATE INDEX sessions_expires_at ON sessions (expires_at);
PRAGMA user_version = 3;
PRAGMA application_id = {application};
COMMIT;
"""
# Rows that are there get the default, which SQLite keeps in the schema and not in each row: no row is written.
_FROM_1 = """
BEGIN IMMEDIATE;
ALTER TABLE sessions ADD COLUMN expires_at INTEGER NOT NULL DEFAULT {expires_at};
CREATE INDEX sessions_expires_at ON sessions (expires_at);
PRAGMA user_version = 2;
COMMIT;
"""
_FROM_2 = """
BEGIN IMMEDIATE;
ALTER TABLE sessions ADD COLUMN active_at INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 3;
PRAGMA application_id = {application};
COMMIT;
"""
_SCRIPTS = {0: [_TABLES], 1: [_FROM_1, _FROM_2], 2: [_FROM_2], FORMAT: []}  # by what is found
# The connection's own, in memory: what one call asks for.
_ASKED = "CREATE TEMP TABLE asked (place INTEGER PRIMARY KEY, tenant, model, session_id)"


def lock(path: Path) -> int:
    """Holds the lock beside the file; returns its descriptor: to close it, or to end the process, gives it back. The
    lock file stays, since a process that waits at its door may have it open. Raises StoreError when it is held, and,
    so that a mistyped path leaves nothing behind, where there can be no such file. It is beside the file itself: one
    file has one lock, whichever symlink leads to it."""
    file = Path(os.path.realpath(path))
    _check_place(file)
    descriptor = os.open(file.with_name(file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"sqlite:{path}: is in use by another server. Stop that one, or give this one a file of its own; "
            "servers that share sessions use redis://"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_place(path: Path) -> None:
    """Raises StoreError where there is no folder, or a file that is no SQLite file."""
    if not path.parent.is_dir():
        raise StoreError(f"sqlite:{path}: there is no folder {path.parent}; make it, or name another file")
    if path.exists():
        with path.open("rb") as file:
            head = file.read(len(_HEAD))
        if head not in (b"", _HEAD):
            raise StoreError(f"sqlite:{path}: is not a database; name another file")


Identity = tuple[int, int]  # device and inode


def identity(path: Path) -> Identity | None:
    """Which file has that name now; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check_in_place(path: Path, opened: Identity | None) -> None:
    """Raises StoreError where the path does not lead to the file that was opened any more. SQLite writes on into a file
    without a name: nobody would ever read it."""
    found = identity(path)
    if found != opened:
        what = "was removed" if found is None else "is another file now"
        raise StoreError(
            f"sqlite:{path}: {what}, while this server has it open: nothing is saved. Put that file back, or start the "
            "server again, which forgets what is not saved"
        )


def open_file(path: Path, expires_at: int) -> sqlite3.Connection:
    """The file, made or brought to this format; rows of one that knew no time get `expires_at` (Unix seconds).
    Raises StoreError where it cannot be read, and sqlite3.Error."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))  # SQLite would let all read what it makes
    file = _connect(path.absolute())
    try:
        found = _format(file, path)  # before anything is written: it may be somebody else's
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = FULL")  # what is saved outlives the machine's power too
        file.execute("PRAGMA temp_store = MEMORY")
        for script in _SCRIPTS[found]:
            file.executescript(script.format(expires_at=expires_at, application=APPLICATION))
        file.execute(_ASKED)
    except BaseException:
        file.close()
        raise
    return file


Content = tuple[int, int]  # when it was written last, in nanoseconds, and how many bytes it has


def content_of(path: Path) -> Content:
    """By which a change is noticed."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def check_unchanged(path: Path, content: Content) -> None:
    """Raises StoreError where a file that is read as it is was opened by a server meanwhile."""
    file = Path(os.path.realpath(path))
    if content_of(file) != content or _log(file).exists():
        raise StoreError(f"sqlite:{path}: a server opened it while it was read as it is; begin again")


def open_to_read(path: Path) -> tuple[sqlite3.Connection, int, Content | None]:
    """A file that is there, and its format, this one or an older; nothing is changed. Where it is read as it is, also
    what is to be held against it by `check_unchanged`. Raises as `open_file` does."""
    if not path.is_file():
        raise StoreError(f"sqlite:{path}: there is no such file")
    uri = _to_read(path)
    content = content_of(path) if uri.endswith(_AS_IT_IS) else None
    file = _connect(uri, uri=True)
    try:
        found = _format(file, path)
        if not found:
            raise StoreError(f"sqlite:{path}: is no store of sessions")
    except BaseException:
        file.close()
        raise
    return file, found, content


def _log(file: Path) -> Path:
    """SQLite's write-ahead log of it."""
    return file.with_name(file.name + "-wal")


def _to_read(path: Path) -> str:
    """The file as a URI. SQLite makes its log anew to read a file that a server has closed, and cannot where nothing
    can be written; such a file is read as it is, for as long as nobody else who may write opens it. Raises StoreError
    where there is a log that it would have to write to."""
    file = Path(os.path.realpath(path))
    uri = f"{file.as_uri()}?mode=ro"
    if os.access(file.parent, os.W_OK):
        return uri
    if not _log(file).exists():
        return uri + _AS_IT_IS
    if not file.with_name(file.name + "-shm").exists():
        raise StoreError(
            f"sqlite:{path}: has a log beside it (-wal), which cannot be read where nothing can be written; copy both "
            "to a folder that can be written to"
        )
    return uri


def make_plain(path: Path) -> None:
    """Makes one file of it, without a log beside it, which can be read where nothing can be written; a server that
    opens it brings the log back. Nobody may have it open. Raises sqlite3.Error."""
    with closing(_connect(path)) as file:
        file.execute("PRAGMA journal_mode = DELETE")


def _connect(place: Path | str, *, uri: bool = False) -> sqlite3.Connection:
    file = sqlite3.connect(place, timeout=BUSY_SECONDS_MAX, isolation_level=None, uri=uri)
    file.text_factory = lambda text: text.decode("utf-8", "replace")  # a damaged row is found by its checksum
    return file


def _format(file: sqlite3.Connection, path: Path) -> int:
    """The file's, 0 of an empty one; raises StoreError where it is later than this one, or not ours."""
    (application,) = file.execute("PRAGMA application_id").fetchone()
    (found,) = file.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
    if not _may_be_ours(application, found, tables):
        raise StoreError(f"sqlite:{path}: is a database of something else, and no store of sessions; name another file")
    if found > FORMAT:
        raise StoreError(f"sqlite:{path}: is of format {found}, and this server reads up to {FORMAT}; update it")
    return int(found)


def _may_be_ours(application: int, found: int, tables: Set[str]) -> bool:
    """Whether it is an empty file, or one with our mark; or without one, as they were once, but with our tables."""
    if application == APPLICATION:
        return found >= 0
    expected = tables >= {"layouts", "sessions"} if 0 < found <= FORMAT else found >= 0 and not tables
    return application == 0 and expected
