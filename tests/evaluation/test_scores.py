"""Scores of made-up predictions: right steps against right observations, everybody on the same cases."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.model.frequency import Frequency
from tidegate.training.evaluation.backtest import Plan, Track, origins_of
from tidegate.training.evaluation.rivals import PERSISTENCE, Rivals, fit_rivals
from tidegate.training.evaluation.scores import (
    MODEL,
    one_step_cases,
    path_cases,
    score_accuracy,
    score_overall,
    score_streams,
    score_target,
)
from tidegate.training.evaluation.streams import Array, Stream

TARGET = np.array([0])


def stream(values: list[float], fit: int, start: int, name: str = "one") -> Stream:
    return Stream(name, None, np.array(values, np.float64)[:, None], fit, start, len(values))


def rivals(*streams: Stream) -> Rivals:
    return fit_rivals(streams, TARGET, Frequency.parse(""))


def track(one: Stream, predicted: Array, plan: Plan | None = None) -> Track:
    plan = plan or Plan()
    origins = origins_of(one, plan)
    rows = origins[:, None] + np.arange(1, plan.horizon + 1)
    forecasts = predicted[np.minimum(rows, len(predicted) - 1)]
    return Track(one, predicted, origins, forecasts)


def test_one_step() -> None:
    """A step is scored against what was predicted for it, in the scored part alone, and not where it is missing."""
    one = stream([0, 2, 4, 6, 10, np.nan, 20], fit=4, start=4)
    predicted = np.array([[9.0], [9], [9], [9], [9], [9], [18]])
    score = score_target(one_step_cases([track(one, predicted)], rivals(one)), 1, 0, "x")
    assert (score.count, score.mae, score.bias) == (2, 1.5, -1.5)  # 9 for 10 and 18 for 20
    assert score.mase == 0.75  # the training part changes by 2
    assert score.against[PERSISTENCE].mae == 7.0  # 6 for 10, and 10 for 20
    assert score.against[PERSISTENCE].skill == pytest.approx(1 - 1.5 / 7)


def test_paths_within_the_scored_part() -> None:
    """Errors up to a horizon are over origins whose whole path is scored; at it, over all that reach it."""
    one = stream([0, 1, 0, 1, 0, 0, 0, 0], fit=4, start=4)
    predicted = np.arange(8.0)[:, None]  # the error of step t is t
    cases = path_cases([track(one, predicted, Plan(horizon=3))], rivals(one))
    spread = np.ones(1)
    assert cases.inside.tolist() == [3, 3, 2, 1]
    assert score_overall(cases, 3, spread).mse[MODEL] == (36 + 49) / 2
    assert score_overall(cases, 3, spread).path_mse[MODEL] == pytest.approx((16 + 25 + 36 + 25 + 36 + 49) / 6)
    assert score_overall(cases, 1, spread).path_mse[MODEL] == (16 + 25 + 36 + 49) / 4


def test_origins_are_apart() -> None:
    """Forecasts begin at the last step before the scored part, so many steps apart, and none at the end."""
    one = stream([0.0] * 10, fit=4, start=4)
    assert origins_of(one, Plan(horizon=2, every=3)).tolist() == [3, 6]
    assert origins_of(one, Plan()).tolist() == []


def test_streams_of_different_size() -> None:
    """MASE is the same for a stream and for the same stream a thousand times as large; each is scored by itself too."""
    small = stream([0, 1, 3, 2, 4, 3, 5, 6], fit=4, start=4, name="small")
    large = stream([1000 * value for value in small.values[:, 0].tolist()], fit=4, start=4, name="large")
    tracks = [track(small, small.values + 0.5), track(large, large.values + 500.0)]
    both = score_target(one_step_cases(tracks, rivals(small, large)), 1, 0, "x")
    alone = score_target(one_step_cases(tracks[:1], rivals(small)), 1, 0, "x")
    assert both.mase == pytest.approx(alone.mase)
    found = score_streams(tracks, rivals(small, large), ["x"])
    assert [(score.stream, score.mae) for score in found] == [("small", 0.5), ("large", 500.0)]
    assert found[0].skill == pytest.approx(found[1].skill)


def test_accuracy_counts_what_was_observed() -> None:
    """A step that was not observed weighs nothing, however long its stream is."""
    right, wrong, unknown = [1.0, 0.0], [0.0, 1.0], [np.nan, np.nan]
    tracks = []
    for said, steps, observed in ((wrong, 100, 10), (right, 10, 10)):
        values = np.array([unknown, *[right] * observed, *[unknown] * (steps - observed)])
        one = Stream(f"{steps} steps", None, values, 1, 1, len(values))
        tracks.append(track(one, np.array([said] * len(values))))
    both = np.array([0, 1])
    assert score_accuracy(tracks, fit_rivals([one.stream for one in tracks], both, Frequency.parse(""))) == 0.5
