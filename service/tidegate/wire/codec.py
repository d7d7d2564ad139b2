"""Messages to columns and back. Knows the wire format and nothing of streams.

Raises TidegateError: UNDECODABLE_MESSAGE for bytes that are no message, BAD_BATCH for columns that do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from tidegate.engine.queues.block import Scope
from tidegate.engine.replies import Replies, RowFlag
from tidegate.engine.sessions.by_name import SESSION_ID_BYTES_MAX
from tidegate.errors import MEANINGS, Reason, TidegateError
from tidegate.model.frequency import NO_TIME
from tidegate.model.manifest import FEATURES_MAX, Manifest
from tidegate.wire.status import STEP_REASONS, row_error, status_of
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

STEP_MAX = 2**62
_NANOSECONDS = 1_000_000_000
_DTYPES = {types.DTYPE_UNSPECIFIED: "<f4", types.DTYPE_FLOAT32: "<f4", types.DTYPE_FLOAT64: "<f8"}
AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse(kind: type[AnyMessage], message: bytes) -> AnyMessage:
    """Bytes to a message; raises UNDECODABLE_MESSAGE."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise TidegateError(Reason.UNDECODABLE_MESSAGE, f"the message is no {kind.DESCRIPTOR.name}") from None


def scope_of(config: pb.StreamConfig, tenant: str) -> Scope:
    """What a stream is about; raises BAD_CONFIG."""
    named = max(len(config.features), len(config.units))
    if named > FEATURES_MAX:  # before they are compared with anything
        raise TidegateError(Reason.BAD_CONFIG, f"{named} features or units; at most {FEATURES_MAX}")
    if not config.model:
        raise TidegateError(Reason.BAD_CONFIG, "the config names no model")
    if config.on_missing not in pb.OnMissing.values():
        raise TidegateError(Reason.BAD_CONFIG, f"on_missing {config.on_missing} is not known")
    return Scope(
        tenant=tenant,
        model=config.model,
        version=config.version,
        features=tuple(config.features),
        units=tuple(config.units),
        must_exist=config.on_missing == pb.ON_MISSING_FAIL,
        strict_steps=config.strict_steps,
    )


@dataclass(frozen=True)
class View:
    """What a call wants to see of predictions: how many targets (when no row says so), the bounds of its intervals as
    levels of a quantile head, and the type of a batch's numbers."""

    targets: int = 0
    intervals: tuple[tuple[float, float], ...] = ()
    dtype: types.DType = types.DTYPE_FLOAT32

    @property
    def bounds(self) -> list[float]:
        """The lower ends of all intervals, then the upper ones."""
        return [level for side in zip(*self.intervals, strict=True) for level in side]


def view_of(config: pb.StreamConfig, manifest: Manifest) -> View:
    """Checks what the config asks to see; raises BAD_CONFIG."""
    known = manifest.head.intervals
    wanted = [round(level, 9) for level in config.levels[: len(known) + 1]]  # of more, one is unknown or comes twice
    for level in wanted:
        if level not in known:
            served = ", ".join(f"{coverage:g}" for coverage in sorted(known)) or "none"
            raise TidegateError(Reason.BAD_CONFIG, f"levels: no interval covers {level:g}; this model has {served}")
    if len(set(wanted)) < len(wanted):
        raise TidegateError(Reason.BAD_CONFIG, "levels: a level comes twice")
    if config.dtype not in _DTYPES:
        raise TidegateError(Reason.BAD_CONFIG, f"dtype {config.dtype} is not known")
    dtype = config.dtype or types.DTYPE_FLOAT32
    return View(len(manifest.targets), tuple(known[level] for level in wanted), dtype)


def nanoseconds(time: Timestamp) -> int:
    """A timestamp as ns since 1970; raises BAD_OBSERVATION outside of what 64 bits hold (1677 to 2262)."""
    value = time.seconds * _NANOSECONDS + time.nanos
    if not -(2**63) < value < 2**63:
        raise TidegateError(Reason.BAD_OBSERVATION, "event_time is not between 1677 and 2262")
    return value


def timestamp(ns: int) -> Timestamp:
    """The reverse of `nanoseconds`."""
    return Timestamp(seconds=ns // _NANOSECONDS, nanos=ns % _NANOSECONDS)


def session_key(session_id: str) -> bytes:
    """The id as the engine keeps it; b"" (which no session has) for one that is too long to keep."""
    key = session_id.encode()
    return key if len(key) <= SESSION_ID_BYTES_MAX else b""


@dataclass
class BatchColumns:
    """An ObservationBatch as columns, each [rows]; values and future float64 [rows, width], None without any."""

    ids: list[bytes]
    aliases: NDArray[np.int64] | None
    step: NDArray[np.int64]
    time: NDArray[np.int64]
    values: NDArray[np.float64]
    reset: NDArray[np.bool_]
    future: NDArray[np.float64] | None


def batch_columns(batch: types.ObservationBatch, rows_max: int, aliases_max: int) -> BatchColumns:
    """Checks a batch's columns against each other; raises BAD_BATCH, naming the column."""
    rows = batch.rows
    if not 0 < rows <= rows_max:
        raise _bad(f"rows is {rows}, must be 1 to {rows_max}")
    columns = {
        "session_ids": len(batch.session_ids),
        "aliases": len(batch.aliases),
        "steps": len(batch.steps),
        "event_times_unix_ns": len(batch.event_times_unix_ns),
        "reset": len(batch.reset),
    }
    for name, length in columns.items():
        if length not in (0, rows):
            raise _bad(f"{name} has {length} entries for {rows} rows")
    if not batch.session_ids and not batch.aliases:
        raise _bad("it names no sessions: both session_ids and aliases are empty")
    return BatchColumns(
        ids=[session_key(session_id) for session_id in batch.session_ids],
        aliases=_aliases(batch, aliases_max) if batch.aliases else None,
        step=_steps(batch) if batch.steps else np.zeros(rows, np.int64),
        time=np.array(batch.event_times_unix_ns, np.int64)
        if batch.event_times_unix_ns
        else np.full(rows, NO_TIME, np.int64),
        values=_numbers(batch, "values", batch.values),
        reset=np.frombuffer(batch.reset, np.uint8) != 0 if batch.reset else np.zeros(rows, bool),
        future=_numbers(batch, "future_covariates", batch.future_covariates) if batch.future_covariates else None,
    )


def _aliases(batch: types.ObservationBatch, aliases_max: int) -> NDArray[np.int64]:
    aliases = np.array(batch.aliases, np.int64)
    if aliases.max() >= aliases_max:
        raise _bad(f"alias {aliases.max()} is not below {aliases_max}")
    return aliases


def _steps(batch: types.ObservationBatch) -> NDArray[np.int64]:
    steps = np.array(batch.steps, np.uint64)
    if (steps > STEP_MAX).any():
        raise _bad(f"a step is above {STEP_MAX}")
    return steps.astype(np.int64)


def _numbers(batch: types.ObservationBatch, name: str, content: bytes) -> NDArray[np.float64]:
    """A matrix [rows, columns] of the batch's type."""
    if batch.dtype not in _DTYPES:
        raise _bad(f"dtype {batch.dtype} is not known")
    dtype = np.dtype(_DTYPES[batch.dtype])
    row_bytes, rest = divmod(len(content), batch.rows)
    if row_bytes > FEATURES_MAX * dtype.itemsize:
        raise _bad(f"{name} has {row_bytes // dtype.itemsize} columns; at most {FEATURES_MAX}")
    if rest or row_bytes % dtype.itemsize or not row_bytes:
        raise _bad(f"{name} has {len(content)} bytes: no whole number of {dtype.name} for each of {batch.rows} rows")
    return np.frombuffer(content, dtype).reshape(batch.rows, -1).astype(np.float64)


def _bad(problem: str) -> TidegateError:
    return TidegateError(Reason.BAD_BATCH, problem)


def single(sequence: int, replies: Replies, row: int, session_id: bytes, view: View) -> pb.StreamPredictResponse:
    """The answer to a single observation."""
    rows = replies.plain
    if rows.outcome[row]:
        return stream_error(sequence, row_error(Reason(rows.outcome[row]), rows.expected[row]))
    response = pb.StreamPredictResponse(sequence=sequence)
    message = response.prediction
    message.session_id = session_id.decode()
    message.step = rows.step[row]
    message.values.extend(rows.values[row])
    message.steps_seen = rows.steps_seen[row]
    if view.intervals:
        (bounds,) = replies.quantiles(view.bounds, slice(row, row + 1))
        message.lower.extend(bounds[: len(view.intervals)].ravel().tolist())
        message.upper.extend(bounds[len(view.intervals) :].ravel().tolist())
    if rows.flags[row]:
        _flags(message, replies, row)
    if rows.valid_time[row] != NO_TIME:
        message.valid_time.CopyFrom(timestamp(rows.valid_time[row]))
    return response


def _flags(message: types.Prediction, replies: Replies, row: int) -> None:
    flags = replies.plain.flags[row]
    message.created = bool(flags & RowFlag.CREATED)
    message.duplicate = bool(flags & RowFlag.DUPLICATE)
    message.stale = bool(flags & RowFlag.STALE)
    message.revised = bool(flags & RowFlag.REVISED)
    message.imputed_steps = int(replies.gap[row])
    if flags & RowFlag.IMPUTED:
        bits = np.unpackbits(replies.imputed[row], bitorder="little")
        message.imputed_features.extend(np.flatnonzero(bits).tolist())


class BatchReply:
    """The answer to a batch while its rows come in, in whatever iterations they are stepped."""

    def __init__(self, rows: int, view: View) -> None:
        self._missing = rows
        self._rows = rows
        self._view = view
        self._dtype = _DTYPES[view.dtype]
        self._values: NDArray[np.floating] | None = None  # [rows, 1 + 2 x intervals, targets]
        self._steps: NDArray[np.int64] = np.zeros(rows, np.int64)
        self._flags = np.zeros(rows, np.uint8)
        self._errors: list[types.RowError] = []

    def add(self, replies: Replies, rows: slice) -> bool:
        """Takes some rows; True when none is missing any more."""
        places = replies.row[rows]
        outcome = replies.outcome[rows]
        if len(places) == self._rows and not outcome.any() and (places[1:] > places[:-1]).all():
            self._values = self._seen(replies, rows)
            self._steps, self._flags = replies.step[rows], replies.flags[rows]
            return True  # the usual case: the whole message in one batch
        if not outcome.all():  # only rows that were stepped say how wide the answer is
            values = self._seen(replies, rows)
            if self._values is None:
                self._values = np.full((self._rows, *values.shape[1:]), np.nan, self._dtype)
            if values.shape[1:] == self._values.shape[1:]:
                self._values[places] = values
            else:  # sessions of another version, that came from the store while the first were stepped
                outcome = np.where(outcome == 0, Reason.TARGETS_DIFFER, outcome)
        self._steps[places] = np.where(outcome == 0, replies.step[rows], 0)
        self._flags[places] = np.where(outcome == 0, replies.flags[rows], 0)
        for index in np.flatnonzero(outcome).tolist():
            self._errors.append(_row_error(replies, rows.start + index, Reason(outcome[index])))
        self._missing -= rows.stop - rows.start
        return self._missing == 0

    def whole(self, sequence: int, replies: Replies, rows: slice) -> bytes:
        """The StreamPredictResponse, when these are all its rows, in order, and all plain predictions."""
        if self._view.intervals:
            self.add(replies, rows)
            return self.answer(sequence)
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            values = replies.points[rows].astype(self._dtype)
        return plain_batch(sequence, self._rows, self._view.dtype, values.tobytes(), replies.step[rows].tobytes())

    def answer(self, sequence: int) -> bytes:
        """The StreamPredictResponse with the whole answer."""
        values = self._values
        if values is None or self._errors or self._view.intervals or self._flags.any():
            return pb.StreamPredictResponse(sequence=sequence, batch=self.message()).SerializeToString()
        return plain_batch(sequence, self._rows, self._view.dtype, values.tobytes(), self._steps.tobytes())

    def message(self) -> types.PredictionBatch:
        """The whole answer; as wide as the view says when no row was stepped."""
        values, intervals = self._values, len(self._view.intervals)
        if values is None:
            values = np.full((self._rows, 1 + 2 * intervals, self._view.targets), np.nan, self._dtype)
        self._errors.sort(key=lambda error: error.row)
        _tell_once(self._errors)
        return types.PredictionBatch(
            rows=self._rows,
            dtype=self._view.dtype,
            values=values[:, 0].tobytes(),
            lower=values[:, 1 : 1 + intervals].tobytes(),
            upper=values[:, 1 + intervals :].tobytes(),
            steps=self._steps.tolist(),
            flags=self._flags.tobytes(),
            errors=self._errors,
        )

    def _seen(self, replies: Replies, rows: slice) -> NDArray[np.floating]:
        """Points, lower and upper bounds of some rows: [n, 1 + 2 x intervals, targets]."""
        if not self._view.intervals:
            with np.errstate(over="ignore"):  # beyond float32 is infinite
                return replies.points[rows, None].astype(self._dtype)
        values = np.concatenate([replies.points[rows, None], replies.quantiles(self._view.bounds, rows)], axis=1)
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            return values.astype(self._dtype)


def _row_error(replies: Replies, row: int, reason: Reason) -> types.RowError:
    """Without its text."""
    expected = int(replies.expected[row]) if reason in STEP_REASONS else 0
    code = int(MEANINGS[reason].code)
    return types.RowError(row=int(replies.row[row]), code=code, reason=reason.name, expected_step=expected)


def _tell_once(errors: list[types.RowError]) -> None:
    """Has the first row of each reason say the text: at every row it would make an answer much larger than what it is
    to, and a stream's window counts rows."""
    told = set[str]()
    for error in errors:
        if error.reason not in told:
            told.add(error.reason)
            error.message = TidegateError(Reason[error.reason]).message


def stream_error(sequence: int, error: TidegateError) -> pb.StreamPredictResponse:
    """A stream's answer to a message that failed."""
    return pb.StreamPredictResponse(sequence=sequence, error=status_of(error))


def plain_batch(sequence: int, rows: int, dtype: int, values: bytes, steps: bytes) -> bytes:
    """A StreamPredictResponse with a PredictionBatch in which no row failed, has flags or intervals."""
    parts = (
        _number(1, rows),
        _number(2, dtype),
        _start(3, len(values)),
        values,
        _start(6, len(steps)),
        steps,
        _start(7, rows),
        bytes(rows),
    )
    content = b"".join(parts)
    return b"".join((_number(1, sequence) if sequence else b"", _start(3, len(content)), content))


def _number(field: int, value: int) -> bytes:
    return bytes((field << 3,)) + _varint(value)


def _start(field: int, length: int) -> bytes:
    return bytes((field << 3 | 2,)) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
