"""How the keeper's tasks end: also where a library swallows what ends them, and where something unknown goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

import pytest

from tests.durability.replicas import NoMarks
from tests.durability.site import LIMITS, Site, seen, stepped
from tidegate.checkpoints import Checkpoint, Key
from tidegate.durability import Durability
from tidegate.store.memory import MemoryStore
from tidegate.store.protocol import Renewal, Terms

PATIENCE_SECONDS = 60.0


class Swallows(MemoryStore):
    """A store whose client swallows a cancellation when an answer is on its way, as asyncio.wait_for of Python 3.11
    does. `sent` is set while one is."""

    def __init__(self, site: Site) -> None:
        super().__init__(Terms("me", LIMITS.lease_seconds), site.shelf)
        self.sent = asyncio.Event()

    async def renew(self) -> Renewal:
        self.sent.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
        self.sent.clear()
        return await super().renew()


@pytest.fixture
async def kept(site: Site) -> Durability:
    """The keeper of a replica in such a store, with its tasks."""
    replica = await site.replica()
    durability = Durability(replica.host, Swallows(site), LIMITS, NoMarks, time.monotonic)
    await durability.start()
    return durability


async def test_a_cancellation_that_is_swallowed(kept: Durability) -> None:
    """The lease's task ends all the same, and the store is closed."""
    store = kept.store
    assert isinstance(store, Swallows)
    last_rounds = kept._last_rounds

    async def until_one_is_sent() -> None:
        await last_rounds()
        store.sent.clear()
        await store.sent.wait()

    kept._last_rounds = until_one_is_sent  # type: ignore[method-assign]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await kept.stop()
    assert not store._shelf.alive("me")


async def test_a_deadline_that_is_swallowed(kept: Durability, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rounds end where their time does."""

    rounds = list[bool]()

    async def deaf(last: bool = False) -> None:
        rounds.append(last)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(kept, "round", deaf)
    monkeypatch.setattr(type(kept.exits), "waiting", True)  # there is always more to do
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await kept.stop()
    assert len(rounds) == 1


async def test_a_store_that_hangs_at_the_end(kept: Durability, monkeypatch: pytest.MonkeyPatch) -> None:
    """When time is up the end does not wait for it, whatever patience the store's own calls have."""

    async def hangs(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(kept, "round", hangs)
    monkeypatch.setattr(kept.store, "stop", hangs)
    async with asyncio.timeout(PATIENCE_SECONDS) as patience:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await kept.stop()
    assert not patience.expired()


async def test_a_last_round_that_fails_in_an_unknown_way(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and made again: nothing is lost."""
    replica = await site.replica()
    await stepped(replica, "k", 1)
    replica.send("k", 2, seen(2))
    await replica.settle()
    save, tries = replica.store.save, list[int]()

    async def once(rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        tries.append(len(rows))
        if len(tries) == 1:
            raise RuntimeError("no StoreError")
        return await save(rows, epochs)

    replica.store.save = once  # type: ignore[method-assign]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await replica.durability._last_rounds()
    assert len(tries) > 1
    assert "a round of checkpoints failed" in caplog.text
    (row,) = site.shelf.rows.values()
    assert row.checkpoint is not None
    assert row.checkpoint.step == 2


async def test_a_life_sign_that_fails_in_an_unknown_way(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and the next ones are given."""
    replica = await site.replica()
    lease, renew, signs, given = replica.durability.lease, replica.store.renew, list[int](), asyncio.Event()

    async def fails_first() -> Renewal:
        signs.append(1)
        if len(signs) <= 2:
            raise RuntimeError("no StoreError")
        given.set()
        return await renew()

    replica.store.renew = fails_first  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        task = asyncio.create_task(lease.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await given.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert caplog.text.count("a life sign failed") == 1
