"""Connections that break under a client: every prediction comes once, in order and right, or else a reason.

Whole runs are compared with the same run on an unbroken connection, all that the user sees of each prediction.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.client.proxies import CuttingProxy, EndedError, Relay, Request, Response
from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import AsyncClient, Reason, TidegateError
from tidegate.client import RowFlag
from tidegate.client.patience import Patience
from tidegate.wire.status import status_of
from tidegate.wire.stubs import types_pb2

MODEL = "random"
ROW = [0.1, -0.2, 0.3, 0.4]
SESSIONS, STEPS = 12, 40
VALUES = np.random.default_rng(7).standard_normal((STEPS, SESSIONS, 4))

Seen = list[tuple[Any, ...]]


def fresh(count: int) -> list[str]:
    """Ids that nobody has used."""
    run = uuid.uuid4().hex
    return [f"{run}-{index}" for index in range(count)]


async def run_sessions(client: AsyncClient) -> Seen:
    """Sessions stepped at once, one of them reset on its way; all that the user sees."""
    sessions = [client.session(MODEL, name) for name in fresh(SESSIONS)]
    seen: Seen = []
    for step in range(STEPS):
        reset = [step == 20 and index == 3 for index in range(SESSIONS)]
        answers = await asyncio.gather(
            *(session.step(VALUES[step, row], reset=reset[row]) for row, session in enumerate(sessions))
        )
        seen += [
            (a.step, a.values.tobytes(), a.steps_seen, a.created, a.duplicate, a.imputed, a.stale) for a in answers
        ]
    return seen


async def run_batches(client: AsyncClient) -> Seen:
    """The same by batches."""
    ids, seen = fresh(SESSIONS), list[tuple[Any, ...]]()
    async with client.batches(MODEL) as batches:
        for step in range(STEPS):
            reset = [step == 20 and index == 3 for index in range(SESSIONS)]
            answer = await batches.step(ids, VALUES[step], reset=reset)
            assert answer.errors == []
            seen.append((answer.steps.tolist(), answer.values.tobytes(), answer.flags.tolist()))
    return seen


RUNS = pytest.mark.parametrize("run", [run_sessions, run_batches])


def hurry(client: AsyncClient) -> None:
    """From now on its calls have little time; those before may have needed more, on a busy machine."""
    client._connection.timeout_seconds = 1.0


@RUNS
@pytest.mark.parametrize("seed", range(4))
async def test_cut_at_random_moments(
    server: RunningServer, run: Callable[[AsyncClient], Awaitable[Seen]], seed: int
) -> None:
    """Connections that end or are reset after any number of bytes, in the middle of frames too, change nothing."""
    async with AsyncClient(server.grpc) as client:
        expected = await run(client)
    dice = random.Random(seed)
    async with (
        CuttingProxy(server.grpc, lambda: dice.randrange(500, 20_000), lambda: dice.random() < 0.5) as proxy,
        AsyncClient(proxy.address) as client,
    ):
        # The first answer must be had: a client that never had one takes its address to be wrong.
        while proxy.cuts < 100:
            try:
                await client.models()
                break
            except TidegateError as error:
                assert error.reason is Reason.UNREACHABLE  # noqa: PT017
        before = proxy.cuts
        assert await run(client) == expected
        assert proxy.cuts >= before + 3


@RUNS
@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        None,
    ],
)
async def test_all_ways_in_which_a_proxy_ends_a_stream(
    server: RunningServer, run: Callable[[AsyncClient], Awaitable[Seen]], code: grpc.StatusCode | None
) -> None:
    """A bare UNAVAILABLE, INTERNAL or CANCELLED, and an end without any error, are each a lost connection."""
    async with AsyncClient(server.grpc) as client:
        expected = await run(client)
    dice = random.Random(3)

    def end_at_times(request: Request) -> None:
        if dice.random() < 0.05 and not request.HasField("config"):
            raise EndedError(code)

    async with Relay(server.grpc, end_at_times) as relay, AsyncClient(relay.address) as client:
        assert await run(client) == expected
        assert relay.ended > 0


async def test_a_server_that_is_away_for_a_while(server: RunningServer) -> None:
    """Steps, batches and unary calls that are made while nothing listens return when it listens again."""
    async with CuttingProxy(server.grpc) as proxy, AsyncClient(proxy.address) as client:
        session, (name,) = client.session(MODEL, fresh(1)[0]), fresh(1)
        await session.step(ROW)
        async with client.batches(MODEL) as batches:
            await batches.step([name], [ROW])
            await proxy.refuse()
            step = asyncio.create_task(session.step(ROW))
            batch = asyncio.create_task(batches.step([name], [ROW]))
            models = asyncio.create_task(client.models())
            info = asyncio.create_task(client.session(MODEL, session.id).info())
            opened = asyncio.create_task(client.open_sessions(MODEL, fresh(3)))
            calls: list[asyncio.Task[Any]] = [step, batch, models, info, opened]
            done, _ = await asyncio.wait(calls, timeout=0.3)
            assert not done
            await proxy.listen()
            await asyncio.gather(*calls)
            assert (await step).step == 2
            assert not (await step).duplicate
            assert ((await batch).steps.tolist(), (await batch).flags.tolist()) == ([2], [0])
            assert any(model.name == MODEL for model in await models)
            assert (await info).step in (1, 2)
            assert (await opened).created.all()


async def test_nobody_comes_back(server: RunningServer) -> None:
    """When the call's time is over, each kind of call says UNREACHABLE; the step made again is taken once."""
    async with CuttingProxy(server.grpc) as proxy, AsyncClient(proxy.address) as client:
        session, (name,) = client.session(MODEL, fresh(1)[0]), fresh(1)
        batches = client.batches(MODEL)
        await session.step(ROW)
        await batches.__aenter__()
        await batches.step([name], [ROW])
        hurry(client)
        await proxy.refuse()
        for call in (
            lambda: session.step(ROW),
            lambda: batches.step([name], [ROW]),
            client.models,
            session.info,
            session.close,
            lambda: client.session(MODEL, "another").step(ROW),
        ):
            with pytest.raises(TidegateError) as lost:
                await call()
            assert lost.value.reason is Reason.UNREACHABLE, lost.value
        await proxy.listen()
        while True:
            try:
                again = await session.step(ROW)
                break
            except TidegateError as error:
                assert error.reason is Reason.UNREACHABLE  # noqa: PT017
        assert again.step == 2


async def test_what_is_given_up_is_not_sent_later(server: RunningServer) -> None:
    """A step whose caller went away while nothing listened is not taken when it listens again."""
    async with CuttingProxy(server.grpc) as proxy, AsyncClient(proxy.address) as client:
        session, other = (client.session(MODEL, name) for name in fresh(2))
        await asyncio.gather(session.step(ROW), other.step(ROW))
        await proxy.refuse()
        step = asyncio.create_task(session.step(ROW))
        await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        await proxy.listen()
        await other.step(ROW)
        assert (await session.info()).step == 1


def refuser(reason: Reason, times: int) -> Callable[[Request], Response | None]:
    """Answers the first messages that are no session's first with this error: a single observation's, or each row's."""
    left = [times]

    def on_request(request: Request) -> Response | None:
        error = TidegateError(reason)
        if left[0] == 0 or (request.observation.step or request.batch.steps[0]) == 1:
            return None
        left[0] -= 1
        if request.HasField("observation"):
            return Response(sequence=request.sequence, error=status_of(error))
        rows = request.batch.rows
        row_errors = [
            types_pb2.RowError(row=row, code=error.code, reason=reason.name, message=error.message)
            for row in range(rows)
        ]
        values = np.full((rows, 4), np.nan, np.float32).tobytes()
        batch = types_pb2.PredictionBatch(
            rows=rows, values=values, steps=[0] * rows, flags=bytes(rows), errors=row_errors
        )
        return Response(sequence=request.sequence, batch=batch)

    return on_request


@RUNS
@pytest.mark.parametrize("reason", [Reason.SESSION_MOVED, Reason.STORE_UNAVAILABLE])
async def test_what_cannot_be_done_yet_is_tried_again(
    server: RunningServer, run: Callable[[AsyncClient], Awaitable[Seen]], reason: Reason
) -> None:
    """A session that is elsewhere for a moment, and a store that is away, only make a step late."""
    async with AsyncClient(server.grpc) as client:
        expected = await run(client)
    async with Relay(server.grpc, refuser(reason, 7)) as relay, AsyncClient(relay.address) as client:
        assert await run(client) == expected


@pytest.mark.parametrize("reason", [Reason.SESSION_MOVED, Reason.STORE_UNAVAILABLE])
async def test_what_cannot_be_done_in_time_says_why(server: RunningServer, reason: Reason) -> None:
    """When the call's time is over, the reason is what kept it."""
    async with Relay(server.grpc, refuser(reason, -1)) as relay, AsyncClient(relay.address) as client:
        session = client.session(MODEL, fresh(1)[0])
        await session.step(ROW)
        async with client.batches(MODEL) as batches:
            ids = fresh(2)
            await batches.step(ids, [ROW, ROW])
            hurry(client)
            for call in (lambda: session.step(ROW), lambda: batches.step(ids, [ROW, ROW])):
                with pytest.raises(TidegateError) as kept:
                    await call()
                assert kept.value.reason is reason


async def test_only_the_rows_that_could_not_be_done_are_sent_again(server: RunningServer) -> None:
    """Of a batch, the rows that failed for now go out again, alone, and the answer is whole and in order."""
    cut_short: list[int] = []

    def without_odd_rows(request: Request) -> None:
        batch = request.batch
        if batch.rows == 6 and batch.steps[0] == 2 and not cut_short:
            cut_short.append(request.sequence)
            values = np.frombuffer(batch.values, np.float64).reshape(6, 4)[::2].tobytes()
            even = types_pb2.ObservationBatch(
                rows=3, aliases=batch.aliases[::2], steps=batch.steps[::2], dtype=batch.dtype, values=values
            )
            batch.CopyFrom(even)

    def with_odd_rows_moved(response: Response) -> None:
        if response.sequence in cut_short:
            moved = TidegateError(Reason.SESSION_MOVED)
            values = np.full((6, 4), np.nan, np.float32)
            values[::2] = np.frombuffer(response.batch.values, np.float32).reshape(3, 4)
            response.batch.rows, response.batch.values, response.batch.flags = 6, values.tobytes(), bytes(6)
            response.batch.steps[:] = [2, 0] * 3
            for row in (1, 3, 5):
                response.batch.errors.add(row=row, code=moved.code, reason=moved.reason.name, message=moved.message)

    async def two_steps(client: AsyncClient) -> bytes:
        async with client.batches(MODEL) as batches:
            ids = fresh(6)
            await batches.step(ids, VALUES[0, :6])
            answer = await batches.step(ids, VALUES[1, :6])
            assert (answer.errors, answer.steps.tolist()) == ([], [2] * 6)
            return answer.values.tobytes()

    async with AsyncClient(server.grpc) as direct:
        expected = await two_steps(direct)
    async with (
        Relay(server.grpc, without_odd_rows, with_odd_rows_moved) as relay,
        AsyncClient(relay.address) as client,
    ):
        assert await two_steps(client) == expected
        assert [request.batch.rows for request in relay.requests] == [6, 6, 3]
        assert list(relay.requests[2].batch.aliases) == [1, 3, 5]


async def test_a_refusal_is_no_lost_connection(server: RunningServer) -> None:
    """What the server says itself is final at once: nothing is sent twice."""
    async with Relay(server.grpc) as relay, AsyncClient(relay.address) as client:
        session = client.session(MODEL, fresh(1)[0])
        await session.step(ROW)
        with pytest.raises(TidegateError) as refused:
            await session.step([1.0, 2.0, 3.0, float("inf")])
        assert refused.value.reason is Reason.BAD_OBSERVATION
        with pytest.raises(TidegateError) as bad:
            await client.session(MODEL, fresh(1)[0], levels=[0.8]).step(ROW)
        assert bad.value.reason is Reason.BAD_CONFIG
        assert len(relay.requests) == 3


async def test_rows_of_one_session_in_one_call(server: RunningServer) -> None:
    """Where the model's sessions do not outlive a crash, a session's rows go out together: after a cut the earlier ones
    may be errors that say that they were taken, and the numbering goes on behind the last."""
    (name,) = fresh(1)
    cut = False

    def end_once(request: Request) -> None:
        nonlocal cut
        if request.HasField("batch") and request.batch.rows == 5 and not cut:
            cut = True
            proxy_task.append(asyncio.get_running_loop().call_later(0.2, proxy.cut))

    proxy_task: list[asyncio.TimerHandle] = []
    async with (
        Relay(server.grpc, end_once) as relay,
        CuttingProxy(relay.address) as proxy,
        AsyncClient(proxy.address) as client,
        client.batches(MODEL) as batches,
    ):
        first = await batches.step([name] * 5, VALUES[:5, 0])
        assert first.steps[-1] == 5
        assert {error.reason for error in first.errors} <= {Reason.STEP_TOO_OLD}
        assert (await batches.step([name], VALUES[5, :1])).steps.tolist() == [6]


async def test_a_batch_binds_its_aliases_anew(server: RunningServer) -> None:
    """After a break the ids go along again, once; the answers are those of the sessions that were meant."""
    ids = fresh(3)
    async with (
        Relay(server.grpc) as relay,
        CuttingProxy(relay.address) as proxy,
        AsyncClient(proxy.address) as client,
        client.batches(MODEL) as batches,
    ):
        for step in range(6):
            if step == 3:
                proxy.cut()
            answer = await batches.step(ids, VALUES[step, :3])
            assert answer.steps.tolist() == [step + 1] * 3
        named = [bool(request.batch.session_ids) for request in relay.requests]
        assert named == [True, False, False, True, False, False]
        assert answer.flags.tolist() == [0] * 3
        assert RowFlag.DUPLICATE not in RowFlag(int(answer.flags[0]))


async def test_a_session_that_was_opened_twice_is_created_once(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the answer to the opening is lost, the first step still says that the session began with it."""
    failed, pause = asyncio.Event(), Patience.pause

    async def paused(patience: Patience, error: TidegateError) -> None:
        failed.set()
        await pause(patience, error)

    monkeypatch.setattr(Patience, "pause", paused)
    async with CuttingProxy(server.grpc) as proxy, AsyncClient(proxy.address) as client:
        await client.models()
        # Open it as the lost call did, and have the next attempt be the client's second.
        (name,) = fresh(1)
        async with AsyncClient(server.grpc) as direct:
            await direct.open_sessions(MODEL, [name])
        await proxy.refuse()
        step = asyncio.create_task(client.session(MODEL, name).step(ROW))
        await failed.wait()
        await proxy.listen()
        assert (await step).created


async def test_a_drained_server_is_replaced(tmp_path: Path) -> None:
    """A server that drains and is started again, with a store, is nothing that a user sees."""
    models, store = tmp_path / "models", f"sqlite:{tmp_path / 'store.db'}"
    random_package(models)
    first = RunningServer(models, "--store", store)
    try:
        async with AsyncClient(first.grpc, timeout_seconds=120.0) as client:
            session = client.session(MODEL, "a")
            steps = [await session.step(ROW) for _ in range(3)]
            assert await asyncio.to_thread(first.stop) == 0
            step = asyncio.create_task(session.step(ROW))
            port = first.grpc.rpartition(":")[2]
            first = await asyncio.to_thread(RunningServer, models, "--store", store, "--port", port)
            steps.append(await step)
            assert [(p.step, p.steps_seen, p.created) for p in steps] == [(n, n, n == 1) for n in (1, 2, 3, 4)]
    finally:
        first.stop()
