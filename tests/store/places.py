"""Where the stores of a test keep their rows: each kind of store, with what a test does to it from outside."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Protocol

from redis.asyncio import Redis

from tests.services import RunningRedis
from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.memory import MemoryStore, Shelf
from tidegate.store.protocol import Store, Terms
from tidegate.store.redis import RedisStore
from tidegate.store.redis_keys import Keys
from tidegate.store.sqlite import SqliteStore

LEASE_SECONDS = 60.0  # longer than any test: a lease runs out where a test says so
_NUMBERS = count()


class Place(Protocol):
    """One place. All stores of a place see the same rows."""

    def store(self, replica: str = "a", lease: float = LEASE_SECONDS, stored: float = 1e5, held: float = 1e6) -> Store:
        """As a replica uses it; seconds as in Terms. Not started."""
        ...

    async def damage(self, key: Key) -> None:
        """Changes a byte of what is stored of a row."""
        ...

    async def passes(self, seconds: float) -> None:
        """Lets time pass."""
        ...

    async def empty(self) -> None:
        """Takes all away; of a shared place only."""
        ...


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1e9

    def __call__(self) -> float:
        return self.seconds


class MemoryPlace:
    """A shelf; `shared` says whether stores are told of it."""

    def __init__(self, shared: bool) -> None:
        self.clock = Clock()
        self.shelf = Shelf(self.clock) if shared else None
        self.alone: MemoryStore | None = None

    def store(self, replica: str = "a", lease: float = LEASE_SECONDS, stored: float = 1e5, held: float = 1e6) -> Store:
        self.alone = MemoryStore(Terms(replica, lease, stored, held), self.shelf, self.clock)
        return self.alone

    async def damage(self, key: Key) -> None:
        assert self.alone is not None
        row = self.alone._shelf.rows[key]
        assert row.checkpoint is not None
        content = row.checkpoint.content
        row.checkpoint = row.checkpoint._replace(content=bytes([content[0] ^ 1]) + content[1:])

    async def passes(self, seconds: float) -> None:
        self.clock.seconds += seconds

    async def empty(self) -> None:
        assert self.shelf is not None
        self.shelf.clear()


class SqlitePlace:
    """A file that is not there yet."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.path = folder / "sessions.db"

    def store(self, replica: str = "a", lease: float = LEASE_SECONDS, stored: float = 1e5, held: float = 1e6) -> Store:
        return SqliteStore(self.path, Terms(replica, lease, stored, held), self.clock)

    async def damage(self, key: Key) -> None:
        with sqlite3.connect(self.path) as file:
            changed = file.execute(
                "UPDATE sessions SET content = CAST(x'00' || substr(content, 2) AS BLOB) "
                "WHERE tenant = ? AND model = ? AND session_id = ?",
                key,
            ).rowcount
        file.close()
        assert changed == 1

    async def passes(self, seconds: float) -> None:
        self.clock.seconds += seconds

    async def empty(self) -> None:
        raise NotImplementedError("nobody else empties it")


class RedisPlace:
    """A prefix in a running Redis, where time passes by itself."""

    def __init__(self, server: RunningRedis) -> None:
        self.server = server
        self.prefix = f"test-{next(_NUMBERS)}"

    def store(self, replica: str = "a", lease: float = LEASE_SECONDS, stored: float = 1e5, held: float = 1e6) -> Store:
        return RedisStore(self.server.url, Terms(replica, lease, stored, held), self.prefix)

    async def damage(self, key: Key) -> None:
        async with Redis.from_url(self.server.url) as redis:
            name = Keys(self.prefix).session(key)
            content = await redis.hget(name, "content")
            assert isinstance(content, bytes)
            await redis.hset(name, "content", bytes([content[0] ^ 1]) + content[1:])

    async def passes(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def empty(self) -> None:
        async with Redis.from_url(self.server.url) as redis:
            await redis.flushall()


def checkpoint(name: bytes, step: int = 1, layout: bytes = b"a", content: bytes = b"content") -> Checkpoint:
    """One of model m, tenant t."""
    return Checkpoint(Key("t", "m", name), "1", "f" * 64, step, layout, content)


async def everything(store: Store) -> list[Checkpoint]:
    """All rows, by key."""
    return sorted([row async for page in store.scan() for row in page], key=lambda row: row.key)


async def put(store: Store, rows: Sequence[Checkpoint]) -> list[int]:
    """Claims and saves; returns the epochs."""
    epochs = [claim.epoch for claim in await store.claim([row.key for row in rows])]
    assert await store.save(rows, epochs) == []
    return epochs
