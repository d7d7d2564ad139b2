"""The trainer: what it fits, what it writes, and that it is the network that will be served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tidegate.model.package import load_package
from tidegate.model.reference import predict
from tidegate.training.recipe import Recipe, load_recipe
from tidegate.training.trainer import train

RECIPE = Path(__file__).parents[2] / "models" / "weather" / "recipe.toml"


@pytest.fixture(autouse=True)
def one_intra_op_thread() -> Iterator[None]:
    """Small networks; other tests run beside these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def short(recipe: Recipe, **options: Any) -> Recipe:
    """The recipe with another training; it keeps its folder and hash."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=options)})


def sine(folder: Path, cell: str = "lstm") -> Recipe:
    """Hours of a noiseless sine, which a recurrent network predicts almost exactly and persistence does not."""
    times = np.datetime64("2024-01-01T00") + np.arange(600).astype("timedelta64[h]")
    levels = 5 + 2 * np.sin(np.arange(600) * 2 * np.pi / 12)
    rows = [f"{time},{level:.6f}" for time, level in zip(times, levels, strict=True)]
    (folder / "sine.csv").write_text("\n".join(["time,level", *rows]))
    (folder / "recipe.toml").write_text(f"""
name = "sine"
[data]
source = "sine.csv"
time = "time"
frequency = "h"
validation = 2024-01-17
test = 2024-01-21
[[features]]
name = "level"
[network]
cell = "{cell}"
hidden_size = 8
[training]
epochs = 40
stretch = 60
learning_rate = 0.02
average = 0.9
""")
    return load_recipe(folder / "recipe.toml")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_what_is_trained_is_what_is_served(tmp_path: Path, cell: str) -> None:
    """For each cell, the package's equations, streamed by the reference, keep the promise of validation on the test."""
    package = train(sine(tmp_path, cell), tmp_path)
    assert package.manifest.metrics["validation"]["relative_mae"] < 0.3
    error = package.manifest.metrics["test"]["level"]
    assert error["mae"] < 0.3 * error["persistence_mae"]


def test_versions_count_up(tmp_path: Path) -> None:
    """Each training writes the next number, and the same seed gives the same weights."""
    recipe = short(sine(tmp_path), epochs=2)
    first, second = train(recipe, tmp_path), train(recipe, tmp_path)
    (tmp_path / "sine" / "draft").mkdir()
    third = train(short(recipe, seed=1), tmp_path)
    assert [package.manifest.version for package in (first, second, third)] == ["1", "2", "3"]
    assert first.manifest.weights_sha256 == second.manifest.weights_sha256 != third.manifest.weights_sha256
    assert load_package(tmp_path / "sine" / "1").fingerprint == first.fingerprint


def test_training_leaves_torchs_random_numbers_alone(tmp_path: Path) -> None:
    """The seed is the recipe's own: the caller's generator goes on as if nothing had happened."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(short(sine(tmp_path), epochs=1), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_time_limit(tmp_path: Path) -> None:
    """Past `seconds_max` the epoch at hand is the last, and what was best is written."""
    package = train(short(sine(tmp_path), epochs=1_000_000, seconds_max=1e-6, refit=False), tmp_path)
    assert package.manifest.metrics["validation"]["epoch"] == 1


def test_provenance_names_no_machine(tmp_path: Path) -> None:
    """Where a package comes from is in it: data, recipe, seed, version of torch; but no path of this machine."""
    recipe = short(sine(tmp_path), epochs=1)
    package = train(recipe, tmp_path)
    assert package.manifest.provenance["recipe_sha256"] == recipe.sha256
    assert package.manifest.provenance["data"] == "sine.csv"
    assert str(tmp_path) not in (tmp_path / "sine" / "1" / "model.json").read_text()


def test_weather_in_seconds(tmp_path: Path) -> None:
    """A few seconds of the weather recipe already beat persistence on its validation year."""
    package = train(short(load_recipe(RECIPE), epochs=50, seconds_max=5.0, refit=False), tmp_path)
    assert package.manifest.metrics["validation"]["relative_mae"] < 0.95


def test_predictions_are_finite_on_any_stream(tmp_path: Path) -> None:
    """What was trained answers raw values far outside of its data with numbers."""
    package = train(short(sine(tmp_path), epochs=1), tmp_path)
    assert np.isfinite(predict(package, np.array([[1e6], [-1e6], [0.0]])).raw).all()
