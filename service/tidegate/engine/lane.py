"""A lane: one loaded version, its stepper, its slab, and the rows that wait for it.

The queue is a set of columns with a head and a tail. Rows that a batch leaves behind are moved up to the tail of the
window that was looked at, so that taking a batch costs by the window and never by the queue.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.choice import choose
from tidegate.engine.inbox import Scope
from tidegate.engine.layout import Layout, layout_of
from tidegate.engine.rules import Policy
from tidegate.engine.slab import Slab
from tidegate.engine.slots import slots_of
from tidegate.engine.stepper import Stepper
from tidegate.model.package import Package
from tidegate.model.scaling import Scaler

WINDOW_BATCHES = 4  # how many full batches of the queue are searched for rows of different sessions


@dataclass
class Queued:
    """Columns of rows that wait: all [n], values [n, features] in the package's order and units."""

    ref: NDArray[np.int64]
    request: NDArray[np.int64]
    row: NDArray[np.int32]
    step: NDArray[np.int64]
    time: NDArray[np.int64]
    reset: NDArray[np.bool_]
    created: NDArray[np.bool_]
    refused: NDArray[np.uint8]
    deadline: NDArray[np.float64]
    arrived: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ref)

    def columns(self) -> list[NDArray[Any]]:
        return [getattr(self, name) for name in _NAMES]

    def take(self, rows: NDArray[np.int64] | slice) -> Queued:
        return Queued(*(column[rows] for column in self.columns()))


_NAMES = [field.name for field in fields(Queued)]


def _empty(rows: int, features: int) -> Queued:
    dtypes = ("i8", "i8", "i4", "i8", "i8", "?", "?", "u1", "f8", "f8")
    columns: list[NDArray[Any]] = [np.empty(rows, dtype) for dtype in dtypes]
    columns.append(np.empty((rows, features)))
    return Queued(*columns)


class RowQueue:
    """First in, first out, but for sessions that already have a row in the batch."""

    def __init__(self, features: int) -> None:
        self._features = features
        self._columns = _empty(1024, features)
        self._head = self._tail = 0

    def __len__(self) -> int:
        return self._tail - self._head

    def append(self, rows: Queued) -> None:
        """Adds rows at the end."""
        if self._tail + len(rows) > len(self._columns):
            self._make_room(len(rows))
        for column, new in zip(self._columns.columns(), rows.columns(), strict=True):
            column[self._tail : self._tail + len(rows)] = new
        self._tail += len(rows)

    def take(self, rows_max: int, scratch: NDArray[np.int32]) -> Queued:
        """Removes and returns the next batch: the oldest row of each session, up to `rows_max`."""
        window = slice(self._head, min(self._tail, self._head + WINDOW_BATCHES * rows_max))
        chosen = choose(slots_of(self._columns.ref[window]), rows_max, scratch)
        if len(chosen) == window.stop - window.start:
            self._head = window.stop
            return Queued(*(column[window].copy() for column in self._columns.columns()))
        batch = self._columns.take(chosen + window.start)
        left = np.ones(window.stop - window.start, bool)
        left[chosen] = False
        self._head = window.stop - int(left.sum())
        if self._head < window.stop:
            for column in self._columns.columns():
                column[self._head : window.stop] = column[window][left]
        return batch

    def expire(self, stream: int, shift: int) -> None:
        """Marks the rows of a stream that went away, so that they are dropped unstepped when their turn comes."""
        live = slice(self._head, self._tail)
        gone = self._columns.request[live] >> shift == stream
        self._columns.deadline[live][gone] = -np.inf

    def _make_room(self, rows: int) -> None:
        live = self._columns.take(slice(self._head, self._tail))
        need = len(live) + rows
        if need > len(self._columns) // 2:
            self._columns = _empty(max(2 * need, 1024), self._features)
        for column, old in zip(self._columns.columns(), live.columns(), strict=True):
            column[: len(live)] = old.copy()
        self._head, self._tail = 0, len(live)


class Lane:
    """One loaded version of one model. `number` is what sessions remember as their version."""

    def __init__(self, number: int, package: Package, stepper: Stepper, slab: Slab) -> None:
        self.number = number
        self.package = package
        self.stepper = stepper
        self.slab = slab
        self.queue = RowQueue(self.features)
        self.retired = False
        self.sessions = 0
        self.means = Scaler(package).means()
        gaps = package.manifest.gaps
        self.policy = Policy(
            package.frequency, gaps.gap_steps_max if gaps.policy == "impute" else 0, gaps.time_tolerance
        )
        self._layouts: dict[Scope, Layout] = {}

    @property
    def model(self) -> str:
        return self.package.manifest.name

    @property
    def version(self) -> str:
        return self.package.manifest.version

    @property
    def features(self) -> int:
        return len(self.package.manifest.features)

    @property
    def targets(self) -> int:
        return len(self.package.manifest.targets)

    def layout(self, scope: Scope) -> Layout:
        """How the scope's values map to this version's; raises TidegateError BAD_CONFIG or UNIT_MISMATCH."""
        layout = self._layouts.get(scope)
        if layout is None:
            layout = layout_of(scope, self.package)
            if len(self._layouts) >= 1024:  # streams name few; an unbounded cache would be a leak
                self._layouts.clear()
            self._layouts[scope] = layout
        return layout
