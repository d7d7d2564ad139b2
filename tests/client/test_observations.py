"""What people hold becomes what the wire carries, or an error that names the trouble."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.client.values import observations
from tidegate.errors import Reason, TidegateError

FEATURES = ("rain", "wind", "sun")
PLAIN = observations.Features(FEATURES, {}, "weather")
FRAME = pd.DataFrame({"sun": [3.0, 6.0], "rain": [1.0, 4.0], "wind": [2.0, 5.0]})


def test_mapping_is_put_in_the_models_order() -> None:
    """A mapping gives the same row whatever its order; None becomes NaN."""
    row = observations.to_row({"sun": None, "rain": 1, "wind": 2.5}, FEATURES, "weather")
    assert row[:2] == [1.0, 2.5]
    assert math.isnan(row[2])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rain": 1.0}, "no value for wind, sun"),
        ({"rain": 1.0, "wind": 1.0, "sun": 1.0, "moon": 1.0}, "no feature moon"),
        ([1.0, 2.0], "takes 3 values"),
        ([1.0, 2.0, "x"], "sun is 'x'"),
    ],
)
def test_wrong_values_are_named(values: object, named: str) -> None:
    """What is missing, unknown, too little or no number is named by BAD_OBSERVATION, before anything is sent."""
    with pytest.raises(TidegateError, match=named) as refused:
        observations.to_row(values, FEATURES, "weather")  # type: ignore[arg-type]
    assert refused.value.reason is Reason.BAD_OBSERVATION


def test_a_series_is_matched_by_name() -> None:
    """A row of a frame is put in the model's order by its names, one without names is taken as it stands, and names
    that do not fit are refused as a mapping's are."""
    assert observations.to_row(FRAME.iloc[1], FEATURES, "weather") == [4.0, 5.0, 6.0]
    assert observations.to_row(pd.Series([1.0, 2.0, 3.0]), FEATURES, "weather") == [1.0, 2.0, 3.0]
    for wrong, named in (
        (FRAME.iloc[1].rename({"sun": "moon"}), "no value for sun"),
        (pd.concat([FRAME.iloc[1], pd.Series({"moon": 0.0})]), "no feature moon"),
        (pd.concat([FRAME.iloc[1], FRAME.iloc[1]]), "each of rain, wind, sun once"),
        (FRAME, "one row"),
    ):
        with pytest.raises(TidegateError, match=named) as refused:
            observations.to_row(wrong, FEATURES, "weather")
        assert refused.value.reason is Reason.BAD_OBSERVATION


def test_a_frame_is_matched_by_name() -> None:
    """Its columns are put in the model's order, in a batch and in a history; other names are refused, and columns
    without names are taken as they stand."""
    wanted = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    for frame in (FRAME, pd.DataFrame(wanted)):
        assert observations.to_matrix(frame, 2, PLAIN).tolist() == wanted
        assert observations.to_steps("values", frame, None, PLAIN).tolist() == wanted
    assert observations.to_matrix(FRAME.astype(np.float32), 2, PLAIN).dtype == np.dtype("<f4")
    for wrong, named in ((FRAME.drop(columns="sun"), "for sun"), (FRAME.assign(moon=0), "no feature moon")):
        with pytest.raises(TidegateError, match=named) as refused:
            observations.to_matrix(wrong, 2, PLAIN)
        assert refused.value.reason is Reason.BAD_BATCH
        with pytest.raises(TidegateError, match=named) as refused:
            observations.to_steps("values", wrong, None, PLAIN)
        assert refused.value.reason is Reason.BAD_HISTORY


@pytest.mark.parametrize("values", ["abc", b"abc", {1.0, 2.0, 3.0}, 3.0, None, np.array(3.0), iter([1.0, 2.0, 3.0])])
def test_what_is_no_row_is_refused(values: Any) -> None:
    """A text is no row of letters, a set has no order, and a number is no row."""
    with pytest.raises(TidegateError, match="not a mapping or a row") as refused:
        observations.to_row(values, FEATURES, "weather")
    assert refused.value.reason is Reason.BAD_OBSERVATION


@pytest.mark.parametrize("number", [2, 99, 0.5, -7, math.inf])
def test_a_number_of_no_word_is_refused(number: float) -> None:
    """A feature with categories takes the numbers of its words, -1 and NaN, alone and in a matrix, and no other."""
    words = {"wind": ("calm", "storm")}
    table = observations.Features(FEATURES, words, "weather")
    rows = [[9.0, known, 9.0] for known in (-1, 0, 1, math.nan)]
    assert [observations.to_row(row, FEATURES, "weather", words)[1] for row in rows[:3]] == [-1, 0, 1]
    np.testing.assert_array_equal(observations.to_matrix(rows, 4, table), rows)
    said = f"wind is {number:g}, which is no word's number: 0 to 1 stand for calm, storm"
    with pytest.raises(TidegateError, match=said):
        observations.to_row([9.0, number, 9.0], FEATURES, "weather", words)
    with pytest.raises(TidegateError, match=said) as refused:
        observations.to_matrix([*rows, [9.0, number, 9.0]], 5, table)
    assert refused.value.reason is Reason.BAD_BATCH
    with pytest.raises(TidegateError, match=said):
        observations.to_steps("values", [*rows, [9.0, number, 9.0]], None, table)


def test_words_become_their_numbers() -> None:
    """A word of a feature with categories is its number, by name or in order; a number stays, and None is missing."""
    words = {"wind": ("calm", "2", "storm")}
    assert observations.to_row({"sun": 1, "rain": 0, "wind": "storm"}, FEATURES, "weather", words) == [0, 2, 1]
    assert observations.to_row([0, "2", 1], FEATURES, "weather", words) == [0, 1, 1]
    assert observations.to_row([0, 2, 1], FEATURES, "weather", words) == [0, 2, 1]
    assert math.isnan(observations.to_row([0, None, 1], FEATURES, "weather", words)[1])


def test_an_unknown_word_is_refused() -> None:
    """The error names the word, the words that there are, and what stands for another one."""
    with pytest.raises(TidegateError, match=r"wind is 'breeze', .*-1 .*its words are calm, storm") as refused:
        observations.to_row([0, "breeze", 1], FEATURES, "weather", {"wind": ("calm", "storm")})
    assert refused.value.reason is Reason.BAD_OBSERVATION


@given(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_times_survive_the_wire(moment: datetime, offset: int) -> None:
    """Any aware datetime comes back as the same instant, to the microsecond, before 1970 too."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert observations.to_datetime(observations.to_timestamp(observations.to_nanoseconds(aware))) == aware
    assert observations.to_nanoseconds(np.datetime64(aware.astimezone(UTC).replace(tzinfo=None))) == (
        observations.to_nanoseconds(aware)
    )


def test_naive_time_is_refused() -> None:
    """A time without a zone is never guessed."""
    with pytest.raises(TidegateError, match="no time zone") as refused:
        observations.to_nanoseconds(datetime(2024, 1, 1))  # noqa: DTZ001
    assert refused.value.reason is Reason.BAD_OBSERVATION


@pytest.mark.parametrize("year", [1500, 1677, 2263, 2500])
def test_times_that_64_bits_do_not_hold(year: int) -> None:
    """They are refused, not taken for another time: single ones and in batches, whatever their kind and unit."""
    moment = datetime(year, 1, 1, tzinfo=UTC)
    for unit in ("Y", "D", "s", "us"):
        stamp = np.datetime64(f"{year}-01-01", unit)
        for column in ([moment], [stamp], np.array([stamp, "NaT"])):
            with pytest.raises(TidegateError, match=f"{year}.* is not between 1677 and 2262"):
                observations.to_time_column(column, len(column))


@pytest.mark.parametrize("year", [1678, 1969, 1970, 2261])
def test_times_at_the_ends_are_held(year: int) -> None:
    """The last whole years within come through in every unit, beside NaT."""
    moment = datetime(year, 1, 1, tzinfo=UTC)
    wanted = [observations.to_nanoseconds(moment), observations.NO_TIME]
    for unit in ("Y", "D", "s", "us", "ns"):
        column = observations.to_time_column(np.array([f"{year}-01-01", "NaT"], f"datetime64[{unit}]"), 2)
        assert column is not None
        assert column.tolist() == wanted
        assert [observations.to_nanoseconds(np.datetime64(x, unit)) for x in (f"{year}-01-01", "NaT")] == wanted
    assert observations.to_nanoseconds(pd.NaT) == observations.NO_TIME


@pytest.mark.parametrize("time", ["2024-05-01T07:00", 1_714_546_800, date(2024, 5, 1)])
def test_what_is_no_time_is_refused(time: Any) -> None:
    """A text, a number or a date without a time is BAD_OBSERVATION, of a single step and in a batch."""
    with pytest.raises(TidegateError, match="not a datetime with a time zone") as refused:
        observations.to_nanoseconds(time)
    assert refused.value.reason is Reason.BAD_OBSERVATION
    with pytest.raises(TidegateError, match="not a datetime with a time zone"):
        observations.to_time_column([time], 1)


def test_missing_times_of_a_batch() -> None:
    """None in a list and NaT in an array both say "no time" in a row."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    from_list = observations.to_time_column([moment, None], 2)
    from_array = observations.to_time_column(np.array(["2024-01-01", "NaT"], "datetime64[D]"), 2)
    assert from_list is not None
    assert from_array is not None
    assert from_list.tolist() == from_array.tolist() == [1_704_067_200_000_000_000, observations.NO_TIME]


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(9), [["x"] * 3] * 3])
def test_matrix_must_fit(matrix: object) -> None:
    """A matrix that is not [rows, features] of numbers is BAD_BATCH."""
    with pytest.raises(TidegateError) as refused:
        observations.to_matrix(matrix, 3, PLAIN)  # type: ignore[arg-type]
    assert refused.value.reason is Reason.BAD_BATCH


def test_float32_stays_float32() -> None:
    """float32 is sent as it is; all else as float64, so that no digit is lost."""
    assert observations.to_matrix(np.ones((1, 3), np.float32), 1, PLAIN).dtype == np.dtype("<f4")
    assert observations.to_matrix([[1, 2, 3]], 1, PLAIN).dtype == np.dtype("<f8")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_what_is_masked_is_missing(dtype: type) -> None:
    """In a row as in a table: a mask's fill value is no observation."""
    masked: Any = np.ma.masked_equal(np.array([[999, 2, 3]], dtype), 999)
    table = PLAIN.numbers(masked, "the matrix", Reason.BAD_BATCH)
    assert table.dtype == (np.float32 if dtype is np.float32 else np.float64)
    assert np.isnan(table[0, 0])
    assert table[0, 1:].tolist() == [2.0, 3.0]
    assert math.isnan(observations.to_row(masked[0], FEATURES, "weather")[0])


def test_a_masked_word_is_missing() -> None:
    """A text has no NaN; it is missing all the same."""
    masked: Any = np.ma.masked_array(["clear", "1.5"], [True, False])
    row = observations.to_row(masked, ("sky", "wind"), "weather", {"sky": ("clear", "rain")})
    assert math.isnan(row[0])
    assert row[1] == 1.5
