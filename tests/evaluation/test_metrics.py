"""Measures of errors against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.training.evaluation import metrics

NAN = float("nan")
ERRORS = np.array([[1.0, NAN], [-3.0, 2.0], [2.0, NAN]])


def test_mean_errors() -> None:
    """Means are over what is scored alone, target by target."""
    assert metrics.count(ERRORS).tolist() == [3, 1]
    assert metrics.mae(ERRORS).tolist() == [2.0, 2.0]
    assert metrics.mse(ERRORS) == pytest.approx([14 / 3, 4.0])
    assert metrics.rmse(ERRORS) == pytest.approx([(14 / 3) ** 0.5, 2.0])
    assert metrics.bias(ERRORS).tolist() == [0.0, 2.0]


def test_nothing_scored() -> None:
    """The mean over no case is NaN, and nothing warns."""
    assert np.isnan(metrics.mae(np.full((3, 2), NAN))).all()
    assert np.isnan(metrics.rmse(np.empty((0, 2)))).all()


def test_naive_scale() -> None:
    """MASE's scale is the mean absolute difference to a season before, over what was observed."""
    values = np.array([[1.0], [4.0], [2.0], [NAN], [8.0]])
    assert metrics.naive_scale(values, 1).tolist() == [2.5]  # 3, 2; the others are unknown
    assert metrics.naive_scale(values, 2).tolist() == [3.5]  # 1, unknown, 6


def test_naive_scale_of_a_constant() -> None:
    """A series that never changes, or is shorter than a season, scales nothing."""
    assert np.isnan(metrics.naive_scale(np.ones((5, 1)), 1)).all()
    assert np.isnan(metrics.naive_scale(np.ones((2, 1)), 2)).all()


def test_mase() -> None:
    """Each error is divided by the scale of its own series before the mean is taken."""
    errors, scales = np.array([[1.0], [-300.0]]), np.array([[2.0], [100.0]])
    assert metrics.mase(errors, scales).tolist() == [1.75]


def test_skill() -> None:
    """1 is perfect, 0 as good as the baseline, negative is worse; of a perfect baseline it is unknown."""
    found = metrics.skill(np.array([0.0, 2.0, 3.0, 1.0]), np.array([2.0, 2.0, 2.0, 0.0]))
    assert found[:3].tolist() == [1.0, 0.0, -0.5]
    assert np.isnan(found[3])


def test_accuracy() -> None:
    """The share of known cases whose likeliest category came."""
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.9, 0.1]])
    observed = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [NAN, NAN]])
    assert metrics.accuracy(probabilities, observed) == pytest.approx(2 / 3)
    assert np.isnan(metrics.accuracy(probabilities[:0], observed[:0]))
