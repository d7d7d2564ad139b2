"""The column schema: everything that the server remembers of a session, declared once.

A session is a row across these columns. Opening, reset, fork, eviction and (later) checkpoint, rewind and export
iterate over this list, so that a new kind of memory is one more entry here, and a line where the engine writes it
(`Engine._commit`). Pure: no torch, no grpc, no asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import prod

import numpy as np

from tidegate.model.frequency import NO_TIME


class Place(Enum):
    """Where a column lives: host memory (NumPy), or the device that steps the model (torch)."""

    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True)
class Column:
    """One thing remembered a session. `shape` is one row's; `cleared`: a reset sets it to `initial`."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    initial: float | int = 0
    place: Place = Place.HOST
    cleared: bool = False

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * prod(self.shape)


@dataclass(frozen=True)
class Schema:
    """The columns of one state shape. Versions with equal schemas share one slab."""

    columns: tuple[Column, ...]

    @cached_property
    def host(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.place is Place.HOST)

    @cached_property
    def device(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.place is Place.DEVICE)

    @property
    def row_bytes(self) -> int:
        return sum(column.row_bytes for column in self.columns)


def session_schema(features: int, targets: int, state_width: int) -> Schema:
    """The columns of a session with so many features, targets and float32 values of recurrent state."""
    return Schema(
        (
            Column("version", "int32"),  # which lane (loaded version) steps it
            Column("tenant", "int32"),  # whose it is
            Column("step", "int64"),  # the client's number of the last observation; a reset leaves it
            Column("steps_seen", "int64", cleared=True),  # cell steps since the state was zero
            Column("event_time", "int64", initial=NO_TIME, cleared=True),  # of the last observation, ns since 1970 UTC
            Column("digest", "uint64"),  # hash of the last observation, to tell a retry from a conflict
            Column("diverged", "bool", cleared=True),  # quarantined until reset
            Column("active_at", "float64"),  # when it was last stepped or opened, seconds of the monotonic clock
            # Raw units; stands in for missing values.
            Column("last_input", "float64", (features,), np.nan, cleared=True),
            # For how many steps each feature has been missing.
            Column("missing_run", "uint16", (features,), cleared=True),
            Column("reply", "float32", (targets,)),  # the last prediction, raw units: answers a retry
            Column("reply_flags", "uint8"),
            Column("reply_imputed", "uint8", ((features + 7) // 8,)),  # bit per feature, little-endian
            Column("reply_gap", "uint16"),  # steps imputed before the last observation
            Column("state", "float32", (state_width,), place=Place.DEVICE, cleared=True),
        )
    )
