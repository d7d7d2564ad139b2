"""Forecasts, forks and imputed steps through real servers: the same bytes alone and among a thousand live sessions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client
from tidegate.client import Scenario

LIVE, STEPS = 1000, 30
HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-01-01T00", "ns")
FEATURES: list[dict[str, Any]] = [
    {"name": "a"},
    {"name": "b", "scaling": {"by": "instance"}},
    {"name": "c", "role": "past"},
]
LAGS = [{"feature": name, "steps": [1, 2, 24], "scales": [1.0, 1.0, 1.0]} for name in ("a", "b")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model with derived inputs, that imputes gaps."""
    folder = tmp_path_factory.mktemp("company") / "models"
    random_package(
        folder,
        hidden=33,
        features=FEATURES,
        targets=["b", "a"],
        lags=LAGS,
        calendar=[{"field": "hour_of_day"}],
        ages=True,
        channel_independent=True,
        head={"kind": "quantile", "levels": [0.1, 0.5, 0.9]},
        frequency="h",
        gaps={"policy": "impute", "gap_steps_max": 5},
    )
    return folder


def told(client: Client, forecasting: bool = True) -> list[bytes]:
    """What a session with missing values and steps, its fork and their forecasts are told, in order."""
    random, found, session = np.random.default_rng(0), list[bytes](), client.session("random", "watched")
    hour = 0
    for step in range(STEPS):
        hour += int(random.integers(1, 4)) if step % 5 == 4 else 1  # some hours are missing
        values = random.normal(5.0, 2.0, 3)
        values[random.random(3) < 0.2] = np.nan
        found.append(session.step(values.tolist(), time=START + hour * HOUR).values.tobytes())
        if forecasting and step % 10 == 9:
            scenarios = [Scenario("watched", 24, seed=step), Scenario("watched", 3)]
            for forecast in client.forecast("random", scenarios, levels=(0.1, 0.9), samples=20):
                found += [forecast.values.tobytes(), forecast.quantiles.tobytes(), forecast.paths.tobytes()]
        if step == STEPS // 2:
            fork = session.fork("fork")
            values = np.array([4.0, 5.0, np.nan])
            found.append(fork.step(values.tolist(), time=START + (hour + 2) * HOUR).values.tobytes())
            found.append(fork.forecast(5).values.tobytes())
    return found


def test_company_makes_no_difference(models: Path) -> None:
    """Alone, and while a thousand other sessions are stepped without pause, the same bytes."""
    with RunningServer(models) as server, Client(server.grpc) as client:
        alone = told(client)
    with RunningServer(models) as server, Client(server.grpc) as client:
        done, passes = threading.Event(), 0

        def others() -> None:
            nonlocal passes
            names, random = [f"live-{number}" for number in range(LIVE)], np.random.default_rng(1)
            with Client(server.grpc) as crowd, crowd.batches("random") as batches:
                while not done.is_set() or passes < 5:
                    passes += 1
                    times = np.full(LIVE, START + passes * HOUR)
                    assert not batches.step(names, random.normal(5.0, 2.0, (LIVE, 3)), times=times).errors

        crowd = threading.Thread(target=others)
        crowd.start()
        try:
            among = told(client)
        finally:
            done.set()
            crowd.join()
    assert passes >= 5
    assert len(alone) == len(among)
    assert alone == among


def test_a_forecast_leaves_no_trace(models: Path) -> None:
    """A session that is never forecast is told the same, byte for byte, as one that is again and again."""
    with RunningServer(models) as server, Client(server.grpc) as client:
        without = told(client, forecasting=False)
    with RunningServer(models) as server, Client(server.grpc) as client:
        answers = told(client)
    per_forecast = 6
    for step in (30, 20, 10):  # from the end, so that places stay
        place = step + (2 if step > STEPS // 2 else 0) + (step // 10 - 1) * per_forecast
        del answers[place : place + per_forecast]
    assert answers == without
