"""The column schema: everything that the server remembers of a session, declared once.

A session is a row across these columns. Opening, reset, fork, eviction and (later) checkpoint, rewind and export
iterate over this list, so that a new kind of memory is one more entry here, and a line where the engine writes it
(`engine/flights/flight.py`). Pure: no torch, no grpc, no asyncio.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from math import prod

import numpy as np

from tidegate.model.frequency import NO_TIME
from tidegate.model.manifest import Manifest
from tidegate.model.package import Package


class Place(Enum):
    """Where a column lives: host memory (NumPy), or the device that steps the model (torch)."""

    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True)
class Column:
    """One thing remembered a session. `shape` is one row's; `cleared`: a reset sets it to `initial`; `local`: it means
    something in this process alone, and does not travel; `lasting`: a step does not change it, so that it has no
    earlier values; `past_of`: it holds earlier values of another column."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    initial: float | int = 0
    place: Place = Place.HOST
    cleared: bool = False
    local: bool = False
    lasting: bool = False
    past_of: str = ""

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

    @cached_property
    def past(self) -> tuple[Column, ...]:
        """The columns that hold earlier values, [rewind steps, …] each."""
        return tuple(column for column in self.columns if column.past_of)

    @cached_property
    def kept_steps(self) -> int:
        """How many of its last observations a session keeps."""
        return next((column.shape[0] for column in self.columns if column.name == "kept_step"), 0)

    @cached_property
    def travelling(self) -> tuple[Column, ...]:
        """The columns that a checkpoint holds, in order."""
        return tuple(column for column in self.columns if not column.local)

    @cached_property
    def travelling_bytes(self) -> int:
        """Their bytes, a session."""
        return sum(column.row_bytes for column in self.travelling)

    @cached_property
    def layout(self) -> bytes:
        """Their names, types and shapes, as JSON: what a checkpoint's bytes are made of."""
        return json.dumps([[column.name, column.dtype, column.shape] for column in self.travelling]).encode()

    @property
    def row_bytes(self) -> int:
        return sum(column.row_bytes for column in self.columns)


def with_past(columns: tuple[Column, ...], steps: int) -> tuple[Column, ...]:
    """The columns and, for so many steps back, what they held: step number n of them (from 0) at n mod `steps`.

    `retained` counts the steps kept so far, `retained_from` is the number of the oldest that is still whole.
    """
    if not steps:
        return columns
    past = tuple(
        replace(column, name=f"{column.name}@", shape=(steps, *column.shape), cleared=False, past_of=column.name)
        for column in columns
        if not (column.local or column.lasting)
    )
    return (*columns, Column("retained", "int64"), Column("retained_from", "int64"), *past)


def session_schema(package: Package) -> Schema:
    """The columns of a session of the package. `state` and what follows it live where the model is stepped."""
    manifest = package.manifest
    features = len(manifest.features)
    columns = with_past(
        (
            Column("version", "int32", local=True),  # which lane (loaded version) steps it
            Column("tenant", "int32", local=True),  # whose it is
            Column("step", "int64"),  # the client's number of the last observation; a reset leaves it
            Column("steps_seen", "int64", cleared=True),  # cell steps since the state was zero
            Column("event_time", "int64", initial=NO_TIME, cleared=True),  # of the last observation, ns since 1970 UTC
            Column("digest", "uint64"),  # hash of the last observation, to tell a retry from a conflict
            Column("diverged", "bool", cleared=True),  # quarantined until reset
            # When it was last stepped or opened, seconds of the monotonic clock.
            Column("active_at", "float64", local=True),
            # Raw units; stands in for missing values.
            Column("last_input", "float64", (features,), np.nan, cleared=True),
            # For how many steps each feature has been missing.
            Column("missing_run", "uint16", (features,), cleared=True),
            # The last prediction, raw units: answers a retry, stands in for missing values, begins a forecast.
            Column("reply", "float64", (manifest.outputs,)),
            Column("reply_flags", "uint8"),
            Column("reply_imputed", "uint8", ((features + 7) // 8,)),  # bit per feature, little-endian
            Column("reply_gap", "uint16"),  # steps imputed before the last observation
            # Which of the package's ids, from 1; 0: none.
            *((Column("identity", "int32", lasting=True),) if manifest.ids else ()),
            Column("state", "float32", (package.state_width,), place=Place.DEVICE, cleared=True),
            *_derived(manifest),
        ),
        manifest.rewind_steps,
    )
    return Schema((*columns, *_kept(manifest)))


def _kept(manifest: Manifest) -> Iterator[Column]:
    """The session's last observations; see `engine/memory/kept.py`."""
    if manifest.kept_steps:
        ring = (manifest.kept_steps,)
        yield Column(
            "kept", "int64"
        )  # observations kept so far: number n of them (from 0) is at n mod the ring's length
        yield Column("kept_step", "int64", ring)  # 0: there is none
        yield Column("kept_time", "int64", ring, NO_TIME)  # as it was sent
        yield Column("kept_marks", "uint8", ring)  # bits of Mark
        yield Column("kept_values", "float64", (*ring, len(manifest.features)), np.nan)  # NaN where they were missing


def _derived(manifest: Manifest) -> Iterator[Column]:
    """What the derived inputs remember; see `model/device_inputs.py`."""
    by_session = sum(feature.scaling.by != "package" for feature in manifest.features)
    if manifest.lags:
        shape = (manifest.lag_steps_max, len(manifest.lags))
        yield Column("ring", "float64", shape, place=Place.DEVICE, cleared=True)
    if by_session:
        yield Column("scale", "float64", (2, by_session), place=Place.DEVICE, cleared=True)
    if manifest.feedback:
        yield Column("feedback", "float32", (manifest.outputs,), place=Place.DEVICE, cleared=True)
