"""The messages that there are most of, by the C parts (native/wire.c): plain observations, batches by alias, and plain
predictions. Each function says when a message is not plain; the Protocol Buffers library then has the word.
"""

from __future__ import annotations

from ctypes import CDLL, Structure, addressof, c_double, c_int64, c_void_p
from typing import NamedTuple

import numpy as np

from tidegate.engine.inbox import Addresses, Block, Scope, Singles
from tidegate.engine.quick import Turn
from tidegate.engine.replies import Replies
from tidegate.model.manifest import FEATURES_MAX
from tidegate.native import address

_SINGLES = ("request", "sequence", "step", "time", "id_bytes", "values", "deadline", "arrived", "reset")
_ANSWERS = ("id_bytes", "sequence", "step", "steps_seen", "valid_time", "values")
_ANSWER_BYTES_MAX = 96  # of an answer, but for the id and the values
_VALUES = 7  # a field of ObservationBatch
_ITEM_BYTES = (4, 4, 8)  # by DType
_INTEGERS, _FLOATS = ("step", "time", "aliases", "request"), ("deadline", "arrived")


class _Singles(Structure):
    """See wire.c."""

    _fields_ = (("width", c_int64), *((name, c_void_p) for name in _SINGLES))


class _Batch(Structure):
    """See wire.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "width", "dtype", "aliases_max", "request")),
        ("now", c_double),
        *((name, c_void_p) for name in ("step", "time", "aliases", "requests", *_FLOATS, "values", "row", "reset")),
    )


class _Answers(Structure):
    """See wire.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "targets", "values_stride", "target_stride")),
        *((name, c_void_p) for name in _ANSWERS),
    )


class BatchLimits(NamedTuple):
    """Rows of a batch, and what its aliases must be below."""

    rows: int
    aliases: int


class PlainBatch(NamedTuple):
    """A batch's number on its stream, and its rows."""

    sequence: int
    block: Block


class Plain:
    """The codec of plain messages. For one thread."""

    def __init__(self, native: CDLL) -> None:
        self._native, self._observation = native, native.tidegate_observation
        self._name = (c_int64 * 2)()
        self._name_at = addressof(self._name)
        self._answers = _Answers()
        self._answers_at = addressof(self._answers)
        self._ends = np.empty(0, np.int64)
        self._room, self._room_at, self._ends_at = memoryview(b""), 0, 0

    def observation(self, message: bytes, singles: Singles, request: int, now: float) -> tuple[int, bytes] | None:
        """Puts a plain observation where the next one goes; returns its sequence and its session's id. None: it is no
        plain one, or has another number of values."""
        row = singles.room()
        described = singles.described or _describe(singles)
        sequence: int = self._observation(message, len(message), described, row, request, now, self._name_at)
        if sequence < 0:
            return None
        session_id = message[self._name[0] : self._name[1]]
        singles.took(session_id)
        return sequence, session_id

    def batch(self, message: bytes, scope: Scope, limits: BatchLimits, request: int, now: float) -> PlainBatch | None:
        """A batch by alias as a block, without its table; None for another message, or one that is not right."""
        numbers, places = np.empty(3, np.int64), np.zeros(20, np.int64)
        at = address(places)
        if not self._native.tidegate_batch(message, len(message), address(numbers), at):
            return None
        sequence, rows, dtype = numbers.tolist()
        start, end = places[2 * _VALUES : 2 * _VALUES + 2].tolist()
        width = (end - start) // (rows * _ITEM_BYTES[dtype]) if rows else 0
        if not 0 < rows <= limits.rows or not 0 < width <= FEATURES_MAX:
            return None
        integers, floats = np.empty((len(_INTEGERS), rows), np.int64), np.empty((len(_FLOATS), rows))
        values, row, reset = np.empty((rows, width)), np.empty(rows, np.int32), np.empty(rows, np.bool_)
        lie, bytes_each = address(integers), 8 * rows
        floating = address(floats)
        described = _Batch(
            *(rows, width, dtype, limits.aliases, request, now),
            *range(lie, lie + len(_INTEGERS) * bytes_each, bytes_each),
            *range(floating, floating + len(_FLOATS) * bytes_each, bytes_each),
            *(address(values), address(row), address(reset)),
        )
        if not self._native.tidegate_columns(message, at, addressof(described)):
            return None
        step, time, aliases, requests = integers
        deadline, arrived = floats
        block = Block(
            scope=scope,
            request=requests,
            row=row,
            ids=(),
            step=step,
            time=time,
            values=values,
            reset=reset,
            deadline=deadline,
            arrived=arrived,
            aliases=aliases,
            messages=(rows,),
            lies=Addresses(
                step=lie,
                time=lie + bytes_each,
                values=described.values,
                deadline=floating,
                reset=described.reset,
                arrived=floating + bytes_each,
            ),
        )
        return PlainBatch(sequence, block)

    def predictions(self, replies: Replies | Turn) -> list[bytes]:
        """Each row's whole answer, without intervals. Only of replies that are `plainly` predictions, to singles."""
        singles = replies.singles
        assert singles is not None
        ids, rows, width = singles.ids, len(replies), replies.head.width
        outputs = replies.outputs
        targets = outputs // width
        point = replies.head.levels.index(0.5) if width > 1 else 0
        joined = b"".join(ids)
        self._make_room(rows, len(joined) + rows * (_ANSWER_BYTES_MAX + 4 * targets))
        asked = self._answers
        asked.rows, asked.targets, asked.values_stride, asked.target_stride = rows, targets, outputs, width
        asked.id_bytes, asked.sequence, asked.step = singles.id_bytes, singles.sequence, singles.step
        asked.steps_seen, asked.valid_time = singles.steps_seen, singles.valid_time
        asked.values = singles.values + 8 * point
        self._native.tidegate_predictions(self._answers_at, joined, self._room_at, self._ends_at)
        start, answers, room = 0, [], self._room
        for end in self._ends[:rows].tolist():
            answers.append(bytes(room[start:end]))
            start = end
        return answers

    def _make_room(self, rows: int, size: int) -> None:
        """For so many answers, and their bytes."""
        if rows > len(self._ends):
            self._ends = np.empty(2 * rows, np.int64)
            self._ends_at = address(self._ends)
        if size > len(self._room):
            written = np.empty(2 * size, np.uint8)
            self._room, self._room_at = written.data, address(written)


def _describe(singles: Singles) -> int:
    """The address of what tells where the columns lie now, which stays there as long as they do."""
    at = singles.at
    request = 2 * at.sequence - at.step  # the columns of integers are equally far apart
    integers = request, at.sequence, at.step, at.time, at.id_bytes
    singles.description = _Singles(singles.shape[0], *integers, at.values, at.deadline, at.arrived, at.reset)
    singles.described = addressof(singles.description)
    return singles.described
