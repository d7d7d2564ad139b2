"""Backups of every kind of store, and what a restore puts back, keeps and leaves."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.store.places import (
    Clock,
    MemoryPlace,
    Place,
    RedisPlace,
    SqlitePlace,
    checkpoint,
    everything,
    put,
)
from tidegate.store import backup
from tidegate.store.backup import BackedUp, Restored, back_up, restore
from tidegate.store.protocol import PAGE_ROWS, Store, StoreError, Terms
from tidegate.store.sqlite import SqliteStore

TERMS = Terms("b", stored_seconds_max=100, held_seconds_max=1000)


@pytest.fixture(params=["shelf", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind that another process may read, empty."""
    if request.param == "redis":
        return RedisPlace(request.getfixturevalue("redis_server"))
    return SqlitePlace(tmp_path) if request.param == "sqlite" else MemoryPlace(shared=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the backup goes: into a folder that has nothing else in it."""
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups" / "today.db"


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _header(file: Path) -> bytes:
    """https://sqlite.org/fileformat.html, 1.3"""
    return file.read_bytes()[:100]


def _mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def reading(place: Place) -> Store:
    """For a backup."""
    return reader(place.path) if isinstance(place, SqlitePlace) else place.store("reader")


def reader(path: Path) -> SqliteStore:
    return SqliteStore(path, TERMS, read_only=True)


async def test_a_backup_is_a_store(place: Place, file: Path) -> None:
    """Of one that is in use: with all rows of any names and layouts but the damaged one; alone in its folder."""
    rows = [checkpoint(b"%04d" % number, number, b"%d" % (number % 3)) for number in range(PAGE_ROWS + 7)]
    rows += [checkpoint(b"\xff\x00|"), checkpoint(b"a")._replace(key=checkpoint(b"a").key._replace(tenant="ü"))]
    store = place.store()
    await store.start()
    await put(store, [*rows, checkpoint(b"bad")])
    await place.damage(checkpoint(b"bad").key)
    assert await back_up(reading(place), file) == BackedUp(len(rows), 1)
    assert names(file.parent) == [file.name]
    assert _mode(file) == 0o600
    assert _header(file)[18:20] == b"\x01\x01"  # no log beside it, so that it is read from where nothing can be written
    await put(store, rows[:1])
    await store.stop()
    copy = SqliteStore(file, TERMS)
    await copy.start()
    assert await everything(copy) == sorted(rows, key=lambda row: row.key)
    assert (await copy.claim([rows[5].key]))[0].checkpoint == rows[5]
    assert await put(copy, [rows[5]._replace(step=99)])
    await copy.stop()


async def test_a_backup_does_not_run_out(file: Path, tmp_path: Path) -> None:
    """However short the store's own rows last, a server that opens it after years has all."""
    place, clock = SqlitePlace(tmp_path), Clock()
    store = place.store(stored=1.0, held=1.0)
    await store.start()
    await put(store, [checkpoint(b"a")])
    await back_up(reading(place), file)
    await store.stop()
    clock.seconds += 50 * 365 * 86_400
    copy = SqliteStore(file, TERMS, clock)
    await copy.start()
    assert await copy.expire() == 0
    assert await everything(copy) == [checkpoint(b"a")]
    await copy.stop()


async def test_a_backup_is_whole_or_not_there(place: Place, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it breaks off, nothing is left; a file that is there is not touched."""
    store = place.store()
    await store.start()
    await put(store, [checkpoint(b"a")])
    with monkeypatch.context() as patched:
        patched.setattr(backup, "make_plain", _broken)
        with pytest.raises(StoreError, match=r"today\.db: disk is broken"):
            await back_up(reading(place), file)
    assert names(file.parent) == []
    await back_up(reading(place), file)
    with pytest.raises(StoreError, match=r"today\.db: is there already"):
        await back_up(reading(place), file)
    assert names(file.parent) == [file.name]
    with pytest.raises(StoreError, match="No such file"):
        await back_up(reading(place), file.parent / "nowhere" / "today.db")
    await store.stop()


def _broken(_: Path) -> None:
    raise sqlite3.OperationalError("disk is broken")


async def test_a_row_that_comes_twice_is_kept_as_it_came_last(file: Path) -> None:
    """As SCAN may tell it, in one page or in two."""

    class Stuttering(SqliteStore):
        async def scan(self):  # type: ignore[no-untyped-def]
            yield [checkpoint(b"a", 1), checkpoint(b"b"), checkpoint(b"a", 2)]
            yield [checkpoint(b"a", 3), checkpoint(b"c")]

    source = Stuttering(file.parent / "source.db", TERMS)
    assert await back_up(source, file) == BackedUp(3, 0)
    copy = reader(file)
    await copy.start()
    assert await everything(copy) == [checkpoint(b"a", 3), checkpoint(b"b"), checkpoint(b"c")]
    await copy.stop()


async def backed_up(file: Path, steps: dict[bytes, int]) -> None:
    """A backup with these sessions."""
    shelf = MemoryPlace(shared=True)
    store = shelf.store()
    await put(store, [checkpoint(name, step) for name, step in steps.items()])
    await back_up(shelf.store("reader"), file)


async def steps_of(place: Place) -> dict[bytes, int]:
    store = place.store("eye")
    await store.start()
    found = {row.key.session_id: row.step for row in await everything(store)}
    await store.stop()
    return found


@pytest.mark.parametrize("overwrite", [False, True])
async def test_what_is_put_back(place: Place, file: Path, overwrite: bool) -> None:
    """What is not there, damaged, or of an earlier step; the rest too where that is asked for. All is free after it."""
    await backed_up(file, {b"gone": 5, b"behind": 5, b"same": 5, b"ahead": 5, b"bad": 5})
    store = place.store()
    await store.start()
    rows = [checkpoint(name, step) for name, step in ((b"behind", 4), (b"same", 5), (b"ahead", 6), (b"bad", 9))]
    epochs = await put(store, [*rows, checkpoint(b"else")])
    await store.release([*(row.key for row in rows), checkpoint(b"else").key], epochs)
    await place.damage(checkpoint(b"bad").key)
    await store.stop()
    done = await restore(reader(file), place.store("operator"), overwrite=overwrite)
    assert done == (Restored(5, 0) if overwrite else Restored(3, 2))
    ahead = 5 if overwrite else 6
    assert await steps_of(place) == {b"gone": 5, b"behind": 5, b"same": 5, b"ahead": ahead, b"bad": 5, b"else": 1}
    store = place.store()
    await store.start()
    claims = await store.claim([*(row.key for row in rows), checkpoint(b"gone").key])
    assert all(claim.epoch for claim in claims)
    await store.stop()


async def test_what_replicas_hold_is_left(shared_place: Place, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And told to whom; they are asked for those alone that would have been put back, and keep theirs until then."""
    monkeypatch.setattr(backup, "ROWS", 2)
    await backed_up(file, {b"behind": 5, b"ahead": 5, b"new": 5, b"gone": 5})
    replica = shared_place.store("replica")
    await replica.start()
    rows = [checkpoint(b"behind", 4), checkpoint(b"ahead", 6)]
    epochs = [*await put(replica, rows), (await replica.claim([checkpoint(b"new").key]))[0].epoch]
    done = await restore(reader(file), shared_place.store("operator"), overwrite=False)
    held = [checkpoint(b"behind").key, checkpoint(b"new").key]
    assert (done.restored, done.kept, sorted(done.held)) == (1, 1, [(key, "replica") for key in held])
    assert await steps_of(shared_place) == {b"behind": 4, b"ahead": 6, b"gone": 5}
    assert sorted((await replica.renew()).wanted) == held
    assert await replica.lost([*(row.key for row in rows), held[1]], epochs) == []
    await replica.release([rows[0].key, held[1]], [epochs[0], epochs[2]])
    done = await restore(reader(file), shared_place.store("operator"), overwrite=False)
    assert done == Restored(2, 2)
    await replica.stop()


async def test_a_restore_that_loses_its_lease_overwrites_nobody(shared_place: Place, file: Path) -> None:
    """One that was frozen in the middle: what others took meanwhile is theirs."""
    await backed_up(file, {b"a": 5, b"b": 5})
    replica, operator = shared_place.store("replica"), shared_place.store("operator", lease=0.05)
    await replica.start()
    claim = operator.claim

    async def slow(keys):  # type: ignore[no-untyped-def]
        claims = await claim(keys)
        await shared_place.passes(0.5)
        assert await put(replica, [checkpoint(b"a", 1)])
        return claims

    operator.claim = slow  # type: ignore[method-assign]
    done = await restore(reader(file), operator, overwrite=True)
    assert (done.restored, done.held) == (1, [(checkpoint(b"a").key, "another replica")])
    assert await steps_of(shared_place) == {b"a": 1, b"b": 5}
    await replica.stop()


async def test_damaged_rows_of_a_backup_are_left_out(place: Place, file: Path) -> None:
    """And counted; the others are put back."""
    await backed_up(file, {b"a": 5, b"b": 5})
    with sqlite3.connect(file) as damaged:
        damaged.execute("UPDATE sessions SET content = x'00' WHERE session_id = ?", (b"a",))
    damaged.close()
    assert await restore(reader(file), place.store(), overwrite=False) == Restored(1, 0, 1)
    assert await steps_of(place) == {b"b": 5}


async def test_a_sqlite_file_in_use_is_not_restored_into(tmp_path: Path, file: Path) -> None:
    """The server that has it knows better."""
    await backed_up(file, {b"a": 5})
    place = SqlitePlace(tmp_path)
    store = place.store()
    await store.start()
    with pytest.raises(StoreError, match="is in use by another server"):
        await restore(reader(file), place.store(), overwrite=False)
    await store.stop()
