"""The demo: its parts, and the whole once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import psutil
import pytest

from tidegate.client import AsyncClient
from tidegate.client.values.accuracy import Score
from tidegate.config import default_models
from tidegate.demo import good
from tidegate.demo.child import parse_metrics
from tidegate.demo.plays import perform
from tidegate.demo.stage import Stage
from tidegate.demo.year import FEATURES, jittered, read_year

METRICS = """\
# TYPE tidegate_batch_rows histogram
tidegate_batch_rows_bucket{model="weather",le="1.0"} 2.0
tidegate_batch_rows_bucket{model="weather",le="64.0"} 9.0
tidegate_batch_rows_bucket{model="weather",le="256.0"} 10.0
tidegate_batch_rows_bucket{model="weather",le="+Inf"} 10.0
tidegate_batch_rows_count{model="weather"} 10.0
tidegate_batch_rows_sum{model="weather"} 420.0
tidegate_steps_total{model="weather",outcome="OK"} 419.0
tidegate_steps_total{model="weather",outcome="DUPLICATE"} 1.0
"""


def test_the_year_is_whole() -> None:
    """2015 has its 365 days in order, without gaps or missing values."""
    year = read_year(2015)
    assert len(year.days) == 365
    assert set(np.diff(year.days)) == {np.timedelta64(1, "D")}
    assert np.isfinite(year.values).all()
    assert str(year.days[0]) == "2015-01-01"


def test_the_year_in_another_order() -> None:
    """Columns follow the names; another set of names is refused."""
    year = read_year(2015)
    turned = year.ordered(FEATURES[::-1])
    assert np.array_equal(turned.values[:, ::-1], year.values)
    with pytest.raises(click.ClickException, match="must take precipitation"):
        year.ordered(("a", "b"))


def test_neighbours_are_near_but_not_the_same() -> None:
    """Each neighbour's values are its own, and dry days stay dry."""
    year = read_year(2015)
    copies = jittered(year.values, 3)
    assert copies.shape == (365, 3, 4)
    dry = year.values[:, 0] == 0
    assert (copies[dry, :, 0] == 0).all()
    assert (copies[~dry, :, 0] > 0).all()
    assert not np.array_equal(copies[:, 0], copies[:, 1])
    np.testing.assert_allclose(copies.mean(axis=1), year.values, rtol=0.2)


def test_metrics_are_read() -> None:
    """Steps of all outcomes, the mean batch and the bucket of the largest one."""
    batching = parse_metrics(METRICS)
    assert (batching.steps, batching.mean, batching.largest) == (420.0, 42.0, 256.0)
    assert parse_metrics("").mean == 0.0


def test_every_target_must_be_better() -> None:
    """One target that is no better than persistence is a failure."""
    assert good([Score("a", 1.0, 2.0, 9), Score("b", 1.0, 1.1, 9)])
    assert not good([Score("a", 1.0, 2.0, 9), Score("b", 1.0, 1.0, 9)])


@pytest.mark.skipif(not list(default_models().glob("weather/*/model.json")), reason="the weather model is not trained")
def test_the_whole_demo(tmp_path: Path) -> None:
    """The demo ends with 0: each feature better than persistence, the server drained; and its picture is there."""
    picture = tmp_path / "demo.svg"
    command = [sys.executable, "-m", "tidegate.cli", "demo", "--svg", str(picture)]
    environment = {**os.environ, "COLUMNS": "120"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "drained and exited cleanly" in ran.stdout
    assert "2015-12-26" in ran.stdout
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weather-us", "High 67 F, low 43 F, wind 13 mph, 0.25 in of rain, humidity 83%"),
        ("dinner", "nobody wrote it down: the prediction stands in"),
        ("storybook", "10,000 sentences, 0 of them wrong"),
        ("storybook-rnn", "<- a name that sees itself"),
    ],
)
def test_the_shorter_demos(name: str, said: str) -> None:
    """Each ends with 0, says what it is for, and writes no terminal codes where there is no terminal."""
    command = [sys.executable, "-m", "tidegate.cli", "demo", name]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert said in ran.stdout
    assert "drained and exited cleanly" in ran.stdout
    assert "\x1b" not in ran.stdout


ENDED = """
import signal, sys
from tidegate.cli import main
for number in signal.SIGTERM, signal.SIGHUP:
    signal.signal(number, signal.SIG_DFL)  # also where tests run under nohup
sys.argv[1:] = ["demo", "dinner", "--keep"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_takes_its_server_along(number: signal.Signals) -> None:
    """A signal ends a demo that stays as Ctrl-C does: no server is left, and the exit status says what ended it."""
    command = [sys.executable, "-c", ENDED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ran:
        assert ran.stdout is not None
        assert any("the server stays until Ctrl-C" in line for line in ran.stdout)
        (server,) = psutil.Process(ran.pid).children()
        try:
            ran.send_signal(number)
            assert ran.wait() == 128 + number
            assert not server.is_running()
        finally:
            if server.is_running():
                server.kill()


def test_a_picture_is_of_the_weather_alone() -> None:
    """Another demo has none: wrong usage, and no server is started."""
    command = [sys.executable, "-m", "tidegate.cli", "demo", "dinner", "--svg", "picture.svg"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "--svg belongs to the demo weather" in ran.stderr


async def test_a_demo_that_shows_something_else_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """A play that did not show what it says ends with 1, although the server drained cleanly."""

    async def poor(client: AsyncClient, stage: Stage) -> bool:
        stage.say(f"{len(await client.models())} models")
        return False

    assert await perform(poor, keep=False) == 1
    said = capsys.readouterr().out
    assert "This is not what the demo should show." in said
    assert "drained and exited cleanly" in said


def test_settings_of_another_server_are_not_the_demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the server that somebody runs do not reach the demo's: its store is not opened."""
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:{tmp_path / 'sessions.db'}")
    monkeypatch.setenv("TIDEGATE_MODELS", str(tmp_path))

    async def shown(client: AsyncClient, stage: Stage) -> bool:
        return bool(await client.models())

    assert asyncio.run(perform(shown, keep=False)) == 0
    assert not list(tmp_path.iterdir())
