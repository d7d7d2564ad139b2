"""Replicas in this process, on one shelf and one virtual clock: no sockets, and nothing moves by itself. Nor is a step
ever one for the engine's thread, as it is for a server whose first one was held up by whoever else had the core."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.engine.harness import VirtualClock
from tidegate.checkpoints import Checkpoint, Key
from tidegate.config import Durability as Level
from tidegate.config import Limits
from tidegate.durability import Durability
from tidegate.engine.engine import Engine
from tidegate.engine.flights.quick import Turn
from tidegate.engine.loop import EngineHost
from tidegate.engine.queues.block import Block, Scope
from tidegate.engine.queues.inbox import Inbox
from tidegate.engine.replies import Replies, RowFlag
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog, Steppers
from tidegate.engine.step.device import use_one_thread
from tidegate.errors import Reason
from tidegate.metrics import Metrics
from tidegate.model.frequency import NO_TIME
from tidegate.model.repository import Snapshot
from tidegate.store.memory import MemoryStore, Shelf
from tidegate.store.protocol import Terms

PASSES = 12  # of the event loop: more than a round, an iteration and its answers need


class NoMarks:
    """Nobody is told."""

    def tell(self, lost: Collection[Key]) -> None:
        """Forgets it."""


class Watched(MemoryStore):
    """A store whose saves are written down: key, epoch, step and content of each that was taken."""

    def __init__(self, terms: Terms, shelf: Shelf, history: list[tuple[Key, int, int, bytes]]) -> None:
        super().__init__(terms, shelf)
        self._history = history

    async def save(self, rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        lost = await super().save(rows, epochs)
        taken = [(row, epoch) for row, epoch in zip(rows, epochs, strict=True) if row.key not in lost]
        self._history += [(row.key, epoch, row.step, row.content) for row, epoch in taken]
        return lost


@dataclass(frozen=True)
class Told:
    """A reply to one observation. `bits` are its values'."""

    reason: Reason
    step: int
    expected: int
    bits: bytes
    flags: RowFlag


class Replica:
    """All of a server but its front-end, with its sessions in the shelf's store."""

    def __init__(
        self,
        models: Snapshot,
        steppers: Steppers,
        shelf: Shelf,
        clock: VirtualClock,
        name: str,
        limits: Limits,
        level: Level,
        history: list[tuple[Key, int, int, bytes]],
    ) -> None:
        use_one_thread()
        self.name = name
        self.frozen = False
        catalog = Catalog(limits, 1 << 30, "cpu", 1, lambda _: level)
        catalog.install(models, steppers)
        self.sessions = Sessions(catalog, limits)
        self.metrics = Metrics()
        engine = Engine(catalog, self.sessions, Inbox(limits.inbox_rows_max), self.metrics, clock.read)
        self.host = EngineHost(engine, sweep_seconds=1e9)
        self.host._inline_seconds_max = dict.fromkeys((False, True), float("inf"))
        self.host.deliver = self._deliver
        self.store = Watched(Terms(name, limits.lease_seconds), shelf, history)
        self.durability = Durability(self.host, self.store, limits, NoMarks, clock.read)
        self._told: dict[int, Told] = {}
        self._requests = 0
        self._clock = clock

    def send(self, session: str, step: int, values: NDArray[np.float64], model: str = "random") -> int:
        """Queues one observation; returns its request."""
        self._requests += 1
        block = Block(
            scope=Scope("", model, strict_steps=True),
            request=np.array([self._requests]),
            row=np.zeros(1, np.int32),
            ids=[session.encode()],
            step=np.array([step]),
            time=np.array([NO_TIME]),
            values=values[None].astype(np.float64),
            reset=np.zeros(1, bool),
            deadline=np.array([np.inf]),
            arrived=np.array([self._clock.seconds]),
        )
        self.host.engine.inbox.add_block(block)
        return self._requests

    def told(self, request: int) -> Told | None:
        """The reply to a request, once there is one."""
        return self._told.pop(request, None)

    async def settle(self) -> None:
        """Runs the loop until the engine has nothing to do that does not wait for the store."""
        self.host.wake()
        for _ in range(PASSES):
            await asyncio.sleep(0)

    async def turn(self) -> None:
        """A life sign and a round, as its tasks would make them, and what follows."""
        await self.durability.lease.renew()
        await self.durability.round()
        self.durability.arrivals.give_up()
        await self.settle()

    async def look(self, session: str, model: str = "random") -> None:
        """Asks for a session without stepping it, as a forecast does; gives up when it is not to be had at once."""

        async def visit() -> None:
            async with self.durability.visit([Key("", model, session.encode())], False):
                pass

        visiting = asyncio.create_task(visit())
        await self.settle()
        await self.turn()
        visiting.cancel()
        await asyncio.gather(visiting, return_exceptions=True)
        await self.settle()

    def resident(self, session: str, model: str = "random") -> bool:
        return session.encode() in self.sessions.names("", model)

    def _deliver(self, answers: Replies | Turn) -> None:
        replies = answers.replies if isinstance(answers, Turn) else answers
        for row in range(len(replies)):
            self._told[int(replies.request[row])] = Told(
                Reason(replies.outcome[row]),
                int(replies.step[row]),
                int(replies.expected[row]),
                replies.values[row].tobytes(),
                RowFlag(int(replies.flags[row])),
            )
