"""Arrays whose address space is reserved at once and whose pages come when touched.

A slab on CPU can so have room for its limit, grow chunk by chunk without moving, cost nothing for what is not used, and
give whole chunks back to the system when their sessions are gone. Fresh pages read as zero.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)
_PAGE = mmap.PAGESIZE


class Reserved:
    """A zero-filled array [rows, *shape] that takes memory only where it was written."""

    def __init__(self, rows: int, dtype: str, shape: Sequence[int] = ()) -> None:
        self._row_bytes = np.dtype(dtype).itemsize * prod(shape)
        size = max(1, rows * self._row_bytes)
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        self.array: NDArray[Any] = np.frombuffer(self._map, dtype, rows * prod(shape)).reshape(rows, *shape)

    def give_back(self, start: int, stop: int) -> None:
        """Hands the pages that lie wholly within rows [start, stop) back to the system; they read as zero after."""
        low = -(-start * self._row_bytes // _PAGE) * _PAGE
        high = min(stop * self._row_bytes, len(self._map)) // _PAGE * _PAGE
        if high > low:
            self._map.madvise(mmap.MADV_DONTNEED, low, high - low)


def machine_bytes() -> int:
    """Memory of the machine, or of the container (cgroup v2) where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max"
        return machine


def reserve(rows: int, dtype: str) -> NDArray[Any]:
    """A reserved one-dimensional array."""
    return Reserved(rows, dtype).array
