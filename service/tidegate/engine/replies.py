"""What leaves the engine: columns again. A front-end turns them into messages.

A request's number says whose it is: the front-end's stream number in the high 32 bits, the message's in the low 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.model.manifest import Head

STREAM_SHIFT = 32
_NO_HEAD = Head()


class RowFlag(IntFlag):
    """Bits of a row's flags, as they travel in PredictionBatch.flags."""

    CREATED = 1
    DUPLICATE = 2
    IMPUTED = 4
    STALE = 8
    GAP = 16
    RESET = 32
    REVISED = 64


class Singles(NamedTuple):
    """Of rows that are a message each: the sessions' ids, and where columns [n] lie, for the C parts: the ids' lengths
    and the messages' numbers int64 (0: there are none), and step, steps_seen, valid_time and values as in Replies."""

    ids: Sequence[bytes]
    id_bytes: int
    sequence: int
    step: int
    steps_seen: int
    valid_time: int
    values: int


@dataclass
class Replies:
    """Answers to n rows. Columns, all [n] unless said:

    request int64, row int32 (place in its message), outcome uint8 (a Reason; 0 is success), values float64 [n, outputs]
    as `head` has them (NaN where it failed), step int64, expected int64 (the step expected next; 0: not known),
    steps_seen int64, flags uint8 (RowFlag), imputed uint8 [n, features/8] (bits, little-endian), gap uint16,
    valid_time int64 (ns).
    """

    request: NDArray[np.int64]
    row: NDArray[np.int32]
    outcome: NDArray[np.uint8]
    values: NDArray[np.float64]
    step: NDArray[np.int64]
    expected: NDArray[np.int64]
    steps_seen: NDArray[np.int64]
    flags: NDArray[np.uint8]
    imputed: NDArray[np.uint8]
    gap: NDArray[np.uint16]
    valid_time: NDArray[np.int64]
    head: Head
    plainly: bool = False  # all rows were stepped, and there is nothing more to say of any: outcome and flags are 0
    singles: Singles | None = None  # who asked, where every row is a message of its own
    messages: tuple[int, ...] = ()  # rows of each batch that it answers whole, one after the other

    @property
    def outputs(self) -> int:
        """Values of a row."""
        return int(self.values.shape[1])

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """The point estimates, [n, targets]."""
        width = self.head.width
        return self.values if width == 1 else self.values[:, self.head.levels.index(0.5) :: width]

    def quantiles(self, levels: Sequence[float], rows: slice) -> NDArray[np.float64]:
        """Levels of a quantile head for some rows, in order: [n, levels, targets]; NaN from a version without them."""
        known, ordered = self.head.levels, self.head.in_order(self.values[rows])
        found = np.full((len(ordered), len(levels), ordered.shape[1]), np.nan)
        for place, level in enumerate(levels):
            if level in known:
                found[:, place] = ordered[:, :, known.index(level)]
        return found

    def __len__(self) -> int:
        return len(self.request)

    @cached_property
    def plain(self) -> PlainRows:
        """The columns as lists, made once: for answers that are built row by row."""
        return PlainRows(
            self.outcome.tolist(),
            self.points.tolist(),
            self.step.tolist(),
            self.expected.tolist(),
            self.steps_seen.tolist(),
            self.flags.tolist(),
            self.valid_time.tolist(),
        )


class PlainRows(NamedTuple):
    """Columns of Replies as Python lists."""

    outcome: list[int]
    values: list[list[float]]
    step: list[int]
    expected: list[int]
    steps_seen: list[int]
    flags: list[int]
    valid_time: list[int]


def refusals(request: NDArray[np.int64], row: NDArray[np.int32], outcome: NDArray[np.uint8]) -> Replies:
    """Replies to rows that were refused before they met a session: without values, for there is no width yet."""
    rows = len(request)
    zeros = np.zeros(rows, np.int64)
    return Replies(
        request=request,
        row=row,
        outcome=outcome,
        values=np.empty((rows, 0)),
        step=zeros,
        expected=zeros,
        steps_seen=zeros,
        flags=np.zeros(rows, np.uint8),
        imputed=np.zeros((rows, 0), np.uint8),
        gap=np.zeros(rows, np.uint16),
        valid_time=zeros,
        head=_NO_HEAD,
    )
