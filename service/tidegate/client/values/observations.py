"""From what people hold (mappings, lists, arrays, datetimes) to what the wire carries. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import ArrayLike, NDArray

from tidegate.client.values.labels import column_names, misnamed, places, row_names
from tidegate.errors import Reason, TidegateError

Held = TypeVar("Held")
Value = float | str | None  # a word is one of a feature's categories
Values = Mapping[str, Value] | Sequence[Value] | NDArray[Any]
Words = Mapping[str, tuple[str, ...]]  # the categories of the features that have some
Time = datetime | np.datetime64
Times = Iterable[Time | None] | NDArray[Any]
NO_TIME = np.iinfo(np.int64).min  # how a batch says "no time" in a row; NumPy's NaT has the same bits
NO_WORDS: Words = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SINCE_MAX = timedelta(seconds=2**63 // 1_000_000_000)  # from 1970 either way: what 64 bits hold


def to_row(values: Values, features: tuple[str, ...], model: str, words: Words = NO_WORDS) -> list[float]:
    """One number a feature, in the model's order; None becomes NaN, which is a missing value, a word its number.

    A mapping and a series with names are matched by name. Raises TidegateError BAD_OBSERVATION, which names what is
    missing, unknown or not a number.
    """
    row = in_order(values, features, model)
    if len(row) != len(features):
        raise bad(f"{model} takes {len(features)} values ({', '.join(features)}), not {len(row)}")
    return [to_number(name, value, words.get(name, ())) for name, value in zip(features, row, strict=True)]


def in_order(values: Values, features: tuple[str, ...], model: str) -> Sequence[Value] | NDArray[Any]:
    """An observation's values as a row; raises BAD_OBSERVATION for what has no names and no order."""
    if isinstance(values, Mapping):
        check_names(values, features, model)
        return [values[name] for name in features]
    if column_names(values) is not None:
        raise bad(
            "an observation is one row; give one of the table's, such as frame.iloc[0], or use warm_up or batches"
        )
    if isinstance(values, str | bytes | Set) or not has_length(values):
        raise bad(f"the values are {values!r}, not a mapping or a row of one value a feature ({', '.join(features)})")
    names = row_names(values)
    if names is None:
        return unmasked(values)
    check_names(names, features, model)
    row = list(values)
    return [row[place] for place in places(names, features)]


def unmasked(values: Held) -> Held | NDArray[Any]:
    """With NaN where a mask says that there is no value; anything else as it is."""
    if isinstance(values, np.ma.MaskedArray):
        kind = np.result_type(values, np.float32) if values.dtype.kind in "biuf" else np.dtype(object)
        return np.ma.filled(values.astype(kind), np.nan)
    return values


def has_length(values: object) -> bool:
    """Whether it holds several things; an array without dimensions does not."""
    try:
        len(values)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def check_names(names: Collection[str], features: tuple[str, ...], model: str) -> None:
    """Raises BAD_OBSERVATION, unless every feature is there and no other."""
    problem = misnamed(names, features, model)
    if problem is not None:
        raise bad(problem)


def to_number(name: str, value: Value, categories: tuple[str, ...] = ()) -> float:
    """A value as the wire wants it; a word of a feature with categories becomes its number, from 0, and a number must
    be that of a word, or -1."""
    if categories and isinstance(value, str):
        if value not in categories:
            problem = "which the model does not know (-1 stands for such a word); its words are"
            raise bad(f"{name} is {value!r}, {problem} {', '.join(categories)}")
        return float(categories.index(value))
    try:
        number = float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        raise bad(f"{name} is {value!r}, not a number") from None
    if categories:
        wrong = wrong_category(name, np.array([number]), categories)
        if wrong:
            raise bad(wrong)
    return number


def one_hot(word: str, words: tuple[str, ...], model: str) -> list[Value]:
    """A word of a model that has a feature a word: 1 there, and 0 for all others."""
    if word not in words:
        raise bad(f"{model} does not know the word {word!r}; its words are {', '.join(words)}")
    return [float(word == known) for known in words]


def wrong_category(name: str, numbers: NDArray[Any], categories: tuple[str, ...]) -> str | None:
    """What is wrong with the first number that is neither a word's, nor -1, nor NaN."""
    known = np.isnan(numbers) | np.isin(numbers, np.arange(-1, len(categories)))
    if known.all():
        return None
    last = len(categories) - 1
    found = f"{name} is {numbers[~known][0]:g}, which is no word's number"
    return f"{found}: 0 to {last} stand for {', '.join(categories)}, -1 for any other word"


@dataclass(frozen=True, slots=True)
class Features:
    """The columns of a table: names in the model's order, and the words of those that have some."""

    names: tuple[str, ...]
    words: Words
    model: str

    def numbers(self, table: ArrayLike, name: str, reason: Reason) -> NDArray[Any]:
        """A table as little-endian float32 (if it was) or float64 of whatever shape; a frame's columns are put in order
        by their names. Raises TidegateError with the reason."""
        columns = column_names(table)
        if columns is not None and (problem := misnamed(columns, self.names, self.model)):
            raise TidegateError(reason, problem)
        try:
            values = np.asarray(unmasked(table))
            if columns is not None:
                values = values[:, places(columns, self.names)]
            values = np.ascontiguousarray(values, "<f4" if values.dtype == np.float32 else "<f8")
        except (TypeError, ValueError) as error:
            raise TidegateError(reason, f"{name} does not hold numbers: {error}") from None
        for place, feature in enumerate(self.names if values.ndim == 2 and values.shape[1] == len(self.names) else ()):
            if feature in self.words and (problem := wrong_category(feature, values[:, place], self.words[feature])):
                raise TidegateError(reason, problem)
        return values


def to_matrix(matrix: ArrayLike, rows: int, features: Features) -> NDArray[Any]:
    """A batch's values [rows, features]; raises BAD_BATCH."""
    values = features.numbers(matrix, "the matrix", Reason.BAD_BATCH)
    columns = len(features.names)
    if values.shape != (rows, columns):
        problem = f"the matrix is {list(values.shape)}, not [{rows} ids, {columns} features]"
        raise TidegateError(Reason.BAD_BATCH, problem)
    return values


def to_steps(name: str, matrix: ArrayLike, rows: int | None, features: Features) -> NDArray[Any]:
    """A copy of a history's numbers [rows (None: at least one), features]; raises BAD_HISTORY."""
    values = features.numbers(matrix, name, Reason.BAD_HISTORY).copy()
    columns = len(features.names)
    if values.ndim != 2 or values.shape[1] != columns or not len(values) or len(values) != (rows or len(values)):
        problem = f"{name} is {list(values.shape)}, not [{rows or 'steps'}, {columns} features]"
        raise TidegateError(Reason.BAD_HISTORY, problem)
    return values


def to_nanoseconds(time: Time) -> int:
    """Nanoseconds since 1970 UTC. A datetime needs a time zone; a datetime64 is taken as UTC; NaT is NO_TIME. Raises
    BAD_OBSERVATION for anything else, and for what 64 bits do not hold (before 1677, after 2262)."""
    if isinstance(time, np.datetime64):
        return int(_nanoseconds(np.array([time]))[0])
    if not isinstance(time, datetime):
        raise bad(f"the time is {time!r}, not a datetime with a time zone or a datetime64 in UTC")
    if time != time:  # NaT of pandas
        return NO_TIME
    if time.tzinfo is None:
        raise bad(f"the time {time.isoformat()} has no time zone; give one, such as tzinfo=UTC")
    since = time - _EPOCH
    if abs(since) >= _SINCE_MAX:
        raise _beyond(time)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def _nanoseconds(times: NDArray[Any]) -> NDArray[np.int64]:
    """Of datetime64, whatever its unit; NumPy itself wraps around."""
    seconds = times.astype("datetime64[s]").astype(np.int64)
    beyond = ~np.isnat(times) & (np.abs(seconds) >= _SINCE_MAX.total_seconds())
    if beyond.any():
        raise _beyond(times[beyond][0])
    return times.astype("datetime64[ns]").astype(np.int64)


def _beyond(time: object) -> TidegateError:
    return bad(f"the time {time} is not between 1677 and 2262")


def to_timestamp(nanoseconds: int) -> Timestamp:
    """Nanoseconds since 1970 UTC as a protobuf Timestamp."""
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def to_datetime(stamp: Timestamp) -> datetime:
    """A Timestamp as a datetime in UTC; what is below a microsecond is dropped."""
    return stamp.ToDatetime(tzinfo=UTC)


def to_time_column(times: Iterable[Time | None] | NDArray[Any] | None, rows: int) -> NDArray[np.int64] | None:
    """A batch's times as int64 nanoseconds [rows]; a datetime64 array is taken as UTC, None or NaT is no time."""
    if times is None:
        return None
    if isinstance(times, np.ndarray) and times.dtype.kind == "M":
        column = _nanoseconds(times)
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
