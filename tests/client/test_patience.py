"""How long a call tries, and what it says in the end."""

from __future__ import annotations

import asyncio

import pytest

from tidegate.client.patience import (
    BACKOFF_SECONDS_MAX,
    BACKOFF_SECONDS_MIN,
    REMAINING_SECONDS_MAX,
    REMAINING_SECONDS_MIN,
    Backoff,
    Patience,
)
from tidegate.errors import Reason, TidegateError


def test_waits_double_up_to_a_limit() -> None:
    """Drawn at their most, the waits double from the least to the most; drawn at their least, they are nothing."""
    longest = Backoff(lambda: 1.0)
    waits = [longest.next() for _ in range(8)]
    assert waits[:3] == [BACKOFF_SECONDS_MIN, 2 * BACKOFF_SECONDS_MIN, 4 * BACKOFF_SECONDS_MIN]
    assert waits[-2:] == [BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MAX]
    assert Backoff(lambda: 0.0).next() == 0.0


async def test_what_is_left_is_what_grpc_can_count() -> None:
    """However long a call may take, or how late it is."""
    async with Patience(float("inf"), "here:1") as patience:
        assert patience.remaining == REMAINING_SECONDS_MAX
    async with Patience(60.0, "here:1") as patience:
        assert 0.0 < patience.remaining <= 60.0
        patience._until = 0.0
        assert patience.remaining == REMAINING_SECONDS_MIN


async def test_silence_is_a_deadline() -> None:
    """Time that ran out without a word is DEADLINE_EXCEEDED."""
    with pytest.raises(TidegateError) as late:
        async with Patience(0.01, "here:1"):
            await asyncio.Event().wait()
    assert late.value.reason is Reason.DEADLINE_EXCEEDED
    assert "here:1" in str(late.value)


async def test_the_last_trouble_is_what_is_raised() -> None:
    """Time that ran out in further attempts is what made the last one fail, with its variables."""

    async def call() -> None:
        async with Patience(0.05, "here:1") as patience:
            patience.blame(TidegateError(Reason.UNREACHABLE, "gone"))
            while True:
                await patience.pause(TidegateError(Reason.SESSION_MOVED, "elsewhere", expected_step=3))

    with pytest.raises(TidegateError) as late:
        await call()
    assert (late.value.reason, late.value.variables) == (Reason.SESSION_MOVED, {"expected_step": "3"})
    assert "elsewhere" in late.value.problem


async def test_what_is_raised_within_stays() -> None:
    """An error of the call itself is not touched, and neither is a cancellation."""

    async def call(error: TidegateError | None) -> None:
        async with Patience(60.0, "here:1") as patience:
            patience.blame(TidegateError(Reason.UNREACHABLE))
            if error is not None:
                raise error
            await asyncio.Event().wait()

    with pytest.raises(TidegateError, match="STEP_CONFLICT"):
        await call(TidegateError(Reason.STEP_CONFLICT))
    task = asyncio.create_task(call(None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
