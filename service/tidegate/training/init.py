"""Looks at a file of observations, for a commented recipe that trains as it is (`init_text.py`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidegate.errors import ConfigError
from tidegate.model.frequency import Times
from tidegate.training.cells import without_id
from tidegate.training.data_options import Data
from tidegate.training.layout import Layout, find_layout
from tidegate.training.sources import PARQUET, read_source
from tidegate.training.steps import Steps, find_steps
from tidegate.training.times import nanoseconds, number_format, read_times

WORDS_MAX = 50  # a text with more different words than this is no category
IDS_MAX = 10_000
ROWS_LOOKED = 1000  # for how times are written
TIMES_SHARE_MIN = 0.9  # of the rows looked at: a column of which fewer are times is none of times
REPEATS_SHARE_MAX = 0.01  # of rows: fewer repeated times are slips, and tell of no streams
REPEATS_LEFT_MAX = 0.05  # of the repeats: an id tells nearly all of them apart
TIME_NAME = re.compile(r"time|date|stamp|epoch|unix|^(t|ts|ds|dt)$", re.IGNORECASE)  # of numbers that are times
DATE_NAME = re.compile(r"year|date|^(ds|dt|day|yr)$", re.IGNORECASE)  # of years, and of dates such as 20240131
YEARS = range(1500, 2500)  # of a date that is a number
FILLED_SHARE_MIN = 0.2  # of the times between a stream's first and last: a number that fills fewer is no id
# Day and month are told apart by dots, or by a day above 12; times of the other kinds need no format.
TIME_FORMATS = [date + time for date in ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y") for time in ("", " %H:%M", " %H:%M:%S")]


class TimeColumn(NamedTuple):
    """The column of times and how they are written ("": as ISO 8601 has it); else one that seems to hold times, and the
    ways that read it, which are several or none."""

    name: str = ""
    format: str = ""
    doubtful: str = ""
    ways: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sight:
    """What a file seems to hold: how it is written, columns of time and id ("" for none), the steps of its times,
    numbers and categories, and how many rows, rows without an id, streams and missing cells it has."""

    layout: Layout
    times: TimeColumn
    id: str
    steps: Steps
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    left_out: tuple[str, ...]
    rows: int
    without_id: int
    streams: int
    missing_cells: int

    @property
    def time(self) -> str:
        """The column of times."""
        return self.times.name

    @property
    def time_format(self) -> str:
        """How they are written."""
        return self.times.format

    @property
    def repeats_explained(self) -> bool:
        """Whether the times that repeat are few enough to be slips."""
        return self.steps.repeats <= REPEATS_SHARE_MAX * self.rows


def look(path: Path) -> Sight:
    """Reads the file; raises ConfigError where nothing in it could be predicted, or one of its times is none."""
    layout, frame = _read(path)
    found = _find_time(frame)
    time = found.name
    measured = [name for name in frame if name not in (time, found.doubtful)]
    texts = [name for name in measured if not pd.api.types.is_numeric_dtype(frame[name])]
    numbers = [name for name in measured if name not in texts and frame[name].nunique() > 1]
    times = nanoseconds(read_times(frame[time], found.format, str(path))) if time else None
    written = frame if times is None else _as_written(path, layout, frame, texts)
    id_column = _find_id(written, texts, numbers, times) if times is not None else ""
    numbers = [name for name in numbers if name != id_column]
    if not numbers:
        raise ConfigError(f"{path}: has no column of numbers that change, but {', '.join(map(str, frame.columns))}")
    streams = _streams(written, id_column)
    steps = _find_steps(times, streams, f"{path}: {time}") if times is not None else Steps("", 0, 0, 0)
    words = tuple(name for name in texts if name != id_column and frame[name].nunique() <= WORDS_MAX)
    return Sight(
        layout=layout,
        times=found,
        id=id_column,
        steps=steps,
        numbers=tuple(numbers),
        categories=words,
        left_out=tuple(name for name in frame if name not in (time, id_column, *numbers, *words)),
        rows=len(frame),
        without_id=len(frame) - sum(map(len, streams)),
        streams=len(streams),
        missing_cells=int(frame[numbers].isna().sum().sum()),
    )


def _read(path: Path) -> tuple[Layout, pd.DataFrame]:
    try:
        layout = Layout() if path.suffix in PARQUET else find_layout(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return layout, read_source(_source(path, layout), path.parent)


def _source(path: Path, layout: Layout) -> Data:
    return Data(source=path.name, separator=layout.separator, decimal=layout.decimal)


def _as_written(path: Path, layout: Layout, frame: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    """The frame with the words of texts as they stand in the file: of ids, NA is one too."""
    gaps = frozenset(name for name in texts if frame[name].isna().any())
    if path.suffix in PARQUET or not gaps:
        return frame
    return frame.assign(**read_source(_source(path, layout), path.parent, verbatim=gaps)[list(gaps)])


def _find_time(frame: pd.DataFrame) -> TimeColumn:
    """The first column of times, else the first that seems to be one."""
    doubtful = TimeColumn()
    for name in frame:
        head = frame[name].dropna().head(ROWS_LOOKED)
        if pd.api.types.is_numeric_dtype(head):
            if _counts_time(str(name), head):
                return TimeColumn(name, number_format(head))
            continue
        ways = _fitting(head)
        if len(ways) == 1:
            return TimeColumn(name, ways[0].replace("ISO8601", ""))
        if not doubtful.doubtful and (ways or _is_named_as_times(str(name), frame[name])):
            doubtful = TimeColumn(doubtful=name, ways=tuple(ways))
    return doubtful


def _fitting(head: pd.Series[Any]) -> list[str]:
    """The ways of writing times that read most cells alike, if they read enough of them."""
    if not len(head):
        return []
    shares = {way: _read_share(head, way) for way in ("ISO8601", *TIME_FORMATS)}
    most = max(shares.values())
    return [way for way, share in shares.items() if share == most] if most >= TIMES_SHARE_MIN else []


def _is_named_as_times(name: str, cells: pd.Series[Any]) -> bool:
    """By a name of times, and more different words than a category has."""
    return bool(TIME_NAME.search(name) or DATE_NAME.search(name)) and cells.nunique() > WORDS_MAX


def _counts_time(name: str, numbers: pd.Series[Any]) -> bool:
    """Whether numbers of a column with such a name are times: since 1970, or years, or dates such as 20240131."""
    if not len(numbers) or numbers.nunique() == 1 or (numbers % 1 != 0).any():
        return False
    texts = numbers.astype("int64").astype(str)
    lengths = set(texts.str.len())
    if number_format(numbers) and TIME_NAME.search(name):
        return len(lengths) == 1
    dates = lengths in ({4}, {8}) and texts.str[:4].astype(int).isin(YEARS).all() and DATE_NAME.search(name)
    return bool(dates) and _read_share(texts, "ISO8601") == 1


def _read_share(cells: pd.Series[Any], time_format: str) -> float:
    try:
        return float(pd.to_datetime(cells, format=time_format, utc=True, errors="coerce").notna().mean())
    except (ValueError, TypeError):
        return 0.0


def _find_id(frame: pd.DataFrame, texts: list[str], numbers: list[str], times: Times) -> str:
    """The column that tells apart nearly all rows of the same time; "" if none does, or if few times repeat."""
    repeats = len(times) - len(np.unique(times))
    if repeats <= REPEATS_SHARE_MAX * len(times):
        return ""
    whole = [name for name in numbers if pd.api.types.is_integer_dtype(frame[name]) and len(numbers) > 1]
    counts = {name: frame[name].nunique() for name in (*texts, *whole)}
    left = {
        name: int(pd.DataFrame({"id": frame[name], "time": times}).duplicated().sum())
        for name, count in counts.items()
        if 1 < count <= IDS_MAX
    }
    explaining = [
        name
        for name in left
        if left[name] <= REPEATS_LEFT_MAX * repeats
        and (name in texts or _filled(frame[name], times) >= FILLED_SHARE_MIN)
    ]
    return min(explaining, key=lambda name: (left[name], counts[name]), default="")


def _streams(frame: pd.DataFrame, id_column: str) -> list[NDArray[np.intp]]:
    """The rows of each, but for rows without an id."""
    if not id_column:
        return [np.arange(len(frame))]
    known = np.flatnonzero(~without_id(frame[id_column]))
    ids = frame[id_column].iloc[known].astype(str)
    return [known[rows] for rows in ids.groupby(ids).indices.values()]


def _find_steps(times: Times, streams: list[NDArray[np.intp]], origin: str) -> Steps:
    """Rows without a frequency are taken in their order, so that they must be in it; raises ConfigError."""
    steps = find_steps([times[rows] for rows in streams])
    if not steps.frequency and any((np.diff(times[rows]) < 0).any() for rows in streams):
        raise ConfigError(f"{origin}: no frequency fits these times, and the rows are not in their order; sort them")
    return steps


def _filled(ids: pd.Series[Any], times: Times) -> float:
    """The share of the times between its first and last that an id has, of all ids: small for what is measured."""
    places = pd.Series(np.unique(times, return_inverse=True)[1]).groupby(ids.to_numpy())
    return float(len(times) / (places.max() - places.min() + 1).sum())
