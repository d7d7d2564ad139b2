"""The data of the introduction's models, made from their rules: the same rows every time.

    generated:dinner     what is for dinner, one row a day, many households
    generated:storybook  stories of sentences `Name saw Name .`, one row a word
    generated:filler     one sentence a story, with words that say nothing between subject and object

Words and dinners are text, for the vocabulary of a categorical head. Names of features follow NAME_PATTERN, so the full
stop is called `stop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidegate.errors import ConfigError

PREFIX = "generated:"
DINNERS = ("pizza", "burger", "fries")  # the cycle, in its order
PIZZA = 0
NAMES = ("Doug", "Jane", "Spot")
SAW, STOP = 3, 4
WORDS = (*NAMES, "saw", "stop")
FILLERS = ("very", "big", "old", "red")
FILLER_MEAN = 20.0
SUNDAY = 6
LATE_SHARE_MAX = 0.6
HOUSEHOLDS, DAYS = 64, 364
STORIES, SENTENCES = 1200, 10
FILLER_STORIES = 4000

Ints = NDArray[np.int64]


def generate(name: str) -> pd.DataFrame:
    """The rows of a source, with or without its `generated:`; raises ConfigError where there is no such source."""
    makers: dict[str, Callable[[np.random.Generator], pd.DataFrame]] = {
        "dinner": dinner_frame,
        "storybook": story_frame,
        "filler": filler_frame,
    }
    maker = makers.get(name.removeprefix(PREFIX))
    if maker is None:
        known = ", ".join(PREFIX + known for known in makers)
        raise ConfigError(f"{name}: is not generated; there are {known}")
    return maker(np.random.default_rng(0))


@dataclass(frozen=True, eq=False)
class Household:
    """Days in a row: `dates` datetime64[D], `late` bool (a late meeting) and `dinner` int64 (places in DINNERS)."""

    dates: NDArray[np.datetime64]
    late: NDArray[np.bool_]
    dinner: Ints


def dinners(weekdays: Ints, late: NDArray[np.bool_], first: int = PIZZA) -> Ints:
    """What is for dinner on each day [days]: places in DINNERS. Mondays are 0.

    A Sunday and a day with a late meeting are paused: they mean pizza, and the cycle does not advance; the next regular
    day goes on where it was. The first regular day has `first`.
    """
    paused = (weekdays == SUNDAY) | late
    turn = first + np.cumsum(~paused) - 1
    return np.where(paused, PIZZA, turn % len(DINNERS)).astype(np.int64)


def household(random: np.random.Generator, start: np.datetime64, days: int, late_share: float) -> Household:
    """Days from `start`, which must not be a Sunday: the first day is regular, with any dinner, so that it says where
    in the cycle the household is."""
    dates = (start + np.arange(days)).astype("datetime64[D]")
    weekdays = (dates.astype(np.int64) + 3) % 7
    late = random.random(days) < late_share
    late[0] = False
    return Household(dates, late, dinners(weekdays, late, int(random.integers(len(DINNERS)))))


def dinner_frame(random: np.random.Generator) -> pd.DataFrame:
    """Columns household, date, late_meeting (0 or 1, of the row's own day) and dinner, a word of DINNERS.

    Each household has its own share of late meetings.
    """
    frames = []
    for number in range(HOUSEHOLDS):
        start = np.datetime64("2001-01-01") + 7 * int(random.integers(52)) + int(random.integers(6))  # no Sunday
        days = household(random, start, DAYS, random.uniform(0, LATE_SHARE_MAX))
        columns = {
            "household": f"household-{number}",
            "date": days.dates.astype("datetime64[ns]"),
            "late_meeting": days.late.astype(np.float64),
            "dinner": np.array(DINNERS)[days.dinner],
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def story(random: np.random.Generator, sentences: int) -> Ints:
    """A story's words, places in WORDS: a stop (the end of whatever was before), then `Name saw Name stop` each."""
    subjects = random.integers(0, len(NAMES), sentences)
    objects = (subjects + random.integers(1, len(NAMES), sentences)) % len(NAMES)
    rows = np.stack([subjects, np.full(sentences, SAW), objects, np.full(sentences, STOP)], axis=1)
    return np.concatenate([[STOP], rows.ravel()])


def filler_story(random: np.random.Generator) -> Ints:
    """One sentence after a stop: `Name saw`, filler words (geometric, FILLER_MEAN of them on average), `Name stop`."""
    subject, _, other, end = story(random, 1)[1:].tolist()
    fillers = len(WORDS) + random.integers(0, len(FILLERS), random.geometric(1 / (FILLER_MEAN + 1)) - 1)
    return np.array([STOP, subject, SAW, *fillers, other, end])


def story_frame(random: np.random.Generator) -> pd.DataFrame:
    """Columns story and word: STORIES stories of SENTENCES sentences."""
    return _words([story(random, SENTENCES) for _ in range(STORIES)], WORDS)


def filler_frame(random: np.random.Generator, stories: int = FILLER_STORIES) -> pd.DataFrame:
    """The same of stories of one sentence with fillers."""
    return _words([filler_story(random) for _ in range(stories)], (*WORDS, *FILLERS))


def _words(stories: list[Ints], vocabulary: tuple[str, ...]) -> pd.DataFrame:
    number = np.repeat(np.arange(len(stories)), [len(story) for story in stories])
    names = [f"story-{n}" for n in number.tolist()]
    return pd.DataFrame({"story": names, "word": np.array(vocabulary)[np.concatenate(stories)]})
