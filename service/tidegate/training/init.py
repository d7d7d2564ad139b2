"""Looks at a file of observations and writes a commented recipe that trains as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tidegate.errors import ConfigError
from tidegate.training.data_options import Data
from tidegate.training.sources import read_source

WORDS_MAX = 50  # a text with more different words than this is no category
IDS_MAX = 10_000
DAY_SECONDS = 86_400
FREQUENCIES = {1: "s", 60: "min", 3600: "h", DAY_SECONDS: "D", 7 * DAY_SECONDS: "W"}


@dataclass(frozen=True)
class Sight:
    """What a file seems to hold: columns of time and id ("" for none), frequency, numbers and categories, and how many
    rows, streams and missing steps it has."""

    time: str
    id: str
    frequency: str
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    left_out: tuple[str, ...]
    rows: int
    streams: int
    missing_steps: int
    duplicates: int
    missing_cells: int
    seconds: int


def look(path: Path) -> Sight:
    """Reads the file; raises ConfigError where nothing in it could be predicted."""
    frame = read_source(Data(source=path.name), path.parent)
    time = next((name for name in frame if _is_time(frame[name])), "")
    texts = [name for name in frame if name != time and not pd.api.types.is_numeric_dtype(frame[name])]
    numbers = tuple(n for n in frame if n != time and n not in texts and frame[n].nunique() > 1)
    if not numbers:
        raise ConfigError(f"{path}: has no column of numbers that change; name a separator in data.separator?")
    times = pd.to_datetime(frame[time], utc=True).dt.as_unit("ns").astype("int64") if time else None
    id_column = _id(frame, texts, times)
    streams = [frame.index] if not id_column else list(frame.groupby(id_column).groups.values())
    seconds, missing, duplicates = _steps(times, streams) if times is not None else (0, 0, 0)
    words = tuple(n for n in texts if n != id_column and frame[n].nunique() <= WORDS_MAX)
    return Sight(
        time,
        id_column,
        _frequency_name(seconds),
        numbers,
        words,
        tuple(n for n in frame if n not in (time, id_column, *numbers, *words)),
        len(frame),
        len(streams),
        missing,
        duplicates,
        int(frame[list(numbers)].isna().sum().sum()),
        seconds,
    )


def _is_time(cells: pd.Series[Any]) -> bool:
    if pd.api.types.is_numeric_dtype(cells) or cells.isna().all():
        return False
    try:
        pd.to_datetime(cells.dropna().head(1000), format="ISO8601", utc=True)
    except (ValueError, TypeError):
        return False
    return True


def _id(frame: pd.DataFrame, texts: list[str], times: pd.Series[Any] | None) -> str:
    """The text that tells apart rows of the same time; "" if they are apart without."""
    if times is None or not times.duplicated().any():
        return ""
    counts = {name: frame[name].nunique() for name in texts if 1 < frame[name].nunique() <= IDS_MAX}
    repeats = {name: int(pd.concat([frame[name], times], axis=1).duplicated().sum()) for name in counts}
    return min(counts, key=lambda name: (repeats[name], counts[name]), default="")


def _steps(times: pd.Series[Any], streams: list[Any]) -> tuple[int, int, int]:
    """The usual distance of rows in seconds, how many steps are missing on that grid, and how many times repeat."""
    distances = [np.diff(np.sort(times.loc[rows].to_numpy())) for rows in streams]
    every = np.concatenate(distances) // 1_000_000_000
    positive = every[every > 0]
    if not len(positive):
        return 0, 0, int((every == 0).sum())
    values, counts = np.unique(positive, return_counts=True)
    usual = int(values[np.argmax(counts)])
    return usual, int(np.maximum(np.rint(positive / usual) - 1, 0).sum()), int((every == 0).sum())


def _frequency_name(seconds: int) -> str:
    if 28 * DAY_SECONDS <= seconds <= 31 * DAY_SECONDS:
        return "MS"
    for unit in sorted(FREQUENCIES, reverse=True):
        if seconds and seconds % unit == 0:
            count = seconds // unit
            return f"{count if count > 1 else ''}{FREQUENCIES[unit]}"
    return ""
