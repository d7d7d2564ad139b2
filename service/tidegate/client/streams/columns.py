"""Observations of many sessions as columns, cut into messages below a server's limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.client.bulk import BYTES_MAX, ROWS_MAX
from tidegate.client.values.observations import NO_TIME
from tidegate.wire.stubs import types_pb2

ROW_BYTES = 8 + 8 + 5 + 1  # step, time, alias, reset: what a row takes beside its values and id
ID_BYTES = 4  # what an id takes beside its text
OBJECT_BYTES = 800  # what columns take beside their numbers
Chosen = slice | NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Columns:
    """Observations, one entry a row: `values` [rows, features] and `future` [rows, future covariates] are float32 or
    float64, `times` nanoseconds since 1970 UTC."""

    ids: Sequence[str]
    steps: NDArray[np.uint64]
    values: NDArray[Any]
    times: NDArray[np.int64] | None = None
    reset: NDArray[np.uint8] | None = None
    future: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Chosen) -> Columns:
        """Some of the rows: of a slice a view, else a copy."""
        return Columns(
            ids=self.ids[rows] if isinstance(rows, slice) else [self.ids[row] for row in rows.tolist()],
            steps=self.steps[rows],
            values=self.values[rows],
            times=None if self.times is None else self.times[rows],
            reset=None if self.reset is None else self.reset[rows],
            future=None if self.future is None else self.future[rows],
        )

    def taken(self, steps: NDArray[np.uint64]) -> Columns:
        """A copy of those that were taken: whose step is not 0 in the reply."""
        columns = self.take(np.flatnonzero(steps)) if not steps.all() else self
        return Columns(
            ids=list(columns.ids),
            steps=columns.steps.copy(),
            values=columns.values.copy(),
            times=None if columns.times is None else columns.times.copy(),
            reset=None if columns.reset is None else columns.reset.copy(),
            future=None if columns.future is None else columns.future.copy(),
        )

    @property
    def bytes(self) -> int:
        """About what they take in memory."""
        columns = (self.steps, self.values, self.times, self.reset, self.future)
        return OBJECT_BYTES + sum(column.nbytes for column in columns if column is not None) + 8 * len(self.ids)

    def columns(self) -> Columns:
        """The rows themselves (`kept.Rows`)."""
        return self


Place = tuple[Columns, int]  # a row somewhere


def gather(places: Sequence[Place]) -> Iterator[Columns]:
    """Rows from anywhere, in their order; apart where they have other features. Numbers become float64, exactly."""
    for (_, futures), group in groupby(places, key=_widths):
        part = list(group)
        times = [NO_TIME if rows.times is None else int(rows.times[row]) for rows, row in part]
        reset = [0 if rows.reset is None else int(rows.reset[row]) for rows, row in part]
        future = [rows.future[row] for rows, row in part if rows.future is not None]
        yield Columns(
            ids=[rows.ids[row] for rows, row in part],
            steps=np.array([rows.steps[row] for rows, row in part], np.uint64),
            values=np.stack([rows.values[row] for rows, row in part]).astype("<f8"),
            times=np.array(times, np.int64),
            reset=np.array(reset, np.uint8),
            future=np.stack(future).astype("<f8") if futures else None,
        )


def _widths(place: Place) -> tuple[int, int]:
    columns = place[0]
    return columns.values.shape[1], 0 if columns.future is None else columns.future.shape[1]


def split(columns: Columns) -> Iterator[slice]:
    """Cuts the rows so that no message is above the rows or the bytes that a server takes, ids and all."""
    width = columns.values.shape[1] + (0 if columns.future is None else columns.future.shape[1])
    # UTF-8 takes up to 4 bytes a character.
    row_bytes = ROW_BYTES + columns.values.itemsize * width + ID_BYTES + 4 * max(map(len, columns.ids), default=0)
    rows = max(1, min(ROWS_MAX, BYTES_MAX // row_bytes))
    for start in range(0, len(columns), rows):
        yield slice(start, min(start + rows, len(columns)))


def to_message(columns: Columns, aliases: NDArray[np.uint32] | None, naming: bool) -> types_pb2.ObservationBatch:
    """One message. Aliases alone do when each of them is bound; ids go along, or go alone, when not."""
    return types_pb2.ObservationBatch(
        rows=len(columns),
        session_ids=columns.ids if naming else (),
        aliases=() if aliases is None else aliases.tolist(),
        steps=columns.steps.tolist(),
        event_times_unix_ns=() if columns.times is None else columns.times.tolist(),
        dtype=types_pb2.DTYPE_FLOAT32 if columns.values.itemsize == 4 else types_pb2.DTYPE_FLOAT64,
        values=columns.values.tobytes(),
        reset=b"" if columns.reset is None else columns.reset.tobytes(),
        future_covariates=b"" if columns.future is None else columns.future.tobytes(),
    )
