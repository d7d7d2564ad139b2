"""Forecasts: they are the model's own steps with its predictions fed back, and nothing is changed by asking."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.harness import DEVICES, LIMITS, InProcess
from tests.packages import random_package
from tidegate.engine.forecasts import forecaster, sampling, unroll
from tidegate.engine.forecasts.request import Forecast, ForecastRequest, Sampling, Scenario
from tidegate.errors import Reason, TidegateError

NOTHING = np.zeros((0, 0))
HOUR = 3_600_000_000_000
FEATURES: list[dict[str, Any]] = [
    {"name": "a"},
    {"name": "b", "scaling": {"by": "running"}},
    {"name": "c", "role": "past"},
]
LAGS = [{"feature": name, "steps": [1, 3, 5], "scales": [1.0, 1.0, 1.0]} for name in ("a", "b")]
HEADS: dict[str, dict[str, Any]] = {
    "regression": {"residual_std": [0.5, 0.5]},
    "change": {"output": "change", "residual_std": [0.5, 0.5]},
    "quantile": {"kind": "quantile", "levels": [0.1, 0.5, 0.9], "hidden": [8]},
}


def derived(folder: Path, head: str = "regression", **fields: Any) -> None:
    """A model with every kind of derived input."""
    random_package(
        folder,
        hidden=24,
        features=FEATURES,
        targets=["b", "a"],
        head=HEADS[head],
        lags=LAGS,
        calendar=[{"field": "hour_of_day"}],
        ids=["one", "two"],
        feedback=True,
        frequency="h",
        **fields,
    )


def ask(
    engine: InProcess, *scenarios: Scenario, levels: tuple[float, ...] = (), paths: int = 0, **how: Any
) -> list[Forecast]:
    """Forecasts, made to the end."""
    sampling = Sampling(paths, **how) if paths else None
    engine.engine.forecaster.add(7, ForecastRequest("", "random", scenarios, levels, sampling))
    engine.run()
    ((number, answers),) = engine.engine.forecaster.done
    engine.engine.forecaster.done.clear()
    assert number == 7
    return answers


def scenario(session: str, horizon: int, seed: int = 0) -> Scenario:
    """A question without a known future."""
    return Scenario(session.encode(), horizon, NOTHING, seed)


def stream(engine: InProcess, session: str, steps: int, seed: int = 0) -> NDArray[np.float64]:
    """Steps a session; returns its last prediction."""
    random = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        answer = engine.ask(session, random.normal(5.0, 2.0, 3).tolist(), step, time=step * HOUR)
        assert answer.reason is Reason.OK
    return answer.values


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head", HEADS)
def test_is_the_models_own_steps(tmp_path: Path, head: str, device: str) -> None:
    """A point forecast is, bit for bit, what the session predicts when it is then stepped with these predictions; the
    first step is the last prediction, and times go on."""
    derived(tmp_path, head)
    engine = InProcess(tmp_path, device)
    last, width = stream(engine, "two", 9), 3 if head == "quantile" else 1
    (found,) = ask(engine, scenario("two", 6))
    assert found.reason is Reason.OK
    assert found.step == 9
    assert found.times.tolist() == [HOUR * step for step in range(10, 16)]
    middle = slice(width // 2, None, width)
    assert found.values[0].tobytes() == last[middle].tobytes()
    covariate = np.random.default_rng(0).normal(5.0, 2.0, (9, 3))[-1, 2]
    for step in range(1, 6):
        b, a = found.values[step - 1]
        last = engine.ask("two", [a, b, covariate], 9 + step, time=(9 + step) * HOUR).values
        assert found.values[step].tobytes() == last[middle].tobytes()


@pytest.mark.parametrize("last", [datetime(2024, month, 25, tzinfo=ZoneInfo("Europe/Berlin")) for month in (3, 10)])
def test_days_of_a_zone(tmp_path: Path, last: datetime) -> None:
    """Where days are counted on the package's clock, one of 23 or 25 hours is one step: of forecasts, of observations,
    which stay on the grid, and of what is bridged. Each sees its own date in its calendar."""
    gaps = {"policy": "impute", "gap_steps_max": 5, "time_tolerance": 0.01}
    calendar = [{"field": "day_of_week", "encoding": "one_hot"}, {"field": "hour_of_day"}]
    random_package(tmp_path, targets=4, frequency="D", time_zone="Europe/Berlin", calendar=calendar, gaps=gaps)
    engine = InProcess(tmp_path)
    times = [int((last + timedelta(days)).timestamp()) * 10**9 for days in range(9)]  # Python adds on the clock, too
    for session in ("stepped", "bridged"):
        assert engine.ask(session, [1.0, 2.0, 3.0, 4.0], time=times[0]).valid_time == times[1]
    (forecast,) = ask(engine, scenario("stepped", 7))
    assert forecast.times.tolist() == times[1:8]
    for step in range(6):
        answer = engine.ask("stepped", forecast.values[step].tolist(), time=times[step + 1])
        assert (answer.reason, answer.valid_time) == (Reason.OK, times[step + 2])
        assert answer.bits == forecast.values[step + 1].tobytes()
    bridged = engine.ask("bridged", forecast.values[5].tolist(), time=times[6])
    assert (bridged.reason, bridged.gap, bridged.bits) == (Reason.OK, 5, answer.bits)


@pytest.mark.parametrize("device", DEVICES)
def test_leaves_the_session_alone(tmp_path: Path, device: str) -> None:
    """The next predictions of a session that was forecast in between, paths and all, are those of one that was not."""
    derived(tmp_path, "quantile")
    engine, calm = InProcess(tmp_path, device), InProcess(tmp_path, device)
    for server in (engine, calm):
        stream(server, "one", 7)
    ask(engine, scenario("one", 20), scenario("one", 3), levels=(0.2, 0.8), paths=50)
    for step in range(8, 12):
        again, wanted = (server.ask("one", [1.0, step, 3.0], step, time=step * HOUR) for server in (engine, calm))
        assert again.bits == wanted.bits


@pytest.mark.parametrize("head", HEADS)
def test_bits_among_a_thousand_live_sessions(tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forecast has the same bits alone, among hundreds of others, and in slices between the steps of 1,000 live
    sessions."""
    derived(tmp_path, head)
    alone = InProcess(tmp_path)
    stream(alone, "two", 9)
    wanted = ask(alone, scenario("two", 12, seed=5), levels=(0.1, 0.9), paths=20)[0]

    monkeypatch.setattr(unroll, "LAUNCH_ROWS_MAX", 96)
    monkeypatch.setattr(forecaster, "STRETCH_SECONDS", 0.0)  # one launch at a time
    busy = InProcess(tmp_path)
    names = [f"live-{number}" for number in range(1000)]
    random = np.random.default_rng(3)
    busy.ask_batch(names, random.normal(5.0, 2.0, (1000, 3)), times=np.full(1000, HOUR))
    stream(busy, "two", 9)
    scenarios = [
        *(scenario(name, 4, seed=number) for number, name in enumerate(names[:40])),
        scenario("two", 12, seed=5),
    ]
    busy.engine.forecaster.add(7, ForecastRequest("", "random", tuple(scenarios), (0.1, 0.9), Sampling(20)))
    hour = 2
    while not busy.engine.forecaster.done:
        busy.send_batch(names, random.normal(5.0, 2.0, (1000, 3)), times=np.full(1000, hour * HOUR))
        busy.clock.seconds += 0.2 * (hour % 2)  # every other time, the forecast has waited for long
        busy.iterate()
        hour += 1
    found = busy.engine.forecaster.done[0][1][-1]
    for name in ("values", "paths", "quantiles", "times"):
        assert getattr(found, name).tobytes() == getattr(wanted, name).tobytes(), name
    assert hour > 20
    assert len(busy.order) > 10_000


@pytest.mark.parametrize("head", HEADS)
def test_paths_are_the_scenarios_own(tmp_path: Path, head: str) -> None:
    """The same seed gives the same paths, however far its neighbours are forecast."""
    derived(tmp_path, head)
    engine = InProcess(tmp_path)
    stream(engine, "one", 7)
    (alone,) = ask(engine, scenario("one", 4, seed=9), paths=5)
    beside, far = ask(engine, scenario("one", 4, seed=9), scenario("one", 11, seed=9), paths=5)
    assert beside.paths.tobytes() == alone.paths.tobytes()
    assert len(far.values) == 11


@pytest.mark.parametrize("head", HEADS)
def test_portions(tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn and ordered is so in portions, between which live steps go on, and in groups of any size; none of
    it changes a bit."""
    derived(tmp_path, head)
    engine = InProcess(tmp_path)
    stream(engine, "one", 7)
    scenarios = [scenario("one", 6, seed=number) for number in range(5)]
    wanted = ask(engine, *scenarios, levels=(0.1, 0.5), paths=20)
    largest: list[int] = []

    def counted(paths: NDArray[np.float64], *args: Any, **kwargs: Any) -> Any:
        largest.append(paths.size)
        return quantile(paths, *args, **kwargs)

    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", counted)
    monkeypatch.setattr(sampling, "VALUES_AT_ONCE", 50)
    monkeypatch.setattr(forecaster, "GROUP_VALUES_MAX", 2 * 21 * 6 * 2)
    monkeypatch.setattr(forecaster, "STRETCH_SECONDS", 0.0)  # one portion at a time
    engine.engine.forecaster.add(1, ForecastRequest("", "random", tuple(scenarios), (0.1, 0.5), Sampling(20)))
    stretches = groups = 0
    while (stretch := engine.engine.forecaster.take()) is not None:
        stretch.run()
        stretches += 1
        groups += stretch.job.steps is None
        engine.engine.forecaster.finish(stretch)
    assert groups == 3  # of two, two and one
    portions = 5 * (20 * 6 * 2 // 50 + 1) + 5 * 6  # of random numbers; of quantiles, a step each
    assert stretches >= portions
    assert max(largest) <= 50
    ((_, found),) = engine.engine.forecaster.done
    for one, other in zip(found, wanted, strict=True):
        for name in ("values", "paths", "quantiles", "times"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def test_memory(tmp_path: Path) -> None:
    """An answer keeps nothing of its group, nor paths that nobody asked for; what is drawn has a limit."""
    derived(tmp_path)
    engine = InProcess(tmp_path, limits=LIMITS.model_copy(update={"forecast_bytes_max": 1_000_000}))
    stream(engine, "one", 7)
    kept, dropped = (ask(engine, scenario("one", 9), levels=(0.5,), paths=30, answered=way)[0] for way in (True, False))
    assert (kept.paths.shape, dropped.paths.size) == ((30, 9, 2), 0)
    assert dropped.quantiles.tobytes() == kept.quantiles.tobytes()
    for name in ("values", "paths", "quantiles", "times"):
        assert getattr(kept, name).base is None, name
    fits, not_ = ask(engine, scenario("one", 9), scenario("one", 900), paths=100)
    assert (fits.reason, not_.reason) == (Reason.OK, Reason.FORECAST_LIMIT)


def test_live_rows_come_first(tmp_path: Path) -> None:
    """While rows wait, a forecast does; once it has waited for long it gets a stretch."""
    derived(tmp_path)
    engine = InProcess(tmp_path)
    stream(engine, "one", 2)
    engine.engine.forecaster.add(1, ForecastRequest("", "random", (scenario("one", 3),), (), None))
    engine.send("one", [1.0, 2.0, 3.0], 3, time=3 * HOUR)
    engine.iterate()
    answered = len(engine.order)
    assert answered == 3
    assert not engine.engine.forecaster.done
    engine.clock.seconds += 1.0
    engine.send("one", [1.0, 2.0, 3.0], 4, time=4 * HOUR)
    engine.iterate()
    assert len(engine.order) == answered  # that was a stretch of the forecast
    engine.run()
    assert len(engine.order) == answered + 1
    assert engine.engine.forecaster.done


def test_future_covariates(tmp_path: Path) -> None:
    """What is known ahead is used step by step; what is left out, or NaN, holds the last value."""
    features = [{"name": "load"}, {"name": "price", "role": "future"}]
    random_package(tmp_path, features=features, targets=["load"])
    engine = InProcess(tmp_path)
    engine.ask("s", [1.0], 1, future=[2.0])
    future = np.array([[3.0], [np.nan], [4.0]])
    (found,) = ask(engine, Scenario(b"s", 5, future))
    for step, price in enumerate([3.0, np.nan, 4.0, np.nan], start=1):
        answer = engine.ask("s", [found.values[step - 1, 0]], 1 + step, future=[price])
        assert found.values[step].tobytes() == answer.bits


def test_words(tmp_path: Path) -> None:
    """A path is a chain of words, each drawn from what the one before leads to; the same seed gives the same path,
    another one others; a stop ends it; the likeliest alone give the point forecast's words."""
    words = [{"name": name} for name in ("x", "y", "z", "stop")]
    random_package(tmp_path, features=words, targets=["x", "y", "z", "stop"], head={"kind": "categorical"}, hidden=16)
    engine = InProcess(tmp_path)
    engine.ask("s", [1.0, 0.0, 0.0, 0.0], 1)
    one, again, other = (ask(engine, scenario("s", 40, seed=seed), paths=30)[0].tokens for seed in (1, 1, 2))
    assert one == again != other
    assert {len(path) for path in one} == {40}
    assert {token for path in one for token in path} == {0, 1, 2, 3}
    stopped = ask(engine, scenario("s", 40, seed=1), paths=30, stop="stop")[0].tokens
    for path in stopped:
        assert 3 not in path[:-1]
        assert path[-1] == 3 or len(path) == 40
    assert min(map(len, stopped)) < 40
    greedy = ask(engine, scenario("s", 40), paths=1, top_k=1)[0]
    assert greedy.tokens == [greedy.values.argmax(axis=1).tolist()]


def test_what_cannot_be_forecast(tmp_path: Path) -> None:
    """Each scenario that cannot be forecast says why; its neighbours are not touched."""
    random_package(tmp_path)
    engine = InProcess(tmp_path)
    row = [0.1, 0.2, 0.3, 0.4]
    for name in ("good", "sick", "fresh"):
        engine.ask(name, row, 1)
    engine.ask("sick", [1e300, 0.0, 0.0, 0.0], 2)
    engine.ask("fresh", row, 2, reset=True)
    slab = engine.catalog.lanes[0].slab
    slab.reset(np.array([slab.ids.index(b"fresh")]))
    asked = (scenario("gone", 2), scenario("sick", 2), scenario("good", 2), scenario("fresh", 2))
    reasons = [answer.reason for answer in ask(engine, *asked)]
    assert reasons == [Reason.SESSION_NOT_FOUND, Reason.SESSION_DIVERGED, Reason.OK, Reason.NO_PREDICTION]
    assert ask(engine, Scenario(b"good", 3, np.ones((1, 1))))[0].reason is Reason.BAD_FORECAST
    assert ask(engine, scenario("good", 2), paths=2)[0].reason is Reason.NO_DISTRIBUTION
    limits = engine.catalog.limits
    wrong: tuple[tuple[tuple[Scenario, ...], Reason], ...] = (
        ((), Reason.BAD_FORECAST),
        ((scenario("good", 0),), Reason.BAD_FORECAST),
        ((scenario("good", limits.forecast_horizon_max + 1),), Reason.FORECAST_LIMIT),
        ((scenario("good", 1),) * (limits.forecast_scenarios_max + 1), Reason.FORECAST_LIMIT),
    )
    for scenarios, reason in wrong:
        with pytest.raises(TidegateError) as caught:
            engine.engine.forecaster.add(1, ForecastRequest("", "random", scenarios))
        assert caught.value.reason is reason


def test_a_forecast_that_diverges(tmp_path: Path) -> None:
    """Where predictions fed back run away, the scenario says so, and the session lives on."""
    random_package(tmp_path, cell="rnn_tanh", hidden_activation="identity", hidden=8)
    engine = InProcess(tmp_path)
    lane = engine.catalog.lanes[0]
    lane.package.weights["weight_hh_l0"][:] = 100 * np.eye(8, dtype=np.float32)
    steppers = engine.catalog.prepare(_snapshot(tmp_path, lane.package))
    lane.stepper = next(iter(steppers.values()))  # type: ignore[assignment]
    assert engine.ask("s", [1.0, 2.0, 3.0, 4.0], 1).reason is Reason.OK
    reasons = [answer.reason for answer in ask(engine, scenario("s", 100), scenario("s", 2))]
    assert reasons == [Reason.FORECAST_DIVERGED, Reason.OK]
    assert engine.ask("s", [1.0, 2.0, 3.0, 4.0], 2).reason is Reason.OK


def _snapshot(folder: Path, package: Any) -> Any:
    """A repository that holds this package, as it now is in memory."""
    from tidegate.model.repository import scan  # noqa: PLC0415

    snapshot = scan(folder)
    versions: Any = snapshot.models["random"].versions
    versions["1"] = package
    return snapshot
