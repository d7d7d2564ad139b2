"""Histories of sessions that are in a store: found, held, handed over and lost like others, and never in part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.durability.replicas import Replica, Told
from tests.durability.site import LIMITS, Site, key, stepped
from tests.engine.harness import InProcess
from tidegate.config import Durability as Level
from tidegate.engine.histories import work as histories
from tidegate.engine.histories.history import History
from tidegate.engine.queues.block import Scope
from tidegate.engine.step.native_stepper import NativeStepper
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME

STEPS = 20


@pytest.fixture(autouse=True)
def one_launch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never on the engine's thread: a test makes passes of its own between those of the host."""
    monkeypatch.setattr(NativeStepper, "by_address", False)  # a launch a step
    monkeypatch.setattr(histories, "STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(histories.HistoryStretch, "expected_seconds", 0.0)


def values(steps: int = STEPS) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((steps, 2))


def send(replica: Replica, name: str, first: int, rows: NDArray[np.float64], deadline: float = np.inf) -> int:
    """Queues an exact history; returns its request."""
    replica._requests += 1
    times = np.full(len(rows), NO_TIME)
    history = History(Scope("", "random", strict_steps=True), first, times, rows, exact=True)
    engine = replica.host.engine
    engine.histories.add(replica._requests, name.encode(), history, deadline, replica._clock.seconds)
    return replica._requests


def iterate(replica: Replica, times: int = 1) -> None:
    """Passes of the engine, without its host, so that something can come in between."""
    engine = replica.host.engine
    for _ in range(times):
        flight = engine.prepare()
        if flight is not None:
            flight.run()
            engine.finish(flight)
    replica.host._after()


async def answer(replica: Replica, request: int) -> Told:
    """Passes and rounds until there is an answer."""
    for _ in range(100):
        iterate(replica)
        told = replica.told(request)
        if told is not None:
            return told
        await replica.turn()
    raise AssertionError("no answer")


def wanted(folder: Path, rows: NDArray[np.float64]) -> bytes:
    """The prediction of a server without a store."""
    engine = InProcess(folder)
    return [engine.ask("s", row.tolist(), place).bits for place, row in enumerate(rows, 1)][-1]


async def test_a_session_from_the_store(site: Site, tmp_path: Path) -> None:
    """A history opens a session that is in no store, and takes one that another replica left to what it was."""
    rows = values()
    first, second = await site.replica(), await site.replica()
    request = send(first, "s", 1, rows[:12])
    iterate(first)
    assert first.told(request) is None
    assert first.host.engine.admission.parking.rows == 1
    told = await answer(first, request)
    assert (told.reason, told.step) == (Reason.OK, 12)
    await first.turn()
    first.host.engine.departures.leave([key("s")], "moved")
    await first.turn()
    told = await answer(second, send(second, "s", 13, rows[12:]))
    assert (told.reason, told.step) == (Reason.OK, STEPS)
    assert told.bits == wanted(tmp_path, rows)


async def test_an_answer_is_held_until_it_is_durable(site: Site) -> None:
    """At durability `step` the answer waits for the store, which then has all of it."""
    replica = await site.replica(Level.STEP)
    await stepped(replica, "s", 1)
    request = send(replica, "s", 2, values())
    iterate(replica, STEPS + 2)
    assert replica.told(request) is None
    assert len(replica.host.engine.held) == 1
    await replica.turn()
    told = replica.told(request)
    assert told is not None
    assert (told.reason, told.step) == (Reason.OK, STEPS + 1)
    assert replica.store._history[-1][2] == STEPS + 1


async def test_a_session_leaves_behind_its_history(site: Site) -> None:
    """A session that is to leave does when its history is taken, and what came before; nothing of it is lost."""
    replica, other = await site.replica(), await site.replica()
    await stepped(replica, "s", 1)
    request = send(replica, "s", 2, values())
    iterate(replica, 5)
    replica.host.engine.departures.leave([key("s")], "moved")
    assert replica.host.engine.departures.waiting
    assert not replica.host.engine.departures.departing
    told = await answer(replica, request)
    assert (told.reason, told.step) == (Reason.OK, STEPS + 1)
    await replica.turn()
    assert not replica.resident("s")
    assert (await stepped(other, "s", STEPS + 2)).reason is Reason.OK


async def test_a_session_with_a_history_makes_no_room(site: Site) -> None:
    """Of the sessions of a full server those leave that no history is taken for."""
    replica = await site.replica()
    for number in range(LIMITS.sessions_max):
        site.clock.seconds += 1.0
        await stepped(replica, f"s{number}", 1)
    request = send(replica, "s0", 2, values())  # the idlest
    iterate(replica, 5)
    replica.host.engine.departures._evict(replica.host.engine.catalog.slabs[0], LIMITS.sessions_max)
    assert replica.resident("s0")
    assert not replica.resident("s1")
    assert (await answer(replica, request)).step == STEPS + 1


async def test_a_session_that_another_replica_took(site: Site) -> None:
    """A history whose session is lost meanwhile says SESSION_MOVED, and so do the rows behind it."""
    replica = await site.replica()
    await stepped(replica, "s", 1)
    request = send(replica, "s", 2, values())
    later = replica.send("s", STEPS + 2, np.zeros(2))
    iterate(replica, 5)
    behind = replica.send("s", STEPS + 3, np.zeros(2))
    iterate(replica, 2)
    replica.host.engine.saving.discard([key("s")])
    iterate(replica, STEPS)
    for asked in (request, later, behind):
        told = replica.told(asked)
        assert told is not None
        assert told.reason is Reason.SESSION_MOVED
    assert replica.host.engine.inbox.rows == 0
    assert not replica.host.engine.busy


async def test_a_deadline(site: Site) -> None:
    """A history that is not taken in its time is not taken at all."""
    replica = await site.replica()
    await stepped(replica, "s", 1)
    request = send(replica, "s", 2, values(), deadline=site.clock.seconds + 5.0)
    iterate(replica, 5)
    site.clock.seconds += 6.0
    iterate(replica, 3)
    told = replica.told(request)
    assert told is not None
    assert told.reason is Reason.DEADLINE_EXCEEDED
    assert (await stepped(replica, "s", 2)).reason is Reason.OK
