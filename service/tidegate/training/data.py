"""From a recipe's source to contiguous streams on the grid of its frequency, parted into training, validation, test.

A step that the source lacks is a row of NaN, so that missing steps and missing values are one thing. Row t holds of
a future covariate the value of step t + 1, which is the step that it predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidegate.errors import ConfigError
from tidegate.model.frequency import NO_TIME, Frequency, Times
from tidegate.training.cells import Plan, Values, parse_columns, parse_ids, plan_columns, without_missing
from tidegate.training.data_options import Data, Place
from tidegate.training.recipe import Recipe
from tidegate.training.sources import read_source
from tidegate.training.times import parse_times

STEPS_A_ROW_MAX = 100  # of a stream on its grid: above it, the frequency is too fine for the times
OWN_TIME_MAX = 0.25  # intervals off the grid: of times further off, a server refuses what follows too soon
ROWS_A_PART_MIN = 2  # of one stream: a step, and the next one that it predicts
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Stream:
    """One session's observations: times int64 [steps] (ns since 1970 UTC, or NO_TIME) and values float64 [steps,
    features], NaN where missing. Rows before `validation` are for training, from `test` on for the test."""

    id: str
    times: Times
    values: Values
    validation: int
    test: int

    @property
    def training_part(self) -> Values:
        return self.values[: self.validation]

    @property
    def validation_part(self) -> Values:
        return self.values[self.validation : self.test]

    @property
    def test_part(self) -> Values:
        return self.values[self.test :]


@dataclass(frozen=True, eq=False)
class Dataset:
    """All streams of a recipe; `plans` are its columns, `names` the features that they became."""

    streams: tuple[Stream, ...]
    plans: tuple[Plan, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for plan in self.plans for name in plan.names)

    @property
    def columns(self) -> tuple[Plan, ...]:
        """The plan of each feature."""
        return tuple(plan for plan in self.plans for _ in plan.names)

    @property
    def training_values(self) -> Values:
        """float64 [steps, features] of all streams."""
        return np.concatenate([stream.training_part for stream in self.streams])


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of the source in order, stream by stream: row numbers, times, stream numbers, parts (0, 1, 2)."""

    rows: Rows
    times: Times
    stream: NDArray[np.int64]
    part: NDArray[np.int64]
    ids: tuple[str, ...]


def load(recipe: Recipe, frame: pd.DataFrame | None = None) -> Dataset:
    """Reads the source, or takes `frame` instead; raises ConfigError where data is not what the recipe says."""
    data = recipe.data
    texts = frozenset(column.source for column in recipe.features if column.is_text)
    origin = "data" if frame is not None else data.source
    frame = read_source(data, recipe.folder, texts) if frame is None else _without_index(frame, data)
    _check_columns(recipe, frame, origin)
    found = _arrange(frame, data, origin)
    frame = without_missing(frame, recipe.features, data)
    training = np.zeros(len(frame), np.bool_)
    training[found.rows[found.part == 0]] = True
    plans = plan_columns(recipe.features, frame, training, origin)
    values = parse_columns(plans, frame, origin)[found.rows]
    streams = tuple(_stream(data, found, values, number, origin) for number in range(len(found.ids)))
    dataset = Dataset(tuple(_completed(stream, plans) for stream in streams if len(stream.times)), plans)
    _check(dataset, data, origin)
    return dataset


def _without_index(frame: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Where there are times, the index may hold them: it is a column, unless there is one of its name."""
    levels = [number for number, name in enumerate(frame.index.names) if data.time and name not in frame]
    return (frame.reset_index(levels) if levels else frame).reset_index(drop=True)


def _check_columns(recipe: Recipe, frame: pd.DataFrame, origin: str) -> None:
    """Each that the recipe names is there, and once."""
    names = list(frame.columns)
    for column in (recipe.data.time, recipe.data.id, *(column.source for column in recipe.features)):
        if column and column not in names:
            raise ConfigError(f"{origin}: has no column {column!r}, but {', '.join(map(str, names))}")
        if names.count(column) > 1:
            raise ConfigError(f"{origin}: has {names.count(column)} columns {column!r}; give each its own name")


def _check(dataset: Dataset, data: Data, origin: str) -> None:
    begins = f"data.validation = {data.validation}"
    ends = "" if data.test is None else f" to data.test = {data.test}"
    for part, extent in (("training", f"before {begins}"), ("validation", f"from {begins}{ends}")):
        rows = max((len(getattr(stream, f"{part}_part")) for stream in dataset.streams), default=0)
        if rows < ROWS_A_PART_MIN:
            raise ConfigError(
                f"{origin}: {part} ({extent}) has {rows} row(s) of a stream at most; it needs {ROWS_A_PART_MIN}"
            )
    empty = np.isnan(dataset.training_values).all(axis=0)
    if empty.any():
        raise ConfigError(f"{origin}: {dataset.names[int(np.argmax(empty))]} has no value in the training part")


def _arrange(frame: pd.DataFrame, data: Data, origin: str) -> _Rows:
    times = parse_times(frame, data, origin)
    ids = parse_ids(frame[data.id], origin) if data.id else pd.Series([""] * len(frame))
    numbers, names = pd.factorize(ids)
    rows = np.lexsort((np.arange(len(frame)), times, numbers))
    rows = _without_duplicates(rows, times, numbers, data, origin)
    found = _Rows(rows, times[rows], numbers[rows].astype(np.int64), np.zeros(0, np.int64), tuple(map(str, names)))
    part = _parts(found, data)
    kept = part >= 0
    return _Rows(found.rows[kept], found.times[kept], found.stream[kept], part[kept], found.ids)


def _without_duplicates(rows: Rows, times: Times, streams: NDArray[Any], data: Data, origin: str) -> Rows:
    if not data.time or len(rows) < 2:
        return rows
    same = (np.diff(times[rows]) == 0) & (np.diff(streams[rows]) == 0)
    if not same.any():
        return rows
    if data.duplicates == "refuse":
        row = int(rows[1:][same][0])
        moment = np.datetime64(int(times[row]), "ns")
        advice = "see data.duplicates" if data.id else "name the column of streams in data.id, or see data.duplicates"
        raise ConfigError(f"{origin}: row {row + 1} ({moment}) repeats its stream's time; {advice}")
    dropped = np.append(same, False) if data.duplicates == "last" else np.append(False, same)
    kept: Rows = rows[~dropped]
    return kept


def _parts(found: _Rows, data: Data) -> NDArray[np.int64]:
    """0 training, 1 validation, 2 test, -1 left out, for each row."""
    keys = _keys(found, data)
    part = np.zeros(len(keys), np.int64)
    if data.start is not None:
        part[keys < _boundary(keys, data.start, data)] = -1
    if data.end is not None:
        part[keys >= _boundary(keys, data.end, data)] = -1
    left = keys[part >= 0]
    for number, place in ((1, data.validation), (2, data.test)):
        if place is not None and len(left):
            part[(part >= 0) & (keys >= _boundary(left, place, data))] = number
    return part


def _keys(found: _Rows, data: Data) -> NDArray[np.int64]:
    """What places are counted by: times, numbers of streams, or numbers of rows in a stream."""
    if data.parts == "streams":
        return found.stream
    if data.time:
        return found.times
    starts = np.flatnonzero(np.diff(found.stream, prepend=-1))
    return np.arange(len(found.stream)) - np.repeat(starts, np.diff(np.append(starts, len(found.stream))))


def _boundary(keys: NDArray[np.int64], place: Place, data: Data) -> int:
    """The first key of what begins at the place; a share or number counts different keys."""
    if isinstance(place, datetime):
        return int(pd.Timestamp(data.moment(place)).as_unit("ns").value)
    distinct = np.unique(keys)
    number = round(place * len(distinct)) if isinstance(place, float) else place
    return int(distinct[number]) if number < len(distinct) else int(distinct[-1]) + 1


def _stream(data: Data, found: _Rows, values: Values, number: int, origin: str) -> Stream:
    """One stream on its grid."""
    own = slice(*np.searchsorted(found.stream, [number, number + 1]))
    times, part = found.times[own], found.part[own]
    name = found.ids[number]
    if not data.time or not len(times):
        validation, test = (int(np.searchsorted(part, first)) for first in (1, 2))
        return Stream(name, times, values[own], validation, test)
    places, grid = _grid(data, times, f"{origin}: {name}" if name else origin)
    steps = len(grid)
    whole = np.full((steps, values.shape[1]), np.nan)
    whole[places] = values[own]
    firsts = [np.flatnonzero(part >= first) for first in (1, 2)]
    validation, test = (int(places[rows[0]]) if len(rows) else steps for rows in firsts)
    return Stream(name, grid, whole, validation, test)


def _grid(data: Data, times: Times, origin: str) -> tuple[Rows, Times]:
    """Which step of the grid each time is, and when all steps are; raises ConfigError for a time that is off it."""
    places, distance = grid_places(data.interval, times)
    off = distance > max(data.time_tolerance, 1e-9)
    off[1:] |= np.diff(places) == 0
    if off.any():
        moment = np.datetime64(int(times[int(np.argmax(off))]), "ns")
        raise ConfigError(
            f"{origin}: {moment} is not a whole number of intervals ({data.frequency}) after the first time; "
            "see data.frequency and data.time_tolerance"
        )
    if is_too_fine(places):
        raise ConfigError(f"{origin}: {data.frequency} is too fine: {places[-1] + 1} steps for {len(times)} rows")
    near = distance < OWN_TIME_MAX
    return places, _grid_times(data.interval, times[near], places[near], int(places[-1]) + 1)


def grid_places(frequency: Frequency, times: Times) -> tuple[Rows, NDArray[np.float64]]:
    """The step of the grid that is next to each time, counted from the first, and how far off it is, in intervals."""
    exact = frequency.intervals(np.repeat(times[:1], len(times)), times)
    places = np.rint(exact).astype(np.intp)
    return places, np.abs(exact - places)


def is_too_fine(places: Rows) -> bool:
    """Whether a stream's grid has far more steps than it has rows."""
    return int(places[-1]) > STEPS_A_ROW_MAX * (len(places) + 100)


def _grid_times(frequency: Frequency, times: Times, places: Rows, steps: int) -> Times:
    """When all steps are: the rows' own times, as a session takes them; others are so many intervals after the last."""
    step = np.arange(steps)
    row = np.searchsorted(places, step, side="right") - 1
    grid, since = times[row], step - places[row]
    if frequency.even:
        return grid + since * frequency.nanoseconds
    for intervals in np.unique(since[since > 0]).tolist():
        grid[since == intervals] = frequency.add(grid[since == intervals], intervals)
    return grid


def _completed(stream: Stream, plans: tuple[Plan, ...]) -> Stream:
    """Future covariates moved to the step that they are for; a static one constant."""
    values = stream.values.copy()
    column = 0
    for plan in plans:
        own = values[:, column]
        if plan.column.role == "future":
            own[:-1] = own[1:].copy()
        if plan.column.role == "static" and not np.isnan(own).all():
            own[:] = own[~np.isnan(own)][0]
        column += len(plan.names)
    return Stream(stream.id, stream.times, values, stream.validation, stream.test)


__all__ = ["NO_TIME", "Dataset", "Stream", "load"]
