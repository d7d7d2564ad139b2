"""The messages that there are most of, by the C parts (native/wire.c): plain observations, batches by alias, and plain
predictions. Each function says when a message is not plain; the Protocol Buffers library then has the word.
"""

from __future__ import annotations

from ctypes import CDLL, Structure, addressof, c_int64, c_void_p

import numpy as np

from tidegate.engine.flights.quick import Turn
from tidegate.engine.queues.block import AliasTable, Scope
from tidegate.engine.queues.gathered import Batches, Singles
from tidegate.engine.queues.inbox import Inbox
from tidegate.engine.replies import Replies
from tidegate.engine.replies import Singles as Columns
from tidegate.model.manifest import FEATURES_MAX
from tidegate.native import address

_SINGLES = ("request", "sequence", "step", "time", "id_bytes", "values", "deadline", "arrived", "reset")
_ANSWERS = ("id_bytes", "sequence", "step", "steps_seen", "valid_time", "values")
_ANSWER_BYTES_MAX = 96  # of an answer, but for the id and the values


class _Singles(Structure):
    """See wire.c."""

    _fields_ = (("width", c_int64), *((name, c_void_p) for name in _SINGLES))


class _Batches(Structure):
    """See wire.c."""

    _fields_ = (
        *((name, c_int64) for name in ("width", "room", "together_max")),
        *((name, c_void_p) for name in ("request", "step", "time", "aliases", "tables", "parts")),
        *((name, c_void_p) for name in ("values", "deadline", "arrived", "row", "reset")),
    )


class _Answers(Structure):
    """See wire.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "targets", "values_stride", "target_stride")),
        *((name, c_void_p) for name in _ANSWERS),
    )


class BatchStream(Structure):
    """What a stream may send by alias, and what was read of its last batch; see wire.c."""

    _fields_ = tuple((name, c_int64) for name in ("rows_max", "aliases_max", "table", "sequence", "rows", "width"))
    rows_max: int
    aliases_max: int  # aliases are below it
    sequence: int
    rows: int
    width: int

    def __init__(self, table: AliasTable, rows_max: int) -> None:
        super().__init__(rows_max, 0, table.at)
        self.alias_table = table
        self.where = addressof(self)


class Plain:
    """The codec of plain messages. For one thread."""

    def __init__(self, native: CDLL) -> None:
        self._native, self._observation, self._batch = native, native.tidegate_observation, native.tidegate_batch
        self._name = (c_int64 * 2)()
        self._name_at = addressof(self._name)
        self._answers = _Answers()
        self._answers_at = addressof(self._answers)
        self._about: Columns | None = None  # what they are
        self._batch_answer = native.tidegate_prediction_batch
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

    def batch(self, message: bytes, inbox: Inbox, scope: Scope, stream: BatchStream, request: int, now: float) -> int:
        """Puts a batch by alias into the inbox; returns how many rows it has. 0: it is another message, or one that is
        not right."""
        table = stream.alias_table
        into = inbox.batches(scope, table)
        while True:
            described, place = into.described or _describe_batches(into), len(into.parts)
            rows: int = self._batch(message, len(message), described, into.rows, place, stream.where, request, now)
            if rows > 0:
                inbox.added(into, rows, table)
            if rows >= 0:
                return rows
            if stream.width > FEATURES_MAX:
                return 0
            if not into.has_room(stream.rows, stream.width):
                into = inbox.more_batches(scope, stream.width)
            into.room(stream.rows)

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

    def batch_answers(self, replies: Replies | Turn) -> None:
        """Says whose answers `batch_answer` gives, until anything else is asked."""
        asked, rows = self._answers, len(replies.request)
        if replies.singles is not self._about or rows > asked.rows:
            self._asked(replies, rows)
            self._make_room(0, _ANSWER_BYTES_MAX + rows * (9 + 8 * asked.targets))

    def batch_answer(self, sequence: int, start: int, stop: int, dtype: int) -> bytes:
        """The whole answer to a batch, to whose rows these are the replies, without intervals."""
        length = self._batch_answer(self._answers_at, start, stop, sequence, dtype, self._room_at)
        return bytes(self._room[:length])

    def _asked(self, replies: Replies | Turn, rows: int) -> _Answers:
        """What the C parts are told of answers: where they lie."""
        singles, asked = replies.singles, self._answers
        assert singles is not None
        asked.rows = rows
        if singles is self._about:
            return asked
        width = replies.head.width
        point = replies.head.levels.index(0.5) if width > 1 else 0
        asked.targets = replies.outputs // width
        asked.values_stride, asked.target_stride = replies.outputs, width
        asked.id_bytes, asked.sequence, asked.step = singles.id_bytes, singles.sequence, singles.step
        asked.steps_seen, asked.valid_time = singles.steps_seen, singles.valid_time
        asked.values = singles.values + 8 * point
        self._about = singles
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


def _describe_batches(batches: Batches) -> int:
    """The same of batches."""
    at, stride = batches.at, 8 * batches.capacity
    named = at.step - stride, at.step, at.time, at.aliases, at.tables, at.parts  # the columns are equally far apart
    row = at.reset - 4 * batches.capacity
    batches.description = _Batches(
        *(batches.width, batches.capacity, batches.together_max, *named),
        *(at.values, at.deadline, at.arrived, row, at.reset),
    )
    batches.described = addressof(batches.description)
    return batches.described
