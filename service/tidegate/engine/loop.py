"""The engine's host: runs iterations on the event loop, as soon as there is work and the engine is free.

There is no timer: rows that arrive while a step runs, or in the same pass of the event loop, are the next batch.
A step that will take long runs on the stepper's own threads, which ring a bell at its end, or on the engine's, so that
the loop goes on reading.
Commands are carried out between iterations. The only module of the engine that knows asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tidegate.checkpoints import Key
from tidegate.engine.commands import Command, Sweep
from tidegate.engine.engine import Engine
from tidegate.engine.flights.flight import Flight
from tidegate.engine.flights.ordinary import Ordinary
from tidegate.engine.flights.quick import Turn
from tidegate.engine.forecasts.forecaster import Stretch
from tidegate.engine.forecasts.request import Forecast, ForecastRequest
from tidegate.engine.histories.work import HistoryStretch
from tidegate.engine.replies import Replies
from tidegate.engine.step.device import inline_seconds_max, use_one_thread
from tidegate.errors import Reason, TidegateError

COMMAND_SECONDS = 1e-3  # spent on commands between two steps, but for the length of one command
COMMANDS_MAX = 65_536  # commands queued; more are refused with INBOX_FULL

log = logging.getLogger(__name__)
AnyFlight = Flight | Ordinary | Stretch | HistoryStretch
Visit = Callable[[Sequence[Key], bool], AbstractAsyncContextManager[Mapping[Key, Reason]]]


@asynccontextmanager
async def _at_home(_: Sequence[Key], __: bool) -> AsyncIterator[Mapping[Key, Reason]]:
    """Without a store every session there is is here."""
    yield {}


class EngineHost:
    """Owns the engine's turn. All methods are called on the event loop."""

    def __init__(self, engine: Engine, sweep_seconds: float) -> None:
        self.engine = engine
        self.deliver: Callable[[Replies | Turn], None] = lambda _: None  # the front-end sets it
        self.visit: Visit = _at_home  # what keeps sessions in a store sets these three
        self.may_step: Callable[[], bool] = lambda: True
        self.on_waiting: Callable[[], None] = lambda: None  # rows wait for the store, or answers until they are durable
        self._sweep_seconds = sweep_seconds
        # By whether threads would share the step. Asked once: counting cores costs most of a microsecond.
        self._inline_seconds_max = {shared: inline_seconds_max(shared) for shared in (False, True)}
        self._commands: deque[tuple[Command | Callable[[], object], asyncio.Future[object] | None]] = deque()
        self._room: list[asyncio.Future[None]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._forecasts: dict[int, asyncio.Future[list[Forecast]]] = {}
        self._numbers = 0  # of forecasts
        self.woken = False  # an iteration is about to come
        self._flying = False
        self._bell: int | None = None  # an eventfd, which steppers' threads write to
        self._posted: Ordinary | None = None  # what they step
        # Libraries below torch have a setting for each thread; a new one begins with all cores.
        self._thread = ThreadPoolExecutor(1, "tidegate-engine", initializer=use_one_thread)
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look for idle sessions. Steps need no start, but their thread is there from now on: one that cannot
        be had would be missed in the middle of a step."""
        self._thread.submit(int)
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def stop(self) -> None:
        """Waits until all that is queued is answered, then ends the threads."""
        await self.quiet()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        self._thread.shutdown()
        if self._bell is not None:
            asyncio.get_running_loop().remove_reader(self._bell)
            os.close(self._bell)
            self._bell = None

    def wake(self) -> None:
        """Says that there is work; the iteration follows the reads of this pass of the event loop."""
        if not self.woken and not self._flying:
            self.woken = True
            asyncio.get_running_loop().call_soon(self._iterate)

    def wake_at_once(self) -> None:
        """`wake`, where nobody else can have rows for the same iteration: it need not follow."""
        if not self.woken and not self._flying:
            self._iterate()

    async def call(self, command: Command | Callable[[], object]) -> object:
        """Carries out a command (or a function that may change the engine) between iterations.

        Returns its answer; raises TidegateError.
        """
        if len(self._commands) >= COMMANDS_MAX:
            raise TidegateError(Reason.INBOX_FULL)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._commands.append((command, future))
        self.wake()
        return await future

    async def caught_up(self) -> None:
        """Returns when all that was asked before is done."""
        await self.call(lambda: None)

    def post(self, command: Command | Callable[[], object]) -> None:
        """Queues a command whose answer nobody waits for."""
        self._commands.append((command, None))
        self.wake()

    async def room(self) -> None:
        """Returns when the engine is not full."""
        while self.engine.full:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(future)
            await future

    async def quiet(self) -> None:
        """Returns when nothing is queued or in flight, nor waits for a store."""
        while self.woken or self._flying or self.engine.busy or self._commands:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future

    def _iterate(self) -> None:
        self.woken = False
        if self._commands:
            self._carry_out()
        may_step = self.may_step()
        turn = self.engine.quick() if may_step and not self.engine.outbox else None
        if turn is not None:
            self.deliver(turn)
            self._after(quick=True)  # what landed just before may have left answers that are held, or a forecast
            return
        flight = self.engine.prepare() if may_step else None
        if flight is None:
            self._after()
        elif flight.expected_seconds <= self._inline_seconds_max[_shared(flight)]:
            flight.run()
            self._finish(flight)
        else:
            self._flying = True
            if isinstance(flight, Ordinary) and self._post(flight):
                return
            landing = asyncio.get_running_loop().run_in_executor(self._thread, flight.run)
            landing.add_done_callback(lambda _: self._land(flight))

    def _post(self, flight: Ordinary) -> bool:
        """Has the stepper's own threads take the step, if it has any."""
        if self._bell is None:
            self._bell = _hung_bell(self._rung)
        if self._bell is None or not flight.post(self._bell):
            return False
        self._posted = flight
        return True

    def _rung(self) -> None:
        flight, self._posted = self._posted, None
        assert flight is not None
        assert self._bell is not None
        os.eventfd_read(self._bell)
        flight.collect()
        self._land(flight)

    async def forecast(self, request: ForecastRequest) -> list[Forecast]:
        """One answer a scenario, in order. Raises TidegateError for a request that is wrong as a whole."""
        self._numbers += 1
        number = self._numbers
        future: asyncio.Future[list[Forecast]] = asyncio.get_running_loop().create_future()
        self._forecasts[number] = future  # before it is asked: the answer may be there at once
        try:
            await self.call(lambda: self.engine.forecaster.add(number, request))
            return await future
        finally:
            del self._forecasts[number]
            if not future.done() or future.cancelled():
                self.post(lambda: self.engine.forecaster.cancel(number))

    def _land(self, flight: AnyFlight) -> None:
        """The next flight begins before the answers to this one are written, which takes as long as a step."""
        self._flying = False
        self.engine.finish(flight)
        self._iterate()
        if self._flying:
            self._after()

    def _finish(self, flight: AnyFlight) -> None:
        self.engine.finish(flight)
        self._after()

    def _after(self, quick: bool = False) -> None:
        """Sends what is ready and sees what is next; where nothing is, whoever waits for that is told.

        A quick turn is taken only where nothing waits but in the inbox.
        """
        engine = self.engine
        outbox, engine.outbox = engine.outbox, []
        for replies in outbox:
            self.deliver(replies)
        if engine.forecaster.done:
            self._tell_of_forecasts()
        if engine.admission.parking.wanted or engine.held:
            self.on_waiting()
        if self._room and not engine.full:
            _release(self._room)
        if self._commands or ((engine.inbox if quick else engine.waiting) and self.may_step()):
            self.wake()
        elif self._idle and not engine.busy:
            _release(self._idle)

    def _tell_of_forecasts(self) -> None:
        done, self.engine.forecaster.done = self.engine.forecaster.done, []
        for number, answers in done:
            waiter = self._forecasts.get(number)
            if waiter is not None and not waiter.done():
                waiter.set_result(answers)

    def _carry_out(self) -> None:
        """Commands for about a millisecond; the rest waits for the next iteration."""
        end = time.monotonic() + COMMAND_SECONDS
        while self._commands and time.monotonic() < end:
            command, future = self._commands.popleft()
            if future is not None and future.cancelled():
                continue
            try:
                answer = command() if callable(command) else self.engine.execute(command)
            except Exception as error:
                if not isinstance(error, TidegateError):
                    log.exception("a command failed: %s", type(command).__name__)
                if future is not None:
                    future.set_exception(error)
            else:
                if future is not None:
                    future.set_result(answer)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            self.post(Sweep())


def _shared(flight: AnyFlight) -> bool:
    """Whether threads would share it. Only ordinary ones go to them."""
    return isinstance(flight, Ordinary) and flight.lane.stepper.shared


def _hung_bell(rung: Callable[[], None]) -> int | None:
    """An eventfd that calls `rung` when it has been written to; None where there is none to be had."""
    if not hasattr(os, "eventfd"):  # Linux has it
        return None
    bell = None
    try:
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        asyncio.get_running_loop().add_reader(bell, rung)
    except OSError:  # too many files are open, say
        if bell is not None:
            os.close(bell)
        return None
    return bell


def _release(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
