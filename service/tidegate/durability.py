"""Durability: checkpoints of what moved, beside the loop, and sessions again after a restart.

A pass takes all sessions that moved since their last checkpoint, some thousands at a time, and saves them; the next one
begins an interval after it began. Where the store fails, they count as moved again and the next pass tries anew: steps
go on meanwhile, and the lag says how old what is not saved may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import cast

from tidegate.checkpoints import Checkpoint, Key
from tidegate.engine.loop import EngineHost
from tidegate.store.protocol import Store, StoreError

ROWS = 4096  # of one save: gather and copy are the loop's only work, and short
NAMED_MAX = 3  # sessions that a log line names

log = logging.getLogger(__name__)


class Durability:
    """Saves and restores the sessions of one engine. Construct, `start`, `stop`."""

    def __init__(self, host: EngineHost, store: Store, interval_seconds: float) -> None:
        self.saved = 0  # checkpoints written
        self.failures = 0  # passes that the store did not take
        self.restored = 0
        self._host, self._store, self._interval = host, store, interval_seconds
        self._saving = host.engine.saving
        self._closed: set[Key] = set()
        self._writing: list[Key] = []  # on their way to the store
        self._clean = time.monotonic()  # all that had moved by then is saved
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        host.engine.sessions.on_closed = self._closed.add

    @property
    def lag_seconds(self) -> float:
        """How long ago the oldest change that is not saved may have been; 0 when all is."""
        at_risk = self._writing or self._closed or self._saving.unsaved()
        return time.monotonic() - self._clean if at_risk else 0.0

    async def start(self) -> None:
        """Opens the store, makes its sessions resident, and begins to save. Raises StoreError."""
        await self._store.start()
        async for page in self._store.scan():
            await self._restore(page)
        if self.restored or self._store.damaged:
            log.info("restored %d sessions; %d damaged", self.restored, self._store.damaged)
        self._clean = time.monotonic()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Saves what moved, once more, and closes the store. Nothing must move meanwhile."""
        self._stopping.set()
        if self._task is not None:
            await self._task  # a pass is never cut off: what it took would be lost on its way
            await self._pass()
        with contextlib.suppress(StoreError):
            await self._store.stop()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._stopping.wait()
            await self._pass()

    async def _pass(self) -> None:
        """Saves all that has moved by now."""
        began = time.monotonic()
        if await self._forget_closed() and await self._save_all():
            self._clean = began

    async def _save_all(self) -> bool:
        while rows := cast(list[Checkpoint], await self._host.call(lambda: self._saving.take(ROWS))):
            self._writing = [row.key for row in rows]
            try:
                await self._store.save(rows)
                self._writing = []
            except StoreError as error:
                self._failed(error)
                return False
            finally:
                if self._writing:  # it failed, or was cancelled
                    self._host.post(self._not_written)
            self.saved += len(rows)
        return True

    def _not_written(self) -> None:
        """What was on its way counts as moved again. Between iterations."""
        self._saving.again(self._writing)
        self._writing = []

    async def _forget_closed(self) -> bool:
        """Deletes the checkpoints of sessions that ended, unless a new one has their name."""
        ended = list(self._closed)
        sessions = self._host.engine.sessions
        gone = [key for key in ended if key.session_id not in sessions.names(key.tenant, key.model)]
        try:
            if gone:
                await self._store.delete(gone)
        except StoreError as error:
            self._failed(error)
            return False
        self._closed.difference_update(ended)
        return True

    async def _restore(self, page: list[Checkpoint]) -> None:
        now = time.monotonic()
        failed = cast(list[tuple[Key, str]], await self._host.call(lambda: self._saving.restore(page, now)))
        self.restored += len(page) - len(failed)
        for key, why in failed[:NAMED_MAX]:
            log.warning("session %r of %s stays in the store: %s", key.session_id, key.model, why)
        if len(failed) > NAMED_MAX:
            log.warning("and %d more", len(failed) - NAMED_MAX)

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        log.error("checkpoints are not saved: %s", error)
