"""From a recipe to a report, a card and a table: files that can be read, the same however often they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.packages import random_package
from tidegate.cli import main
from tidegate.errors import ConfigError
from tidegate.model.package import load_package
from tidegate.training.evaluation import evaluate_package
from tidegate.training.evaluation.card import BEGIN, END, with_section
from tidegate.training.evaluation.streams import recipe_streams
from tidegate.training.recipe import Recipe, make_recipe

ROWS = 400


def recipe(folder: Path, **data: Any) -> Recipe:
    """Two streams of two features, hourly, some of it missing."""
    random = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=ROWS, freq="h")
    frames = [
        pd.DataFrame({"time": times, "site": site, "x0": random.normal(size=ROWS), "x1": random.normal(size=ROWS)})
        for site in ("north", "south")
    ]
    frame = pd.concat(frames).drop(index=[5, 390])
    frame.iloc[350, 2] = np.nan
    frame.to_csv(folder / "data.csv", index=False)
    where = {"source": "data.csv", "time": "time", "id": "site", "frequency": "h", "validation": 0.6, "test": 0.7}
    return make_recipe({"name": "sites", "data": where | data, "features": [{"name": "x0"}, {"name": "x1"}]}, folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    random_package(folder, "sites", features=2, targets=2, frequency="h")
    return folder


def test_package_report(models: Path, tmp_path: Path) -> None:
    """A package's report has its pictures, a record that is JSON, and a section in the card; a second run replaces the
    section and keeps what people wrote."""
    card = models / "sites" / "card.md"
    card.write_text("# sites\n\nWritten by hand.\n")
    found = evaluate_package(models, "sites", "1", recipe(tmp_path))
    folder = models / "sites" / "1" / "evaluation"
    assert json.loads((folder / "report.json").read_text()) == found
    assert {path.name for path in folder.glob("*.png")} == {"observed.png", "residuals.png", "horizon.png"}
    assert {score["horizon"] for score in found["scores"]} == {1, 24}
    assert found["streams"] == 2
    assert set(found["overall"][0]["mse"]) == {"model", "persistence", "seasonal naive", "ridge on lags"}
    evaluate_package(models, "sites", "1", recipe(tmp_path))
    text = card.read_text()
    assert text.startswith("# sites\n\nWritten by hand.\n")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "1/evaluation/observed.png" in text


def test_missing_values_are_not_scored(models: Path, tmp_path: Path) -> None:
    """The scored steps are those of the grid, less what is missing: a value of one stream, a step of both."""
    result = CliRunner().invoke(main, [*verb(models, tmp_path), "--part", "test", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["steps"] == 240
    counts = {score["target"]: score["count"] for score in found["scores"]}
    assert counts == {"x0": 237, "x1": 238}


@pytest.mark.parametrize("refit", [True, False])
def test_a_part_that_the_model_was_trained_on(tmp_path: Path, refit: bool) -> None:
    """Of a model that was trained again with the validation part, that is measured with a warning, beside baselines
    that were fitted on as much; of another without one, and beside baselines that have not seen it."""
    random_package(tmp_path / "models", "sites", features=2, targets=2, frequency="h", provenance={"refit": refit})
    result = CliRunner().invoke(main, [*verb(tmp_path / "models", tmp_path), "--part", "validation", "--json"])
    assert result.exit_code == 0, result.output
    said = "Warning: sites was trained again with the validation part (training.refit)"
    assert (said in result.stderr) == refit
    manifest = load_package(tmp_path / "models" / "sites" / "1").manifest
    (north, south) = recipe_streams(recipe(tmp_path), manifest, "validation")
    assert (north.fit == north.end, south.fit == south.end) == (refit, refit)
    assert north.fit in (north.start, north.end)
    if refit:
        found = evaluate_package(tmp_path / "models", "sites", "1", recipe(tmp_path), "validation")
        assert found["source"].endswith("validation part, which it was trained on")


def verb(models: Path, folder: Path) -> list[str]:
    """`tidegate evaluate` with a recipe."""
    recipe(folder)
    path = folder / "recipe.toml"
    path.write_text(
        """name = "sites"
[data]
source = "data.csv"
time = "time"
id = "site"
frequency = "h"
validation = 0.6
test = 0.7
[[features]]
name = "x0"
[[features]]
name = "x1"
"""
    )
    return ["evaluate", "sites", "--models", str(models), "--recipe", str(path)]


def test_settings_of_another_server_are_not_ours(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the server that somebody runs do not reach the one of an evaluation: its store is not opened."""
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:{tmp_path / 'sessions.db'}")
    monkeypatch.setenv("tidegate_limits__sessions_max", "1")
    result = CliRunner().invoke(main, [*verb(models, tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["streams"] == 2
    assert not list(tmp_path.glob("sessions.db*"))


def test_a_file_without_a_recipe(models: Path, tmp_path: Path) -> None:
    """A CSV file is scored from the date that is given, and the report goes where it is asked."""
    recipe(tmp_path)
    asked = ["evaluate", "sites", "--models", str(models), "--data", str(tmp_path / "data.csv"), "--time", "time"]
    result = CliRunner().invoke(
        main, [*asked, "--id", "site", "--start", "2024-01-15", "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "skill against persistence" in result.output
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["steps"] == 2 * (ROWS - 14 * 24)
    assert (tmp_path / "out" / "report.md").read_text().startswith("# sites 1: evaluation")


def test_a_file_without_times(models: Path, tmp_path: Path) -> None:
    """It is scored, with a warning that does not mix with the record."""
    recipe(tmp_path)
    asked = ["evaluate", "sites", "--models", str(models), "--data", str(tmp_path / "data.csv"), "--json"]
    result = CliRunner().invoke(main, [*asked, "--column", "x1=x0"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["streams"] == 1
    assert "Warning: sites has a frequency (h), but is sent no times; --time" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either --data or --recipe"),
        (["--recipe", "RECIPE", "--start", "2024-01-01"], "go with --data"),
        (["--data", "DATA", "--part", "test"], "goes with --recipe"),
        (["--data", "DATA", "--horizons", "1,x"], "is not a list of numbers"),
        (["--data", "DATA", "--horizons", "0"], "horizons must be from 1 to"),
        (["--data", "DATA", "--version", "9"], "no good version '9'"),
        (["--data", "DATA", "--time", "when"], "has no column 'when'"),
        (["--data", "DATA", "--column", "y=x0"], "the model has no feature y, but x0, x1"),
        (["--recipe", "RECIPE", "--column", "x0=x1"], "go with --data"),
        (["--recipe", "RECIPE", "--time-format", "unix s"], "go with --data"),
        (["--data", "DATA", "--time", "time", "--time-format", "unix s"], "is not read as a time; see --time-format"),
        (["--data", "DATA", "--time", "time", "--start", "yesterday"], "'yesterday' is not a date or time"),
    ],
)
def test_wrong_use(models: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    """What is asked wrongly is one line that says so, with exit code 2."""
    verb(models, tmp_path)
    places = {"RECIPE": str(tmp_path / "recipe.toml"), "DATA": str(tmp_path / "data.csv")}
    asked = [places.get(argument, argument) for argument in arguments]
    result = CliRunner().invoke(main, ["evaluate", "sites", "--models", str(models), *asked])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_nothing_to_score(models: Path, tmp_path: Path) -> None:
    """A recipe without a test part cannot be measured on it."""
    with pytest.raises(ConfigError, match="no step lies in the part to be scored"):
        evaluate_package(models, "sites", "1", recipe(tmp_path, test=None))


def test_section_of_a_new_card() -> None:
    """A card without a section gets one at its end; one that has it keeps what stands before and behind."""
    begun = with_section("# name\n", "first")
    assert begun == f"# name\n\n{BEGIN}\nfirst\n{END}\n"
    assert with_section(f"{begun}after\n", "second") == f"# name\n\n{BEGIN}\nsecond\n{END}\nafter\n"
