"""Age inputs: what the columns say, and how ages grow."""

from __future__ import annotations

import numpy as np
import pytest

from tests.packages import unwritten
from tidegate.errors import PackageError
from tidegate.model.ages import AGE_MAX, Ages, older

TARGETS = [{"name": "a"}, {"name": "b"}]
AGES = np.array([[0, 1], [7, AGE_MAX]], np.uint16)


def test_whether_and_for_how_long() -> None:
    """Two columns a target: 0 and 0 where it was observed, 1 and log(1 + age) where it was not."""
    columns = Ages(unwritten(features=TARGETS, targets=["a", "b"], ages=True).manifest).columns(AGES, 2)
    assert columns.dtype == np.float32
    expected = [[0, 0, 1, np.log(2)], [1, np.log(8), 1, np.log(1 + AGE_MAX)]]
    np.testing.assert_allclose(columns, expected, rtol=1e-6)


def test_all_observed() -> None:
    """Without ages, every target was observed."""
    columns = Ages(unwritten(features=TARGETS, targets=["a", "b"], ages=True).manifest).columns(None, 3)
    assert columns.shape == (3, 4)
    assert not columns.any()


def test_a_vocabulary_has_one_pair() -> None:
    """Its words are missing together."""
    head = {"kind": "categorical"}
    columns = Ages(unwritten(features=TARGETS, targets=["a", "b"], ages=True, head=head).manifest)
    assert columns.columns(np.array([[3, 3]], np.uint16), 1).shape == (1, 2)


def test_models_without() -> None:
    """No columns at all."""
    assert Ages(unwritten(features=TARGETS, targets=["a", "b"]).manifest).columns(AGES, 2).shape == (2, 0)


def test_ages_stop_growing() -> None:
    """At what the session's column holds."""
    assert older(AGES, 3).tolist() == [[3, 4], [10, AGE_MAX]]
    assert older(AGES, np.array([[1], [0]])).tolist() == [[1, 2], [7, AGE_MAX]]


def test_an_output_has_no_age() -> None:
    """It is never observed."""
    with pytest.raises(PackageError, match="ages: an output is never observed"):
        unwritten(features=[*TARGETS, {"name": "out", "role": "output"}], targets=["a", "b", "out"], ages=True)
