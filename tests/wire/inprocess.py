"""A whole server on the test's own event loop, for tests that must look inside or hold a step in its flight."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.wire.clients import PATIENCE_SECONDS, until
from tidegate.config import Limits, Settings
from tidegate.engine.queues.lane import Lane
from tidegate.engine.step.stepper import Memory, StepBatch, Stepper, Ticket
from tidegate.model.native_lstm import Workspace
from tidegate.server import Server


class InProcess:
    """A running server: `server` is what the command line would have made, `grpc` and `http` its addresses."""

    def __init__(self, server: Server, grpc: str, http: str, running: asyncio.Task[int]) -> None:
        self.server = server
        self.grpc = grpc
        self.http = http
        self.running = running

    @property
    def at_rest(self) -> bool:
        """No call, nothing queued, nothing to send."""
        front, host = self.server.front, self.server.host
        return not (front.streams or front.unary or front.answers_waiting or host.engine.inbox.rows or host._commands)

    @property
    def commands(self) -> list[asyncio.Future[object]]:
        """Queued ones that somebody waits for; the sweep for idle sessions, which comes every second, is none."""
        return [future for _, future in self.server.host._commands if future is not None]

    def lane(self, model: str = "random") -> Lane:
        return self.server.catalog.resolve(model)


@contextlib.asynccontextmanager
async def in_process(models: Path, **limits: Any) -> AsyncIterator[InProcess]:
    """Starts a server on free ports; stops it at the end, unless the test has done so."""
    threads = torch.get_num_threads()
    server = Server(Settings(models=models, port=0, http_port=0, device="cpu", limits=Limits(**limits)))
    with contextlib.redirect_stdout(io.StringIO()) as line:
        running = asyncio.create_task(server.run())
        await until(lambda: running.done() or line.getvalue().endswith("\n"), "the ready line")
    if running.done():
        await running
    try:
        yield InProcess(server, **json.loads(line.getvalue()), running=running)
    finally:
        server.stop()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running
        gc.unfreeze()
        torch.set_num_threads(threads)


class Gate:
    """Stands before a lane's stepper: a step waits in the engine's thread, as a slow one would, until it is let go."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper, self.pace = stepper, stepper.pace
        self._change = threading.Condition()
        self._permits = 0
        self._free = False
        self.begun: Callable[[], object] = lambda: None  # told of each step that comes to the gate
        self.flights = 0
        self.rows: list[int] = []  # of each step

    def expected_seconds(self, rows: int) -> float:
        """More than what runs inline, so that every step takes the thread."""
        return 1e-2 + self._stepper.expected_seconds(rows)

    shared = by_address = False

    def workspace(self) -> Workspace:
        """Never: see `by_address`."""
        raise NotImplementedError

    def run(self, *_: object) -> tuple[NDArray[np.float64], int]:
        """Never either."""
        raise NotImplementedError

    def launch(self, batch: StepBatch, memory: Memory) -> Ticket:
        self.begun()
        with self._change:
            self.flights += 1
            assert self._change.wait_for(lambda: self._free or self._permits > 0, PATIENCE_SECONDS)
            self._permits -= 1
        self.rows.append(len(batch))
        return self._stepper.launch(batch, memory)

    def post(self, *_: object) -> Ticket | None:
        """Nor this: a step waits in the engine's thread."""
        return None

    def units(self, memory: Memory, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._stepper.units(memory, slots)

    def let(self, flights: int) -> None:
        """Lets so many steps go."""
        with self._change:
            self._permits += flights
            self._change.notify_all()

    def open(self) -> None:
        """Lets all steps go from now on."""
        with self._change:
            self._free = True
            self._change.notify_all()

    async def taken(self, flights: int = 1) -> None:
        """Returns when so many steps have begun."""
        await until(lambda: self.flights >= flights, f"{flights} steps begun")


@contextlib.contextmanager
def gate(lane: Lane) -> Iterator[Gate]:
    """A closed gate before the lane's steps; gone (and open) afterwards."""
    stepper = lane.stepper
    lane.stepper = held = Gate(stepper)
    try:
        yield held
    finally:
        lane.stepper = stepper
        held.open()
