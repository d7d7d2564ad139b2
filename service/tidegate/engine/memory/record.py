"""A session as bytes: what it is of, every column of its row, and a checksum. For exports, and for checkpoints to come.

    magic and format | length of the heading | heading (JSON) | columns, one after another, little-endian | BLAKE2b

The heading names the columns with their types and shapes, so that bytes can be read by a later server: a column that it
has not is left out, one that it has and the bytes have not keeps its initial value. Pure: NumPy alone.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import Reason, TidegateError

FORMAT = 1
_START = struct.Struct("<4sHI")  # magic, format, length of the heading
_MAGIC = b"TGS\n"
_DIGEST_BYTES = 16
DIMENSIONS_MAX = 8  # of a column
_DTYPES = frozenset(("bool", "uint8", "uint16", "uint64", "int32", "int64", "float32", "float64"))
Row = dict[str, NDArray[Any]]  # one session's columns by name


@dataclass(frozen=True)
class Heading:
    """What a record is of. `columns` are name, dtype and shape of each, in order."""

    model: str
    version: str
    fingerprint: str
    session_id: str
    columns: tuple[tuple[str, str, tuple[int, ...]], ...]


def pack(model: str, version: str, fingerprint: str, session_id: str, row: Row) -> bytes:
    """The bytes of one session."""
    columns = tuple((name, str(value.dtype), value.shape) for name, value in row.items())
    heading = json.dumps(asdict(Heading(model, version, fingerprint, session_id, columns))).encode()
    values = (np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes() for value in row.values())
    content = b"".join((_START.pack(_MAGIC, FORMAT, len(heading)), heading, *values))
    return content + _digest(content)


def unpack(content: bytes) -> tuple[Heading, Row]:
    """The session that the bytes hold; raises TidegateError BAD_EXPORT for any others."""
    if len(content) < _START.size + _DIGEST_BYTES:
        raise _bad("the bytes are too few")
    magic, version, length = _START.unpack_from(content)
    if magic != _MAGIC:
        raise _bad("the bytes are no session")
    if version > FORMAT:
        raise _bad(f"the bytes are of format {version}, and this server reads up to {FORMAT}")
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if _digest(body) != digest:
        raise _bad("the bytes were cut off or changed: the checksum differs")
    heading = _heading(body[_START.size : _START.size + length])
    return heading, _row(heading, body[_START.size + length :])


def read_heading(content: bytes) -> Heading:
    """What an export is of; raises BAD_EXPORT as `unpack` does."""
    return unpack(content)[0]


def _heading(text: bytes) -> Heading:
    """Checked although its checksum is right: whoever can compute one can write anything."""
    try:
        fields = dict(json.loads(text))
        columns = tuple((str(name), str(dtype), tuple(map(int, shape))) for name, dtype, shape in fields.pop("columns"))
        heading = Heading(**{name: str(value) for name, value in fields.items()}, columns=columns)
        "".join(map(str, fields.values())).encode()  # half of a surrogate pair is text to JSON alone
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise _bad("the heading cannot be read") from None
    if any(dtype not in _DTYPES or min(shape, default=0) < 0 for _, dtype, shape in columns):
        raise _bad("the heading names a column of no known type")
    if any(len(shape) > DIMENSIONS_MAX for _, _, shape in columns):
        raise _bad(f"a column has more than {DIMENSIONS_MAX} dimensions")
    return heading


def _row(heading: Heading, body: bytes) -> Row:
    row, start = Row(), 0
    for name, dtype, shape in heading.columns:
        kind = np.dtype(dtype).newbyteorder("<")
        size = kind.itemsize * prod(shape)
        if start + size > len(body):
            raise _bad("a column is cut off")
        try:
            row[name] = np.frombuffer(body[start : start + size], kind).reshape(shape).astype(np.dtype(dtype))
        except (ValueError, OverflowError):  # empty, but for that larger than any array
            raise _bad("a column has a shape that none can have") from None
        start += size
    if start != len(body):
        raise _bad("there is more than the columns")
    return row


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _bad(problem: str) -> TidegateError:
    return TidegateError(Reason.BAD_EXPORT, problem)
