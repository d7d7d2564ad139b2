"""Scaling: float64 inside, inverse of itself, an answer for every float, and never a warning (warnings are errors)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.packages import random_weights
from tidegate.model import reference
from tidegate.model.package import Package, save_package
from tidegate.model.scaling import Scaler, unseen

SCALINGS: list[dict[str, Any]] = [
    {"transform": "log1p", "center": 0.9, "scale": 0.8},
    {"transform": "none", "center": 16.0, "scale": 7.0},
    {"transform": "log1p", "center": -0.5, "scale": 2.0},
    {"transform": "none", "center": 1e7, "scale": 0.1},
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Four features, two of them targets, in another order: x3, x0."""
    features = [
        {"name": f"x{i}", "role": "target" if i in (0, 3) else "past", "scaling": s} for i, s in enumerate(SCALINGS)
    ]
    manifest = {"name": "m", "version": "1", "features": features, "targets": ["x3", "x0"], "hidden_size": 2}
    return save_package(tmp_path_factory.mktemp("models") / "m" / "1", manifest, random_weights(manifest))


any_rows = arrays(np.float64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(-1e6, 1e8))


@given(any_rows)
def test_scale_is_the_reference(package: Package, x: Any) -> None:
    """Training units are those of the float64 reference, rounded once to float32; the input stays as it was."""
    before = x.copy()
    scaled = Scaler(package).scale(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, reference.scale(package, x), rtol=2e-7, atol=1e-12)
    np.testing.assert_array_equal(x, before)


@given(arrays(np.float32, st.tuples(st.integers(0, 5), st.just(2)), elements=st.floats(-30, 30, width=32)))
def test_unscale_is_the_reference(package: Package, y: Any) -> None:
    """Raw values are those of the reference, each target by its own scaling, in the order of the targets."""
    raw = Scaler(package).unscale(y)
    assert raw.dtype == np.float32
    np.testing.assert_allclose(raw, reference.unscale(package, y.astype(np.float64)), rtol=2e-7, atol=1e-12)


@given(any_rows)
def test_unscale_undoes_scale(package: Package, x: Any) -> None:
    """A target's value comes back, to what float32 resolves about the center."""
    scaler = Scaler(package)
    x = x + np.array([0, 0, 0, 1e7])
    back = scaler.unscale(scaler.scale(x)[:, package.target_indices])
    np.testing.assert_allclose(back, x[:, package.target_indices], rtol=1e-5, atol=1e-4)


def test_small_steps_on_a_large_value(package: Package) -> None:
    """A counter at 1e7 that moves by 0.01 moves in training units: the difference is taken in float64."""
    x = np.zeros((2, 4))
    x[:, 3] = [1e7, 1e7 + 0.01]
    np.testing.assert_allclose(Scaler(package).scale(x)[:, 3], [0.0, 0.1], rtol=1e-6)


def test_means_scale_to_zero(package: Package) -> None:
    """What stands in for a feature never observed is the middle of its training units."""
    scaler = Scaler(package)
    np.testing.assert_allclose(scaler.scale(unseen(package.manifest)[np.newaxis]), 0, atol=1e-12)


@given(arrays(np.float64, (3, 4), elements=st.floats()), arrays(np.float32, (3, 2), elements=st.floats(width=32)))
def test_every_float_has_an_answer(package: Package, x: Any, y: Any) -> None:
    """NaN, infinity, subnormals, what float32 cannot hold: no warning; NaN stays NaN and nothing else becomes it."""
    scaler = Scaler(package)
    np.testing.assert_array_equal(np.isnan(scaler.scale(x)), np.isnan(x))
    np.testing.assert_array_equal(np.isnan(scaler.unscale(y)), np.isnan(y))


def test_rows_do_not_meet(package: Package) -> None:
    """A row's bits are the same alone and among others."""
    scaler = Scaler(package)
    x = np.random.default_rng(0).normal(5, 10, (257, 4))
    y = np.random.default_rng(1).normal(0, 2, (257, 2)).astype(np.float32)
    scaled, raw = scaler.scale(x), scaler.unscale(y)
    for row in range(257):
        np.testing.assert_array_equal(scaler.scale(x[row : row + 1])[0], scaled[row])
        np.testing.assert_array_equal(scaler.unscale(y[row : row + 1])[0], raw[row])
