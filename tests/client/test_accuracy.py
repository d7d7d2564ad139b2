"""The errors that replay and the demo print, beside a slow obvious computation."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.client.values.accuracy import Accuracy, score_rows

VALUES = st.one_of(st.just(float("nan")), st.floats(-100, 100))
FEEDS = st.lists(st.tuples(st.sampled_from("ab"), VALUES, st.floats(-100, 100, width=32)), max_size=30)


@given(FEEDS)
def test_errors_are_means_of_absolute_differences(steps: list[tuple[str, float, float]]) -> None:
    """Over any feeds: mean |observed - predicted| where both are known, and the same for the last known value."""
    accuracy = Accuracy(("t",))
    said: dict[str, float] = {}
    last: dict[str, float] = {}
    model, persistence = [], []
    for session, observed, prediction in steps:
        expected = accuracy.observe(session, np.array([observed]))
        assert np.array_equal(expected, [said.get(session, np.nan)], equal_nan=True)
        if session in last and not np.isnan(observed):
            model.append(abs(observed - said[session]))
            persistence.append(abs(observed - last[session]))
        if not np.isnan(observed):
            last[session] = observed
        accuracy.predicted(session, np.array([prediction], np.float32))
        said[session] = float(np.float32(prediction))
    (score,) = accuracy.scores()
    assert score.count == len(model)
    if model:
        np.testing.assert_allclose([score.model, score.persistence], [np.mean(model), np.mean(persistence)])


def test_rows_say_how_much_is_gained() -> None:
    """Half of persistence's error is 50% below; a bridged step is not scored."""
    accuracy = Accuracy(("t",))
    for observed, prediction, bridged in ((0.0, 1.0, False), (2.0, 0.0, False), (9.0, 9.0, True)):
        accuracy.observe("s", np.array([observed]), bridged)
        accuracy.predicted("s", np.array([prediction], np.float32))
    assert score_rows(accuracy.scores()) == [("t", "1.000", "2.000", "50.0%")]


def test_nothing_is_no_figure() -> None:
    """A target that was never scored has none, and one that never changes has no gain over persistence."""
    accuracy = Accuracy(("constant",))
    assert score_rows(accuracy.scores()) == [("constant", "–", "–", "no rows")]
    for _ in range(3):
        accuracy.observe("s", np.ones(1))
        accuracy.predicted("s", np.full(1, 1.5, np.float32))
    assert score_rows(accuracy.scores()) == [("constant", "0.500", "0.000", "–")]
