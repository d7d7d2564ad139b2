"""The weather package that is carried in the repository: it is of its recipe, and it beats persistence on 2015."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tidegate.model.package import Package, expected_shapes, load_package
from tidegate.training.data import Stream, load
from tidegate.training.evaluation import evaluate
from tidegate.training.recipe import Recipe, load_recipe

FOLDER = Path(__file__).parents[2] / "models" / "weather"
ORDER = ("precipitation", "temp_max", "temp_min", "wind")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(FOLDER / "recipe.toml")


@pytest.fixture(scope="module")
def package() -> Package:
    return load_package(FOLDER / "1")


@pytest.fixture(scope="module")
def table(recipe: Recipe) -> Stream:
    (stream,) = load(recipe).streams
    return stream


def test_package_is_of_its_recipe(recipe: Recipe, package: Package, table: Stream) -> None:
    """Features, targets, cell, sizes, scaling and tensors are what the recipe as committed trains."""
    manifest = package.manifest
    assert manifest.provenance["recipe_sha256"] == recipe.sha256
    assert package.feature_names == manifest.targets == ORDER
    assert [feature.unit for feature in manifest.features] == ["mm", "degC", "degC", "m/s"]
    assert (manifest.cell, manifest.layers, manifest.hidden_size) == (
        recipe.network.cell,
        recipe.network.layers,
        recipe.network.hidden_size,
    )
    assert manifest.frequency == recipe.data.frequency
    assert {name: value.shape for name, value in package.weights.items()} == expected_shapes(manifest)
    training = table.training_part.copy()
    training[:, 0] = np.log1p(training[:, 0])
    np.testing.assert_allclose([f.scaling.center for f in manifest.features], training.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose([f.scaling.scale for f in manifest.features], training.std(axis=0), atol=1e-6)


def test_2015_was_never_trained_on(table: Stream) -> None:
    """Training and validation are the years 2012 to 2014, the test is 2015, and only the test."""
    times = table.times.astype("datetime64[ns]")
    assert times[table.test] == np.datetime64("2015-01-01")
    assert times[0] == np.datetime64("2012-01-01")
    assert len(table.test_part) == 365


@pytest.mark.parametrize(("target", "at_most"), list(zip(ORDER, [0.80, 0.95, 0.92, 0.85], strict=True)))
def test_2015_beats_persistence(table: Stream, package: Package, target: str, at_most: float) -> None:
    """Streamed from zero state through 2015, each feature's MAE is well below that of "tomorrow is as today"."""
    error = evaluate(package, table.test_part)[target]
    assert error["mae"] < at_most * error["persistence_mae"]
    assert error == package.manifest.metrics["test"][target]
