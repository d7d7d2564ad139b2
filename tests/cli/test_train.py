"""From a file that nobody has seen to a served model with its report: `tidegate init`, `train`, `serve`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.servers import RunningServer
from tidegate import Client
from tidegate.cli import main
from tidegate.training.__main__ import main as module

HOURS, START = 500, "2024-03-01"


def measurements(path: Path) -> pd.DataFrame:
    """Two pumps' hourly pressure and flow, a weekday pattern and noise in them, some cells empty."""
    random, hours = np.random.default_rng(0), pd.date_range(START, periods=HOURS, freq="h")
    frames = []
    for number, pump in enumerate(("north", "south")):
        wave = np.sin(np.arange(HOURS) * 2 * np.pi / 24 + number)
        pressure = 4 + wave + random.normal(0, 0.05, HOURS)
        flow = 20 - 5 * wave + random.normal(0, 0.2, HOURS)
        pressure[random.random(HOURS) < 0.02] = np.nan
        frames.append(pd.DataFrame({"measured_at": hours, "pump": pump, "pressure": pressure, "flow": flow}))
    frame = pd.concat(frames)
    frame.to_csv(path, index=False)
    return frame


def run(*arguments: str) -> str:
    """A verb that must go well; returns what it printed."""
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_from_a_file_to_a_served_model(tmp_path: Path) -> None:
    """The recipe that `init` writes trains as it is; the version has a report with plots and beats persistence; a
    server takes it, and a client is answered."""
    frame = measurements(tmp_path / "pumps.csv")
    recipe, models = tmp_path / "recipe.toml", tmp_path / "models"
    run("init", str(tmp_path / "pumps.csv"), "--output", str(recipe))
    text = re.sub(r"^#? ?epochs = .*$", "", recipe.read_text(), flags=re.MULTILINE)
    recipe.write_text(text.replace("[training]", "[training]\nepochs = 12"))
    run("train", str(recipe), "--models", str(models))
    (name,) = (path.name for path in models.iterdir())
    version = models / name / "1"
    record = json.loads((version / "evaluation" / "report.json").read_text())
    assert list((version / "evaluation").glob("*.png"))
    assert record["model"] == name
    assert "evaluation/report.md" in (models / name / "card.md").read_text()
    test = json.loads((version / "model.json").read_text())["metrics"]["test"]
    assert all(errors["mae"] < errors["persistence_mae"] for errors in test.values())
    with RunningServer(models) as server, Client(server.grpc) as client:
        session = client.session(name, "north")
        about = client.model(name).description
        assert about is not None
        for row in frame[:5].itertuples():
            values = {feature: getattr(row, feature) for feature in about.names}
            prediction = session.step(values, time=np.datetime64(row.measured_at, "ns"))
        assert set(prediction.targets) == {"pressure", "flow"}
        assert session.forecast(24).values.shape == (24, 2)


@pytest.mark.parametrize("verb", [[main, "train"], [module]], ids=["tidegate train", "python -m tidegate.training"])
def test_what_cannot_be_written_is_a_line(tmp_path: Path, verb: list[Any]) -> None:
    """A version whose place is taken is refused with one line and exit code 1, by the verb as by the module."""
    level = pd.DataFrame({"level": np.sin(np.arange(100) / 3)})
    level.to_csv(tmp_path / "level.csv", index=False)
    recipe = tmp_path / "recipe.toml"
    data = '[data]\nsource = "level.csv"\n[[features]]\nname = "level"\n'
    recipe.write_text(f'name = "level"\n{data}[training]\nepochs = 1\nrefit = false\n')
    (tmp_path / "level").mkdir()
    (tmp_path / "level" / "1").write_text("no folder")
    done = CliRunner().invoke(verb[0], [*verb[1:], str(recipe), "--models", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "exists; a version is written once" in done.stderr.splitlines()[-1]
