"""Clock readings of time zones, judged by Python's own datetime."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.model.local_time import from_local, to_local

EPOCH = datetime.fromisoformat("1970-01-01")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia"]
readings = st.datetimes(datetime.fromisoformat("1950-01-01"), datetime.fromisoformat("2100-01-01"))


def nanoseconds(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1) * 1000


def expected(reading: datetime, zone: str) -> int:
    """By the standard library: fold 0."""
    return nanoseconds(reading.replace(tzinfo=ZoneInfo(zone)).astimezone(ZoneInfo("UTC")).replace(tzinfo=None))


@given(st.sampled_from(ZONES), readings)
def test_readings_are_those_of_the_clock(zone: str, reading: datetime) -> None:
    """A reading is the time that datetime says, and that time reads so, unless the clocks leave it out."""
    time = from_local(np.array([nanoseconds(reading)]), zone)
    assert time[0] == expected(reading, zone)
    local = datetime.fromtimestamp(time[0] / 1e9, ZoneInfo(zone)).replace(tzinfo=None)
    if abs(local - reading) < timedelta(seconds=1):
        assert to_local(time, zone)[0] == nanoseconds(reading)


@pytest.mark.parametrize(
    ("zone", "reading"),
    [
        ("Europe/Berlin", "2024-03-31T02:30"),  # left out
        ("Europe/Berlin", "2024-10-27T02:30"),  # twice
        ("America/Sao_Paulo", "2017-10-15"),  # a midnight that is left out
        ("America/Havana", "2024-11-03"),  # a midnight that comes twice
        ("Pacific/Apia", "2011-12-30T12:00"),  # a day that is left out
    ],
)
def test_where_clocks_change(zone: str, reading: str) -> None:
    """Of two times the earlier one, and for none the one that the clocks would have read before they changed."""
    time = datetime.fromisoformat(reading)
    assert from_local(np.array([nanoseconds(time)]), zone)[0] == expected(time, zone)
