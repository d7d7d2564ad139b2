"""Places to store in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services import redis_server
from tests.store.places import MemoryPlace, Place, RedisPlace, SqlitePlace
from tidegate.store.protocol import Store

__all__ = ["redis_server"]


def _place(kind: str, request: pytest.FixtureRequest) -> Place:
    if kind == "sqlite":
        folder: Path = request.getfixturevalue("tmp_path")
        return SqlitePlace(folder)
    if kind == "redis":
        return RedisPlace(request.getfixturevalue("redis_server"))
    return MemoryPlace(shared=kind == "shelf")


@pytest.fixture(params=["memory", "shelf", "sqlite", "redis"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind, empty."""
    return _place(request.param, request)


@pytest.fixture(params=["shelf", "redis"])
def shared_place(request: pytest.FixtureRequest) -> Place:
    """Each kind that replicas share, empty."""
    return _place(request.param, request)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """An open one of each kind, as replica a uses it."""
    store = place.store()
    await store.start()
    yield store
    await store.stop()


@pytest.fixture
async def pair(shared_place: Place) -> AsyncIterator[tuple[Store, Store]]:
    """Replicas a and b of one place."""
    a, b = shared_place.store("a"), shared_place.store("b")
    await a.start()
    await b.start()
    yield a, b
    await a.stop()
    await b.stop()
