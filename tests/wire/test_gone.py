"""Clients that do not read, die, freeze or go away: held back or noticed, nothing left behind, nobody else slowed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.servers import RunningServer
from tests.wire.clients import Client, at_rest, batch, observation, unary, until, values_of
from tests.wire.inprocess import in_process
from tests.wire.victims import KINDS

MIB = 1024 * 1024
STREAMS = 2000
WAYS = ("cancelled", "half cancelled", "closed", "half read")


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    """Pings a silent peer after a second and gives it up after five: this process may stand still for some."""
    with RunningServer(models, "--limits-keepalive-seconds", "1", "--limits-keepalive-timeout-seconds", "5") as running:
        yield running


def rss(server: RunningServer) -> int:
    """Bytes of memory that the server's process holds."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


class TestNeverReads:
    ROWS, MESSAGES = 512, 1200

    async def test_it_is_held_back_and_nobody_else(self, server: RunningServer, client: Client) -> None:
        """A client that sends and never reads is stopped by flow control: the server reads no more of its messages than
        the window, holds no more memory than those need (64 MiB are far more), and other streams go on to their ends.
        When it reads at last, every message that it sent is answered, once and in order.
        """
        ids = [f"deaf-{row}" for row in range(self.ROWS)]
        message = batch(ids, np.ones((self.ROWS, 4)))
        stream, before = client.stream(), rss(server)

        async def send() -> None:
            for _ in range(self.MESSAGES):
                await stream.call.write(stream.request(message))

        sending = asyncio.ensure_future(send())
        await until(lambda: server.metric("tidegate_outbox_messages") == 64, "a full window")
        async with Client(server.grpc) as other:
            elsewhere, here = other.stream(), client.stream()
            for step in range(1, 301):  # on another connection and on the same one
                for name, beside in (("beside", elsewhere), ("close by", here)):
                    assert (await beside.predict(observation(name, [step, 2, 3, 4], step))).step == step
            await elsewhere.finish()
            await here.finish()
        assert not sending.done()
        assert server.metric("tidegate_outbox_messages") == 64
        assert server.metric("tidegate_inbox_rows") == 0
        assert rss(server) - before < 64 * MIB
        answers = [await stream.receive() for _ in range(self.MESSAGES)]
        await sending
        assert [answer.sequence for answer in answers] == list(range(1, self.MESSAGES + 1))
        assert list(answers[-1].batch.steps) == [self.MESSAGES] * self.ROWS
        assert np.isfinite(values_of(answers[-1].batch)).all()
        assert await stream.finish() == []
        await at_rest(server)


def victim(server: RunningServer, kind: str) -> subprocess.Popen[bytes]:
    """A client in a process of its own, in place."""
    process = subprocess.Popen([sys.executable, "-m", "tests.wire.victims", server.grpc, kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_clients_that_die_or_freeze_are_noticed(server: RunningServer, client: Client, number: int) -> None:
    """Whatever a client was doing when it was killed or frozen, its streams end and nothing of it stays; other streams
    go on. A frozen one is noticed by the unanswered ping alone: its connection never closes by itself.
    """
    await at_rest(server)
    beside = client.stream()
    await beside.predict(observation("beside-victims", [1, 2, 3, 4]))
    victims = [await asyncio.to_thread(victim, server, kind) for kind in KINDS]
    try:
        assert server.metric("tidegate_streams_open") == 1 + 2 * len(KINDS)
        await until(lambda: server.metric("tidegate_outbox_messages") >= 2 * 64, "the deaf ones are held back")
        for process in victims:
            process.send_signal(number)
        await until(lambda: server.metric("tidegate_streams_open") == 1, "only our stream is left")
        assert (await beside.predict(observation("beside-victims", [1, 2, 3, 4]))).step > 1
        await beside.finish()
        await at_rest(server)
    finally:
        for process in victims:
            process.kill()
            process.wait()


async def open_and_abandon(address: str, how: str) -> None:
    """Opens streams that each have a session and an answer that is never read, and leaves them.

    cancelled: call by call (half of them, the others with their channel); closed: all at once with their channel; half
    read: that too, after answers.
    """
    client = Client(address)
    calls = [client.stream() for _ in range(STREAMS)]
    for number, stream in enumerate(calls):
        await stream.send(observation(f"abandoned-{number}", [1, 2, 3, 4]))
    if how == "half read":
        for stream in calls[::2]:
            await stream.receive()
    if "cancelled" in how:
        for stream in calls[:: 2 if how.startswith("half") else 1]:
            stream.call.cancel()
    await client.channel.close()


async def test_abandoned_streams_leave_nothing_in_the_server(server: RunningServer) -> None:
    """2,000 streams opened and abandoned in four ways, three times over: each time all gauges return to 0, the sessions
    are those that were opened and no more, and memory grows by less than 2 KiB a stream after the first four rounds.

    The allocator keeps between 0 and some 40 MB of what a round gave back, by luck of who freed last; a leak stays. So
    the least of the last four rounds is held against the least of the first four.
    """
    await at_rest(server)
    sizes = []
    sessions = server.metric('tidegate_sessions_resident{model="random",version="1"}')
    for how in WAYS * 3:
        await open_and_abandon(server.grpc, how)
        await at_rest(server)
        sizes.append(rss(server))
        assert server.metric('tidegate_sessions_resident{model="random",version="1"}') <= sessions + STREAMS
    rounds = len(sizes) - len(WAYS)
    assert min(sizes[-len(WAYS) :]) - min(sizes[: len(WAYS)]) < rounds * STREAMS * 2048


async def test_abandoned_streams_leave_no_task(models: Path) -> None:
    """2,000 streams opened and abandoned leave no asyncio task and no call in the front-end's books."""
    async with in_process(models) as running:
        before = len(asyncio.all_tasks())
        await open_and_abandon(running.grpc, "half cancelled")
        await until(lambda: running.at_rest, "rest")
        await until(lambda: len(asyncio.all_tasks()) <= before, "no task is left")
        assert not running.server.front._calls
        assert not running.server.host.engine.waiting
        assert not running.server.host._room


async def test_unary_calls_that_fail_leave_nothing(server: RunningServer, client: Client) -> None:
    """Calls that are refused, cancelled at once, or past their deadline leave no gauge up and no memory (2 MiB)."""
    sizes = []
    for _ in range(3):
        for _ in range(20):
            calls = [asyncio.ensure_future(client.predict(observation("gone", [1, 2, 3, 4]))) for _ in range(20)]
            calls += [asyncio.ensure_future(client.predict(observation("x", [1, 2, 3, 4]), "none")) for _ in range(20)]
            calls += [
                asyncio.ensure_future(client.predictions.Predict(unary(observation("gone", [1.0])), timeout=1e-3))
                for _ in range(20)
            ]
            await asyncio.sleep(0)
            for call in calls[:20]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await at_rest(server)
        sizes.append(rss(server))
    assert sizes[-1] - sizes[0] < 2 * MIB
