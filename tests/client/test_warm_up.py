"""Past steps by one call of the client, and how they come back after a crash."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.client.test_crashes import MODEL, SELDOM, kept, running
from tests.servers import RunningServer
from tidegate import AsyncClient, Client, Reason, TidegateError
from tidegate.client.streams import replay
from tidegate.client.streams.columns import Columns
from tidegate.client.streams.histories import Past, runs

STEPS = 120


def feed(steps: int = STEPS, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((steps, 4))


def new_id() -> str:
    return uuid.uuid4().hex


def test_exact_is_stepping(server: RunningServer) -> None:
    """A session that was warmed up exactly, in two calls, predicts the bytes of one that was stepped; the numbering
    goes on, by either."""
    values = feed()
    with Client(server.grpc) as client:
        one, other = client.session(MODEL, new_id()), client.session(MODEL, new_id())
        wanted = [other.step(row) for row in values]
        first = one.warm_up(values[:50], exact=True)
        assert (first.step, first.steps_seen, first.created, first.duplicate) == (50, 50, True, False)
        assert first.values.tobytes() == wanted[49].values.tobytes()
        assert one.step(values[50]).values.tobytes() == wanted[50].values.tobytes()
        last = one.warm_up(values[51:], exact=True)
        assert (last.step, last.created, last.values.tobytes()) == (STEPS, False, wanted[-1].values.tobytes())
        assert one.step(values[0]).values.tobytes() == other.step(values[0]).values.tobytes()


def test_a_sequence_is_close(server: RunningServer) -> None:
    """Without `exact` it is within the rounding of float32, of float32 values too; a reset begins anew."""
    values = feed().astype(np.float32)
    with Client(server.grpc) as client:
        one, other = client.session(MODEL, new_id()), client.session(MODEL, new_id())
        one.warm_up(feed(30, 5))
        for row in values:
            wanted = other.step(row)
        found = one.warm_up(values, reset=True)
        assert (found.step, found.steps_seen) == (STEPS + 30, STEPS)
        np.testing.assert_allclose(found.values, wanted.values, atol=1e-5)


def test_rows_that_the_session_has(server: RunningServer) -> None:
    """With the number of its first row, a history that overlaps takes what is new, and one that was taken is answered
    again; one that says otherwise is a conflict, and the session is as it was."""
    values, name = feed(), new_id()
    with Client(server.grpc) as client:
        session = client.session(MODEL, name)
        session.warm_up(values[:40])
        assert session.warm_up(values, first_step=1).step == STEPS
        assert session.warm_up(values, first_step=1).duplicate
        with pytest.raises(TidegateError) as refused:
            session.warm_up(values + 1.0, first_step=1)
        assert refused.value.reason is Reason.STEP_CONFLICT
        assert session.step(values[0]).step == STEPS + 1


def test_what_is_wrong_is_refused(server: RunningServer) -> None:
    """Another shape is BAD_HISTORY, a row that overflows HISTORY_DIVERGED, which names it; no number is used up."""
    values = feed()
    with Client(server.grpc) as client:
        session = client.session(MODEL, new_id())
        for wrong in (values[:, :3], values[0], values[:0], [["a"] * 4]):
            with pytest.raises(TidegateError) as refused:
                session.warm_up(wrong)
            assert refused.value.reason is Reason.BAD_HISTORY
        values[77] = 1e300
        with pytest.raises(TidegateError, match="row 77") as refused:
            session.warm_up(values)
        assert refused.value.reason is Reason.HISTORY_DIVERGED
        assert session.warm_up(values[:77]).step == 77


def test_more_than_one_message_holds(server: RunningServer) -> None:
    """A history that is too long for one message goes out in parts."""
    with Client(server.grpc) as client:
        found = client.session(MODEL, new_id()).warm_up(np.zeros((20_000, 4), np.float32))
        assert (found.step, found.steps_seen) == (20_000, 20_000)


@pytest.mark.parametrize("first_step", [0, 1])
def test_long_ones_are_safe_to_repeat(server: RunningServer, first_step: int) -> None:
    """One that failed in its third part, at a row that the error names, goes on behind the first two when it is sent
    again with that row mended, numbered or not; all of it again, by its number, is a duplicate."""
    values = feed(40_000)
    wrong = values.copy()
    wrong[35_000, 2] = np.inf
    with Client(server.grpc) as client:
        session, other = client.session(MODEL, new_id()), client.session(MODEL, new_id())
        with pytest.raises(TidegateError, match=r"row 35000 of the history.*value 2") as refused:
            session.warm_up(wrong, first_step=first_step)
        assert (refused.value.reason, refused.value.variables["row"]) == (Reason.BAD_OBSERVATION, "35000")
        assert session.info().step == 32_768
        last = session.warm_up(values, first_step=first_step)
        assert (last.step, last.steps_seen, last.duplicate) == (40_000, 40_000, False)
        assert last.values.tobytes() == other.warm_up(values).values.tobytes()
        again = session.warm_up(values, first_step=1)
        assert (again.step, again.duplicate) == (40_000, True)
        assert session.warm_up(values[:100]).step == 40_100


def test_another_history_is_another(server: RunningServer) -> None:
    """What follows one that failed in a later part is taken anew if it begins otherwise, or when there was a step or a
    reset in between; with the first number and another row at the last step it is a conflict."""
    values = feed(20_000)
    wrong = values.copy()
    wrong[17_000] = np.inf
    with Client(server.grpc) as client:
        for between in ("nothing", "a step", "a reset"):
            session = client.session(MODEL, new_id())
            with pytest.raises(TidegateError, match="row 17000"):
                session.warm_up(wrong)
            with pytest.raises(TidegateError) as refused:
                session.warm_up(values + 1.0, first_step=1)
            assert refused.value.reason is Reason.STEP_CONFLICT
            if between == "a step":
                session.step(values[0])
            if between == "a reset":
                session.reset()
            taken = session.info().step
            following = values + 1.0 if between == "nothing" else values
            assert session.warm_up(following).step == taken + 20_000


async def test_order_with_steps_at_once(server: RunningServer) -> None:
    """Steps that are asked for while a history is taken come after it."""
    values = feed()
    async with AsyncClient(server.grpc) as client:
        one, other = client.session(MODEL, new_id()), client.session(MODEL, new_id())
        wanted = [await other.step(row) for row in values]
        asked = [one.step(values[0]), one.warm_up(values[1:100], exact=True)]
        answers = await asyncio.gather(*asked, *(one.step(row) for row in values[100:]))
        assert [answer.step for answer in answers] == [1, *range(100, STEPS + 1)]
        for answer in answers:
            assert answer.values.tobytes() == wanted[answer.step - 1].values.tobytes()


@pytest.mark.parametrize("by_history", [False, True])
async def test_a_crash_loses_nothing(tmp_path: Path, by_history: bool) -> None:
    """What a killed server had not saved, single steps and histories, comes back to it, long stretches as exact
    histories: the bytes after it are those of a server that was never killed."""
    values = feed()
    async with running(tmp_path, environment=SELDOM) as place, AsyncClient(place.address) as client:
        names = [f"s{number}" for number in range(5)]
        killed: list[bytes] = []
        calm: list[bytes] = []
        for name, seen in [(name, killed) for name in names] + [(f"calm-{name}", calm) for name in names]:
            session = client.session(MODEL, name)
            if by_history:
                await session.warm_up(values[:60], exact=True)
                await session.warm_up(values[60:100], reset=True, exact=True)
            else:
                for step, row in enumerate(values[:100]):
                    await session.step(row, reset=step == 60)
            seen.append((await session.step(values[100])).values.tobytes())
        assert killed == calm
        assert kept(client) == 10 * 101
        await place.restart()
        for name, seen in [(name, killed) for name in names] + [(f"calm-{name}", calm) for name in names]:
            answer = await client.session(MODEL, name).step(values[101])
            assert (answer.step, answer.steps_seen, answer.created, answer.duplicate) == (102, 42, False, False)
            seen.append(answer.values.tobytes())
        assert killed == calm
        steps = place.server.metric("tidegate_history_steps_total")
        assert steps == 10 * 101
        session = client.session(MODEL, "never killed")
        await session.warm_up(values[:60], exact=True)
        await session.warm_up(values[60:101], reset=True, exact=True)
        assert (await session.step(values[101])).values.tobytes() == killed[-1]


def test_stretches_of_a_replay() -> None:
    """Long stretches of one session without a reset inside are histories, the rest rows of batches; all in order, and
    each row once."""
    ids = ["a"] * 20 + ["b"] * 3 + ["c"] * 40 + ["d"] + ["e"] * 40
    steps = [*range(5, 25), 1, 2, 3, *range(1, 41), 9, *range(1, 31), *range(40, 50)]
    reset = np.zeros(len(ids), np.uint8)
    reset[20 + 3 + 17] = reset[0] = 1
    rows = Columns(ids, np.array(steps, np.uint64), np.arange(len(ids), dtype=float)[:, None], None, reset)
    assert [(run.start, run.stop) for run in runs(rows)] == [
        (0, 20),
        (20, 23),
        (23, 40),
        (40, 63),
        (63, 64),
        (64, 94),
        (94, 104),
    ]
    messages = list(replay._messages(rows))
    lengths = [(isinstance(message, Past), len(message.rows)) for message in messages]
    assert lengths == [(True, 20), (False, 3), (True, 17), (True, 23), (False, 1), (True, 30), (False, 10)]
    assert np.concatenate([message.rows.values for message in messages])[:, 0].tolist() == list(range(len(ids)))
    assert messages[0].request(1).history.reset
    assert messages[3].request(1).history.reset
    assert not messages[2].request(1).history.reset
    assert messages[3].request(1).history.first_step == 18
