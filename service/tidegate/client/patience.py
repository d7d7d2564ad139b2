"""How long a call goes on trying, and how it waits in between.

Exponential back-off with full jitter: the n-th wait is drawn between 0 and BACKOFF_SECONDS_MIN x 2^n, at most
BACKOFF_SECONDS_MAX, so that a thousand clients of a server that comes back do not come at once (M. Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType

from tidegate.errors import Reason, TidegateError

BACKOFF_SECONDS_MIN = 0.05
BACKOFF_SECONDS_MAX = 2.0
REMAINING_SECONDS_MIN = 0.001
REMAINING_SECONDS_MAX = 1e9  # what gRPC can count to


class Backoff:
    """The waits between attempts; `drawn` gives a number from 0 to 1."""

    def __init__(self, drawn: Callable[[], float] = random.random) -> None:
        self._drawn = drawn
        self._ceiling = BACKOFF_SECONDS_MIN

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        ceiling = self._ceiling
        self._ceiling = min(BACKOFF_SECONDS_MAX, 2.0 * ceiling)
        return ceiling * self._drawn()


class Patience:
    """The time that one call may take, as a context manager: `async with Patience(30.0, address) as patience`.

    When it is over, the call fails with what kept it last, and with DEADLINE_EXCEEDED when nothing did but silence.
    """

    def __init__(self, seconds: float, address: str) -> None:
        self.attempts = 0  # that failed
        self._seconds, self._address = seconds, address
        self._last: TidegateError | None = None
        self._backoff = Backoff()
        self._until = 0.0
        self._timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> Patience:
        self._until = asyncio.get_running_loop().time() + self._seconds
        self._timeout = asyncio.timeout_at(self._until)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timeout is not None
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self.over() from None

    @property
    def remaining(self) -> float:
        """Seconds that are left, as gRPC takes them for a call's."""
        left = self._until - asyncio.get_running_loop().time()
        return min(max(REMAINING_SECONDS_MIN, left), REMAINING_SECONDS_MAX)

    def blame(self, error: TidegateError | None) -> None:
        """Notes what keeps the call (None: nothing does any more), in case that its time runs out."""
        self._last = error

    async def pause(self, error: TidegateError) -> None:
        """Waits before another attempt."""
        self.blame(error)
        self.attempts += 1
        await asyncio.sleep(self._backoff.next())

    def over(self) -> TidegateError:
        """What to raise when the time is over."""
        if self._last is None:
            problem = f"no answer from {self._address} within {self._seconds:g} s"
            return TidegateError(Reason.DEADLINE_EXCEEDED, problem)
        last = self._last
        problem = f"{last.problem.removesuffix('.')}; so it was for {self._seconds:g} s"
        return TidegateError(last.reason, problem, **last.variables)
