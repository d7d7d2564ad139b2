"""Reads messages that lie right before, or behind, a page that may not be touched: `python -m tests.native.guarded`.

In a process of its own, because whoever reads outside of a message here is ended by the kernel.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

from tests.native.messages import doubles, put, varint
from tidegate.engine.queues.block import AliasTable, Scope
from tidegate.engine.queues.gathered import Batches, Singles
from tidegate.native import address, library
from tidegate.wire.plain import BatchStream, _describe, _describe_batches

WIDTH, NONE, READ_WRITE = 3, 0, 3
RANDOM, ROWS_MAX = 3000, 1000
SCOPE = Scope("", "random")


def valid_observation() -> bytes:
    time = put(1, 1_700_000_000) + put(2, 5)
    content = put(1, b"session") + put(2, 7) + put(3, time) + put(4, doubles([1.0, 2.0, 3.0])) + put(6, 1)
    return put(2, 300) + put(3, content)


def valid_batch(rows: int = 3) -> bytes:
    aliases = b"".join(varint(100 + row) for row in range(rows))
    columns = put(3, aliases) + put(4, bytes(8 * rows)) + put(5, bytes(8 * rows)) + put(7, bytes(4 * rows * WIDTH))
    return put(2, 300) + put(4, put(1, rows) + columns + put(9, bytes(rows)))


def cases() -> list[bytes]:
    """Two messages cut at every place, with every byte changed in some ways, and random bytes."""
    random, found = np.random.default_rng(0), []
    for message in (valid_observation(), valid_batch()):
        found += [message[:length] for length in range(len(message) + 1)]
        for place in range(len(message)):
            for byte in (0, 1, 0x7F, 0x80, 0xFF, message[place] + 1 & 0xFF, message[place] - 1 & 0xFF):
                changed = message[:place] + bytes([byte]) + message[place + 1 :]
                found += [changed, changed[: place + 1]]
    found += [random.bytes(int(random.integers(0, 64))) for _ in range(RANDOM)]
    return found


class Guarded:
    """One page between two that may not be touched."""

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        self._room = mmap.mmap(-1, 3 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._room))
        self.low, self.high = start + page, start + 2 * page
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for guard in (start, self.high):
            if protect(guard, page, NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def places(self, message: bytes) -> list[int]:
        """Puts it at both ends, in turn."""
        found = []
        for where in (self.high - len(message), self.low):
            ctypes.memmove(where, message, len(message))
            found.append(where)
        return found


def main() -> int:
    """Prints how many messages were taken as plain ones, of both kinds."""
    native, guarded, singles = library(), Guarded(), Singles(SCOPE, (WIDTH, 0), 1)
    assert native is not None
    if sys.argv[1:] == ["--outside"]:  # what this is for
        where = guarded.places(varint(2 << 3))[0]
        return int(native.tidegate_observation(where, 2, _describe(singles), 0, 0, 0.0, guarded.low))
    described, name, taken = _describe(singles), np.zeros(2, np.int64), [0, 0]
    for message in cases():
        size = len(message)
        for where in guarded.places(message):
            ctypes.memmove(where, message, size)
            sequence = native.tidegate_observation(where, size, described, 0, 0, 0.0, address(name))
            taken[0] += sequence >= 0
            assert sequence < 0 or 0 <= name[0] <= name[1] <= size
            taken[1] += batch(native, where, size)
    sys.stdout.write(" ".join(map(str, taken)) + "\n")
    return 0


def batch(native: ctypes.CDLL, where: int, size: int) -> bool:
    """As wire/plain.py does it, of at most a thousand rows."""
    stream, into = BatchStream(AliasTable(), ROWS_MAX), Batches(SCOPE, 0, ROWS_MAX)
    stream.aliases_max = 4096

    def take() -> int:
        asked = (into.rows, len(into.parts), stream.where, 0, 0.0)
        return int(native.tidegate_batch(where, size, _describe_batches(into), *asked))

    taken = take()
    if taken < 0:
        rows = stream.rows
        assert 0 < rows <= ROWS_MAX
        if stream.width > 256:
            return False
        into = Batches(SCOPE, stream.width, ROWS_MAX, rows)
        taken = take()
        assert taken in {0, rows}
    return taken > 0


if __name__ == "__main__":
    sys.exit(main())
