"""10,000 dinners foretold one by one by a real server: python -m tests.quality dinner"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from tests.quality.bounds import Bound, report, served
from tidegate.client import Client
from tidegate.training.generated import DINNERS, SUNDAY, Household, household

DAYS = 10_000
LATE_SHARE, UNKNOWN_SHARE = 0.3, 0.6
START = np.datetime64("2015-01-05")  # a Monday, years after the training data's days
Mask = NDArray[np.bool_]


def random_days(days: int, seed: int) -> Household:
    """A household that was not trained on, one day longer than is predicted from."""
    return household(np.random.default_rng(seed), START, days + 1, LATE_SHARE)


def unknown_days(days: int, share: float, seed: int) -> Mask:
    """Days whose dinner is not told; the first always is."""
    unknown = np.random.default_rng((seed, 1)).random(days) < share
    unknown[0] = False
    return unknown


def foretold(client: Client, session: str, days: Household, unknown: Mask) -> float:
    """The share of right predictions; each day's dinner is told, or missing, and the next is predicted."""
    right = 0
    with client.batches("dinner") as batches:
        for day in range(len(unknown)):
            told = np.full((1, len(DINNERS)), np.nan) if unknown[day] else np.eye(len(DINNERS))[days.dinner[day], None]
            late = days.late[day + 1, None, None].astype(np.float64)
            answer = batches.step([session], told, times=days.dates[day, None], future=late)
            right += int(answer.values[0].argmax() == days.dinner[day + 1])
    return right / len(unknown)


def memoryless(days: Household, unknown: Mask) -> float:
    """The share that the best rule without memory gets right: for each thing that yesterday may have been (unknown
    included), and whether tomorrow is paused, the dinner that mostly follows, counted on these very days."""
    weekdays = (days.dates.astype(np.int64) + 3) % 7
    paused = ((weekdays == SUNDAY) | days.late)[1:]
    yesterday = np.where(unknown, len(DINNERS), days.dinner[:-1])
    counts = np.zeros((2, len(DINNERS) + 1, len(DINNERS)))
    np.add.at(counts, (paused.astype(int), yesterday, days.dinner[1:]), 1)
    return float(counts.max(axis=2).sum() / counts.sum())


def measure() -> list[Bound]:
    """Asks a server."""
    days = random_days(DAYS, seed=0)
    unknown, known = unknown_days(DAYS, UNKNOWN_SHARE, seed=0), np.zeros(DAYS, np.bool_)
    with served() as client:
        return [
            Bound(f"dinner, {DAYS} days", foretold(client, "known", days, known), at_least=1.0),
            Bound("dinner, 60% of yesterdays unknown", foretold(client, "unknown", days, unknown), at_least=0.999),
            Bound("the best rule without memory, all known", memoryless(days, known)),
            Bound("the best rule without memory, 60% unknown", memoryless(days, unknown)),
        ]


if __name__ == "__main__":
    sys.exit(report(measure()))
