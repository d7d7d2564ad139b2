"""From what people hold (mappings, lists, arrays, datetimes) to what the wire carries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import ArrayLike, NDArray

from tidegate.errors import Reason, TidegateError

Value = float | str | None  # a word is one of a feature's categories
Values = Mapping[str, Value] | Sequence[Value] | NDArray[Any]
Words = Mapping[str, tuple[str, ...]]  # the categories of the features that have some
Time = datetime | np.datetime64
Times = Iterable[Time | None] | NDArray[Any]
NO_TIME = np.iinfo(np.int64).min  # how a batch says "no time" in a row; NumPy's NaT has the same bits
NO_WORDS: Words = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_row(values: Values, features: tuple[str, ...], model: str, words: Words = NO_WORDS) -> list[float]:
    """One number a feature, in the model's order; None becomes NaN, which is a missing value, a word its number.

    Raises TidegateError BAD_OBSERVATION, which names what is missing, unknown or not a number.
    """
    if isinstance(values, Mapping):
        values = ordered(values, features, model)
    if len(values) != len(features):
        raise bad(f"{model} takes {len(features)} values ({', '.join(features)}), not {len(values)}")
    return [to_number(name, value, words.get(name, ())) for name, value in zip(features, values, strict=True)]


def ordered(values: Mapping[str, Value], features: tuple[str, ...], model: str) -> list[Value]:
    """A mapping's values in the model's order; every feature must be there and no other."""
    missing = [name for name in features if name not in values]
    unknown = [str(name) for name in values if name not in features]
    if missing:
        raise bad(f"no value for {', '.join(missing)} of {model} (None says that a value is missing)")
    if unknown:
        raise bad(f"{model} has no feature {', '.join(unknown)}; its features are {', '.join(features)}")
    return [values[name] for name in features]


def to_number(name: str, value: Value, categories: tuple[str, ...] = ()) -> float:
    """A value as the wire wants it; a word of a feature with categories becomes its number, from 0."""
    if categories and isinstance(value, str):
        if value not in categories:
            problem = "which the model does not know (-1 stands for such a word); its words are"
            raise bad(f"{name} is {value!r}, {problem} {', '.join(categories)}")
        return float(categories.index(value))
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        raise bad(f"{name} is {value!r}, not a number") from None


def to_matrix(matrix: ArrayLike, rows: int, columns: int) -> NDArray[Any]:
    """A batch's values as little-endian float32 (if they were) or float64 [rows, columns]; raises BAD_BATCH."""
    try:
        values = np.asarray(matrix)
        values = np.ascontiguousarray(values, "<f4" if values.dtype == np.float32 else "<f8")
    except (TypeError, ValueError) as error:
        raise TidegateError(Reason.BAD_BATCH, f"the matrix does not hold numbers: {error}") from None
    if values.shape != (rows, columns):
        problem = f"the matrix is {list(values.shape)}, not [{rows} ids, {columns} features]"
        raise TidegateError(Reason.BAD_BATCH, problem)
    return values


def to_steps(name: str, matrix: ArrayLike, rows: int | None, columns: int) -> NDArray[Any]:
    """A copy of a history's numbers, as little-endian float32 (if they were) or float64 [rows (None: at least one),
    columns]; raises BAD_HISTORY."""
    try:
        values = np.asarray(matrix)
        values = np.array(values, "<f4" if values.dtype == np.float32 else "<f8", order="C")
    except (TypeError, ValueError) as error:
        raise TidegateError(Reason.BAD_HISTORY, f"{name} does not hold numbers: {error}") from None
    if values.ndim != 2 or values.shape[1] != columns or not len(values) or len(values) != (rows or len(values)):
        problem = f"{name} is {list(values.shape)}, not [{rows or 'steps'}, {columns} features]"
        raise TidegateError(Reason.BAD_HISTORY, problem)
    return values


def to_nanoseconds(time: Time) -> int:
    """Nanoseconds since 1970 UTC. A datetime needs a time zone (ValueError); a datetime64 is taken as UTC. What is
    neither is BAD_OBSERVATION."""
    if isinstance(time, np.datetime64):
        return int(time.astype("datetime64[ns]").astype(np.int64))
    if not isinstance(time, datetime):
        raise bad(f"the time is {time!r}, not a datetime with a time zone or a datetime64 in UTC")
    if time.tzinfo is None:
        raise ValueError(f"{time.isoformat()} has no time zone; give one, such as tzinfo=UTC")
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def to_timestamp(time: Time) -> Timestamp:
    """The same as a protobuf Timestamp."""
    seconds, nanos = divmod(to_nanoseconds(time), 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def to_datetime(stamp: Timestamp) -> datetime:
    """A Timestamp as a datetime in UTC; what is below a microsecond is dropped."""
    return stamp.ToDatetime(tzinfo=UTC)


def to_time_column(times: Iterable[Time | None] | NDArray[Any] | None, rows: int) -> NDArray[np.int64] | None:
    """A batch's times as int64 nanoseconds [rows]; a datetime64 array is taken as UTC, None or NaT is no time."""
    if times is None:
        return None
    if isinstance(times, np.ndarray) and times.dtype.kind == "M":
        column = times.astype("datetime64[ns]").astype(np.int64)
    else:
        column = np.array([NO_TIME if time is None else to_nanoseconds(time) for time in times], np.int64)
    return checked_rows("times", column, rows)


def to_reset_column(reset: ArrayLike | None, rows: int) -> NDArray[np.uint8] | None:
    """A batch's resets as one byte a row."""
    return None if reset is None else checked_rows("reset", np.asarray(reset, bool).astype(np.uint8), rows)


def checked_rows(name: str, column: NDArray[Any], rows: int) -> NDArray[Any]:
    """The column, when it has one entry a row; else raises BAD_BATCH."""
    if column.shape != (rows,):
        raise TidegateError(Reason.BAD_BATCH, f"{name} has shape {list(column.shape)}, not [{rows}], one entry an id")
    return column


def bad(problem: str) -> TidegateError:
    """An observation that the server would refuse too."""
    return TidegateError(Reason.BAD_OBSERVATION, problem)
