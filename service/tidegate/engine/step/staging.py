"""How a batch crosses to the device and back: padded to one of few sizes, all its columns in one buffer each way.

Few sizes, so that a CUDA graph can be kept for each. One buffer, so that each way is one copy. Rows that pad a batch
stand on the spare slot. Pure: NumPy alone; what copies the buffers is `engine/step/device_queue.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)  # rows, with padding
ALIGNMENT = 256  # bytes, of a column in its buffer: what CUDA's own allocations have

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Field:
    """One column of a buffer. `shape` is a row's; `padding` is its value in rows that pad."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    padding: float = 0

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * prod(self.shape)


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a batch, which are stepped together as `bucket` rows."""

    start: int
    stop: int
    bucket: int


def pieces(rows: int, buckets: Sequence[int] = BUCKETS) -> list[Piece]:
    """How so many rows are stepped: as many of the largest bucket as they fill, and the smallest that holds the rest.

    `buckets` are ascending."""
    largest, done = buckets[-1], 0
    cut = []
    while rows - done > largest:
        cut.append(Piece(done, done + largest, largest))
        done += largest
    if rows > done:
        cut.append(Piece(done, rows, next(bucket for bucket in buckets if bucket >= rows - done)))
    return cut


def places(fields: Sequence[Field], bucket: int) -> dict[str, tuple[int, int]]:
    """Where each column lies in a buffer of `bucket` rows: its first byte and the one after its last."""
    found, at = {}, 0
    for field in fields:
        found[field.name] = at, at + bucket * field.row_bytes
        at += -(-bucket * field.row_bytes // ALIGNMENT) * ALIGNMENT
    return found


def buffer_bytes(fields: Sequence[Field], bucket: int) -> int:
    """Bytes of a buffer of `bucket` rows."""
    return sum(-(-bucket * field.row_bytes // ALIGNMENT) * ALIGNMENT for field in fields)


def columns(fields: Sequence[Field], bucket: int, buffer: Bytes) -> dict[str, NDArray[np.generic]]:
    """The columns [bucket, …] of a buffer, as views."""
    bounds = places(fields, bucket)
    return {
        field.name: buffer[slice(*bounds[field.name])].view(field.dtype).reshape(bucket, *field.shape)
        for field in fields
    }


def fill(fields: Sequence[Field], bucket: int, buffer: Bytes, values: dict[str, NDArray[np.generic]]) -> None:
    """Writes columns [n, …] of a batch into a buffer of `bucket` rows, and pads them."""
    into = columns(fields, bucket, buffer)
    for field in fields:
        rows = len(values[field.name])
        into[field.name][:rows] = values[field.name]
        into[field.name][rows:] = field.padding
