"""The contract of a store, over every store."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.checkpoints import Checkpoint, Key
from tidegate.store import protocol
from tidegate.store.memory import MemoryStore
from tidegate.store.protocol import Store, StoreError, opened, sealed
from tidegate.store.sqlite import SqliteStore

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "new" / "sessions.db"),
}


def checkpoint(name: str, step: int = 1, layout: bytes = b"a", content: bytes = b"content") -> Checkpoint:
    """One of model m, tenant t."""
    return Checkpoint(Key("t", "m", name.encode()), "1", "f" * 64, step, layout, content)


async def everything(store: Store) -> list[Checkpoint]:
    """All rows, by key."""
    return sorted([row async for page in store.scan() for row in page], key=lambda row: row.key)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty one."""
    store = STORES[request.param](tmp_path)
    await store.start()
    yield store
    await store.stop()


async def test_what_is_saved_is_found(store: Store) -> None:
    """Rows come back as they went in, one an id asked for, None where there is none; bytes are any bytes."""
    rows = [
        checkpoint("one", content=bytes(range(256))),
        checkpoint("zwei\n", step=2**62, layout=b"b"),
        Checkpoint(Key("other", "m", b"one"), "2", "0" * 64, 5, b"", b""),
    ]
    await store.save(rows)
    asked = [rows[2].key, Key("t", "m", b"none"), rows[0].key, rows[0].key]
    assert await store.load(asked) == [rows[2], None, rows[0], rows[0]]
    assert await everything(store) == sorted(rows, key=lambda row: row.key)
    assert store.damaged == 0


async def test_a_later_one_replaces(store: Store) -> None:
    """There is one row a key: the last that was saved, in one call or two."""
    await store.save([checkpoint("a", 1), checkpoint("a", 2)])
    await store.save([checkpoint("a", 3, b"other", b"new"), checkpoint("b", 1)])
    assert await everything(store) == [checkpoint("a", 3, b"other", b"new"), checkpoint("b", 1)]


async def test_what_is_deleted_is_gone(store: Store) -> None:
    """Deleting twice, or what never was, is no error."""
    await store.save([checkpoint("a"), checkpoint("b")])
    await store.delete([checkpoint("a").key, checkpoint("never").key])
    await store.delete([checkpoint("a").key])
    assert await everything(store) == [checkpoint("b")]
    await store.save([])
    await store.delete([])


async def test_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan gives every row once, in pages of no more than the limit."""
    for module in ("memory", "sqlite"):
        monkeypatch.setattr(f"tidegate.store.{module}.PAGE_ROWS", 3)
    for count in (0, 3, 7):
        await store.save([checkpoint(f"s{number}") for number in range(count)])
        pages = [page async for page in store.scan()]
        assert max(map(len, pages), default=0) <= 3
        assert sorted(row.key.session_id for page in pages for row in page) == [b"s%d" % n for n in range(count)]


async def test_sqlite_outlives_the_process(tmp_path: Path) -> None:
    """What another store object wrote to the file is there, new layouts and old ones."""
    path = tmp_path / "sessions.db"
    for step in (1, 2, 3):
        store = SqliteStore(path)
        await store.start()
        await store.save([checkpoint("a", step), checkpoint(f"b{step}", layout=b"%d" % step)])
        await store.stop()
    store = SqliteStore(path)
    await store.start()
    assert [row.step for row in await everything(store)] == [3, 1, 1, 1]
    await store.stop()


async def test_sqlite_saves_all_or_nothing(tmp_path: Path) -> None:
    """A call that fails half-way leaves no row behind, and the next one works."""
    store = SqliteStore(tmp_path / "sessions.db")
    await store.start()
    wrong = replace(checkpoint("b"), step="no number" * 2**3, content=None)  # type: ignore[arg-type]
    with pytest.raises((StoreError, TypeError)):
        await store.save([checkpoint("a", layout=b"new"), wrong])
    assert await everything(store) == []
    await store.save([checkpoint("a", layout=b"new")])
    assert await everything(store) == [checkpoint("a", layout=b"new")]
    await store.stop()


async def test_sqlite_names_a_damaged_row_and_serves_the_others(tmp_path: Path) -> None:
    """A row that went bad is counted and left out; its neighbours are found."""
    path = tmp_path / "sessions.db"
    store = SqliteStore(path)
    await store.start()
    await store.save([checkpoint("a"), checkpoint("b"), checkpoint("c")])
    await store.stop()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE sessions SET content = x'00' || substr(content, 2) WHERE session_id = ?", (b"b",))
    store = SqliteStore(path)
    await store.start()
    assert [row.key.session_id for row in await everything(store)] == [b"a", b"c"]
    assert await store.load([checkpoint("b").key]) == [None]
    assert store.damaged == 2
    await store.save([checkpoint("b", 2)])
    assert await store.load([checkpoint("b").key]) == [checkpoint("b", 2)]
    await store.stop()


async def test_sqlite_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    """A file of a later format, one that is no database, and a folder that cannot be made say so."""
    path = tmp_path / "sessions.db"
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    (tmp_path / "text").write_text("no database, " * 100)
    (tmp_path / "file").write_text("")
    for place, problem in (
        (path, "format 99"),
        (tmp_path / "text", "not a database"),
        (tmp_path / "file" / "x", "file"),
    ):
        store = SqliteStore(place)
        with pytest.raises(StoreError, match=problem):
            await store.start()
        await store.stop()


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Not an empty answer, and no file."""
    store = SqliteStore(tmp_path / "sessions.db")
    with pytest.raises(StoreError, match="not open"):
        await store.save([checkpoint("a")])
    await store.stop()
    assert not (tmp_path / "sessions.db").exists()


@given(place=st.integers(0, 22), bit=st.integers(0, 7))
def test_any_changed_bit_is_seen(place: int, bit: int) -> None:
    """A checksum over content and key: no change of what is stored passes, and no row passes for another's."""
    row = checkpoint("a")
    stored = bytearray(sealed(row))
    assert len(stored) == 23
    fields = row.key, row.version, row.fingerprint, row.step, row.layout
    assert opened(*fields, bytes(stored)) == row
    stored[place] ^= 1 << bit
    assert opened(*fields, bytes(stored)) is None
    assert opened(Key("t", "m", b"b"), *fields[1:], sealed(row)) is None
    assert protocol.opened(row.key, row.version, row.fingerprint, row.step + 1, row.layout, sealed(row)) is None
