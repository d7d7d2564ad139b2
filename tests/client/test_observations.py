"""What people hold becomes what the wire carries, or an error that names the trouble."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.client import observations
from tidegate.errors import Reason, TidegateError

FEATURES = ("rain", "wind", "sun")


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
    assert observations.to_datetime(observations.to_timestamp(aware)) == aware
    assert observations.to_nanoseconds(np.datetime64(aware.astimezone(UTC).replace(tzinfo=None))) == (
        observations.to_nanoseconds(aware)
    )


def test_naive_time_is_refused() -> None:
    """A time without a zone is never guessed."""
    with pytest.raises(ValueError, match="no time zone"):
        observations.to_nanoseconds(datetime(2024, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("time", ["2024-05-01T07:00", 1_714_546_800, date(2024, 5, 1)])
def test_what_is_no_time_is_refused(time: Any) -> None:
    """A text, a number or a date without a time is BAD_OBSERVATION, of a single step and in a batch."""
    for convert in (observations.to_nanoseconds, observations.to_timestamp):
        with pytest.raises(TidegateError, match="not a datetime with a time zone") as refused:
            convert(time)
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
        observations.to_matrix(matrix, 3, 3)  # type: ignore[arg-type]
    assert refused.value.reason is Reason.BAD_BATCH


def test_float32_stays_float32() -> None:
    """float32 is sent as it is; all else as float64, so that no digit is lost."""
    assert observations.to_matrix(np.ones((1, 3), np.float32), 1, 3).dtype == np.dtype("<f4")
    assert observations.to_matrix([[1, 2, 3]], 1, 3).dtype == np.dtype("<f8")
