"""What is SQLite's own: the file over restarts and formats, its lock, and what it does when it cannot."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.store.places import Clock, checkpoint, everything, put
from tidegate.store.protocol import StoreError, Terms, sealed
from tidegate.store.sqlite import SqliteStore
from tidegate.store.sqlite_file import APPLICATION

NOBODY = 65_534  # the user's number, nearly everywhere
TERMS = Terms("a", stored_seconds_max=100, held_seconds_max=1000)

FORMAT_1 = """
PRAGMA journal_mode = WAL;
CREATE TABLE layouts (id INTEGER PRIMARY KEY, layout BLOB NOT NULL UNIQUE);
CREATE TABLE sessions (
  tenant TEXT NOT NULL, model TEXT NOT NULL, session_id BLOB NOT NULL,
  version TEXT NOT NULL, fingerprint TEXT NOT NULL, step INTEGER NOT NULL,
  layout INTEGER NOT NULL REFERENCES layouts (id), content BLOB NOT NULL,
  PRIMARY KEY (tenant, model, session_id));
PRAGMA user_version = 1;
"""

FORMAT_2 = FORMAT_1.replace("content BLOB NOT NULL,", "content BLOB NOT NULL, expires_at INTEGER NOT NULL,").replace(
    "user_version = 1", "user_version = 2"
)


@contextmanager
def file_bytes_max(limit: int) -> Iterator[None]:
    """The kernel refuses to let files of this process grow beyond, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {file.name for file in folder.iterdir()}


async def test_it_outlives_the_process(tmp_path: Path) -> None:
    """What another store object wrote to the file is there, new layouts and old ones, and free to be claimed."""
    path = tmp_path / "sessions.db"
    for step in (1, 2, 3):
        store = SqliteStore(path, TERMS)
        await store.start()
        await put(store, [checkpoint(b"a", step), checkpoint(b"b%d" % step, layout=b"%d" % step)])
        await store.stop()
    store = SqliteStore(path, TERMS)
    await store.start()
    assert [row.step for row in await everything(store)] == [3, 1, 1, 1]
    assert (await store.claim([checkpoint(b"a").key]))[0].checkpoint == checkpoint(b"a", 3)
    await store.stop()


async def test_it_saves_all_or_nothing(tmp_path: Path) -> None:
    """A call that fails half-way leaves no row behind, and the next one works."""
    store = SqliteStore(tmp_path / "sessions.db", TERMS)
    await store.start()
    wrong = checkpoint(b"b")._replace(step="no number" * 2**3, content=None)  # type: ignore[arg-type]
    with pytest.raises((StoreError, TypeError)):
        await store.save([checkpoint(b"a", layout=b"new"), wrong], [1, 1])
    assert await everything(store) == []
    await put(store, [checkpoint(b"a", layout=b"new")])
    assert await everything(store) == [checkpoint(b"a", layout=b"new")]
    await store.stop()


async def test_a_file_of_format_1_is_brought_up(tmp_path: Path) -> None:
    """Its rows are there, and are forgotten when their time is over, counted from the upgrade."""
    path, clock, row = tmp_path / "sessions.db", Clock(), checkpoint(b"a", 5)
    with sqlite3.connect(path) as file:
        file.executescript(FORMAT_1)
        file.execute("INSERT INTO layouts VALUES (1, ?)", (row.layout,))
        values = (*row.key, row.version, row.fingerprint, row.step, 1, sealed(row))
        file.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    file.close()
    for held in ([row], [row, checkpoint(b"b")]):
        store = SqliteStore(path, TERMS, clock)
        await store.start()
        assert await everything(store) == held
        await put(store, [checkpoint(b"b")])
        assert await store.expire() == 0
        await store.stop()
        clock.seconds += 500
    store = SqliteStore(path, TERMS, clock)
    await store.start()
    clock.seconds += 101
    assert await store.expire() == 1
    assert await everything(store) == [checkpoint(b"b")]
    await store.stop()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (3,)
    file.close()


async def test_a_file_of_format_2(tmp_path: Path) -> None:
    """It is read as it is, and brought up when it is written to; when its rows were active is not known."""
    path, row = tmp_path / "sessions.db", checkpoint(b"a", 5)
    with sqlite3.connect(path) as file:
        file.executescript(FORMAT_2)
        file.execute("INSERT INTO layouts VALUES (1, ?)", (row.layout,))
        values = (*row.key, row.version, row.fingerprint, row.step, 1, sealed(row), 1 << 40)
        file.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    file.close()
    later = checkpoint(b"a", 6)._replace(active_at=7)
    for read_only, held in ((True, row), (False, row), (True, later)):
        store = SqliteStore(path, TERMS, read_only=read_only)
        await store.start()
        assert await everything(store) == [held]
        if not read_only:
            await put(store, [later])
        await store.stop()


async def test_one_server_at_a_time(tmp_path: Path) -> None:
    """The second is told to go elsewhere, and may come in when the first has left."""
    path = tmp_path / "sessions.db"
    first, second = SqliteStore(path, TERMS), SqliteStore(path, TERMS)
    await first.start()
    with pytest.raises(StoreError, match=r"sessions\.db: is in use by another server\. Stop"):
        await second.start()
    await put(first, [checkpoint(b"a")])
    await first.stop()
    await second.start()
    assert await everything(second) == [checkpoint(b"a")]
    await second.stop()


async def test_a_link_to_a_file_that_is_in_use(tmp_path: Path) -> None:
    """One file has one lock, by whichever name: of the link, through a linked folder, and of a link to a file that is
    still to be made."""
    (tmp_path / "data").mkdir()
    (tmp_path / "folder").symlink_to("data", target_is_directory=True)
    (tmp_path / "link.db").symlink_to("data/sessions.db")
    path = tmp_path / "data" / "sessions.db"
    first = SqliteStore(tmp_path / "link.db", TERMS)
    await first.start()
    await put(first, [checkpoint(b"a")])
    for name in (path, tmp_path / "link.db", tmp_path / "folder" / "sessions.db"):
        second = SqliteStore(name, TERMS)
        with pytest.raises(StoreError, match="is in use by another server"):
            await second.start()
        await second.stop()
    await first.stop()
    assert names(tmp_path / "data") == {"sessions.db", "sessions.db.lock"}
    assert names(tmp_path) == {"data", "folder", "link.db"}


async def test_it_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    """A file of a later format, one that is no database, a folder, and a folder that is not there say so, and stay
    unlocked; no file is made but the lock of the first, which could have been a store."""
    path = tmp_path / "sessions.db"
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    (tmp_path / "text").write_text("no database, " * 100)
    (tmp_path / "file").write_text("")
    for place, problem in (
        (path, "format 99"),
        (path, "format 99"),
        (tmp_path / "text", "not a database"),
        (tmp_path / "file" / "x", "there is no folder"),
        (tmp_path / "none" / "x", "there is no folder"),
        (tmp_path, "directory"),
    ):
        store = SqliteStore(place, TERMS)
        with pytest.raises(StoreError, match=problem):
            await store.start()
        await store.stop()
    assert names(tmp_path) == {"sessions.db", "sessions.db.lock", "text", "file"}
    assert f"{tmp_path.name}.lock" not in names(tmp_path.parent)


FOREIGN = ["0", "1", "2", "-1", "99", "1; PRAGMA application_id = 7", "2; PRAGMA application_id = 7"]
FOREIGN += [f"-1; PRAGMA application_id = {APPLICATION}"]


@pytest.mark.parametrize("version", FOREIGN)
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_database_of_something_else(tmp_path: Path, version: str, read_only: bool) -> None:
    """Whatever its `user_version` it is refused in one line, and not a byte of it is changed."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as file:
        file.executescript(
            f"CREATE TABLE users (name); CREATE TABLE sessions (token); PRAGMA user_version = {version};"
        )
    file.close()
    before = path.read_bytes()
    store = SqliteStore(path, TERMS, read_only=read_only)
    with pytest.raises(StoreError, match=r"app\.db: is a database of something else.*name another file$"):
        await store.start()
    await store.stop()
    assert path.read_bytes() == before
    assert names(tmp_path) <= {"app.db", "app.db.lock"}


async def test_a_file_of_before_it_was_marked(tmp_path: Path) -> None:
    """A new file has our `application_id`; one that has none, but our tables, is read and written all the same."""
    path = tmp_path / "sessions.db"
    store = SqliteStore(path, TERMS)
    await store.start()
    await put(store, [checkpoint(b"a")])
    await store.stop()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA application_id").fetchone() == (0x54494445,)
        file.execute("PRAGMA application_id = 0")
    file.close()
    for read_only in (True, False):
        store = SqliteStore(path, TERMS, read_only=read_only)
        await store.start()
        assert await everything(store) == [checkpoint(b"a")]
        await store.stop()


async def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """A new file, its log and its index are its owner's alone; one that is there keeps its mode."""
    path = tmp_path / "sessions.db"
    for mode in (0o600, 0o640):
        store = SqliteStore(path, TERMS)
        await store.start()
        await put(store, [checkpoint(b"a")])
        for name in ("sessions.db", "sessions.db-wal", "sessions.db-shm"):
            assert (tmp_path / name).stat().st_mode & 0o777 == mode
        await store.stop()
        path.chmod(0o640)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root, who may write everywhere, is nobody meanwhile."""
    root = os.getuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder for all to enter, unlike pytest's own."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


def for_reading(folder: Path) -> None:
    """All may read there, and nobody write."""
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o555)


def with_a_log(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "sessions.db-wal").touch()
    folder.chmod(0o555)


async def test_a_folder_that_cannot_be_written_to(outside: Path) -> None:
    """A file that its server has closed is read there; one with a log is not, and the reason is told."""
    path = outside / "sessions.db"
    store = SqliteStore(path, TERMS)
    await store.start()
    await put(store, [checkpoint(b"a")])
    await store.stop()
    for_reading(outside)
    with unprivileged():
        reader = SqliteStore(path, TERMS, read_only=True)
        await reader.start()
        assert await everything(reader) == [checkpoint(b"a")]
    os.utime(path, (0, 0))  # as one does who may write, and opens it
    with pytest.raises(StoreError, match="a server opened it while it was read"):
        await everything(reader)
    await reader.stop()
    with_a_log(outside)
    with unprivileged():
        reader = SqliteStore(path, TERMS, read_only=True)
        with pytest.raises(StoreError, match=r"sessions\.db: has a log beside it .*copy both"):
            await reader.start()
        await reader.stop()


@pytest.mark.parametrize("found", ["'x'", "-99999999999999", "1e300", "9223372036854775807", "x'00'"])
async def test_a_time_of_activity_that_cannot_be(tmp_path: Path, found: str) -> None:
    """It is no time, and the row is whole: no checksum is over it."""
    path = tmp_path / "sessions.db"
    store = SqliteStore(path, TERMS)
    await store.start()
    await put(store, [checkpoint(b"a")])
    await store.stop()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(f"UPDATE sessions SET active_at = {found}")
    again = SqliteStore(path, TERMS)
    await again.start()
    assert await everything(again) == [checkpoint(b"a")]
    await again.stop()


async def test_one_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Not an empty answer, and no file."""
    store = SqliteStore(tmp_path / "sessions.db", TERMS)
    with pytest.raises(StoreError, match="not open"):
        await store.save([checkpoint(b"a")], [1])
    with pytest.raises(StoreError, match="not open"):
        await store.claim([checkpoint(b"a").key])
    await store.stop()
    assert not (tmp_path / "sessions.db").exists()


async def test_a_full_disk_is_an_error_and_no_end(tmp_path: Path) -> None:
    """Nothing of the call is saved; what was saved before is there; and it goes on when there is room again."""
    store = SqliteStore(tmp_path / "sessions.db", TERMS)
    await store.start()
    [epoch] = await put(store, [checkpoint(b"a")])
    large = [checkpoint(b"%d" % number, content=bytes(10_000)) for number in range(1000)]
    epochs = [claim.epoch for claim in await store.claim([row.key for row in large])]
    with (
        file_bytes_max(1_000_000),
        pytest.raises(StoreError, match=r"sessions\.db: (disk I/O|database or disk is full)"),
    ):
        await store.save(large, epochs)
    assert await everything(store) == [checkpoint(b"a")]
    assert await store.save([checkpoint(b"a", 2), *large], [epoch, *epochs]) == []
    assert len(await everything(store)) == 1001
    await store.stop()


async def test_a_file_that_is_taken_away(tmp_path: Path) -> None:
    """Nothing counts as saved while the path leads nowhere, or to another file; it goes on when the file is back."""
    path, away = tmp_path / "sessions.db", tmp_path / "away.db"
    store = SqliteStore(path, TERMS)
    await store.start()
    [epoch] = await put(store, [checkpoint(b"a")])
    later = checkpoint(b"a", 2, layout=b"new")
    path.rename(away)
    for problem in ("was removed", "is another file now"):
        with pytest.raises(StoreError, match=rf"sessions\.db: {problem}"):
            await store.save([later], [epoch])
        with pytest.raises(StoreError, match=problem):
            await store.release([later.key], [epoch])
        path.touch()
    away.replace(path)
    assert await everything(store) == [checkpoint(b"a")]
    assert await store.save([later], [epoch]) == []
    assert await everything(store) == [later]
    await store.stop()


async def test_time_goes_on_for_what_is_held(tmp_path: Path) -> None:
    """A row that is held is not forgotten however long ago it was saved; its time begins again."""
    clock = Clock()
    store = SqliteStore(tmp_path / "sessions.db", TERMS, clock)
    await store.start()
    [epoch] = await put(store, [checkpoint(b"a")])
    clock.seconds += 5000
    assert await store.expire() == 0
    await store.release([checkpoint(b"a").key], [epoch])
    clock.seconds += 99
    assert await store.expire() == 0
    clock.seconds += 2
    assert await store.expire() == 1
    await store.stop()


async def test_a_reader_needs_no_lock_and_changes_nothing(tmp_path: Path) -> None:
    """It sees what was saved by then, beside the server and after it; it makes no file."""
    path, row = tmp_path / "sessions.db", checkpoint(b"a", 5)
    store, reader = SqliteStore(path, TERMS), SqliteStore(path, TERMS, read_only=True)
    with pytest.raises(StoreError, match=r"sessions\.db: there is no such file"):
        await reader.start()
    assert not (tmp_path / "sessions.db").exists()
    await store.start()
    [epoch] = await put(store, [row])
    await reader.start()
    assert await everything(reader) == [row]
    await store.save([checkpoint(b"a", 6)], [epoch])
    assert await everything(reader) == [checkpoint(b"a", 6)]
    for refused in (reader.claim([row.key]), reader.save([row], [1])):
        with pytest.raises(StoreError):
            await refused
    await store.stop()
    assert await everything(reader) == [checkpoint(b"a", 6)]
    await reader.stop()


async def test_a_reader_takes_an_older_file_as_it_is(tmp_path: Path) -> None:
    """Format 1 stays format 1; what is no store is refused."""
    path, row = tmp_path / "sessions.db", checkpoint(b"a", 5)
    with sqlite3.connect(path) as file:
        file.executescript(FORMAT_1)
        file.execute("INSERT INTO layouts VALUES (1, ?)", (row.layout,))
        values = (*row.key, row.version, row.fingerprint, row.step, 1, sealed(row))
        file.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    file.close()
    reader = SqliteStore(path, TERMS, read_only=True)
    await reader.start()
    assert await everything(reader) == [row]
    await reader.stop()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        file.execute("PRAGMA user_version = 0")
    file.close()
    reader = SqliteStore(path, TERMS, read_only=True)
    with pytest.raises(StoreError, match="no store of sessions"):
        await reader.start()
    await reader.stop()


@pytest.mark.parametrize(
    "damage",
    ["UPDATE sessions SET session_id = CAST(session_id AS TEXT)", "UPDATE layouts SET layout = CAST(layout AS TEXT)"],
)
async def test_a_text_where_bytes_were(tmp_path: Path, damage: str) -> None:
    """In SQLite's format that is one bit. Such a row is read as the bytes it holds, and nothing fails."""
    path, row = tmp_path / "sessions.db", checkpoint(b"a")
    store = SqliteStore(path, TERMS)
    await store.start()
    await put(store, [row])
    await store.stop()
    with sqlite3.connect(path) as file:
        file.execute(damage)
    file.close()
    store = SqliteStore(path, TERMS)
    await store.start()
    assert await everything(store) == [row]
    [claim] = await store.claim([row.key])
    assert claim.checkpoint == row
    later = checkpoint(b"a", 2)
    assert await store.save([later], [claim.epoch]) == []
    assert await everything(store) == [later]
    await store.stop()
