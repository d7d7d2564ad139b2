"""From a file never seen to a recipe that trains, and the page of all options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import BaseModel

from tidegate.errors import ConfigError
from tidegate.training.init import look
from tidegate.training.init_text import write_recipe
from tidegate.training.options_page import SECTIONS, page
from tidegate.training.recipe import load_recipe
from tidegate.training.trainer import train

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"


def two_meters(folder: Path) -> Path:
    """Two meters, hourly, with a category, a constant, a missing hour and a missing value."""
    hours = pd.date_range("2024-01-01", periods=300, freq="h")
    random = np.random.default_rng(0)
    frames = []
    for meter in ("a", "b"):
        power = 3 + np.sin(np.arange(300) * np.pi / 12) + 0.1 * random.normal(size=300)
        kind = np.where(hours.hour < 12, "day", "night")
        frame = pd.DataFrame({"at": hours, "meter": meter, "power (kW)": power, "tariff": kind, "site": 1})
        frames.append(frame.drop(index=40))
    whole = pd.concat(frames, ignore_index=True)
    whole.loc[7, "power (kW)"] = np.nan
    whole.to_csv(folder / "meters.csv", index=False)
    return folder / "meters.csv"


def test_what_is_seen(tmp_path: Path) -> None:
    """Time, id, frequency, numbers, categories, constants and gaps are found."""
    sight = look(two_meters(tmp_path))
    assert (sight.time, sight.id, sight.frequency, sight.streams) == ("at", "meter", "h", 2)
    assert (sight.numbers, sight.categories, sight.left_out) == (("power (kW)",), ("tariff",), ("site",))
    assert (sight.missing_steps, sight.missing_cells, sight.duplicates) == (2, 1, 0)


def test_first_recipe_trains(tmp_path: Path) -> None:
    """The recipe that is written trains as it is, gaps and missing values and all, to better than persistence."""
    torch.set_num_threads(1)
    data = two_meters(tmp_path)
    write_recipe(data, tmp_path / "recipe.toml", look(data))
    recipe = load_recipe(tmp_path / "recipe.toml")
    options = recipe.training.model_copy(update={"epochs": 15, "refit": False})
    package = train(recipe.model_copy(update={"training": options}), tmp_path)
    assert [feature.name for feature in package.manifest.features] == ["power_kW", "tariff"]
    assert package.manifest.metrics["validation"]["relative_mae"] < 1.0


def test_a_recipe_is_never_overwritten(tmp_path: Path) -> None:
    """A file that is there stays."""
    data = two_meters(tmp_path)
    (tmp_path / "recipe.toml").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        write_recipe(data, tmp_path / "recipe.toml", look(data))
    assert (tmp_path / "recipe.toml").read_text() == "mine"


def test_page_of_options_is_complete() -> None:
    """The page in docs is the one that the options' descriptions make; run scripts/recipes_page.py."""
    assert DOCS.read_text() == page()


@pytest.mark.parametrize("model", SECTIONS.values())
def test_every_option_is_described(model: type[BaseModel]) -> None:
    """No option is without words."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []
