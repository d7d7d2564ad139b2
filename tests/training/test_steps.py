"""The frequency of times, and where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tidegate.model.frequency import Frequency, Times
from tidegate.training.steps import find_steps


def times_of(frequency: str, count: int = 60) -> Times:
    times: Times = pd.date_range("2023-01-01", periods=count, freq=frequency).as_unit("ns").to_numpy().astype(np.int64)
    return times


@pytest.mark.parametrize("name", ["YS", "QS", "MS", "W", "D", "6h", "15min", "s", "200ms", "40us", "250ns"])
def test_regular_times(name: str) -> None:
    """Calendar and fixed frequencies are found, down to a nanosecond, and without a missing step."""
    steps = find_steps([times_of("W-SUN" if name == "W" else name)])
    assert (steps.frequency, steps.missing, steps.repeats) == (name, 0, 0)
    assert Frequency.parse(steps.frequency)


def test_fixed_and_calendar_are_told_apart() -> None:
    """Steps of thirty days are no months, and ends of months are."""
    assert find_steps([times_of("30D")]).frequency == "30D"
    assert find_steps([times_of("ME")]).frequency == "MS"


def test_gaps_jitter_and_repeats() -> None:
    """Missing steps and repeated times are counted, streams apart; clocks that are a little off do not matter."""
    random = np.random.default_rng(0)
    first = times_of("min") + random.integers(-(10**8), 10**8, 60)
    second = np.delete(times_of("min"), [7, 8])
    steps = find_steps([random.permutation(first), np.append(second, second[:1])])
    assert (steps.frequency, steps.missing, steps.repeats) == ("min", 2, 1)


@pytest.mark.parametrize(("name", "off"), [("h", "1min"), ("D", "1h"), ("90min", "30s"), ("100ms", "200us")])
def test_clocks_that_are_off(name: str, off: str) -> None:
    """Times that are all a little off have the frequency that they are off from, not one of their own distances."""
    most = pd.Timedelta(off).value
    times = times_of(name, 400) + np.random.default_rng(0).integers(-most, most, 400)
    assert (find_steps([times]).frequency, find_steps([times]).missing) == (name, 0)


def test_times_on_no_grid() -> None:
    """Times at random have no frequency; nor have those of single rows, or of centuries."""
    random = np.random.default_rng(0)
    irregular = np.cumsum(random.exponential(600, 600).astype(np.int64) + 1) * 10**9
    for streams in ([irregular], [times_of("h", 1)], [], [np.array([-(2**62), 2**62])]):
        assert find_steps(streams).frequency == ""
