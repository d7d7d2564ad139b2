"""Frequencies: what they parse to, and how they count, judged by Python's own calendar."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.model.frequency import NO_TIME, Frequency, Times

FIXED = {"s": timedelta(seconds=1), "min": timedelta(minutes=1), "h": timedelta(hours=1), "D": timedelta(days=1)}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def nanoseconds(*times: datetime) -> Times:
    return np.array([(time - EPOCH) // timedelta(microseconds=1) * 1000 for time in times], np.int64)


@given(st.sampled_from(sorted(FIXED)), st.integers(1, 20), moments, st.integers(0, 1000))
def test_fixed_intervals(unit: str, count: int, start: datetime, intervals: int) -> None:
    """`add` adds that many times the interval, and `intervals` counts it back."""
    frequency = Frequency.parse(f"{count}{unit}")
    later = frequency.add(nanoseconds(start), intervals)
    assert later[0] == nanoseconds(start + intervals * count * FIXED[unit])[0]
    assert frequency.intervals(nanoseconds(start), later)[0] == intervals


@given(st.integers(1900, 2100), st.integers(1, 12), st.sampled_from([("MS", 1), ("QS", 3), ("YS", 12)]))
def test_months(year: int, month: int, unit: tuple[str, int]) -> None:
    """From one month's start, `add` reaches the start of the month so many months on, whatever their lengths."""
    name, months = unit
    start = datetime(year, month, 1, tzinfo=UTC)
    end = datetime(year + (month - 1 + months) // 12, (month - 1 + months) % 12 + 1, 1, tzinfo=UTC)
    frequency = Frequency.parse(name)
    assert frequency.add(nanoseconds(start))[0] == nanoseconds(end)[0]
    assert frequency.intervals(nanoseconds(start), nanoseconds(end))[0] == 1


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York"])
@given(st.integers(1950, 2099), st.integers(1, 12), st.sampled_from(["start", "end"]))
def test_months_of_a_zone(zone: str, year: int, month: int, edge: str) -> None:
    """Starts of months are followed by starts, and last days by last days, on the clocks of the zone; a month lies
    between two that follow each other."""
    dates = [date(year + (month - 1 + more) // 12, (month - 1 + more) % 12 + 1, 1) for more in range(4)]
    if edge == "end":
        dates = [later - timedelta(days=1) for later in dates]
    times = nanoseconds(*(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)) for day in dates))
    frequency = Frequency.parse("MS", zone)
    np.testing.assert_array_equal(frequency.add(times[:-1]), times[1:])
    assert frequency.add(times[:1], 3)[0] == times[3]
    counted = frequency.intervals(times[:-1], times[1:])
    np.testing.assert_allclose(counted, 1.0, atol=0.0 if edge == "start" else 0.01)


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York", "America/Sao_Paulo", "Africa/Cairo"]
)
@given(st.integers(0, 40_000), st.integers(1, 400), st.sampled_from([("D", 1), ("W", 7), ("h", 0)]))
def test_days_of_a_zone(zone: str, start: int, intervals: int, unit: tuple[str, int]) -> None:
    """Days and weeks are counted on the clocks of the zone, from midnight to midnight, also past one that clocks
    skip; hours are hours in any."""
    name, days = unit
    first = datetime(1980, 1, 1, tzinfo=ZoneInfo(zone)) + timedelta(start)
    last = first + timedelta(days * intervals)  # on the clocks
    times = nanoseconds(first, last if days else first.astimezone(UTC) + timedelta(hours=intervals))
    frequency = Frequency.parse(name, zone)
    assert frequency.add(times[:1], intervals)[0] == times[1]
    assert frequency.intervals(times[:1], times[1:])[0] == intervals


@pytest.mark.parametrize(
    ("zone", "day"), [("America/Sao_Paulo", date(2017, 10, 15)), ("Africa/Cairo", date(2024, 4, 26))]
)
def test_a_midnight_that_clocks_skip(zone: str, day: date) -> None:
    """The first instant of its day stands for it, and is followed by the next midnight, a whole day later."""
    skipped = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    times = nanoseconds(*(skipped + timedelta(days) for days in (-1, 0, 1)))
    frequency = Frequency.parse("D", zone)
    np.testing.assert_array_equal(frequency.add(times[:-1]), times[1:])
    np.testing.assert_array_equal(frequency.intervals(times[:-1], times[1:]), 1.0)
    assert times[2] - times[0] == 47 * 3_600_000_000_000


def test_days_of_longer_months() -> None:
    """A day that the next month lacks is its last one; one that it has stays, and so does the time of day."""
    days = [(2023, 1, 30), (2023, 1, 15), (2024, 1, 31), (2024, 2, 29)]
    after = [(2023, 2, 28), (2023, 2, 15), (2024, 2, 29), (2024, 3, 31)]
    times, expected = (nanoseconds(*(datetime(*day, 6, 30, tzinfo=UTC) for day in many)) for many in (days, after))
    np.testing.assert_array_equal(Frequency.parse("MS").add(times), expected)


@given(
    st.integers(1, 27), st.integers(0, 86_399), st.integers(0, 400), st.integers(1, 400), st.sampled_from(["MS", "QS"])
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_any_day_of_a_month(zone: str, day: int, second: int, month: int, intervals: int, unit: str) -> None:
    """Months may be dated by any day: what `add` comes to is a whole number of months later."""
    start = datetime(1990 + month // 12, month % 12 + 1, day, tzinfo=ZoneInfo(zone)) + timedelta(seconds=second)
    frequency, times = Frequency.parse(unit, zone), nanoseconds(start)
    assert frequency.intervals(times, frequency.add(times, intervals))[0] == intervals


@given(moments, moments)
def test_months_are_counted_in_order(one: datetime, other: datetime) -> None:
    """The number of months between two times grows with the later one; half a month is about a half."""
    first, second = sorted([one, other])
    assert Frequency.parse("MS").intervals(nanoseconds(first), nanoseconds(second))[0] >= 0
    half = Frequency.parse("MS").intervals(
        nanoseconds(datetime(2024, 4, 1, tzinfo=UTC)), nanoseconds(datetime(2024, 4, 16, tzinfo=UTC))
    )
    assert half[0] == 0.5


@given(
    st.sampled_from(["ns", "h", "W", "MS", "100YS"]),
    st.sampled_from(["UTC", "Asia/Tokyo", "Europe/Berlin"]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 1001),
)
def test_every_time_has_an_answer(unit: str, zone: str, time: int, intervals: int) -> None:
    """No time overflows into another: what lies beyond int64 is NO_TIME, and what does not is later."""
    times = np.array([time], np.int64)
    later = Frequency.parse(unit, zone).add(times, intervals)
    assert later[0] == NO_TIME or later[0] >= time
    if abs(time) < 2**62 and unit != "100YS":
        assert later[0] != NO_TIME


@given(
    st.sampled_from(["ns", "h", "D", "MS"]),
    st.sampled_from(["UTC", "Asia/Tokyo"]),
    *[st.integers(-(2**63) + 1, 2**63 - 1)] * 2,
)
def test_every_difference_has_its_sign(unit: str, zone: str, start: int, end: int) -> None:
    """Times centuries apart still count as later or earlier, never the reverse."""
    count = Frequency.parse(unit, zone).intervals(np.array([start]), np.array([end]))[0]
    assert np.isfinite(count)
    assert np.sign(count) in (np.sign(end - start), 0)


def test_no_time_stays_none() -> None:
    """NO_TIME has no next time, and neither has any time without a frequency."""
    times = np.array([NO_TIME, 0], np.int64)
    assert Frequency.parse("h").add(times).tolist() == [NO_TIME, 3_600_000_000_000]
    assert Frequency.parse("MS").add(times).tolist() == [NO_TIME, 31 * 86_400_000_000_000]
    assert Frequency.parse("").add(times).tolist() == [NO_TIME, NO_TIME]


def test_truth() -> None:
    """A frequency is true where there is an interval."""
    assert Frequency.parse("D")
    assert Frequency.parse("MS")
    assert not Frequency.parse("")


@pytest.mark.parametrize("text", ["d", "1", "0h", "-1h", "1.5h", "h1", "1 h", "fortnight", "M", "1234567s", "6000W"])
def test_what_is_no_frequency(text: str) -> None:
    """Anything else is refused, and the message quotes it."""
    with pytest.raises(ValueError, match=repr(text)):
        Frequency.parse(text)
