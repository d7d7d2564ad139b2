"""Data without a recipe: which rows are scored, which columns are read, and what is said of a wrong file or date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.packages import unwritten
from tidegate.errors import ConfigError
from tidegate.model.manifest import Manifest
from tidegate.training.evaluation.files import File, file_streams, lacks_times

DAYS = 100
SKY = {"name": "sky", "role": "past", "categories": ["clear", "rain"]}


def manifest(**fields: Any) -> Manifest:
    return unwritten(features=[{"name": "x"}, SKY], targets=["x"], **{"frequency": "D"} | fields).manifest


def table(folder: Path, rows: int = DAYS, late: int = 10) -> Path:
    """Two streams of 2024, of which `south` begins `late` days after the other."""
    days = pd.date_range("2024-01-01", periods=rows, freq="D")
    north = pd.DataFrame({"day": days, "site": "north", "how much": np.arange(rows, dtype=float), "sky": "rain"})
    path = folder / "data.csv"
    pd.concat([north, north.iloc[late:].assign(site="south")]).to_csv(path, index=False)
    return path


def file(path: Path, **options: Any) -> File:
    return File(path, **{"time": "day", "id": "site", "columns": {"x": "how much"}} | options)


def scored(streams: Any) -> list[tuple[int, int, int]]:
    return [(stream.fit, stream.start, stream.end) for stream in streams]


@pytest.mark.parametrize(
    ("start", "end", "parts"),
    [
        ("", "", [(80, 80, 100), (70, 70, 90)]),
        ("2024-01-31", "", [(30, 30, 100), (20, 20, 90)]),
        ("2024-01-31", "2024-02-10", [(30, 30, 40), (20, 20, 30)]),
        ("", "2024-02-20", [(40, 40, 50), (30, 30, 40)]),
        ("2024-01-01", "", [(0, 0, 100), (0, 0, 90)]),
        ("2023-01-01", "2024-01-05", [(0, 0, 4), (0, 0, 0)]),
        ("2024-04-09", "", [(99, 99, 100), (89, 89, 90)]),
    ],
)
def test_the_scored_part(tmp_path: Path, start: str, end: str, parts: list[tuple[int, int, int]]) -> None:
    """Each stream is scored from the start (the last fifth of all days before the end) to the end, and what is before
    is the training part, of which there may be none."""
    streams = file_streams(file(table(tmp_path), start=start, end=end), manifest())
    assert scored(streams) == parts
    assert streams[0].values[3].tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": "yesterday"}, "start: 'yesterday' is not a date or time such as 2024-05-01"),
        ({"end": "soon"}, "end: 'soon' is not a date"),
        ({"start": "2024-04-10"}, r"start: nothing is left to score from 2024-04-10 on; .* 2024-04-09"),
        ({"start": "2024-03-01", "end": "2024-03-01"}, "end: 2024-03-01 is not after the start, 2024-03-01"),
        ({"end": "2024-01-01"}, "end: nothing is before 2024-01-01; the data begins at 2024-01-01"),
        ({"time": "", "start": "2024-03-01"}, "start: is a date, which needs times; --time"),
        ({"columns": {}}, "data.csv: has no column x, but day, site, how much, sky; --column NAME=HEADER"),
        ({"id": "where"}, "has no column 'where'"),
    ],
)
def test_wrong_use(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """What is wrong is said in the words of who gave a file, not in those of a recipe that nobody gave."""
    with pytest.raises(ConfigError, match=said) as refused:
        file_streams(file(table(tmp_path), **options), manifest())
    assert "recipe" not in str(refused.value)
    assert "validation" not in str(refused.value)


def test_dates_of_the_day_or_the_month_first(tmp_path: Path) -> None:
    """Of dates that may be either, the file's giver is asked, by the option that says it."""
    path = table(tmp_path, rows=12, late=0)
    frame = pd.read_csv(path, parse_dates=["day"])
    frame.assign(day=frame["day"].dt.strftime("%d/%m/%Y")).to_csv(path, index=False)
    with pytest.raises(ConfigError, match=r"say which in --time-format: %d/%m/%Y or %m/%d/%Y"):
        file_streams(file(path), manifest())
    (north, _) = file_streams(file(path, time_format="%d/%m/%Y"), manifest())
    assert north.times is not None
    assert np.diff(north.times).tolist() == [86_400 * 10**9] * 11


def test_too_few_rows(tmp_path: Path) -> None:
    """A file of less than ten rows is refused."""
    with pytest.raises(ConfigError, match="has 9 rows; an evaluation needs 10"):
        file_streams(file(table(tmp_path, rows=9, late=9)), manifest())


def test_times_that_a_model_misses(tmp_path: Path) -> None:
    """Of a model that knows of time, and a file without times, it is said; of no other pair."""
    calendar = manifest(calendar=[{"field": "day_of_week"}])
    without = file(tmp_path, time="")
    assert "a frequency (D) and calendar inputs, but is sent no times; --time" in lacks_times(without, calendar)
    assert "a frequency (D), but" in lacks_times(without, manifest())
    assert not lacks_times(file(tmp_path), calendar)
    assert not lacks_times(without, manifest(frequency=""))
