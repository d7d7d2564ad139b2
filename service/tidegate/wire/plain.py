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
        self._numbers, self._places, self._batch = (c_int64 * 3)(), (c_int64 * 20)(), _Batch()
        self._numbers_at, self._places_at = addressof(self._numbers), addressof(self._places)
        self._batch_at = addressof(self._batch)
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
        if not self._native.tidegate_batch(message, len(message), self._numbers_at, self._places_at):
            return None
        sequence, rows, dtype = self._numbers
        bytes_of_values = self._places[2 * _VALUES + 1] - self._places[2 * _VALUES]
        width = bytes_of_values // (rows * _ITEM_BYTES[dtype]) if rows else 0
        if not 0 < rows <= limits.rows or not 0 < width <= FEATURES_MAX:
            return None
        # All columns in one piece: integers, floats, values, then the narrow ones, row and reset.
        narrow = rows * (len(_INTEGERS) + len(_FLOATS) + width)
        integers = np.empty(narrow + rows, np.int64)
        floats, rest = integers.view(np.float64), integers[narrow:]
        lie, bytes_each = address(integers), 8 * rows
        step, time, aliases, requests, deadline, arrived, values, row, reset = (
            *range(lie, lie + 6 * bytes_each, bytes_each),
            *(lie + 6 * bytes_each, lie + 8 * narrow, lie + 8 * narrow + 4 * rows),
        )
        described = self._batch
        described.rows, described.width, described.dtype = rows, width, dtype
        described.aliases_max, described.request, described.now = limits.aliases, request, now
        described.step, described.time, described.aliases, described.requests = step, time, aliases, requests
        described.deadline, described.arrived = deadline, arrived
        described.values, described.row, described.reset = values, row, reset
        if not self._native.tidegate_columns(message, self._places_at, self._batch_at):
            return None
        block = Block(
            scope=scope,
            request=integers[3 * rows : 4 * rows],
            row=rest.view(np.int32)[:rows],
            ids=(),
            step=integers[:rows],
            time=integers[rows : 2 * rows],
            values=floats[6 * rows : narrow].reshape(rows, width),
            reset=rest.view(np.bool_)[4 * rows : 5 * rows],
            deadline=floats[4 * rows : 5 * rows],
            arrived=floats[5 * rows : 6 * rows],
            aliases=integers[2 * rows : 3 * rows],
            messages=(rows,),
            lies=Addresses(step, time, values, deadline, reset, arrived),
        )
        return PlainBatch(sequence, block)

    def predictions(self, replies: Replies | Turn) -> list[bytes]:
        """Each row's whole answer, without intervals. Only of replies that are `plainly` predictions, to singles."""
        singles, rows = replies.singles, len(replies)
        assert singles is not None
        joined = b"".join(singles.ids)
        asked = self._asked(replies, rows)
        self._make_room(rows, len(joined) + rows * (_ANSWER_BYTES_MAX + 4 * asked.targets))
        self._native.tidegate_predictions(self._answers_at, joined, self._room_at, self._ends_at)
        start, answers, room = 0, [], self._room
        for end in self._ends[:rows].tolist():
            answers.append(bytes(room[start:end]))
            start = end
        return answers

    def batch_answer(self, sequence: int, turn: Turn, dtype: int) -> bytes:
        """The whole answer to a batch, without intervals."""
        rows = len(turn)
        asked = self._asked(turn, rows)
        self._make_room(rows, _ANSWER_BYTES_MAX + rows * (9 + 8 * asked.targets))
        length = self._native.tidegate_prediction_batch(self._answers_at, sequence, dtype, self._room_at)
        return bytes(self._room[:length])

    def _asked(self, replies: Replies | Turn, rows: int) -> _Answers:
        """What the C parts are told of answers: where they lie."""
        singles, width, asked = replies.singles, replies.head.width, self._answers
        assert singles is not None
        point = replies.head.levels.index(0.5) if width > 1 else 0
        asked.rows, asked.targets = rows, replies.outputs // width
        asked.values_stride, asked.target_stride = replies.outputs, width
        asked.id_bytes, asked.sequence, asked.step = singles.id_bytes, singles.sequence, singles.step
        asked.steps_seen, asked.valid_time = singles.steps_seen, singles.valid_time
        asked.values = singles.values + 8 * point
        return asked

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
