"""Clients: what they ask, how they end, what they say when there is nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import AsyncClient, Client, Code, Reason, TidegateError
from tidegate.client import Prediction, Session
from tidegate.client.connection import CALLS_MAX

MODEL = "random"
ROW = [0.0, 1.0, 2.0, 3.0]
NOBODY = "127.0.0.1:1"


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


def client_threads() -> list[threading.Thread]:
    """Threads of clients that run now."""
    return [thread for thread in threading.enumerate() if thread.name == "tidegate-client"]


def test_models(client: Client) -> None:
    """A model is listed with its versions and described with its features, targets and sizes."""
    (listed,) = [model for model in client.models() if model.name == MODEL]
    assert (listed.default_version, listed.versions[0].state, listed.description) == ("1", "ready", None)
    about = client.model(MODEL).description
    assert about is not None
    assert about.names == about.targets == ("x0", "x1", "x2", "x3")
    assert (about.version, about.cell, about.layers, about.hidden_size) == ("1", "lstm", 1, 32)
    assert [feature.role for feature in about.features] == ["target"] * 4


def test_reload_names_what_changed(server: RunningServer, client: Client) -> None:
    """A reload says what it added and which package it refused, with the field."""
    random_package(server.models, "added")
    random_package(server.models, "broken")
    (server.models / "broken" / "1" / "model.json").write_text("{}")
    changed = client.reload_models()
    assert changed.added == ("added/1",)
    assert len(changed.refused) == 1
    assert changed.refused[0].startswith("broken/1: ")


def test_sessions_are_listed_over_pages(client: Client) -> None:
    """More sessions than a page holds are each listed once, and filters pick."""
    run = uuid.uuid4().hex
    ids = [f"{run}-{index}" for index in range(2500)]
    opened = client.open_sessions(MODEL, ids)
    assert opened.created.all()
    assert not opened.errors
    listed = [info.id for info in client.sessions(model=MODEL, filter=f"id={run}*")]
    assert sorted(listed) == sorted(ids)
    assert [info.id for info in client.sessions(filter=f"id={ids[7]}")] == [ids[7]]
    with pytest.raises(TidegateError) as refused:
        list(client.sessions(filter="colour=red"))
    assert refused.value.reason is Reason.BAD_FILTER


async def test_async_listing(server: RunningServer) -> None:
    """The asynchronous client lists the same, one by one."""
    async with AsyncClient(server.grpc) as client:
        await client.open_sessions(MODEL, ["listed-a", "listed-b"])
        assert {s.id async for s in client.sessions(filter="id=listed-*")} == {"listed-a", "listed-b"}


def test_many_at_once(client: Client) -> None:
    """Opening, resetting and closing many names the ids that failed, at their places, and does the others."""
    run = uuid.uuid4().hex
    ids = [f"{run}-{index}" for index in range(20_000)]
    client.session(MODEL, ids[17_000]).step(ROW)
    opened = client.open_sessions(MODEL, ids)
    assert int(opened.created.sum()) == 19_999
    assert opened.steps[17_000] == 1
    wrong = [*ids[:17_000], "no such session", *ids[17_000:]]
    reset, closed = client.reset_sessions(MODEL, wrong), client.close_sessions(MODEL, wrong)
    for result in (reset, closed):
        assert result.done == 20_000
        assert [(e.row, e.id, e.reason) for e in result.errors] == [
            (17_000, "no such session", Reason.SESSION_NOT_FOUND)
        ]
    assert not list(client.sessions(filter=f"id={run}*"))


def test_nobody_there() -> None:
    """Where nothing listens, every kind of call is UNREACHABLE and says what to check."""
    with Client(NOBODY) as client:
        for call in (client.models, client.session(MODEL, "a").info, lambda: client.session(MODEL, "a").step(ROW)):
            with pytest.raises(TidegateError, match="Check the address") as refused:
                call()
            assert (refused.value.reason, refused.value.code) == (Reason.UNREACHABLE, Code.UNAVAILABLE)


def test_a_frozen_server_runs_into_the_deadline(tmp_path: Path) -> None:
    """A server that does not answer ends each call with DEADLINE_EXCEEDED; the step is taken once when it is back."""
    models = tmp_path / "models"
    random_package(models)
    with RunningServer(models) as server, Client(server.grpc, timeout_seconds=0.3) as client:
        session = client.session(MODEL, "a")
        until_answered(session, ROW)  # a busy machine may need longer than that to connect
        server.process.send_signal(signal.SIGSTOP)
        for call in (lambda: session.step([1.0] * 4), client.models):
            with pytest.raises(TidegateError) as late:
                call()
            assert late.value.reason is Reason.DEADLINE_EXCEEDED
        server.process.send_signal(signal.SIGCONT)
        assert until_answered(session, [1.0] * 4).step == 2


def until_answered(session: Session, values: Sequence[float]) -> Prediction:
    """The same step again until its answer comes within the deadline."""
    for _ in range(1000):
        with contextlib.suppress(TidegateError):
            return session.step(values)
    raise AssertionError("the server never answered")


def test_a_drained_server_says_so(tmp_path: Path) -> None:
    """A stream that the server ends while it drains, and what is asked then, fail with a reason to go elsewhere when no
    server comes in its place in time."""
    models = tmp_path / "models"
    random_package(models)
    with RunningServer(models) as server, Client(server.grpc, timeout_seconds=1.0) as client:
        session = client.session(MODEL, "a")
        until_answered(session, ROW)
        assert server.stop() == 0
        with pytest.raises(TidegateError) as ended:
            session.step(ROW)
        assert ended.value.code is Code.UNAVAILABLE


def test_no_thread_outlives_its_client(server: RunningServer) -> None:
    """A thread runs from the first call to close(), or until nobody holds the client or anything of it."""
    before = len(client_threads())
    client = Client(server.grpc)
    assert len(client_threads()) == before
    client.models()
    assert len(client_threads()) == before + 1
    client.close()
    client.close()
    assert len(client_threads()) == before
    session = Client(server.grpc).session(MODEL, "kept")
    gc.collect()
    session.step(ROW)
    assert len(client_threads()) == before + 1
    del session
    gc.collect()
    assert len(client_threads()) == before


def test_a_closed_client_refuses(server: RunningServer) -> None:
    """After close(), calls fail at once, on everything that came from the client."""
    client = Client(server.grpc)
    session = client.session(MODEL, "closed")
    session.step(ROW)
    client.close()
    for call in (client.models, lambda: session.step(ROW), session.info):
        with pytest.raises(TidegateError, match="closed"):
            call()


def test_close_ends_what_waits(tmp_path: Path) -> None:
    """A call that waits in another thread ends when the client is closed."""
    models = tmp_path / "models"
    random_package(models)
    with RunningServer(models) as server:
        client, reasons = Client(server.grpc), list[Reason]()
        session = client.session(MODEL, "a")
        session.step(ROW)
        server.process.send_signal(signal.SIGSTOP)
        begun = threading.Event()

        def wait() -> None:
            begun.set()
            try:
                session.step(ROW)
            except TidegateError as error:
                reasons.append(error.reason)

        thread = threading.Thread(target=wait)
        thread.start()
        begun.wait()
        client.close()
        thread.join()
        server.stop(signal.SIGKILL)
    assert reasons == [Reason.CANCELLED]


async def test_giving_up_takes_nobody_with_it(server: RunningServer) -> None:
    """A task that is cancelled while it steps leaves the stream, and those that share it, as they were."""
    async with AsyncClient(server.grpc) as client:
        sessions = [client.session(MODEL, uuid.uuid4().hex) for _ in range(50)]
        await asyncio.gather(*(session.step(ROW) for session in sessions))
        tasks = [asyncio.create_task(session.step(ROW)) for session in sessions]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert {getattr(answer, "step", None) for answer in answers[1::2]} == {2}
        # A number goes up only with an answer: the cancelled steps, taken or not, are numbered 2 again.
        again = await asyncio.gather(*(session.step(ROW) for session in sessions[::2]))
        assert {prediction.step for prediction in again} == {2}


async def test_close_says_so_to_other_tasks(tmp_path: Path) -> None:
    """Unary calls that wait when the client is closed end with CANCELLED, which is no cancellation of their tasks; a
    task that is cancelled itself ends as such."""
    models = tmp_path / "models"
    random_package(models)
    with RunningServer(models) as server:
        client = AsyncClient(server.grpc)
        await client.models()
        server.process.send_signal(signal.SIGSTOP)
        waiting, cancelled = asyncio.create_task(client.models()), asyncio.create_task(client.models())
        await asyncio.sleep(0)
        cancelled.cancel()
        await client.close()
        found = await asyncio.gather(waiting, cancelled, return_exceptions=True)
        server.stop(signal.SIGKILL)
    assert isinstance(found[0], TidegateError)
    assert (found[0].reason, found[0].problem) == (Reason.CANCELLED, "the client was closed")
    assert isinstance(found[1], asyncio.CancelledError)


async def test_descriptions_wait_for_nobody(server: RunningServer) -> None:
    """What a model takes is told while as many calls run as may: those who opened sessions wait for it."""
    async with AsyncClient(server.grpc) as client, AsyncExitStack() as room:
        for _ in range(CALLS_MAX):
            await room.enter_async_context(client._connection._room)
        assert (await client.model(MODEL)).name == MODEL


OTHER_PROCESS = """
import os, sys
from tidegate import Client, TidegateError
assert "GRPC_ENABLE_FORK_SUPPORT" not in os.environ
client = Client(sys.argv[1])
session = client.session("random", "forked")
session.step([0, 1, 2, 3])
for number in range(24):
    child = os.fork()
    if not child:
        another = Client(sys.argv[1])
        for call in (lambda: session.step([0, 1, 2, 3]), another.models):
            try:
                call()
            except TidegateError as error:
                if not number:
                    print(error, flush=True)
        another.close()
        client.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, number  # gRPC's handlers of forks crash one child in eight
    step = session.step([0, 1, 2, 3]).step
print(step)
client.close()
"""
OTHER_LOOP = """
import asyncio, sys
from tidegate import AsyncClient, TidegateError
client = AsyncClient(sys.argv[1])
session = client.session("random", "loops")
async def step():
    try:
        print((await session.step([0, 1, 2, 3])).step)
    except TidegateError as error:
        print(error)
asyncio.run(step())
asyncio.run(step())
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (OTHER_PROCESS, ["start processes with", "start processes with", "25"]),
        (OTHER_LOOP, ["1", "make one in each loop"]),
    ],
)
def test_a_client_that_was_taken_along(server: RunningServer, program: str, said: list[str]) -> None:
    """In a forked process (by a new client too), or in a second event loop, calls are refused at once and say what to
    do; where the client was made it goes on."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, server.grpc]
    quiet = {**os.environ, "GRPC_VERBOSITY": "NONE"}  # gRPC itself tells of forks
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=quiet)
    for line, words in zip(ran.stdout.splitlines(), said, strict=True):
        assert words in line
    assert ran.stderr == ""


def test_a_deadline_must_be_positive() -> None:
    """A timeout of 0 is a mistake, said when the client is made."""
    with pytest.raises(ValueError, match="above 0"):
        Client(timeout_seconds=0)


def test_no_address() -> None:
    """It is said where it is given."""
    with pytest.raises(ValueError, match="give HOST:PORT"):
        Client(" ")


@pytest.mark.parametrize("seconds", [float("inf"), 1e300])
def test_a_patience_without_end(server: RunningServer, seconds: float) -> None:
    """Calls have more than anyone waits for."""
    with Client(server.grpc, timeout_seconds=seconds) as client:
        assert client.models()
        assert client.session(MODEL, uuid.uuid4().hex).step(ROW).step == 1


def test_a_text_is_no_list_of_scenarios(client: Client) -> None:
    """Its letters are nobody's names."""
    with pytest.raises(TidegateError, match="give a list of them"):
        client.forecast(MODEL, "abc", 3)
