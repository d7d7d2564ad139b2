"""Interleavings of the keeper's awaits with what happens meanwhile, one by one: each was a fault once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.durability.replicas import Replica, Told
from tests.engine.harness import InProcess, VirtualClock
from tests.packages import random_package
from tidegate.checkpoints import Checkpoint, Key
from tidegate.config import Durability as Level
from tidegate.config import Limits
from tidegate.engine import commands
from tidegate.engine.inbox import Block, Scope
from tidegate.engine.saving import Taken
from tidegate.errors import Reason
from tidegate.model import repository
from tidegate.model.frequency import NO_TIME
from tidegate.store.memory import Shelf
from tidegate.store.protocol import Claim, StoreError

PATIENCE_SECONDS = 10.0
LIMITS = Limits(sessions_max=8, lease_seconds=2.0, handover_seconds_max=4.0)


class Site:
    """Makes replicas on one shelf and one clock."""

    def __init__(self, folder: Path) -> None:
        random_package(folder, features=2, targets=2, hidden=16)
        self._snapshot = repository.scan(folder, {})
        self._steppers = InProcess(folder).catalog.prepare(self._snapshot)
        self.clock = VirtualClock()
        self.shelf = Shelf(self.clock.read)
        self._born = 0

    async def replica(self, level: Level = Level.INTERVAL, limits: Limits = LIMITS) -> Replica:
        self._born += 1
        name = f"r{self._born}"
        replica = Replica(self._snapshot, self._steppers, self.shelf, self.clock, name, limits, level, [])
        await replica.store.start()
        return replica


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def key(name: str) -> Key:
    return Key("", "random", name.encode())


def seen(step: int) -> NDArray[np.float64]:
    return np.array([0.1 * step, 0.2])


async def stepped(replica: Replica, name: str, step: int) -> Told:
    """Sends an observation and does rounds until it is answered."""
    request = replica.send(name, step, seen(step))
    await replica.settle()
    for _ in range(5):
        told = replica.told(request)
        if told is not None:
            return told
        await replica.turn()
    raise AssertionError("no answer")


async def test_a_pass_ends_under_load(site: Site) -> None:
    """Sessions that move while a pass is under way do not keep it going."""
    replica = await site.replica()
    for number in range(4):
        await stepped(replica, f"s{number}", 1)
    save, step = replica.store.save, 1

    async def slow(rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        nonlocal step
        step += 1
        for number in range(4):
            replica.send(f"s{number}", step, seen(step))
        await replica.settle()
        return await save(rows, epochs)

    replica.store.save = slow  # type: ignore[method-assign]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await replica.durability.passes.full(replica.settle)
    assert step > 1


async def test_a_pass_that_failed_is_made_again(site: Site) -> None:
    """By the next round, and not an interval later; so is the look for rows that are past their time."""
    replica = await site.replica()
    store = replica.store
    await replica.turn()
    await stepped(replica, "k", 1)
    save, expire, expired = store.save, store.expire, 0

    async def away(*_: object) -> list[Key]:
        raise StoreError("away")

    async def counted() -> int:
        nonlocal expired
        expired += 1
        return await expire()

    site.clock.seconds += 60.0
    for method, back in (("save", save), ("expire", counted)):
        setattr(store, method, away)
        with pytest.raises(StoreError):
            await replica.durability.round()
        setattr(store, method, back)
    await replica.turn()
    assert (replica.durability.lag_seconds, expired) == (0.0, 1)


async def test_what_was_taken_is_not_saved_yet(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the engine, which takes a checkpoint, and the task that writes it, the loop may see to somebody who asks
    whether all is saved: it is not."""
    replica, told = await site.replica(), list[bool]()
    saving, passes = replica.host.engine.saving, replica.durability.passes
    await stepped(replica, "k", 1)
    await replica.turn()
    assert not passes.unsaved
    replica.send("k", 2, seen(2))
    await replica.settle()
    take = saving.take

    def watched(rows_max: int) -> Taken:
        asyncio.get_running_loop().call_soon(lambda: told.append(passes.unsaved))
        return take(rows_max)

    monkeypatch.setattr(saving, "take", watched)
    await passes.full(replica.settle)
    assert told == [True, False]  # the second time nothing was left to take
    assert not passes.unsaved


async def test_a_save_that_fails_in_an_unknown_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is made again too, and by then nothing is unsaved: a server that ends would wait for that."""
    replica = await site.replica()
    await stepped(replica, "k", 1)
    await replica.turn()
    passes = replica.durability.passes
    replica.send("k", 2, seen(2))
    await replica.settle()

    async def broken(*_: object) -> list[Key]:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(replica.store, "save", broken)
        with pytest.raises(RuntimeError):
            await passes.full(replica.settle)
    await replica.settle()
    assert passes.unsaved
    before = passes.saved
    await passes.full(replica.settle)
    assert (passes.saved - before, passes.unsaved) == (1, False)


async def test_a_claim_whose_answer_is_lost(site: Site) -> None:
    """The store gave the session, and nobody heard it: another replica that wants it gets it all the same."""
    one, other = await site.replica(), await site.replica()
    await stepped(other, "k", 1)
    other.host.engine.departures.leave([key("k")], "room")
    await other.turn()
    claim = one.store.claim

    async def unheard(keys: Sequence[Key]) -> list[Claim]:
        await claim(keys)
        raise StoreError("the answer was lost")

    one.store.claim = unheard  # type: ignore[method-assign]
    request = one.send("k", 2, seen(2))
    await one.settle()
    with pytest.raises(StoreError):
        await one.durability.round()
    one.store.claim = claim  # type: ignore[method-assign]
    for _ in range(50):
        site.clock.seconds += 0.1
        await one.durability.lease.renew()
        await other.durability.lease.renew()
    one.durability.arrivals.give_up()
    await one.settle()
    told = one.told(request)
    assert told is not None
    assert told.reason is Reason.STORE_UNAVAILABLE
    request = other.send("k", 2, seen(2))
    for _ in range(30):
        site.clock.seconds += 0.1
        await one.turn()
        await other.turn()
    answer = other.told(request)
    assert answer is not None
    assert answer.reason is Reason.OK


async def test_closed_while_another_is_deleted(site: Site) -> None:
    """A closed session does not come back by a row that came before its deletion."""
    replica = await site.replica()
    for name in ("x", "k"):
        for step in (1, 2, 3):
            await stepped(replica, name, step)
    site.clock.seconds += 2
    await replica.turn()
    gate, delete = asyncio.Event(), replica.store.delete

    async def slow(keys: Sequence[Key]) -> None:
        await gate.wait()
        await delete(keys)

    async def close(name: str) -> None:
        async with replica.durability.visit([key(name)], True):
            await replica.host.call(commands.CloseSessions("", "random", [name.encode()]))

    replica.store.delete = slow  # type: ignore[method-assign]
    closing = [asyncio.create_task(close("x"))]
    await replica.settle()
    round_ = asyncio.create_task(replica.durability.round())
    await replica.settle()
    closing.append(asyncio.create_task(close("k")))
    await replica.settle()
    request = replica.send("k", 1, seen(1))
    await replica.settle()
    gate.set()
    await round_
    for _ in range(3):
        await replica.turn()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*closing)
    told = replica.told(request)
    assert told is not None
    assert told.reason is Reason.OK
    assert told.step == 1


async def test_a_refused_row_makes_no_room(site: Site) -> None:
    """A full memory: a wrong row of a message does not drive out the session of another row of it."""
    replica = await site.replica(limits=LIMITS.model_copy(update={"sessions_max": 2}))
    for name in ("a", "b"):
        await stepped(replica, name, 1)
        site.clock.seconds += 1
    block = Block(
        scope=Scope("", "random", strict_steps=True),
        request=np.array([900, 901]),
        row=np.zeros(2, np.int32),
        ids=[b"a", b"new"],
        step=np.array([2, 1]),
        time=np.array([NO_TIME] * 2),
        values=np.array([seen(2), [np.inf, 0.0]]),
        reset=np.zeros(2, bool),
        deadline=np.full(2, np.inf),
        arrived=np.zeros(2),
    )
    replica.host.engine.inbox.add_block(block)
    await replica.settle()
    told, wrong = replica.told(900), replica.told(901)
    assert told is not None
    assert wrong is not None
    assert (told.reason, wrong.reason) == (Reason.OK, Reason.BAD_OBSERVATION)


async def test_rows_of_a_session_that_was_lost(site: Site) -> None:
    """They are told to try again, not that there is no such session."""
    replica = await site.replica()
    await stepped(replica, "k", 1)
    request = replica.send("k", 2, seen(2))
    engine = replica.host.engine
    for block in engine.inbox.take():
        engine._admit(block)
    refs = engine.saving.discard([key("k")])
    assert len(refs) == 1
    await replica.settle()
    told = replica.told(request)
    assert told is not None
    assert told.reason is Reason.SESSION_MOVED


async def test_more_new_sessions_than_may_wait(site: Site) -> None:
    """Above the limit of rows that wait for the store nothing more is read; nothing is refused: the store is well."""
    replica = await site.replica(limits=LIMITS.model_copy(update={"parked_rows_max": 3}))
    requests = [replica.send(f"s{number}", 1, seen(1)) for number in range(5)]
    await replica.settle()
    reading = asyncio.create_task(replica.host.room())
    await replica.settle()
    assert (replica.host.engine.full, reading.done()) == (True, False)
    await replica.turn()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reading
    assert [told.reason for told in map(replica.told, requests) if told is not None] == [Reason.OK] * 5
