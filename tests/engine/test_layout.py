"""A stream's columns and units to the package's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.packages import random_package
from tidegate.engine.queues.block import Scope
from tidegate.engine.queues.layout import conversion, layout_of
from tidegate.errors import Reason, TidegateError
from tidegate.model.package import Package

FEATURES = [
    {"name": "temperature", "unit": "degC"},
    {"name": "wind", "unit": "m/s", "role": "past"},
    {"name": "count", "role": "past"},
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return random_package(tmp_path_factory.mktemp("models"), features=FEATURES, targets=["temperature"])


def scope(features: tuple[str, ...] = (), units: tuple[str, ...] = ()) -> Scope:
    return Scope("", "random", features=features, units=units)


def test_units_convert(package: Package) -> None:
    """degF become degC and km/h become m/s, also where the columns come in another order; NaN stays missing."""
    layout = layout_of(scope(("wind", "count", "temperature"), ("km/h", "", "degF")), package)
    values = np.array([[36.0, 7.0, 212.0], [72.0, 8.0, np.nan]])
    np.testing.assert_allclose(layout.apply(values), [[100.0, 10.0, 7.0], [np.nan, 20.0, 8.0]], rtol=1e-12)


def test_the_packages_own_are_left_alone(package: Package) -> None:
    """Order and units of the package, named or not, pass values through as they are."""
    names = ("temperature", "wind", "count")
    values = np.array([[0.1, 0.2, 0.3]])
    for given_scope in (scope(), scope(names), scope(names, ("degC", "m/s", "")), scope((), ("", "", ""))):
        assert layout_of(given_scope, package).apply(values) is values


@given(order=st.permutations(["temperature", "wind", "count"]))
def test_any_order(package: Package, order: list[str]) -> None:
    """Columns in any order arrive under their names."""
    values = np.array([[{"temperature": 0.0, "wind": 1.0, "count": 2.0}[name] for name in order]])
    np.testing.assert_array_equal(layout_of(scope(tuple(order)), package).apply(values), [[0.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    "names",
    [
        ("temperature", "wind"),
        ("temperature", "wind", "count", "humidity"),
        ("temperature", "wind", "humidity"),
        ("temperature", "wind", "wind"),
    ],
)
def test_wrong_names(package: Package, names: tuple[str, ...]) -> None:
    """A feature that is missing, unknown or named twice is BAD_CONFIG, and the text names it."""
    with pytest.raises(TidegateError) as error:
        layout_of(scope(names), package)
    assert error.value.reason is Reason.BAD_CONFIG
    assert ("humidity" if "humidity" in names else "count") in error.value.problem


NONSENSE = ["m/s", "furlong_per_nothing", "kg", "degC * ((", "1/0", "__import__('os')", " " * 9, "degC" * 100_000]
ENDLESS = ["10**10**10", "9 ^ 9 ^ 9 ^ 9", "9⁹⁹⁹⁹⁹⁹⁹⁹", "(9**9)**9**9", "degC**10**10"]


@pytest.mark.parametrize("unit", NONSENSE + ENDLESS, ids=lambda unit: unit[:20])
def test_units_that_do_not_convert(package: Package, unit: str) -> None:
    """An unknown unit, nonsense, or one of another dimension is UNIT_MISMATCH and names the feature."""
    with pytest.raises(TidegateError) as error:
        layout_of(scope((), (unit, "", "")), package)
    assert error.value.reason is Reason.UNIT_MISMATCH
    assert "temperature" in error.value.problem


@pytest.mark.parametrize("unit", ["km/h", "km * h^-1", "m·s**-1", "1 / s * m"])
def test_units_with_powers(package: Package, unit: str) -> None:
    """Ordinary ways to write a unit are understood."""
    factor, offset = conversion(unit, "m/s", "wind")
    assert factor == pytest.approx(1 / 3.6 if "k" in unit else 1.0)
    assert offset == 0.0


@pytest.mark.parametrize(("unit", "wanted"), [("dBm", "mW"), ("mW", "dBm"), ("dB", "")])
def test_units_that_are_not_linear(unit: str, wanted: str) -> None:
    """Logarithmic units do not convert by factor and offset, and are refused rather than converted wrongly."""
    with pytest.raises(TidegateError) as error:
        conversion(unit, wanted, "power")
    assert error.value.reason is Reason.UNIT_MISMATCH


def test_a_number_without_unit_takes_none(package: Package) -> None:
    """A feature whose package names no unit takes no unit but a dimensionless one."""
    assert conversion("percent", "", "count") == pytest.approx((0.01, 0.0))
    with pytest.raises(TidegateError, match="no unit"):
        layout_of(scope((), ("", "", "kg")), package)


def test_units_must_fit_the_columns(package: Package) -> None:
    """One unit a feature."""
    with pytest.raises(TidegateError) as error:
        layout_of(scope((), ("degC",)), package)
    assert error.value.reason is Reason.BAD_CONFIG


def test_huge_values_do_not_warn(package: Package) -> None:
    """A value that overflows in the package's unit is no error here; the step will tell."""
    layout = layout_of(scope((), ("", "km/s", "")), package)
    assert np.isinf(layout.apply(np.array([[0.0, 1e308, 0.0]]))[0, 1])
