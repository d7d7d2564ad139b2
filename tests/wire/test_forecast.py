"""Forecast and intervals as they travel: shapes, errors and limits, through a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.inprocess import in_process
from tidegate import AsyncClient, Client, Reason, TidegateError
from tidegate.client import Generation, Scenario
from tidegate.engine.forecasts.request import Forecast
from tidegate.wire import forecasts as wire_forecasts

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-05-01T00", "ns")
WORDS = ["x", "y", "stop"]
QUANTILES: dict[str, Any] = {"kind": "quantile", "levels": [0.05, 0.1, 0.5, 0.9, 0.95]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Models with each kind of head, one of which has a future covariate."""
    models = tmp_path_factory.mktemp("forecast") / "models"
    random_package(models, "points", frequency="h")
    features = [{"name": "load"}, {"name": "price", "role": "future"}, {"name": "site", "role": "static"}]
    random_package(models, "quantiles", features=features, targets=["load"], head=QUANTILES, frequency="h")
    words = [{"name": word} for word in WORDS]
    random_package(models, "words", features=words, targets=WORDS, head={"kind": "categorical"})
    big = [{"name": "counter", "scaling": {"center": 1e7, "scale": 1e3}}]
    random_package(models, "counter", features=big, targets=["counter"])
    with RunningServer(models) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """A client of it."""
    with Client(server.grpc) as client:
        yield client


def test_points(client: Client) -> None:
    """A forecast begins with the last prediction and names the times that it is for; the session is where it was."""
    session = client.session("points", "points")
    for step in range(3):
        last = session.step([0.1 * step] * 4, time=START + step * HOUR)
    found = session.forecast(5)
    assert found.values.shape == (5, 4)
    np.testing.assert_array_equal(found.values[0], last.values)
    assert found.valid_times is not None
    np.testing.assert_array_equal(found.valid_times, START + np.arange(3, 8) * HOUR)
    assert (found.step, found.version, session.info().step) == (3, "1", 3)
    untimed = client.session("points", "untimed")
    untimed.step([0.0] * 4)
    assert untimed.forecast(2).valid_times is None


def test_intervals(client: Client) -> None:
    """Predictions carry the intervals that were asked for, alone and in batches, the same numbers; others are refused
    with those that there are."""
    session = client.session("quantiles", "alone", levels=(0.8, 0.9))
    alone = session.step({"load": 1.0, "site": 2.0}, future=[3.0])
    assert alone.lower.shape == alone.upper.shape == (2, 1)
    with client.batches("quantiles", levels=(0.8, 0.9)) as batches:
        many = batches.step(["b0", "b1"], [[1.0, 2.0]] * 2, future=[[3.0], [np.nan]])
    assert many.lower.shape == many.upper.shape == (2, 2, 1)
    np.testing.assert_array_equal(many.values[0], alone.values)
    np.testing.assert_array_equal(many.lower[0], alone.lower)
    np.testing.assert_array_equal(many.upper[0], alone.upper)
    with pytest.raises(TidegateError, match=r"0\.5; this model has 0\.8, 0\.9") as caught:
        client.session("quantiles", "other", levels=(0.5,)).step([1.0, 2.0])
    assert caught.value.reason is Reason.BAD_CONFIG


@pytest.mark.parametrize("levels", [(0.8, 0.8), (0.8, 0.9, 0.8), (0.8,) * 100_000], ids=["two", "three", "very many"])
def test_a_level_comes_once(client: Client, levels: tuple[float, ...]) -> None:
    """A level that comes twice is refused, so that an answer holds at most the intervals that the package has."""
    with pytest.raises(TidegateError, match="a level comes twice") as caught:
        client.session("quantiles", "twice", levels=levels).step([1.0, 2.0])
    assert caught.value.reason is Reason.BAD_CONFIG


def test_quantiles_that_cross(client: Client) -> None:
    """The heads of these random weights are in no order; bounds and forecasts are. The point is the head's own."""
    session = client.session("quantiles", "crossed", levels=(0.8, 0.9))
    inside = 0
    for step in range(20):
        seen = session.step([np.sin(step), 2.0], future=[3.0])
        bounds = [seen.lower[1, 0], seen.lower[0, 0], seen.upper[0, 0], seen.upper[1, 0]]
        assert bounds == sorted(bounds)
        assert bounds[0] <= seen.values[0] <= bounds[-1]
        inside += bounds[1] <= seen.values[0] <= bounds[-2]
        found = session.forecast(2, levels=(0.05, 0.1, 0.9, 0.95))
        np.testing.assert_array_equal(found.quantiles[:, 0, 0], bounds)
    assert inside < 20  # they do cross


def test_quantiles_and_paths(client: Client) -> None:
    """Quantiles come from paths, but for the first step, where they are the head's own; seeds name paths."""
    session = client.session("quantiles", "paths", levels=(0.8,))
    last = session.step([1.0, 2.0], future=[3.0])
    found = session.forecast(4, levels=(0.1, 0.9), samples=50, seed=3, future=[[1.0], [np.nan]])
    assert found.quantiles.shape == (2, 4, 1)
    assert found.paths.shape == (50, 4, 1)
    np.testing.assert_array_equal(found.quantiles[:, 0, 0], [last.lower[0, 0], last.upper[0, 0]])
    np.testing.assert_allclose(found.quantiles[0, 1:], np.quantile(found.paths[:, 1:], 0.1, axis=0), rtol=1e-5)
    again = session.forecast(4, levels=(0.1, 0.9), samples=50, seed=3, future=[[1.0], [np.nan]])
    np.testing.assert_array_equal(again.paths, found.paths)
    assert (session.forecast(4, samples=50, seed=4).paths != found.paths).any()
    assert session.forecast(4, levels=(0.5,)).paths.size == 0


def test_words(client: Client) -> None:
    """Paths of a vocabulary come as indices, and as words; what follows the stop is cut off."""
    session = client.session("words", "words")
    session.step([1.0, 0.0, 0.0])
    found = session.forecast(30, samples=20, generation=Generation(temperature=0.8, min_p=0.01, stop="stop"))
    assert found.values.shape == (30, 3)
    np.testing.assert_allclose(found.values.sum(1), 1.0, rtol=1e-5)
    assert len(found.words) == 20
    assert all(path[-1] == "stop" or len(path) == 30 for path in found.words)


def test_a_counter_keeps_its_digits(client: Client) -> None:
    """Asked for as float64, predictions of large numbers come with more digits than float32 holds."""
    with client.batches("counter", dtype="float64") as exact, client.batches("counter") as short:
        wide, narrow = exact.step(["exact"], [[12_345_678.91]]), short.step(["short"], [[12_345_678.91]])
    assert wide.values.dtype == np.float64
    assert narrow.values.dtype == np.float32
    assert abs(wide.values[0, 0] - narrow.values[0, 0]) < 1
    assert np.float64(np.float32(wide.values[0, 0])) != wide.values[0, 0]


def test_one_scenario_among_many(client: Client) -> None:
    """A scenario that cannot be is named in its place; the others are answered in theirs."""
    session = client.session("points", "among")
    session.step([0.0] * 4)
    found = client.forecast("points", ["among", "nobody", Scenario("among", 2)], 3)
    assert [len(forecast.values) for forecast in found] == [3, 0, 2]
    assert found[0].error is found[2].error is None
    assert found[1].error is not None
    assert (found[1].error.row, found[1].error.reason) == (1, Reason.SESSION_NOT_FOUND)


@pytest.mark.parametrize(
    ("model", "how", "reason"),
    [
        ("points", {"horizon": 0}, Reason.BAD_FORECAST),
        ("points", {"horizon": 1001}, Reason.FORECAST_LIMIT),
        ("points", {"samples": 70_000}, Reason.FORECAST_LIMIT),
        ("points", {"levels": (0.9, 0.1)}, Reason.BAD_FORECAST),
        ("points", {"levels": (1.0,)}, Reason.BAD_FORECAST),
        ("points", {"generation": Generation()}, Reason.BAD_FORECAST),
        ("points", {"scenarios": [Scenario("s", future=[[1.0]])]}, Reason.BAD_FORECAST),
        ("quantiles", {"scenarios": [Scenario("s", future=[[np.inf]])]}, Reason.BAD_FORECAST),
        ("quantiles", {"scenarios": ["s"] * 1000, "horizon": 1000, "samples": 60}, Reason.FORECAST_LIMIT),
        ("words", {"levels": (0.5,)}, Reason.BAD_FORECAST),
        ("words", {"generation": Generation(temperature=0.0)}, Reason.BAD_FORECAST),
        ("words", {"generation": Generation(min_p=1.5)}, Reason.BAD_FORECAST),
        ("words", {"generation": Generation(stop="never")}, Reason.BAD_FORECAST),
        ("missing", {}, Reason.MODEL_NOT_FOUND),
    ],
)
def test_what_is_wrong_as_a_whole(server: RunningServer, model: str, how: dict[str, Any], reason: Reason) -> None:
    """The call's error, with the right reason, and the server goes on."""
    asked: dict[str, Any] = {"scenarios": ["s"], "horizon": 3, **how}
    with Client(server.grpc) as client:
        if model != "missing":
            client.open_sessions(model, ["s"])
        with pytest.raises(TidegateError) as caught:
            client.forecast(model, **asked)
        assert caught.value.reason is reason
        assert client.models()


def test_reasons_of_a_session(client: Client) -> None:
    """A session without a step has nothing to go on from; a model of points has no distribution."""
    client.open_sessions("points", ["unstepped"])
    with pytest.raises(TidegateError) as caught:
        client.session("points", "unstepped").forecast(2)
    assert caught.value.reason is Reason.NO_PREDICTION
    session = client.session("points", "unsure")
    session.step([0.0] * 4)
    with pytest.raises(TidegateError) as caught:
        session.forecast(2, samples=3)
    assert caught.value.reason is Reason.NO_DISTRIBUTION


def test_what_does_not_fit_says_how(client: Client) -> None:
    """More is known ahead than there are steps: the error names the limit, of one session and among many."""
    session = client.session("quantiles", "ahead")
    session.step([0.0, 1.0], future=[1.0])
    said = "5 rows of the future for 4 steps ahead; at most 3"
    with pytest.raises(TidegateError, match=said) as caught:
        session.forecast(4, future=[[1.0]] * 5)
    assert caught.value.reason is Reason.BAD_FORECAST
    assert str(caught.value).count(caught.value.hint) == 1
    (found,) = client.forecast("quantiles", [Scenario("ahead", future=[[1.0]] * 5)], 4)
    assert found.error is not None
    assert said in found.error.message
    assert session.forecast(4, future=[[1.0]] * 3).values.shape == (4, 1)


def test_descriptions(client: Client) -> None:
    """A model says what is sent, what is known ahead, what head it has and which intervals there are."""
    about = client.model("quantiles").description
    assert about is not None
    assert about.names == ("load", "site")
    assert about.future_names == ("price",)
    assert (about.head, about.levels, about.coverages) == ("quantile", (0.05, 0.1, 0.5, 0.9, 0.95), (0.8, 0.9))
    assert about.sample_paths


def test_a_package_with_outputs(tmp_path: Path) -> None:
    """A target that nobody sends is predicted; observations hold the others alone."""
    features = [{"name": "x", "role": "past"}, {"name": "y", "role": "output"}]
    random_package(tmp_path / "models", "silent", features=features, targets=["y"])
    with RunningServer(tmp_path / "models") as running, Client(running.grpc) as client:
        session = client.session("silent", "s")
        prediction = session.step([1.0])
        assert prediction.targets == ("y",)
        assert prediction.imputed == ()
        assert session.step({"x": 2.0}).step == 2
        assert session.forecast(3).values.shape == (3, 1)


async def test_an_answer_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large answer is put together in portions, between which the event loop sees to others; together they are the
    answers in order, and each error names its scenario."""
    monkeypatch.setattr(wire_forecasts, "PORTION_SCENARIOS", 3)
    monkeypatch.setattr(wire_forecasts, "PORTION_NUMBERS", 50)
    random_package(tmp_path, "points", frequency="h")
    portions_of, seen, others = wire_forecasts.portions_of, list[str](), ["waiting"]

    def tick() -> None:
        seen.append("others")
        if others:
            asyncio.get_running_loop().call_soon(tick)

    def watched(answers: list[Forecast]) -> Iterator[bytes]:
        tick()
        for portion in portions_of(answers):
            seen.append("portion")
            yield portion
        others.clear()

    monkeypatch.setattr(wire_forecasts, "portions_of", watched)
    async with in_process(tmp_path) as running, AsyncClient(running.grpc) as client:
        await client.session("points", "one").step([0.1] * 4)
        names = ["one", "none", *(8 * ["one"]), "none"]
        scenarios = [Scenario(name, horizon=steps) for steps, name in enumerate(names, 1)]
        found = await client.forecast("points", scenarios)
    assert [0 if each.error else len(each.values) for each in found] == [1, 0, *range(3, 11), 0]
    assert [kind for kind, _ in groupby(seen)] == 5 * ["others", "portion"] + ["others"]
    assert seen.count("portion") == 5
