"""A server that is killed and started again on its port: nothing is lost or repeated, all bytes are the same."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.proxies import CuttingProxy, Relay, Response
from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import AsyncClient, Reason, TidegateError
from tidegate.client import AsyncBatches
from tidegate.client.allowance import Allowance
from tidegate.client.streams import stream as client_stream
from tidegate.wire.stubs import prediction_pb2

MODEL = "random"
ROW = [0.1, -0.2, 0.3, 0.4]
SESSIONS, STEPS, KILLS = 8, 60, (11, 12, 40)
VALUES = np.random.default_rng(11).standard_normal((STEPS, SESSIONS, 4))
RESET = 13  # the step at which one session is reset, soon after a kill
WAIT_SECONDS_MAX = 60.0
SELDOM = {  # nothing becomes durable but by a command
    "TIDEGATE_LIMITS__CHECKPOINT_SECONDS": "3600",
    "TIDEGATE_LIMITS__CHECKPOINT_LAG_SECONDS_MAX": "7200",
}

Seen = list[tuple[Any, ...]]
BeforeStep = Callable[[int], Awaitable[None]]


class Place:
    """A server with a store, which may be killed and started again."""

    def __init__(self, models: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.models, self.environment = models, environment
        self.flags = ["--store", f"sqlite:{models.parent / 'store.db'}", *flags]
        self.server = RunningServer(models, *self.flags, environment=environment)
        self.address = self.server.grpc

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.stop, signal.SIGKILL)

    async def start(self) -> None:
        port = self.address.rpartition(":")[2]
        self.server = await asyncio.to_thread(
            lambda: RunningServer(self.models, *self.flags, "--port", port, environment=self.environment)
        )

    async def restart(self) -> None:
        await self.kill()
        await self.start()


@contextlib.asynccontextmanager
async def running(
    folder: Path, *flags: str, environment: dict[str, str] | None = None, **manifest_fields: Any
) -> AsyncIterator[Place]:
    """A place with a model."""
    random_package(folder / "models", **manifest_fields)
    place = await asyncio.to_thread(lambda: Place(folder / "models", *flags, environment=environment))
    try:
        yield place
    finally:
        await asyncio.to_thread(place.server.stop)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Waits, generously."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not await true():  # noqa: ASYNC110 (what is waited for is a server's)
            await asyncio.sleep(0.01)


def kept(client: AsyncClient) -> int:
    """How many observations the client keeps."""
    return client._connection.allowance.rows


async def run_sessions(client: AsyncClient, before_step: BeforeStep) -> Seen:
    """Sessions stepped at once, some with pauses, so that they stand at different steps; all that the user sees."""
    seen: Seen = []

    async def one(row: int) -> None:
        session = client.session(MODEL, f"single-{row}")
        for step in range(STEPS - row):
            if row == 0:
                await before_step(step)
            answer = await session.step(VALUES[step, row], reset=row == 3 and step == RESET)
            what = (answer.step, answer.values.tobytes(), answer.steps_seen, answer.created, answer.duplicate)
            seen.append((row, *what))

    await asyncio.gather(*(one(row) for row in range(SESSIONS)))
    return sorted(seen)


async def run_batches(client: AsyncClient, before_step: BeforeStep) -> Seen:
    """The same by batches, in which a session is missing at times."""
    seen: Seen = []
    async with client.batches(MODEL) as batches:
        for step in range(STEPS):
            await before_step(step)
            rows = [row for row in range(SESSIONS) if row != step % 5]
            reset = [row == 3 and step == RESET for row in rows]
            answer = await batches.step([f"batch-{row}" for row in rows], VALUES[step, rows], reset=reset)
            assert answer.errors == []
            seen.append((answer.steps.tolist(), answer.values.tobytes(), answer.flags.tolist()))
    return seen


async def run_stretches(client: AsyncClient, before_step: BeforeStep) -> Seen:
    """Batches in which each session stands in several rows."""
    seen: Seen = []
    async with client.batches(MODEL, dtype="float64") as batches:
        for step in range(0, STEPS, 4):
            for part in range(step, step + 4):
                await before_step(part)
            ids = [f"stretch-{row}" for _ in range(4) for row in range(SESSIONS)]
            answer = await batches.step(ids, VALUES[step : step + 4].reshape(-1, 4).astype(np.float32))
            assert answer.errors == []
            seen.append((answer.steps.tolist(), answer.values.tobytes(), answer.flags.tolist()))
    return seen


async def run_all(address: str, before_step: BeforeStep) -> list[Seen]:
    """All three at once, by one client; the steps of the first set the pace of kills."""

    async def nothing(step: int) -> None:
        del step
        await asyncio.sleep(random.uniform(0.0, 0.04))

    async with AsyncClient(address, timeout_seconds=120.0) as client:
        runs = run_sessions(client, before_step), run_batches(client, nothing), run_stretches(client, nothing)
        return list(await asyncio.gather(*runs))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["interval", "step"])
async def test_killed_in_the_middle(tmp_path: Path, level: str) -> None:
    """Killed three times under sessions and batches that go on, once again at once: what every user sees is what an
    uninterrupted run sees, each prediction once and in order."""

    async def nothing(step: int) -> None:
        del step

    (tmp_path / "calm").mkdir()
    async with running(tmp_path / "calm") as calm:
        expected = await run_all(calm.address, nothing)
    restarts: list[asyncio.Task[None]] = []
    (tmp_path / "killed").mkdir()
    async with running(tmp_path / "killed", "--durability", level) as place:

        async def kill(step: int) -> None:
            await asyncio.sleep(0.02)
            if step in KILLS:
                await asyncio.gather(*restarts)
                restarts.append(asyncio.create_task(place.restart()))

        try:
            assert await run_all(place.address, kill) == expected
        finally:
            await asyncio.gather(*restarts)
    assert len(restarts) == len(KILLS)


@pytest.mark.slow
async def test_unary_calls_never_tell_of_less(tmp_path: Path) -> None:
    """What is asked of sessions after a crash, by whatever call, stands where the user was told that they stand: even
    what nobody steps any more was given back first."""
    async with (
        running(tmp_path, environment=SELDOM) as place,
        AsyncClient(place.address, timeout_seconds=120.0) as client,
    ):
        about = (await client.model(MODEL)).description
        assert about is not None
        assert about.durability == "interval"
        session, other = client.session(MODEL, "a"), client.session(MODEL, "b")
        for step in range(5):
            await session.step(VALUES[step, 0])
            last = await other.step(VALUES[step, 1])
        async with client.batches(MODEL) as batches:
            await batches.step(["c", "c", "d"], VALUES[0, :3])
            assert kept(client) == 13
            await place.kill()
            info = asyncio.create_task(session.info())
            fork = asyncio.create_task(session.fork("fork"))
            forecast = asyncio.create_task(client.forecast(MODEL, ["b"], 1))
            resting = asyncio.create_task(client.session(MODEL, "d").info())
            await place.start()
            assert ((await info).step, (await resting).step) == (5, 1)
            (predicted,) = await forecast
            assert (predicted.step, predicted.values.tobytes()) == (5, last.values.tobytes())
            # A fork is not made twice, so that this one may have failed; where it was made, it is of the whole.
            await asyncio.wait([fork])
            made = await session.fork("another") if fork.exception() else fork.result()
            assert (await made.info()).step == 5
            await place.restart()
            assert (await session.reset()).step == 5
            assert [(s.id, s.step) async for s in client.sessions(filter="id=c")] == [("c", 2)]
            assert (await session.step(ROW)).step == 6
            await place.restart()
            exported = await other.export()
            assert (await client.import_session(exported, id="e")).step == 5


@pytest.mark.slow
async def test_what_nobody_steps_is_given_back(tmp_path: Path) -> None:
    """The client gives back what the server lost without being asked, also of a session whose object is gone; then
    another client finds all of it."""
    async with (
        running(tmp_path, environment=SELDOM) as place,
        AsyncClient(place.address) as client,
        AsyncClient(place.address) as witness,
    ):
        for _ in range(3):
            await client.session(MODEL, "a").step(ROW)
        await place.restart()

        async def is_back() -> bool:
            with contextlib.suppress(TidegateError):
                return (await witness.session(MODEL, "a").info()).step == 3
            return False

        await until(is_back)
        assert (await client.session(MODEL, "a").step(ROW)).step == 4


@pytest.mark.slow
async def test_what_was_ended_does_not_come_back(tmp_path: Path) -> None:
    """Sessions that this client closed are not given back, and what was reset stays so."""
    async with running(tmp_path, environment=SELDOM) as place, AsyncClient(place.address) as client:
        sessions = [client.session(MODEL, name) for name in "abcd"]
        for session in sessions:
            await session.step(ROW)
            await session.step(ROW)
        await sessions[0].close()
        assert (await client.close_sessions(MODEL, ["b"])).done == 1
        await sessions[2].reset()
        assert (await client.reset_sessions(MODEL, ["d"])).done == 1
        await place.restart()
        found = {session.id: (session.step, session.steps_seen) async for session in client.sessions()}
        assert found == {"c": (2, 0), "d": (2, 0)}


@pytest.mark.slow
async def test_closing_waits_until_all_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is closed leaves nothing behind that a crash could lose; checkpoints let go what is kept."""
    changes, change = list[int](), Allowance.change

    def noted(allowance: Allowance, rows: int, size: int) -> None:
        changes.append(rows)
        change(allowance, rows, size)

    monkeypatch.setattr(Allowance, "change", noted)
    monkeypatch.setattr(client_stream, "DURABLE_SECONDS_MAX", WAIT_SECONDS_MAX)  # a machine may stand still for some
    async with running(tmp_path) as place:
        async with AsyncClient(place.address) as client:
            await client.session(MODEL, "a").step(ROW)
            assert changes[0] == 1  # its checkpoint may have come as soon
        assert (kept(client), changes) == (0, [1, -1])
        await place.restart()
        async with AsyncClient(place.address) as client, client.batches(MODEL) as batches:
            assert (await client.session(MODEL, "a").step(ROW)).step == 2
            await batches.step(["b", "c"], [ROW, ROW])

            async def is_durable() -> bool:
                return kept(client) == 0

            await until(is_durable)


@pytest.mark.slow
async def test_nothing_is_kept_without_need(tmp_path: Path) -> None:
    """Where every answer is durable, and where nothing is, the client keeps nothing."""
    random_package(tmp_path / "models")
    for flags in (("--store", f"sqlite:{tmp_path / 'store.db'}", "--durability", "step"), ()):
        server = await asyncio.to_thread(RunningServer, tmp_path / "models", *flags)
        try:
            async with AsyncClient(server.grpc) as client, client.batches(MODEL) as batches:
                await client.session(MODEL, "a").step(ROW)
                await batches.step(["b", "c"], [ROW, ROW])
                assert kept(client) == 0
        finally:
            await asyncio.to_thread(server.stop)


RICH = [{"name": "x0"}, {"name": "x1"}, {"name": "wind", "role": "past"}, {"name": "sale", "role": "future"}]
BEGIN = np.datetime64("2024-01-01T00", "ns")


async def run_rich(client: AsyncClient, after_step: Callable[[int, AsyncBatches], Awaitable[None]]) -> Seen:
    """Steps with times, missing values and what is known ahead, alone and by a batch."""
    seen: Seen = []
    async with client.batches("rich") as batches:
        for step in range(12):
            values, known = VALUES[step, :2, :3].copy(), VALUES[step, :2, 3:]
            values[step % 2, step % 3] = np.nan
            time = BEGIN + np.timedelta64(step, "h")
            alone = await client.session("rich", "alone").step(values[0], time=time, future=known[0])
            batch = await batches.step(["b0", "b1"], values, times=np.array([time, time]), future=known)
            seen.append((alone.imputed, alone.values.tobytes(), batch.errors, batch.values.tobytes()))
            await after_step(step, batches)
    return seen


@pytest.mark.slow
async def test_times_missing_values_and_what_is_known_ahead(tmp_path: Path) -> None:
    """What is given back is what was sent, whole: after a connection that was cut the server knows each last row again
    (nothing is taken for another client's), and after a crash it comes to the same bytes."""
    for folder in (tmp_path / "calm", tmp_path / "broken"):
        random_package(folder / "models", "rich", features=RICH, targets=["x0", "x1"], frequency="h")

    async def nothing(step: int, batches: AsyncBatches) -> None:
        del step, batches

    async with running(tmp_path / "calm") as calm, AsyncClient(calm.address) as client:
        expected = await run_rich(client, nothing)
    async with (
        running(tmp_path / "broken", environment=SELDOM) as place,
        CuttingProxy(place.address) as proxy,
        AsyncClient(proxy.address) as client,
    ):
        session = client.session("rich", "alone")

        async def break_things(step: int, batches: AsyncBatches) -> None:
            if step in (3, 7):
                proxy.cut()
                assert (await session.info()).step == step + 1
                alone, many = session._feed.stream("alone").kept, batches._stream.kept
                rows = [*alone.rows_of(["alone"]).values(), *many.rows_of(["b0", "b1"]).values()]
                assert list(map(len, rows)) == [step + 1] * 3
            elif step in (5, 9):
                await place.restart()

        assert await run_rich(client, break_things) == expected


@pytest.mark.timeout(180)
async def test_asking_while_a_stream_is_just_ending(tmp_path: Path) -> None:
    """A call about sessions that is made in the very turn of the loop in which a stream broke waits until the stream
    is back, and lets the loop go on meanwhile."""
    async with (
        running(tmp_path, environment=SELDOM) as place,
        CuttingProxy(place.address) as proxy,
        AsyncClient(proxy.address) as client,
    ):
        session = client.session(MODEL, "a")
        stream = session._feed.stream("a")
        for step in range(1, 4):
            assert (await session.step(ROW)).step == step
            breaks = client._connection.breaks
            proxy.cut()
            while stream._conversation is not None:  # noqa: ASYNC110 (the very turn is what is asked for)
                await asyncio.sleep(0)
            assert client._connection.breaks == breaks  # it is not over yet
            assert (await session.info()).step == step
            assert client._connection.breaks > breaks


def checkpoint(sequence: int, *lagging: str) -> Response:
    """As a server says it."""
    sessions = [prediction_pb2.SessionLag(session_id=name) for name in lagging]
    return Response(checkpoint=prediction_pb2.Checkpoint(durable_sequence=sequence, lagging=sessions))


async def set_back(client: AsyncClient, name: str, content: bytes) -> None:
    """Makes a session what it was when it was exported, as when another replica had it from an old checkpoint."""
    await client.session(MODEL, name).close()
    await client.import_session(content)


@pytest.mark.slow
async def test_sessions_lost_to_another_replica(tmp_path: Path) -> None:
    """A session that a checkpoint names as lost is given back, whether anyone steps it or not; a step that came before
    that was known waits for it. One that no checkpoint names was set back by somebody else, and the error says so."""
    async with (
        running(tmp_path, environment=SELDOM) as place,
        Relay(place.address) as relay,
        AsyncClient(relay.address) as client,
        AsyncClient(place.address) as other,
        client.batches(MODEL) as batches,
    ):
        exports: dict[str, bytes] = {}
        calm = [(await other.session(MODEL, "calm").step(VALUES[step, 0])).values.tobytes() for step in range(6)]
        for step in range(5):
            for name in ("stepped", "idle", "stolen"):
                await client.session(MODEL, name).step(VALUES[step, 0])
            await batches.step(["batched", "at rest"], VALUES[[step, step], 0])
            if step == 2:
                names = ("stepped", "idle", "stolen", "batched", "at rest")
                exports = {name: await other.session(MODEL, name).export() for name in names}
        for name, content in exports.items():
            await set_back(other, name, content)
        stepped = asyncio.create_task(client.session(MODEL, "stepped").step(VALUES[5, 0]))
        batched = asyncio.create_task(batches.step(["batched"], VALUES[5, :1]))
        stolen = asyncio.create_task(client.session(MODEL, "stolen").step(VALUES[5, 0]))
        waiting: list[asyncio.Task[Any]] = [stepped, batched, stolen]
        done, _ = await asyncio.wait(waiting, timeout=0.3)
        assert not done
        relay.say(checkpoint(10_000, "stepped", "idle", "batched", "at rest", "of another stream"))
        single, batch = await stepped, await batched
        assert (single.step, single.values.tobytes(), single.duplicate) == (6, calm[5], False)
        assert (batch.steps.tolist(), batch.values.tobytes()) == ([6], calm[5])
        with pytest.raises(TidegateError) as refused:
            await stolen
        assert (refused.value.reason, refused.value.variables["expected_step"]) == (Reason.STEP_GAP, "4")

        async def are_back() -> bool:
            return {(await other.session(MODEL, name).info()).step for name in ("idle", "at rest")} == {5}

        await until(are_back)
        relay.say(checkpoint(20_000))

        async def nothing_is_kept() -> bool:
            return kept(client) == 0

        await until(nothing_is_kept)
