"""Generated data keeps its rules, and is the same every time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.demo.grammar import mistakes, sentences
from tidegate.errors import ConfigError
from tidegate.training.generated import (
    DINNERS,
    FILLER_MEAN,
    FILLERS,
    NAMES,
    PIZZA,
    SENTENCES,
    STOP,
    STORIES,
    SUNDAY,
    WORDS,
    dinners,
    filler_frame,
    generate,
    household,
)


@pytest.mark.parametrize("name", ["dinner", "storybook", "filler"])
def test_the_same_rows_every_time(name: str) -> None:
    """Two calls give the same frame, with the prefix or without, and no cell is missing."""
    frame = generate(name)
    pd.testing.assert_frame_equal(frame, generate(f"generated:{name}"))
    assert not frame.isna().any(axis=None)


def test_an_unknown_source_is_refused() -> None:
    """The error names what there is."""
    with pytest.raises(ConfigError, match="generated:supper: is not generated; there are generated:dinner"):
        generate("generated:supper")


def test_stories_hold_no_mistake() -> None:
    """Every story begins with a stop; its sentences are right; all six right sentences are about as frequent."""
    frame = generate("storybook")
    stories = [rows.tolist() for _, rows in frame.groupby("story", sort=False)["word"]]
    assert len(stories) == STORIES
    told = []
    for words in stories:
        assert words[0] == WORDS[STOP]
        told += sentences(words[1:])
        assert words[-1] == WORDS[STOP]
    assert len(told) == STORIES * SENTENCES
    assert not any(map(mistakes, told))
    counts = pd.Series(told).value_counts(normalize=True)
    assert len(counts) == 6
    np.testing.assert_allclose(counts, 1 / 6, atol=0.02)


def test_fillers_stand_between_subject_and_object() -> None:
    """Without its fillers a sentence is right; there are FILLER_MEAN of them on average, at times none."""
    frame = filler_frame(np.random.default_rng(1), 1000)
    counts = []
    for _, rows in frame.groupby("story", sort=False)["word"]:
        words = rows.tolist()
        inner = words[3:-2]
        assert set(inner) <= set(FILLERS)
        assert not mistakes([*words[1:3], words[-2]])
        counts.append(len(inner))
    assert min(counts) == 0
    assert np.mean(counts) == pytest.approx(FILLER_MEAN, rel=0.1)
    assert set(frame["word"]) == {*NAMES, "saw", "stop", *FILLERS}


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 200), st.floats(0, 0.9))
def test_dinners_follow_the_rule(seed: int, weekday: int, days: int, late_share: float) -> None:
    """A Sunday or late day means pizza; the other days alone are the cycle without a break."""
    start = np.datetime64("2001-01-01") + weekday
    found = household(np.random.default_rng(seed), start, days, late_share)
    weekdays = np.array([date.item().weekday() for date in found.dates])
    paused = (weekdays == SUNDAY) | found.late
    assert not paused[0]
    assert (found.dinner[paused] == PIZZA).all()
    regular = found.dinner[~paused]
    assert (np.diff(regular) % len(DINNERS) == 1).all()


def test_the_cycle_waits() -> None:
    """By hand: burger, a late day, a Sunday, and then fries."""
    weekdays = np.array([4, 5, 6, 0, 1])  # Friday to Tuesday
    late = np.array([False, True, False, False, False])
    names = [DINNERS[place] for place in dinners(weekdays, late, first=1)]
    assert names == ["burger", "pizza", "pizza", "fries", "pizza"]
