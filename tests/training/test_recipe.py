"""Recipes and data: what is right is read, what is wrong is one line that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tidegate.errors import ConfigError
from tidegate.training.data import Stream, load
from tidegate.training.draft import checked, draft_manifest
from tidegate.training.recipe import load_recipe, make_recipe

RECIPE = """
name = "pond"
[data]
source = "pond.csv"
time = "day"
frequency = "D"
validation = 2024-01-05
test = 2024-01-08
[[features]]
name = "level"
unit = "m"
[[features]]
name = "rain"
role = "past"
transform = "log1p"
"""
ROWS = [f"2024-01-{day:02},{day / 10},{day % 3}" for day in range(1, 11)]


def write(folder: Path, recipe: str = RECIPE, rows: list[str] = ROWS) -> Path:
    (folder / "pond.csv").write_text("\n".join(["day,level,rain", *rows]) + "\n")
    path = folder / "recipe.toml"
    path.write_text(recipe)
    return path


def only_stream(path: Path) -> Stream:
    (stream,) = load(load_recipe(path)).streams
    return stream


def test_parts_are_split_by_date(tmp_path: Path) -> None:
    """Training ends where validation begins, validation where the test begins; columns come in the recipe's order."""
    table = only_stream(write(tmp_path))
    assert [len(part) for part in (table.training_part, table.validation_part, table.test_part)] == [4, 3, 3]
    np.testing.assert_array_equal(table.values[:2], [[0.1, 1.0], [0.2, 2.0]])
    assert table.times[0] == np.datetime64("2024-01-01", "ns").astype(np.int64)


def test_start_and_end(tmp_path: Path) -> None:
    """Rows before `start`, and from `end` on, are left out."""
    dates = "start = 2024-01-02\nend = 2024-01-10\nvalidation"
    table = only_stream(write(tmp_path, RECIPE.replace("validation", dates)))
    assert [len(part) for part in (table.training_part, table.validation_part, table.test_part)] == [3, 3, 2]


def test_what_a_session_keeps(tmp_path: Path) -> None:
    """[memory] is the package's; what does not go together is refused."""
    path = write(tmp_path, RECIPE + "[memory]\nrewind_steps = 4\nlateness_steps = 3\nreplay_steps = 9\n")
    manifest = checked(draft_manifest(load_recipe(path), load(load_recipe(path))))
    assert (manifest.rewind_steps, manifest.lateness_steps, manifest.replay_steps) == (4, 3, 9)
    path = write(tmp_path, RECIPE + "[memory]\nrewind_steps = 2\nlateness_steps = 3\n")
    with pytest.raises(ConfigError, match="lateness_steps: 3 is more than rewind_steps"):
        draft_manifest(load_recipe(path), load(load_recipe(path)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('frequency = "D"', "", "data: frequency: a column of times needs it"),
        ("unit", "units", "features.0.units: Extra inputs"),
        ("2024-01-08", "2024-01-04", "data: start, validation, test and end must follow each other"),
        ("[data]", "[network]\nhidden_size = 0\n[data]", "network.hidden_size: "),
        ("[data]", "[training]\nloss = 'rmse'\n[data]", "training.loss: "),
        ("[data]", "[inputs]\nids = ['a']\n[data]", "inputs.ids: needs data.id"),
        ('role = "past"', "minimum = 2.0\nmaximum = 1.0", "features.1: minimum: is 2, more than maximum, 1"),
        ("[data]", "[data", "is not TOML"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """An option that is missing, unknown or out of range is refused by its path in the file."""
    path = write(tmp_path, RECIPE.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        load_recipe(path)
    assert str(refused.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (RECIPE.replace('unit = "m"', "input = false").partition('[[features]]\nname = "rain"')[0], "sees nothing"),
        (RECIPE + '[network.head]\nkind = "categorical"\n', "level has none; give it vocabulary"),
    ],
    ids=["no input", "no vocabulary"],
)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, recipe: str, message: str) -> None:
    """A cell that would see nothing, or a categorical head without words, is one clear line before any training."""
    read = load_recipe(write(tmp_path, recipe))
    with pytest.raises(ConfigError, match=message):
        draft_manifest(read, load(read))


def test_index_of_a_parquet_file(tmp_path: Path) -> None:
    """An index that has a name is a column like the others."""
    days = pd.date_range("2024-01-01", periods=10, name="day")
    pd.DataFrame({"level": np.arange(10) / 10, "rain": 1.0}, index=days).to_parquet(tmp_path / "pond.parquet")
    table = only_stream(write(tmp_path, RECIPE.replace("pond.csv", "pond.parquet")))
    assert table.times[-1] == np.datetime64("2024-01-10", "ns").astype(np.int64)


MARKED = pd.DataFrame(
    {
        "whole": [3, -999, 5],
        "exact": [0.5, 1.5, -999.0],
        "single": np.array([-99.9, 1.5, 2.5], np.float32),
        "text": ["-999.0", "7", "-"],
        "code": [1, 2, -999],
    }
)


@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_cells_that_mean_missing(tmp_path: Path, kind: str) -> None:
    """What data.missing names is missing in numbers as in text, whatever the data comes from; codes stay words."""
    rows = pd.concat([MARKED] * 4, ignore_index=True)
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    names = ("whole", "exact", "single", "text")
    options = {
        "name": "pond",
        "data": {"missing": [-999, -99.9, "-"], "source": "" if kind == "frame" else f"rows.{kind}"},
        "features": [*({"name": name} for name in names), {"name": "code", "role": "past", "categories": "auto"}],
    }
    dataset = load(make_recipe(options, tmp_path), rows if kind == "frame" else None)
    nan = np.nan
    np.testing.assert_array_equal(
        dataset.streams[0].values[:3], [[3, 0.5, nan, nan, 0], [nan, 1.5, 1.5, 7, 1], [5, nan, 2.5, nan, nan]]
    )
    assert dataset.plans[-1].words == ("1", "2")


@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_words_are_no_numbers(tmp_path: Path, kind: str) -> None:
    """A word is missing by its text, and not because it would be the same number."""
    rows = pd.DataFrame({"code": ["0", "00", "0e5", "a"] * 4, "level": 1.0})
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    options = {
        "name": "pond",
        "data": {"missing": [0], "source": "" if kind == "frame" else f"rows.{kind}"},
        "features": [{"name": "level"}, {"name": "code", "role": "past", "categories": "auto"}],
    }
    dataset = load(make_recipe(options, tmp_path), rows if kind == "frame" else None)
    assert dataset.plans[-1].words == ("00", "0e5", "a")
    np.testing.assert_array_equal(dataset.streams[0].values[:4, 1], [np.nan, 0, 1, 2])


IDS = ["NA", "null", "0", "01"]


def streams_of(folder: Path, ids: list[str], kind: str) -> list[str]:
    """The ids of the streams of a table, each as often as there are parts to fill."""
    rows = pd.DataFrame({"id": ids * 8, "level": 1.0})
    rows.to_parquet(folder / "rows.parquet")
    rows.to_csv(folder / "rows.csv", index=False)
    data = {"id": "id", "missing": [0], "validation": 0.5, "source": "" if kind == "frame" else f"rows.{kind}"}
    recipe = make_recipe({"name": "pond", "data": data, "features": [{"name": "level"}]}, folder)
    return [stream.id for stream in load(recipe, rows if kind == "frame" else None).streams]


@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_every_row_is_of_a_stream(tmp_path: Path, kind: str) -> None:
    """What would be a missing value elsewhere is an id; a row without one is refused and never left out."""
    assert streams_of(tmp_path, IDS, kind) == IDS
    with pytest.raises(ConfigError, match="row 2: id is missing; every row needs the id of its stream"):
        streams_of(tmp_path, ["NA", ""], kind)


def test_index_of_a_frame(tmp_path: Path) -> None:
    """An index holds the times of a DataFrame, named or not, and also where it stands beside their column."""
    days = pd.date_range("2024-01-01", periods=10)
    frame = pd.DataFrame({"day": days, "level": np.arange(10) / 10, "rain": 1.0})
    recipe = load_recipe(write(tmp_path))
    unnamed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"time": "index"})})
    beside, inside = frame.set_index("day", drop=False), frame.set_index("day")
    for read, rows in ((recipe, beside), (recipe, inside), (unnamed, inside.rename_axis(None))):
        (stream,) = load(read, rows).streams
        np.testing.assert_array_equal(stream.times, days.as_unit("ns").astype("int64"))


def test_wrong_frames_are_named() -> None:
    """A column that is there twice, or words that training never sees, are one clear line."""
    rows = pd.DataFrame({"level": [1.0] * 20})
    recipe = make_recipe({"name": "pond", "features": [{"name": "level"}]})
    with pytest.raises(ConfigError, match="data: has 2 columns 'level'; give each its own name"):
        load(recipe, pd.concat([rows, rows], axis=1))
    features = [{"name": "sky", "vocabulary": "auto"}]
    words = make_recipe({"name": "pond", "features": features, "network": {"head": {"kind": "categorical"}}})
    with pytest.raises(ConfigError, match="data: sky has no word in the training part"):
        load(words, pd.DataFrame({"sky": [None] * 16 + ["fog", "rain"] * 2}))


def test_no_recipe(tmp_path: Path) -> None:
    """A recipe that is not there is one clear line."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "recipe.toml")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS[:3], "2024-01-04T09:00,0.4,1", *ROWS[4:]], r"2024-01-04T09.* is not a whole number of intervals \(D\)"),
        ([*ROWS[:3], "2024-01-04,deep,1", *ROWS[4:]], "row 4: level is 'deep', which is no number"),
        ([*ROWS, ROWS[-1]], r"row 11 \(2024-01-10.*repeats its stream's time; name .* data.id, or see data.duplicates"),
        (ROWS[3:], r"training \(before data.validation = 2024-01-05 00:00:00\) has 1 row\(s\) of a stream at most"),
        (ROWS[:5], r"validation \(from data.validation = .* to data.test = 2024-01-08 .*\) has 1 row\(s\)"),
        ([*ROWS[:8], ",0.9,0", ROWS[9]], "row 9: day is missing; every row needs a time"),
        ([*ROWS[:8], "soon,0.9,0", ROWS[9]], "row 9: day is 'soon', which is not read as a time; see data.time_format"),
        ([f"{row},7" for row in ROWS], "rows have more cells than the header; .* data.separator .* data.decimal"),
    ],
    ids=["off the grid", "no number", "a duplicate", "training", "validation", "no time", "no such time", "cells"],
)
def test_wrong_data_is_named(tmp_path: Path, rows: list[str], message: str) -> None:
    """A time off the grid, a cell that is no number, a duplicate or too few rows is refused with its place."""
    with pytest.raises(ConfigError, match=message):
        load(load_recipe(write(tmp_path, rows=rows)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('time = "day"', 'time = "date"', "has no column 'date', but day, level, rain"),
        ("pond.csv", "lake.csv", "cannot be read"),
        ("pond.csv", "vega:no-such-data", "vega_datasets holds no such data"),
        ("pond.csv", "vega:list-datasets", "vega_datasets holds no such data, but airports, .*, seattle_weather"),
    ],
)
def test_wrong_source_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A source or a column that is not there is named."""
    with pytest.raises(ConfigError, match=message):
        load(load_recipe(write(tmp_path, RECIPE.replace(old, new))))
