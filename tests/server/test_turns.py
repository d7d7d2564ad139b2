"""A model whose step is slow beside one whose step is fast: turns are taken, and both get what is right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.clients import PATIENCE_SECONDS, Client, Stream, batch, observation, until, values_of
from tests.wire.inprocess import gate, in_process
from tidegate.model import reference
from tidegate.model.package import Package

SESSIONS, STEPS = 16, 16
ROWS = 150  # of one session, one after another: seconds in all, so that a client that is held up still meets them
RANDOM = np.random.default_rng(0)
SLOW = RANDOM.normal(size=(SESSIONS, STEPS, 4)).astype(np.float32).astype(np.float64)
FAST = RANDOM.normal(size=(300, 4)).astype(np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository") / "models"


@pytest.fixture(scope="module")
def packages(folder: Path) -> dict[str, Package]:
    return {
        "fast": random_package(folder, "fast"),
        "slow": random_package(folder, "slow", layers=3, hidden=1024),
    }


@pytest.fixture(scope="module")
def server(folder: Path, packages: dict[str, Package]) -> Iterator[RunningServer]:
    assert packages
    with RunningServer(folder) as running:
        yield running


async def test_both_models_finish_and_are_right(server: RunningServer, packages: dict[str, Package]) -> None:
    """Many sessions of a slow model (hidden 1024 x 3) in one message, and a fast one fed one observation at a time: the
    fast one is answered again and again before the slow one is done, other calls go on, and each gets the predictions
    of the reference.
    """
    async with Client(server.grpc) as client:
        slow, fast = client.stream("slow"), client.stream("fast")
        await fast.predict(observation("warm", FAST[0]))
        ids = [f"slow-{row}" for _ in range(STEPS) for row in range(SESSIONS)]
        await slow.send(batch(ids, SLOW.transpose(1, 0, 2).reshape(-1, 4)))
        done = asyncio.ensure_future(slow.receive())
        answers, beside = [], 0
        for step, x in enumerate(FAST):
            answers.append((await fast.predict(observation("fast", x, step + 1))).values)
            beside += not done.done()
        assert beside >= 3
        np.testing.assert_allclose(answers, reference.predict(packages["fast"], FAST).raw, atol=1e-4)
        got = values_of((await done).batch).reshape(STEPS, SESSIONS, 4)
        for row in (0, SESSIONS - 1):
            np.testing.assert_allclose(got[:, row], reference.predict(packages["slow"], SLOW[row]).raw, atol=1e-4)


async def test_models_take_turns(folder: Path, packages: dict[str, Package]) -> None:
    """With steps of both waiting, no model steps twice while the other one waits."""
    turns: list[str] = []

    async def feed(stream: Stream, name: str) -> list[int]:
        for step in range(1, 7):
            await stream.send(observation(name, FAST[step], step))
        return [answer.prediction.step for answer in await stream.finish()]

    async with in_process(folder) as running, Client(running.grpc) as client:
        assert packages
        with gate(running.lane("slow")) as slow, gate(running.lane("fast")) as fast:
            for name, held in (("slow", slow), ("fast", fast)):
                held.begun = partial(turns.append, name)
            first = asyncio.ensure_future(client.predict(observation("first", FAST[0]), "slow"))
            await slow.taken()
            feeding = [asyncio.ensure_future(feed(client.stream(name), name)) for name in ("slow", "fast")]
            await until(lambda: running.server.host.engine.inbox.rows == 13, "all rows are there")
            slow.open()
            fast.open()
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert [await task for task in feeding] == [[1, 2, 3, 4, 5, 6]] * 2
            await first
    assert turns == ["slow", *["fast", "slow"] * 6]


async def test_a_slow_step_keeps_nobody_from_being_heard(server: RunningServer) -> None:
    """While slow steps run, one after another, calls that need no step are answered: their turn is between steps."""
    async with Client(server.grpc) as client, Client(server.grpc) as other:
        slow = client.stream("slow")
        await slow.send(batch(["one"] * ROWS, np.ones((ROWS, 4)), resets=[1] + [0] * (ROWS - 1)))
        await until(lambda: server.metric("tidegate_inbox_rows") > 0, "the steps have begun")
        done = asyncio.ensure_future(slow.receive())
        heard = 0
        while not done.done():
            assert (await other.predict(observation("other", [1, 2, 3, 4]), "fast")).prediction.step == heard + 1
            heard += 1
        assert heard > 1
        assert list((await done).batch.steps)[-1] >= ROWS
