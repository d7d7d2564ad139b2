"""Persistence and ridge on real data come to the numbers that are known: the harness is proven before any model is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.quality import data
from tests.quality.data import Array, Series
from tidegate.training.evaluation import baselines


def errors(series: list[Series], forecasts: list[Array]) -> Array:
    """One-step errors over the test parts in standard units, where something was observed."""
    standard = data.standard(series)
    parts = [
        standard(forecast) - standard(one.values[one.test :]) for one, forecast in zip(series, forecasts, strict=True)
    ]
    return np.concatenate(parts)


def origins(one: Series) -> baselines.Rows:
    """All rows before the steps of the test part."""
    return np.arange(one.test - 1, len(one.values) - 1)


def persistence(series: list[Series]) -> Array:
    return errors(series, [baselines.persistence(one.values, origins(one), 1)[:, 0] for one in series])


def ridge(series: list[Series], lags: int, across: bool) -> Array:
    model = baselines.fit_ridge([one.values[: one.training] for one in series], 7, lags, across)
    assert model is not None
    return errors(series, [model.forecast(one.values, origins(one), 1, one.training)[:, 0] for one in series])


@pytest.mark.skipif(not data.ETTH1.exists(), reason="needs ETTh1.csv beside the checkout")
class TestETTh1:
    def test_persistence(self) -> None:
        """One step of persistence has MSE 0.175 and MAE 0.256."""
        found = persistence([data.etth1()])
        assert np.mean(found**2) == pytest.approx(0.175, abs=0.0005)
        assert np.abs(found).mean() == pytest.approx(0.2555, abs=0.0005)

    def test_ridge_on_own_lags(self) -> None:
        """Ridge on 168 lags of each feature itself has MSE 0.0985."""
        assert np.mean(ridge([data.etth1()], 168, across=False) ** 2) == pytest.approx(0.0985, abs=0.0005)


@pytest.mark.skipif(not data.AIRPORTS.exists(), reason="needs the airports' weather beside the checkout")
class TestAirports:
    def test_persistence(self) -> None:
        """One step of persistence has MSE 0.131, over what was observed."""
        assert np.nanmean(persistence(data.airports()) ** 2) == pytest.approx(0.131, abs=0.0005)

    def test_ridge_on_a_day_of_all_features(self) -> None:
        """Ridge on 24 lags of all features, the stations together, has MSE 0.119."""
        assert np.nanmean(ridge(data.airports(), 24, across=True) ** 2) == pytest.approx(0.119, abs=0.0005)
