"""The engine's host on an event loop: steps that are posted to the stepper's threads, and what lands between turns."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tests.engine.harness import InProcess
from tests.packages import random_package
from tidegate.config import Durability
from tidegate.engine import loop
from tidegate.engine.flights import quick
from tidegate.engine.flights.quick import Turn
from tidegate.engine.forecasts.request import ForecastRequest, Scenario
from tidegate.engine.loop import EngineHost
from tidegate.engine.replies import Replies
from tidegate.engine.step import native_stepper
from tidegate.errors import Reason
from tidegate.native import library

ROW = [0.1, -0.2, 0.3, 0.4]
CROWD = [f"s{number}" for number in range(600)]  # more than a turn takes
WAIT_SECONDS_MAX = 20.0

needs_native = pytest.mark.skipif(library() is None, reason="the C parts are not built")


class Hosted(InProcess):
    """An engine with its host. `outcomes` holds the reasons of all answers, by request."""

    def __init__(self, models: Path, **options: Any) -> None:
        super().__init__(models, **options)
        self.host = EngineHost(self.engine, sweep_seconds=1000.0)
        self.host.deliver = self._take
        self.outcomes: dict[int, list[Reason]] = {}

    def _take(self, replies: Replies | Turn) -> None:
        replies = replies.replies if isinstance(replies, Turn) else replies
        for request, outcome in zip(replies.request.tolist(), replies.outcome.tolist(), strict=True):
            self.outcomes.setdefault(request, []).append(Reason(outcome))

    def crowd(self, scope: str = "random") -> list[int]:
        """An observation of each of very many sessions; their requests."""
        requests = [self.send(name, ROW, scope=scope) for name in CROWD]
        self.host.wake()
        return requests

    async def settle(self, scope: str = "random") -> None:
        """Twice, so that what comes next is ordinary."""
        for _ in range(2):
            self.crowd(scope)
            await self.quiet()

    async def quiet(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await self.host.quiet()

    async def under_way(self) -> None:
        """Returns while a step is."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not self.host._flying:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0)


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    """With one small model."""
    random_package(tmp_path / "models", hidden=8)
    return Hosted(tmp_path / "models", threads=2)


def files_open() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def refuse(number: int) -> Callable[..., NoReturn]:
    """A system that has no more of something."""

    def refused(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.fixture
def all_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flight is long enough to be posted."""
    monkeypatch.setattr(loop, "inline_seconds_max", lambda _: 0.0)


@needs_native
@pytest.mark.usefixtures("all_posted")
async def test_a_posted_step_is_waited_for(hosted: Hosted) -> None:
    """Stopping while one is under way answers it, every row once."""
    await hosted.settle()
    requests = hosted.crowd()
    await hosted.under_way()
    assert hosted.host._posted is not None
    await hosted.host.stop()
    assert [hosted.outcomes[request] for request in requests] == [[Reason.OK]] * len(requests)
    assert hosted.host._bell is None


@needs_native
@pytest.mark.parametrize(
    ("threads", "cores", "seconds", "posted"),
    [
        (2, 2, 1e-3, True),
        (2, 2, 1e-4, False),
        (1, 2, 1e-3, False),
        (1, 2, 3e-3, True),
        (1, 1, 3e-3, False),
        (1, 1, 5e-3, True),
    ],
)
async def test_which_steps_are_posted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, seconds: float, posted: bool
) -> None:
    """Those that several threads share, but for short ones; a single thread gets only what would hold up the loop:
    with one core it would hold it up too, and gets less."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    random_package(tmp_path / "models", hidden=8)
    hosted = Hosted(tmp_path / "models", threads=threads)
    await hosted.settle()
    monkeypatch.setattr(native_stepper.NativeStepper, "expected_seconds", lambda *_: seconds)
    requests = hosted.crowd()
    await asyncio.sleep(0)  # the iteration's turn
    assert (hosted.host._posted is not None) == posted
    await hosted.host.stop()
    assert [hosted.outcomes[request] for request in requests] == [[Reason.OK]] * len(requests)


async def test_cores_are_counted_when_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for each flight, where that is most of a microsecond."""
    random_package(tmp_path / "models", hidden=8)
    hosted, counted = Hosted(tmp_path / "models"), list[int]()
    await hosted.settle()

    def count(process: int) -> range:
        counted.append(process)
        return range(2)

    monkeypatch.setattr(os, "sched_getaffinity", count)
    requests = hosted.crowd()
    await hosted.quiet()
    assert [hosted.outcomes[request] for request in requests] == [[Reason.OK]] * len(requests)
    assert counted == []
    await hosted.host.stop()


@needs_native
@pytest.mark.usefixtures("all_posted")
@pytest.mark.parametrize("missing", ["bell", "listener"])
async def test_without_a_bell(hosted: Hosted, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Where the system has no eventfd to give, or cannot listen to one, the engine's own thread takes the step; once
    it has, the stepper's threads do."""
    await hosted.settle()
    if hosted.host._bell is not None:  # by now it hung
        asyncio.get_running_loop().remove_reader(hosted.host._bell)
        os.close(hosted.host._bell)
        hosted.host._bell = None
    gc.collect()  # what earlier tests have left open
    open_before = files_open()
    with monkeypatch.context() as patch:
        if missing == "bell":
            patch.setattr(os, "eventfd", refuse(errno.EMFILE))
        else:
            patch.setattr(asyncio.get_running_loop(), "add_reader", refuse(errno.ENOSPC))
        requests = hosted.crowd()
        await hosted.quiet()
        assert files_open() == open_before
    requests += hosted.crowd()
    await hosted.under_way()
    assert hosted.host._posted is not None
    await hosted.host.stop()
    assert [hosted.outcomes[request] for request in requests] == [[Reason.OK]] * len(requests)


@needs_native
@pytest.mark.usefixtures("all_posted")
async def test_a_posted_step_that_fails(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are answered INTERNAL and their sessions are out of service; other sessions go on."""
    await hosted.settle()

    def fails(posted: native_stepper._Posted) -> NoReturn:
        posted._crew.wait()
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(native_stepper._Posted, "collect", fails)
        requests = hosted.crowd()
        await hosted.quiet()
    assert [hosted.outcomes[request] for request in requests] == [[Reason.INTERNAL]] * len(requests)
    sick, other = hosted.send(CROWD[0], ROW), hosted.send("another", ROW)
    hosted.host.wake()
    await hosted.quiet()
    assert (hosted.outcomes[sick], hosted.outcomes[other]) == ([Reason.SESSION_DIVERGED], [Reason.OK])
    await hosted.host.stop()


async def test_a_forecast_that_lands_before_a_turn(hosted: Hosted) -> None:
    """It is handed out with that turn, not when the host next has nothing better to do."""
    for _ in range(2):
        hosted.ask("a", ROW)
    request = ForecastRequest("", "random", (Scenario(b"a", 2, np.empty((0, 0))),))
    forecast = asyncio.ensure_future(hosted.host.forecast(request))
    await hosted.under_way()
    row = hosted.send("a", ROW)
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        (answer,) = await forecast
    assert answer.reason is Reason.OK
    await hosted.host.stop()
    assert hosted.outcomes[row] == [Reason.OK]


@pytest.mark.usefixtures("all_posted")
async def test_answers_that_wait_to_be_durable_before_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes them durable is told with that turn."""
    monkeypatch.setattr(quick, "inline_seconds_max", lambda _: 3600.0)  # it is one, however long the step before took
    for name in ("slow", "fast"):
        random_package(tmp_path / "models", name, hidden=8)
    hosted = Hosted(tmp_path / "models")
    for _ in range(2):
        hosted.ask("f", ROW, scope="fast")
    await hosted.settle("slow")
    lane = hosted.catalog.resolve("slow")
    lane.durability = Durability.STEP
    told = asyncio.Event()
    hosted.host.on_waiting = told.set
    hosted.crowd("slow")
    await hosted.under_way()
    row = hosted.send("f", ROW, scope="fast")
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        await told.wait()
    assert hosted.engine.held
    assert hosted.outcomes[row] == [Reason.OK]


async def test_no_more_threads(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of long steps is there from the start: a system that has no more of them takes nothing away."""
    hosted.ask("a", ROW)
    hosted.host.start()

    def refused(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    request = ForecastRequest("", "random", (Scenario(b"a", 2, np.empty((0, 0))),))
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        (answer,) = await hosted.host.forecast(request)
        await hosted.host.stop()
    assert answer.reason is Reason.OK
