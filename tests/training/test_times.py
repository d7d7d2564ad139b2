"""Times as people write them: formats, offsets, and the clocks of a zone."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from tidegate.errors import ConfigError
from tidegate.model.frequency import Times
from tidegate.training.data_options import Data
from tidegate.training.times import parse_times


def parsed(cells: list[str], options: dict[str, str] | None = None, streams: list[str] | None = None) -> Times:
    frame = pd.DataFrame({"at": pd.Series(cells, dtype=object)} | ({} if streams is None else {"id": streams}))
    own = {"time": "at", "frequency": "h", "time_zone": "Europe/Berlin", "id": "id" if streams else ""}
    return parse_times(frame, Data.model_validate(own | (options or {})), "data")


def utc(*times: str) -> Times:
    return np.array(times, "datetime64[ns]").astype(np.int64)


@pytest.mark.parametrize(
    ("cells", "options", "expected"),
    [
        (["2024-03-30T23:00:00+01:00", "2024-04-01T00:00:00+02:00"], {}, ["2024-03-30T22", "2024-03-31T22"]),
        (["2024-01-01 00:00Z", "2024-01-01 01:00Z"], {}, ["2024-01-01T00", "2024-01-01T01"]),
        (["2024-01-01", "2024-01-01 12:30:00.5"], {}, ["2023-12-31T23", "2024-01-01T11:30:00.5"]),
        (["13/01/2024", "01/02/2024"], {"time_zone": "UTC"}, ["2024-01-13", "2024-02-01"]),
        (["01/13/2024", "02/01/2024"], {"time_zone": "UTC"}, ["2024-01-13", "2024-02-01"]),
        (["01/01/2024", "02/02/2024"], {"time_zone": "UTC"}, ["2024-01-01", "2024-02-02"]),
        (["01/02/2024 03:00"], {"time_format": "%d/%m/%Y %H:%M", "time_zone": "UTC"}, ["2024-02-01T03"]),
        (["01.02.2024 03:00", "02.02.2024 03:00"], {"time_zone": "UTC"}, ["2024-02-01T03", "2024-02-02T03"]),
        (["2024.01.02", "2024.02.01"], {"time_zone": "UTC"}, ["2024-01-02", "2024-02-01"]),
        (["02.01.2024"], {"time_format": "%d.%m.%Y", "time_zone": "UTC"}, ["2024-01-02"]),
        (["1704067200", "1704067201.5"], {}, ["2024-01-01", "2024-01-01T00:00:01.5"]),
        (["1704067200000"], {}, ["2024-01-01"]),
        (["1704067200123456789"], {}, ["2024-01-01T00:00:00.123456789"]),
        (["86400"], {"time_format": "unix s"}, ["1970-01-02"]),
        (["20240102"], {"time_zone": "UTC"}, ["2024-01-02"]),
        (["2024010213", "2024010214"], {"time_zone": "UTC"}, ["2024-01-02T13", "2024-01-02T14"]),
        (["202401021330"], {"time_zone": "UTC"}, ["2024-01-02T13:30"]),
        (["20240102133059"], {"time_zone": "UTC"}, ["2024-01-02T13:30:59"]),
        (["2099999999"], {}, ["2036-07-18T13:19:59"]),
        (["2024-01-01 00.30 +0100"], {"time_format": "%Y-%m-%d %H.%M %z"}, ["2023-12-31T23:30"]),
    ],
)
def test_ways_of_writing(cells: list[str], options: dict[str, str], expected: list[str]) -> None:
    """Offsets may change within a column, parts of a time may be left away, and nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(parsed(cells, options), utc(*expected))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["2024-01-01", "2024-13-01"], "data: row 2: at is '2024-13-01', which is not read as a time; see data.time_f"),
        (["1st of May", "2nd of May"], "data: row 1: at is '1st of May', which is not read as a time"),
        (["2024-01-01", ""], "data: row 2: at is '', which"),
        (
            ["01/02/2024", "01/03/2024"],
            "at may have its day or its month first, .* data.time_format: %d/%m/%Y or %m/%d/%Y",
        ),
        (["01-02-2024 05:00"], "which in data.time_format: %d-%m-%Y %H:%M or %m-%d-%Y %H:%M"),
        (["1704067200", "soon"], "data: row 2: at is 'soon', which"),
        (["2024-01-01T00:00+01:00", "2024-01-01T01:00"], "data: row 2: at names no zone, but others do; write times"),
        (
            ["2024-03-31 01:00", "2024-03-31 02:30"],
            "row 2: at is 2024-03-31 02:30:00, which the clocks of Europe/Berlin",
        ),
        (["2024-10-27 02:00"], "row 1: at is 2024-10-27 02:00:00, which Europe/Berlin has twice, .*; write times with"),
    ],
)
def test_wrong_times_are_named(cells: list[str], message: str) -> None:
    """A short line that names the row and what to do, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match=message) as refused:
            parsed(cells)
    assert "\n" not in str(refused.value)


def test_an_hour_that_comes_twice() -> None:
    """When clocks go back, a stream's first row of the hour is the earlier one: of each stream for itself."""
    hours = ["2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 02:00", "2024-10-27 03:00"]
    expected = utc("2024-10-26T23", "2024-10-27T00", "2024-10-27T01", "2024-10-27T02")
    np.testing.assert_array_equal(parsed(hours), expected)
    mixed = [hour for hour in hours for _ in "ab"]
    np.testing.assert_array_equal(parsed(mixed, streams=["a", "b"] * 4), np.repeat(expected, 2))


@pytest.mark.parametrize(
    "numbers", [[1704067200, 1704070800], [1704067200.0, 1704070800.0], [20240101, 20240102], [2024010100, 2024010101]]
)
def test_columns_of_numbers(numbers: list[float]) -> None:
    """Those of a DataFrame or a Parquet file are read as the cells of a CSV file are."""
    frame = pd.DataFrame({"at": numbers})
    found = parse_times(frame, Data.model_validate({"time": "at", "frequency": "h"}), "data")
    assert found[0] == utc("2024-01-01")[0]
    assert len(np.unique(found)) == 2
