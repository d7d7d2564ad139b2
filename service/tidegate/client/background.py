"""An event loop in a thread: where the asynchronous client runs on behalf of threads that wait.

The thread starts with the first call and ends with close(), or when the client is forgotten or the interpreter ends.
A loop in a thread was chosen over a second client on gRPC's synchronous API, whose every rule would be written twice.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tidegate.client import forks
from tidegate.errors import Reason, TidegateError

T = TypeVar("T")
JOIN_SECONDS_MAX = 10.0
Cleanup = Callable[[], Coroutine[Any, Any, None]]


class Worker:
    """The thread with its loop. Knows nothing of who uses it, so that it can end when nobody does."""

    def __init__(self, cleanup: Cleanup) -> None:
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._cleanup = cleanup
        self._thread = threading.Thread(target=self._serve, name="tidegate-client", daemon=True)

    def start(self) -> None:
        """Starts the thread; what is scheduled before its loop runs waits for it."""
        self._thread.start()

    def _serve(self) -> None:
        """The thread: serves until told to stop, then cancels what still waits."""
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        await self._cleanup()

    def end(self) -> None:
        """Stops the loop and waits for the thread (not from within it, where a garbage collection may call this). In a
        process that was forked there is none."""
        if forks.was_forked():
            return
        self.loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(JOIN_SECONDS_MAX)


class BackgroundLoop:
    """Runs coroutines from any thread; `cleanup` runs in the loop before it ends."""

    def __init__(self, cleanup: Cleanup) -> None:
        self._cleanup = cleanup
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._end: Callable[[], object] | None = None
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result; raises what it raises. Interrupted while it waits, the coroutine is cancelled."""
        try:
            forks.claim_grpc()  # before the lock, which in a forked process may be held for ever
            future = self._scheduled(coroutine)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise TidegateError(Reason.CANCELLED, "the client was closed") from None
        except BaseException:
            future.cancel()
            raise

    def _scheduled(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Hands the coroutine to the worker, under the lock: after close() nothing may slip in and never be run."""
        with self._lock:
            if self._closed:
                raise TidegateError(Reason.CANCELLED, "the client is closed")
            if self._worker is None:
                self._worker = Worker(self._cleanup)
                self._worker.start()
                self._end = weakref.finalize(
                    self, self._worker.end
                )  # also when forgotten, and at the interpreter's end
            return asyncio.run_coroutine_threadsafe(coroutine, self._worker.loop)

    def close(self) -> None:
        """Ends the loop and its thread; what waits is told CANCELLED. May be called again."""
        if forks.was_forked():
            return
        with self._lock:
            self._closed = True
            end = self._end
        if end is not None:
            end()
