"""The backtest through a real server: what is collected is what the model's equations say, for the right steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.packages import random_package
from tidegate.client import Client
from tidegate.errors import TidegateError
from tidegate.model import reference
from tidegate.model.package import Package
from tidegate.training.evaluation.backtest import Plan, backtest
from tidegate.training.evaluation.serving import served
from tidegate.training.evaluation.streams import Stream

FEATURES: list[dict[str, Any]] = [
    {"name": "x"},
    {"name": "known", "role": "future"},
    {"name": "seen", "role": "past"},
    {"name": "y", "scaling": {"center": 3.0, "scale": 2.0}},
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("repository") / "models"
    return random_package(folder, "mixed", features=FEATURES, targets=["y", "x"], frequency="h")


@pytest.fixture(scope="module")
def client(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("served") / "models"
    random_package(folder, "mixed", features=FEATURES, targets=["y", "x"], frequency="h")
    with served(folder, "mixed", "1") as address, Client(address) as client:
        yield client


def stream(name: str, seed: int, steps: int = 40) -> Stream:
    values = np.random.default_rng(seed).normal(size=(steps, len(FEATURES)))
    times = np.datetime64("2024-01-01", "ns").astype(np.int64) + 3_600_000_000_000 * np.arange(steps)
    return Stream(name, times, values, 20, 25, steps - 2)


def test_predictions_are_the_models(client: Client, package: Package) -> None:
    """Each row holds what the rows before it, future covariates included, come to by the equations; streams of
    different length go side by side."""
    streams = [stream("a", 0), stream("b", 1, steps=30)]
    for track in backtest(client, package, streams, Plan()):
        expected = reference.predict(package, track.stream.values).raw
        end = track.stream.end
        assert np.isnan(track.predicted[0]).all()
        assert track.predicted[1 : end + 1] == pytest.approx(expected[:end], abs=1e-4)
        assert np.isnan(track.predicted[end + 1 :]).all()


def test_forecasts_begin_with_the_prediction(client: Client, package: Package) -> None:
    """A forecast is made after each origin: its first step is the prediction there, and the stream's own predictions
    are the same to the bit as if nobody had asked."""
    streams = [stream("a", 0), stream("b", 1)]
    plain = backtest(client, package, streams, Plan())
    asked = backtest(client, package, streams, Plan(horizon=3, every=4))
    for before, after in zip(plain, asked, strict=True):
        assert after.origins.tolist() == [24, 28, 32, 36]
        assert after.forecasts.shape == (4, 3, 2)
        assert after.forecasts[:, 0] == pytest.approx(after.predicted[after.origins + 1], abs=1e-5)
        assert np.array_equal(before.predicted, after.predicted, equal_nan=True)


def test_forecasts_know_the_future(client: Client, package: Package) -> None:
    """A forecast is that of a session which is told what is known ahead, and its own predictions for the rest."""
    one = stream("a", 0)
    track = backtest(client, package, [one], Plan(horizon=3, every=100))[0]
    told = one.values[:27].copy()
    for row in (25, 26):  # y and x are predicted, `known` is known, `seen` stays
        told[row, 3], told[row, 0] = track.forecasts[0, row - 25]
        told[row, 2] = told[24, 2]
    assert track.forecasts[0] == pytest.approx(reference.predict(package, told).raw[24:], abs=1e-4)


def test_missing_steps_are_sent_as_missing(client: Client, package: Package) -> None:
    """A row of NaN is a step whose targets are the session's own predictions; it ends nothing."""
    one = stream("a", 0)
    values = one.values.copy()
    values[10, [0, 2, 3]] = np.nan
    track = backtest(client, package, [replace(one, values=values)], Plan())[0]
    stand_in = values.copy()
    stand_in[10, 3], stand_in[10, 0] = track.predicted[10]
    stand_in[10, 2] = values[9, 2]
    assert track.predicted[1:38] == pytest.approx(reference.predict(package, stand_in).raw[:37], abs=1e-4)


def test_a_refused_row_is_named(client: Client, package: Package) -> None:
    """A row that the server refuses ends the backtest, and the error says which; the sessions are closed again."""
    one = stream("a", 0)
    values = one.values.copy()
    values[3, 0] = np.inf
    with pytest.raises(TidegateError, match="stream a, about step"):
        backtest(client, package, [replace(one, values=values)], Plan())
    assert list(client.sessions()) == []
