"""Data without a recipe: a file whose columns are named as a model's features are, and dates of what is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tidegate.errors import ConfigError
from tidegate.model.manifest import Feature, Manifest
from tidegate.training.data import Dataset, load
from tidegate.training.evaluation.streams import Stream, to_streams
from tidegate.training.recipe import Recipe, make_recipe
from tidegate.training.sources import read_source

SCORED_FROM = 0.8  # of a file of which nobody says from where on it is scored
OPTIONS = {"data.time_format": "--time-format", "data.id": "--id"}  # of a recipe, as who gives a file knows them
ROWS_MIN = 10  # of a file: two of the last fifth


@dataclass(frozen=True)
class File:
    """A CSV or Parquet file whose columns are named as the features are, or as `columns` says, headers by name.

    The scored part begins at `start` (a date; empty: the last fifth) and ends before `end`; what is before `start`
    warms sessions up, and baselines are fitted on it. Without a column of times, rows are in order and have no dates.
    """

    path: Path
    time: str = ""
    id: str = ""
    start: str = ""
    end: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    time_format: str = ""


def file_streams(file: File, manifest: Manifest) -> list[Stream]:
    """The streams of a file; raises ConfigError."""
    start, end = _date("start", file.start, file), _date("end", file.end, file)
    recipe = make_recipe(_options(file, manifest))
    first, last = (None if date is None else _nanoseconds(date, recipe) for date in (start, end))
    if first is not None and last is not None and last <= first:
        raise ConfigError(f"end: {file.end} is not after the start, {file.start}")
    streams = to_streams(_loaded(recipe, file), manifest, "validation")
    return streams if first is last is None else _between(streams, first, last, file)


def lacks_times(file: File, manifest: Manifest) -> str:
    """What a file without a column of times keeps from a model that knows of time; empty: nothing."""
    known = [f"a frequency ({manifest.frequency})"] if manifest.frequency else []
    known += ["calendar inputs"] if manifest.calendar else []
    if file.time or not known:
        return ""
    return f"{manifest.name} has {' and '.join(known)}, but is sent no times; --time names their column"


def _date(name: str, text: str, file: File) -> datetime | None:
    if not text:
        return None
    if not file.time:
        raise ConfigError(f"{name}: is a date, which needs times; --time names their column")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{name}: {text!r} is not a date or time such as 2024-05-01 or 2024-05-01T12:00") from None


def _nanoseconds(date: datetime, recipe: Recipe) -> int:
    """Since 1970 UTC; a date without a zone is in the model's."""
    return int(pd.Timestamp(recipe.data.moment(date)).as_unit("ns").value)


def _frame(file: File, recipe: Recipe) -> pd.DataFrame:
    """The file's rows, which hold every column of the features."""
    texts = frozenset(column.source for column in recipe.features if column.is_text)
    frame = read_source(recipe.data, recipe.folder, texts)
    missing = [column.source for column in recipe.features if column.source not in frame]
    if missing:
        problem = f"{file.path}: has no column {', '.join(missing)}, but {', '.join(map(str, frame.columns))}"
        raise ConfigError(f"{problem}; --column NAME=HEADER says which column is a feature's")
    if len(frame) < ROWS_MIN:
        raise ConfigError(f"{file.path}: has {len(frame)} rows; an evaluation needs {ROWS_MIN}")
    return frame


def _loaded(recipe: Recipe, file: File) -> Dataset:
    """What is wrong with the data is said in the words of the verb."""
    try:
        return load(recipe, _frame(file, recipe))
    except ConfigError as error:
        told = str(error)
        for option, flag in OPTIONS.items():
            told = told.replace(option, flag)
        raise ConfigError(told) from None


def _between(streams: Sequence[Stream], start: int | None, end: int | None, file: File) -> list[Stream]:
    """The streams, scored from `start` (None: the last fifth) to before `end`."""
    times = np.unique(np.concatenate([stream.times for stream in streams if stream.times is not None]))
    left = times if end is None else times[times < end]
    if not len(left):
        raise ConfigError(f"end: nothing is before {file.end}; the data begins at {_written(times[0])}")
    if start is None:
        start = int(left[min(round(SCORED_FROM * len(left)), len(left) - 1)])
    if start > left[-1]:
        raise ConfigError(
            f"start: nothing is left to score from {file.start} on; the last step is of {_written(left[-1])}"
        )
    return [_scored(stream, start, end) for stream in streams]


def _scored(stream: Stream, start: int, end: int | None) -> Stream:
    assert stream.times is not None
    first = int(np.searchsorted(stream.times, start))
    last = len(stream.times) if end is None else int(np.searchsorted(stream.times, end))
    return replace(stream, fit=first, start=first, end=last)


def _written(time: np.int64) -> str:
    """Nanoseconds as a person reads them."""
    return f"{pd.Timestamp(int(time), tz='UTC'):%Y-%m-%d %H:%M:%S} UTC"


def _options(file: File, manifest: Manifest) -> dict[str, Any]:
    """A recipe of the package's features; its validation part, the last fifth, is what is scored."""
    if file.time and not manifest.frequency:
        raise ConfigError(f"{manifest.name} has no frequency; leave the column of times away")
    data = {
        "source": str(file.path.resolve()),
        "time": file.time,
        "time_format": file.time_format,
        "id": file.id,
        "frequency": manifest.frequency if file.time else "",
        "time_zone": manifest.time_zone,
        "time_tolerance": manifest.gaps.time_tolerance,
        "stamp": manifest.stamp,
        "validation": SCORED_FROM,
        "test": None,
    }
    categorical = {"network": {"head": {"kind": "categorical"}}} if manifest.head.kind == "categorical" else {}
    columns = [_column(feature, file) for feature in manifest.features]
    return {"name": manifest.name, "data": data, "features": columns} | categorical


def _column(feature: Feature, file: File) -> dict[str, Any]:
    """A feature as a column; one that is not sent is a target all the same."""
    role = "target" if feature.role == "output" else feature.role
    categories = {"categories": feature.categories} if feature.categories else {}
    return {"name": feature.name, "column": file.columns.get(feature.name, ""), "role": role, **categories}
