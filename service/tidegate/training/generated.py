"""The data of the introduction's models, made from their rules: the same rows every time.

    generated:dinner     what is for dinner, one row a day, many households
    generated:storybook  stories of sentences `Name saw Name .`, one row a word
    generated:filler     one sentence a story, with words that say nothing between subject and object

Words and dinners are one-hot columns: the vocabulary of a categorical head. Names follow NAME_PATTERN, so the full stop
is called `stop`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidegate.errors import ConfigError

PREFIX = "generated:"
DINNERS = ("pizza", "burger", "fries")  # the cycle, in its order
NAMES = ("Doug", "Jane", "Spot")
SAW, STOP = 3, 4
WORDS = (*NAMES, "saw", "stop")
FILLERS = ("very", "big", "old", "red")
FILLER_MEAN = 20.0
SUNDAY = 6
LATE_SHARE = 0.3
UNKNOWN_MAX = 0.6
HOUSEHOLDS, DAYS = 48, 480
STORIES, SENTENCES = 400, 10
FILLER_STORIES = 4000

Ints = NDArray[np.int64]


def generate(name: str) -> pd.DataFrame:
    """The rows of a source, with or without its `generated:`; raises ConfigError where there is no such source."""
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "dinner": lambda: dinner_frame(np.random.default_rng(0)),
        "storybook": lambda: story_frame(np.random.default_rng(0)),
        "filler": lambda: filler_frame(np.random.default_rng(0)),
    }
    maker = makers.get(name.removeprefix(PREFIX))
    if maker is None:
        known = ", ".join(PREFIX + known for known in makers)
        raise ConfigError(f"{name}: is not generated; there are {known}")
    return maker()


def dinners(weekdays: Ints, late: NDArray[np.bool_]) -> Ints:
    """What is for dinner on each day [days]: places in DINNERS.

    A Sunday and a day with a late meeting are paused: they mean pizza, and the cycle does not advance; the next regular
    day goes on where it was. The first regular day has pizza.
    """
    paused = (weekdays == SUNDAY) | late
    turn = np.cumsum(~paused) - 1
    return np.where(paused, 0, turn % len(DINNERS)).astype(np.int64)


def dinner_days(random: np.random.Generator, days: int, start: np.datetime64, late_share: float) -> pd.DataFrame:
    """One household's days from `start`, a Monday, that is regular: columns date, late_meeting and those of DINNERS."""
    dates = start + np.arange(days)
    weekdays = (dates.astype("datetime64[D]").astype(np.int64) + 3) % 7
    late = random.random(days) < late_share
    late[0] = False
    frame = pd.DataFrame({"date": dates.astype("datetime64[ns]"), "late_meeting": late.astype(np.float64)})
    return frame.assign(**dict(zip(DINNERS, np.eye(len(DINNERS))[dinners(weekdays, late)].T, strict=True)))


def dinner_frame(random: np.random.Generator) -> pd.DataFrame:
    """Many households, each with its own share of late meetings and of unknown dinners (all three columns NaN).

    `late_meeting` is each row's own day. The first day of a household is always known.
    """
    frames = []
    for household in range(HOUSEHOLDS):
        start = np.datetime64("2001-01-01") + 7 * int(random.integers(0, 52))  # a Monday
        frame = dinner_days(random, DAYS, start, random.uniform(0, 2 * LATE_SHARE))
        unknown = random.random(DAYS) < random.uniform(0, UNKNOWN_MAX)
        unknown[0] = False
        frame.loc[unknown, list(DINNERS)] = np.nan
        frame.insert(0, "household", f"household-{household}")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def story(random: np.random.Generator, sentences: int) -> Ints:
    """A story's words: a stop (the end of whatever was before), then `Name saw Name stop` again and again."""
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
    """Stories, each from a zero state."""
    return _words([story(random, SENTENCES) for _ in range(STORIES)], WORDS)


def filler_frame(random: np.random.Generator) -> pd.DataFrame:
    """Stories of one sentence with fillers."""
    return _words([filler_story(random) for _ in range(FILLER_STORIES)], (*WORDS, *FILLERS))


def _words(stories: list[Ints], vocabulary: tuple[str, ...]) -> pd.DataFrame:
    """Columns story, time (one word a second, story after story, so that dates split between stories) and one-hot."""
    words = np.concatenate(stories)
    times = np.datetime64("2000-01-01", "ns") + np.arange(len(words)) * np.timedelta64(1, "s")
    number = np.repeat(np.arange(len(stories)), [len(story) for story in stories])
    frame = pd.DataFrame({"story": [f"story-{n}" for n in number.tolist()], "time": times})
    one_hot = np.eye(len(vocabulary))[words]
    return frame.assign(**dict(zip(vocabulary, one_hot.T, strict=True)))
