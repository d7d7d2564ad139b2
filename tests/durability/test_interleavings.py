"""Interleavings of the keeper's awaits with what happens meanwhile, one by one: each was a fault once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from tests.durability.site import LIMITS, Site, key, seen, stepped
from tidegate.checkpoints import Checkpoint, Key
from tidegate.config import Durability as Level
from tidegate.engine import commands
from tidegate.engine.queues.block import Block, Scope
from tidegate.engine.sessions.saving import Taken
from tidegate.errors import Reason, TidegateError
from tidegate.model.frequency import NO_TIME
from tidegate.store.protocol import Claim, StoreError

PATIENCE_SECONDS = 60.0


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


async def test_who_looks_at_a_session_does_not_use_it(site: Site) -> None:
    """It is as idle as before: where it is, and where it comes to be looked at."""
    owner, other = await site.replica(), await site.replica()
    await stepped(owner, "k", 1)
    await owner.turn()
    site.clock.seconds += 1.0
    for _ in range(3):
        site.clock.seconds += 0.5
        await owner.look("k")
    assert owner.sessions.info("", "random", b"k", site.clock.seconds).idle_seconds == 2.5
    await other.look("k")
    for _ in range(2):  # it is handed over
        site.clock.seconds += 0.5
        await owner.turn()
        await other.turn()
    await other.look("k")
    assert other.resident("k")
    idle_seconds = other.sessions.info("", "random", b"k", site.clock.seconds).idle_seconds
    assert 3.4 < idle_seconds < 4.6  # the store keeps whole seconds


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

    async def slow(keys: Sequence[Key]) -> list[Key]:
        await gate.wait()
        return await delete(keys)

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


@pytest.mark.parametrize("level", [Level.INTERVAL, Level.STEP])
@pytest.mark.parametrize("way", ["handed over", "made room", "rows queued"])
async def test_a_session_that_leaves_while_its_save_fails(site: Site, level: Level, way: str) -> None:
    """It takes along what was not saved: its next owner goes on from there, and no answer is lost."""
    here, there = await site.replica(level), await site.replica(level)
    await stepped(here, "k", 1)
    site.clock.seconds += 2
    await here.turn()
    request = here.send("k", 2, seen(2))
    await here.settle()
    departures, save = here.host.engine.departures, here.store.save

    async def fails(rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        if way == "made room":
            lane = next(iter(here.host.engine.catalog.lanes.values()))
            await here.host.call(lambda: departures.room(lane, LIMITS.sessions_max))
        else:
            await there.store.claim([key("k")])
            await here.durability.lease.renew()
        await here.settle()
        raise StoreError("the connection broke")

    settle = departures.settle
    if way == "rows queued":
        departures.settle = lambda: True  # type: ignore[method-assign]
    here.store.save = fails  # type: ignore[method-assign]
    site.clock.seconds += 1.5
    with pytest.raises(StoreError):
        await here.durability.round()
    assert not here.resident("k")
    assert here.durability.lag_seconds > 0
    here.store.save, departures.settle = save, settle  # type: ignore[method-assign]
    for _ in range(3):
        await here.turn()
    told, row = here.told(request), site.shelf.row(key("k"))
    assert told is not None
    assert told.step == 2
    assert row is not None
    assert row.checkpoint is not None
    assert row.checkpoint.step == 2
    assert (await stepped(there, "k", 3)).reason is Reason.OK


@pytest.mark.parametrize("change", ["reset", "close"])
async def test_a_change_of_a_session_that_was_lost(site: Site, change: str) -> None:
    """A replica was frozen between the change and its save, and another took the session: who asked for the change is
    not told that it is done, and the session lives on there as it was."""
    here, there = await site.replica(), await site.replica()
    for step in (1, 2, 3):
        await stepped(here, "k", step)
    site.clock.seconds += 1.2
    await here.turn()
    command: commands.Command = commands.ResetSessions("", "random", [b"k"])
    if change == "close":
        command = commands.CloseSessions("", "random", [b"k"])

    async def ask() -> None:
        async with here.durability.visit([key("k")], True):
            await here.host.call(command)

    asking = asyncio.create_task(ask())
    await here.settle()
    site.clock.seconds += LIMITS.lease_seconds + 1
    assert (await stepped(there, "k", 4)).reason is Reason.OK
    for _ in range(2):
        await here.turn()
    with pytest.raises(TidegateError) as caught:
        await asking
    assert caught.value.reason is Reason.SESSION_MOVED
    assert (await stepped(there, "k", 5)).reason is Reason.OK


async def test_rows_that_wait_for_a_session_that_a_command_makes(site: Site) -> None:
    """They are stepped before those that came after it was made."""
    replica, ready, go = await site.replica(), asyncio.Event(), asyncio.Event()
    later = list[int]()

    async def open_it() -> None:
        async with replica.durability.visit([key("k")], True):
            ready.set()
            await go.wait()
            await replica.host.call(commands.OpenSessions("", "random", "", [b"k"]))
            later.append(replica.send("k", 2, seen(2)))
            replica.host.wake()

    opening = asyncio.create_task(open_it())
    await replica.settle()
    await replica.turn()
    await ready.wait()
    first = replica.send("k", 1, seen(1))  # waits: the name is taken, and there is no session yet
    await replica.settle()
    assert replica.told(first) is None
    go.set()
    await replica.settle()
    for _ in range(2):
        await replica.turn()
    await opening
    for request in (first, *later):
        told = replica.told(request)
        assert told is not None
        assert told.reason is Reason.OK


async def test_no_room_for_a_stored_session(site: Site) -> None:
    """It is told so, as a new one is: the store is well."""
    full = LIMITS.model_copy(update={"sessions_max": 2})
    replica, other = await site.replica(limits=full), await site.replica()
    await stepped(other, "k", 1)
    other.host.engine.departures.leave([key("k")], "room")
    await other.turn()
    for name in ("x", "y"):
        await stepped(replica, name, 1)
    replica.host.engine.departures.visiting = {key("x"), key("y")}
    request = replica.send("k", 2, seen(2))
    await replica.settle()
    for _ in range(3):
        await replica.turn()
        assert replica.told(request) is None  # there may be room soon
        site.clock.seconds += LIMITS.handover_seconds_max / 2
    told = replica.told(request)
    await replica.turn()
    told = told or replica.told(request)
    assert told is not None
    assert told.reason is Reason.SESSION_LIMIT


async def test_what_was_asked_for_in_vain_is_forgotten(site: Site) -> None:
    """Nothing is remembered of sessions that were asked for for too long, whenever the store's answer comes."""
    replica, owner = await site.replica(), await site.replica()
    names = [f"s{number}" for number in range(4)]
    for name in names:
        await stepped(owner, name, 1)
    owner.host.engine.departures.visiting = {key(name) for name in names}
    claim = replica.store.claim

    async def slow(keys: Sequence[Key]) -> list[Claim]:
        claims = await claim(keys)
        await replica.settle()  # what was posted before is done meanwhile
        return claims

    replica.store.claim = slow  # type: ignore[method-assign]
    requests = [replica.send(name, 2, seen(2)) for name in names]
    await replica.settle()
    for _ in range(50):
        site.clock.seconds += 0.1
        await owner.durability.lease.renew()
        await replica.durability.lease.renew()
        await replica.durability.round()
        await replica.settle()
    answers = [replica.told(request) for request in requests]
    assert [told and told.reason for told in answers] == [Reason.SESSION_MOVED] * len(names)
    assert not replica.durability.arrivals.waiting
    assert not replica.durability.arrivals._later


async def test_a_change_of_a_session_that_is_to_leave(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has rows in a queue when another replica asks for it: who asked for the change waits until it is stored."""
    here, there = await site.replica(), await site.replica()
    for step in (1, 2):
        await stepped(here, "k", step)
    site.clock.seconds += 1.2
    await here.turn()
    departures, saved = here.host.engine.departures, list[int]()
    monkeypatch.setattr(departures, "settle", lambda: True)

    async def reset() -> None:
        async with here.durability.visit([key("k")], True):
            await here.host.call(commands.ResetSessions("", "random", [b"k"]))

    asking = asyncio.create_task(reset())
    await here.settle()
    await there.store.claim([key("k")])
    await here.turn()
    assert not here.resident("k")
    await here.turn()
    assert not asking.done()
    monkeypatch.undo()
    save = here.store.save

    async def noted(rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        saved.append(len(rows))
        return await save(rows, epochs)

    here.store.save = noted  # type: ignore[method-assign]
    for _ in range(2):
        await here.turn()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asking
    assert saved
    assert (await there.store.claim([key("k")]))[0].checkpoint is not None
