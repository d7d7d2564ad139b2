"""Two replicas, one store, a virtual clock: whatever is killed, frozen or asked where, no two owners commit a step, and
at durability `step` nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from tests.durability.replicas import Replica
from tests.engine.harness import InProcess, VirtualClock
from tests.packages import random_package
from tidegate.checkpoints import Key
from tidegate.config import Durability as Level
from tidegate.config import Limits
from tidegate.durability.lease import BEAT_SECONDS
from tidegate.errors import Reason
from tidegate.model import repository
from tidegate.store.memory import Shelf

NAMES = ["a", "b", "c", "d", "e"]
LIMITS = Limits(sessions_max=3, lease_seconds=2.0, handover_seconds_max=4.0, checkpoint_seconds=1.0)
STEPS_MAX = 60
BORN_MAX = 5  # replicas of one history: more ends leave less between them
AGAIN = (Reason.SESSION_MOVED, Reason.STORE_UNAVAILABLE, Reason.SESSION_LIMIT)


def observed(name: str, step: int) -> NDArray[np.float64]:
    return np.random.default_rng([ord(name), step]).normal(size=2)


class World:
    """What all examples share: the model, its stepper, and what an uninterrupted run predicts."""

    def __init__(self, folder: Path) -> None:
        random_package(folder, features=2, targets=2, hidden=16)
        calm = InProcess(folder)
        self.snapshot = repository.scan(folder, {})
        self.steppers = calm.catalog.prepare(self.snapshot)
        self.wanted = {
            (name, step): calm.ask(name, observed(name, step).tolist(), step=step).bits
            for name in NAMES
            for step in range(1, STEPS_MAX + 1)
        }


@dataclass
class Client:
    """Where a session's client stands: the last step it had an answer to, and what it waits for."""

    acknowledged: int = 0
    asked: tuple[Replica, int, int] | None = None  # whom, request, step
    next: int = 1


class ReplicasMachine(RuleBasedStateMachine):
    """Clients send to any replica, one observation at a time; replicas do their rounds when they are told to."""

    world: World
    level: Level

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock()
        self.shelf = Shelf(self.clock.read)
        self.history: list[tuple[Key, int, int, bytes]] = []
        self.checked = 0
        self.durable: dict[Key, tuple[int, int, bytes]] = {}
        self.born = 0
        self.replicas: list[Replica] = []
        self.clients = {name: Client() for name in NAMES}

    def teardown(self) -> None:
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        self.replicas = [self._new(), self._new()]

    def _new(self) -> Replica:
        self.born += 1
        world = self.world
        replica = Replica(
            world.snapshot,
            world.steppers,
            self.shelf,
            self.clock,
            f"r{self.born}",
            LIMITS,
            self.level,
            self.history,
        )
        self._run(replica.durability.store.start())
        return replica

    def _run(self, work) -> None:  # type: ignore[no-untyped-def]
        self.loop.run_until_complete(work)

    @rule(name=st.sampled_from(NAMES), place=st.integers(0, 1))
    def observe(self, name: str, place: int) -> None:
        """A client sends its next observation, or the one that it has no answer to, to any replica."""
        client, replica = self.clients[name], self.replicas[place]
        if client.next <= STEPS_MAX:
            request = replica.send(name, client.next, observed(name, client.next))
            client.asked = replica, request, client.next
            if not replica.frozen:
                self._run(replica.settle())
            self._hear()

    @rule(name=st.sampled_from(NAMES), place=st.integers(0, 1), count=st.integers(1, 3))
    def converse(self, name: str, place: int, count: int) -> None:
        """A client has some answers of one replica."""
        for _ in range(count):
            self.observe(name, place)
            self.turn(place)

    @rule(place=st.integers(0, 1))
    def turn(self, place: int) -> None:
        """A replica does what its tasks do in a while."""
        replica = self.replicas[place]
        if not replica.frozen:
            self._run(replica.turn())
            self._hear()

    @rule(name=st.sampled_from(NAMES), place=st.integers(0, 1))
    def look(self, name: str, place: int) -> None:
        """Somebody asks another replica for a forecast, say, and the session moves there unstepped."""
        replica = self.replicas[place]
        if not replica.frozen:
            self._run(replica.look(name))
            self._hear()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.5, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; replicas that are not frozen show a life sign meanwhile."""
        for _ in range(max(1, round(seconds / 0.5))):
            self.clock.seconds += seconds / max(1, round(seconds / 0.5))
            for replica in self.replicas:
                if not replica.frozen:
                    self._run(replica.durability.lease.renew())

    @rule(place=st.integers(0, 1), seconds=st.sampled_from([0.0, 3.0]))
    def freeze_or_thaw(self, place: int, seconds: float) -> None:
        """SIGSTOP, for longer than the lease or not; or SIGCONT."""
        replica = self.replicas[place]
        replica.frozen = not replica.frozen
        if replica.frozen:
            self.wait(seconds)
        else:
            self._run(replica.settle())
            self._hear()

    @precondition(lambda self: self.born < BORN_MAX)
    @rule(place=st.integers(0, 1), drained=st.booleans())
    def end(self, place: int, drained: bool) -> None:
        """SIGKILL, or SIGTERM; another replica takes its place."""
        replica = self.replicas[place]
        if drained and not replica.frozen:
            self._run(replica.turn())
            self._run(replica.durability.round(last=True))
            self._hear()
        for client in self.clients.values():
            if client.asked is not None and client.asked[0] is replica:
                client.asked = None
        self.replicas[place] = self._new()

    def _hear(self) -> None:
        """Clients take their answers, and check them."""
        for name, client in self.clients.items():
            if client.asked is None:
                continue
            replica, request, step = client.asked
            told = replica.told(request)
            if told is None:
                continue
            client.asked = None
            if told.reason is Reason.OK:
                assert told.step == step
                assert told.bits == self.world.wanted[name, step]
                self._acknowledge(name, client, step)
            elif told.reason not in AGAIN:
                self._go_back(name, client, told.reason, told.expected)

    def _acknowledge(self, name: str, client: Client, step: int) -> None:
        client.acknowledged = max(client.acknowledged, step)
        client.next = step + 1
        if self.level is Level.STEP:
            row = self.shelf.row(Key("", "random", name.encode()))
            assert row is not None
            assert row.checkpoint is not None
            assert row.checkpoint.step >= step

    def _go_back(self, name: str, client: Client, reason: Reason, expected: int) -> None:
        """A session that forgot steps is told them again: at `interval` alone."""
        assert reason in (Reason.STEP_GAP, Reason.SESSION_NOT_FOUND, Reason.STEP_TOO_OLD), (name, reason)
        if reason is Reason.STEP_TOO_OLD:  # it was taken, and its answer was lost with who sent it
            client.next = expected
            return
        assert self.level is Level.INTERVAL, f"{name} had {client.acknowledged}, and {reason.name} {expected}"
        client.next = max(1, expected)

    @invariant()
    def commits_are_in_order(self) -> None:
        """What is saved of a session never goes back, and a step that two owners saved is the same."""
        for key, epoch, step, content in self.history[self.checked :]:
            if key in self.durable:
                last_epoch, last_step, last_content = self.durable[key]
                assert epoch >= last_epoch
                assert step >= last_step
                assert step > last_step or content == last_content
            self.durable[key] = epoch, step, content
        self.checked = len(self.history)

    @invariant()
    def one_owner_at_a_time(self) -> None:
        """Of replicas that are not in doubt, one at most has a session resident."""
        for name in NAMES:
            sure = [
                replica
                for replica in self.replicas
                if not replica.frozen and replica.resident(name) and replica.host.may_step()
            ]
            assert len(sure) <= 1, name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("level", [Level.INTERVAL, Level.STEP])
def test_replicas(world: World, level: Level) -> None:
    """No history of kills, freezes and moves breaks what is promised."""
    machine = type("Machine", (ReplicasMachine,), {"world": world, "level": level})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    )


def test_the_answer_to_a_step_that_is_lost(world: World) -> None:
    """A replica that was frozen with an answer on hold does not tell it: its successor knows nothing of the step."""
    machine = type("Machine", (ReplicasMachine,), {"world": world, "level": Level.STEP})()
    machine.begin()
    machine.observe("a", 0)
    machine.turn(0)
    assert machine.clients["a"].acknowledged == 1
    machine.observe("a", 0)
    machine.freeze_or_thaw(0, 3.0)
    machine.look("a", 1)
    machine.freeze_or_thaw(0, 0.0)
    machine.turn(0)
    assert machine.clients["a"].asked is None
    assert machine.clients["a"].acknowledged == 1
    assert machine.replicas[0].durability.lost == 1
    machine.converse("a", 1, 1)
    assert machine.clients["a"].acknowledged == 2
    machine.teardown()


@pytest.mark.parametrize("away", [0.0, 1.0])
def test_a_freeze_of_just_a_lease(world: World, away: float) -> None:
    """Who was frozen until the moment at which its lease ran out is in doubt, as its successor may be there: also where
    the store had been away for a while before, and the freeze was shorter."""
    machine = type("Machine", (ReplicasMachine,), {"world": world, "level": Level.STEP})()
    machine.begin()
    machine.converse("a", 1, 1)
    lease = machine.replicas[1].durability.lease
    for _ in range(int(away / BEAT_SECONDS)):
        machine.clock.seconds += BEAT_SECONDS
        assert lease.may_step()
    machine.freeze_or_thaw(1, 0.0)
    for seconds in (0.5, 1.5 - away):
        machine.wait(seconds)
    machine.freeze_or_thaw(1, 0.0)
    machine.converse("a", 0, 1)
    machine.one_owner_at_a_time()
    machine.teardown()


def test_a_store_that_is_away_is_no_doubt(world: World) -> None:
    """A process that is well steps on behind the end of its lease."""
    machine = type("Machine", (ReplicasMachine,), {"world": world, "level": Level.STEP})()
    machine.begin()
    lease = machine.replicas[0].durability.lease
    for _ in range(int(2 * LIMITS.lease_seconds / BEAT_SECONDS)):
        machine.clock.seconds += BEAT_SECONDS
        assert lease.may_step()
    machine.teardown()
