"""Recordings of steps (CUDA graphs), made when a step has come a few times, and kept for those that come most.

A recording holds addresses. Its key names all of them, so that it is used for the same memory alone. Pure policy: what
records is the queue.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable

from tidegate.engine.step.device_queue import DeviceQueue, Work

log = logging.getLogger(__name__)

RUNS_BEFORE = 3  # a step is run so often before it is recorded: libraries make their workspaces, forecasts come and go
RECORDINGS_MAX = 64  # of one package: two for each size and memory
COUNTED_MAX = 1024  # steps whose runs are counted


class Recordings:
    """Of one package's steps. `enabled`: whether there may be any."""

    def __init__(self, queue: DeviceQueue, name: str, enabled: bool) -> None:
        self._queue, self._name = queue, name
        self._enabled = enabled and queue.records
        self._kept: OrderedDict[Hashable, Work] = OrderedDict()
        self._runs: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, key: Hashable, work: Work) -> None:
        """Does the work, from its recording if there is one. The key says all that the work depends on."""
        replay = self._kept.get(key) or self._record(key, work)
        if replay is None:
            work()
            return
        self._kept.move_to_end(key)
        replay()

    def _record(self, key: Hashable, work: Work) -> Work | None:
        if not self._enabled or not self._due(key):
            return None
        try:
            replay = self._queue.record(work)
        except RuntimeError:
            log.exception("%s: a step cannot be recorded as a CUDA graph; it runs operation by operation", self._name)
            self._enabled = False
            return None
        if len(self._kept) == RECORDINGS_MAX:
            self._queue.settle()  # it may be running
            self._kept.popitem(last=False)
        self._kept[key] = replay
        return replay

    def _due(self, key: Hashable) -> bool:
        if len(self._runs) >= COUNTED_MAX:
            self._runs.clear()
        runs = self._runs[key] = self._runs.get(key, 0) + 1
        if runs > RUNS_BEFORE:
            del self._runs[key]
        return runs > RUNS_BEFORE
