"""Takes events off a completion queue of gRPC's core, on the event loop.

The loop asks the queue in every pass while events come; when none has come for a few passes, a thread waits for the
next one, so that the loop can sleep. Asking costs a tenth of being woken by another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sized
from typing import Any

from grpc._cython import cygrpc

EVENTS_MAX = 256  # taken in one pass of the loop; what is left waits for the next
MISSES_MAX = 3  # in a pass: gRPC looks at one socket at a time, which may have brought no event
DRY_PASSES = 3  # without an event, until the thread waits instead
BUSY_SECONDS, BUSY_DRY_PASSES = 5e-3, 12  # the same of a loop that has not slept for so long: its core is taken anyway

_TROUBLE = "an event of gRPC could not be handled"

log = logging.getLogger(__name__)
Event = Any  # of cygrpc, which ships no types


class Pump:
    """Calls each event's tag with the event, on the loop. All methods are called there too."""

    def __init__(self, queue: cygrpc.CompletionQueue, callers: Sized) -> None:
        """`callers` are the calls that are open."""
        self._queue, self._callers = queue, callers
        self._loop = asyncio.get_running_loop()
        self.heard = 0  # messages that came in this pass: counted by the calls
        self.unread_bytes = 0  # of last answers that their clients have not taken: counted by the calls
        self._dry = 0
        self._woke_at = 0.0
        self._asleep = threading.Lock()  # released when the thread is to wait for the next event
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._wait, name="tidegate-grpc", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Returns when all events have been taken. Nothing may be begun on the queue's calls any more."""
        self._queue.shutdown()
        await self._ended
        await asyncio.to_thread(self._thread.join)

    def _wait(self) -> None:
        while True:
            self._asleep.acquire()
            event = self._queue.poll()
            ended = event.completion_type == cygrpc.CompletionType.queue_shutdown
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asked this server to stop
                self._loop.call_soon_threadsafe(self._end if ended else self._woken, event)
            del event  # else its call would live until the next one
            if ended:
                return

    def _woken(self, event: Event) -> None:
        self._dry, self._woke_at = 0, time.monotonic()
        try:
            event.tag(event)
        except Exception:
            log.exception(_TROUBLE)
        finally:
            del event
            self._drain()

    def _drain(self) -> None:
        """One pass. It is over at the first miss where as many messages came as there are callers: one of each, mostly,
        and the next ones when these are answered."""
        taken, misses, poll = 0, 0, self._queue.poll
        try:
            while taken < EVENTS_MAX:
                event = poll(0)
                tag = event.tag
                if tag is not None:
                    taken += 1
                    misses = 0
                    try:
                        tag(event)
                    except Exception:  # one call's trouble is not the next one's
                        log.exception(_TROUBLE)
                elif self.heard == len(self._callers) or (misses := misses + 1) == MISSES_MAX:
                    break  # or the queue has ended: then the thread hears of it
        finally:
            self.heard = 0
            self._dry = 0 if taken else self._dry + 1
            if self._dry < DRY_PASSES or (self._dry < BUSY_DRY_PASSES and self._busy):
                self._loop.call_soon(self._drain)
            else:
                self._asleep.release()

    @property
    def _busy(self) -> bool:
        return time.monotonic() - self._woke_at > BUSY_SECONDS

    def _end(self, _: Event) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
