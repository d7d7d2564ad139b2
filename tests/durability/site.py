"""Replicas of one model on one shelf, and how a test speaks with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.durability.replicas import Replica, Told
from tests.engine.harness import InProcess, VirtualClock
from tests.packages import random_package
from tidegate.checkpoints import Key
from tidegate.config import Durability as Level
from tidegate.config import Limits
from tidegate.model import repository
from tidegate.store.memory import Shelf

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
