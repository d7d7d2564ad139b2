"""From a file never seen to a recipe that trains, and the page of all options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from pydantic import BaseModel

from tidegate.cli import main
from tidegate.errors import ConfigError
from tidegate.training.data import load
from tidegate.training.init import Sight, look
from tidegate.training.init_text import recipe_text, write_recipe
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
    assert (sight.time, sight.id, sight.steps.frequency, sight.streams) == ("at", "meter", "h", 2)
    assert (sight.numbers, sight.categories, sight.left_out) == (("power (kW)",), ("tariff",), ("site",))
    assert (sight.steps.missing, sight.missing_cells, sight.steps.repeats) == (2, 1, 0)


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


def hourly(streams: int, rows: int = 300) -> pd.DataFrame:
    """Streams side by side, `pump` their number from 1 on, and a count that nothing tells apart."""
    random, hours = np.random.default_rng(0), pd.date_range("2024-01-01", periods=rows, freq="h")
    frames = [
        pd.DataFrame({"at": hours, "pump": number + 1, "flow": random.normal(size=rows)}) for number in range(streams)
    ]
    whole = pd.concat(frames, ignore_index=True)
    return whole.assign(count=random.integers(0, 400, len(whole)), sky=random.choice(["clear", "fog"], len(whole)))


def seen(folder: Path, frame: pd.DataFrame) -> tuple[Sight, str]:
    """What is seen of the frame as a file, and the text of its recipe."""
    frame.to_csv(folder / "data.csv", index=False)
    sight = look(folder / "data.csv")
    return sight, recipe_text(folder / "data.csv", "data.csv", sight)


def test_a_number_that_tells_streams_apart(tmp_path: Path) -> None:
    """A column of whole numbers is the id where it makes the times unique, and then it is no target."""
    sight, text = seen(tmp_path, hourly(5))
    assert (sight.id, sight.streams, sight.numbers) == ("pump", 5, ("flow", "count"))
    assert "duplicates" not in text


def test_an_id_that_reads_like_a_missing_value(tmp_path: Path) -> None:
    """Namibia's NA is a stream like the others, for the recipe and for what it loads; an empty cell is no id, which the
    recipe says."""
    frame = hourly(2).drop(columns="sky").assign(pump=lambda rows: rows["pump"].map({1: "NA", 2: "DE"}))
    sight, text = seen(tmp_path, frame)
    assert (sight.id, sight.streams) == ("pump", 2)
    (tmp_path / "recipe.toml").write_text(text)
    assert [stream.id for stream in load(load_recipe(tmp_path / "recipe.toml")).streams] == ["NA", "DE"]
    frame.loc[7, "pump"] = None
    sight, text = seen(tmp_path, frame)
    assert (sight.id, sight.streams, sight.steps.frequency) == ("pump", 2, "h")
    assert "# Note: 1 of 600 rows have no 'pump'" in text
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match="row 8: pump is missing; every row needs the id of its stream"):
        load(load_recipe(tmp_path / "recipe.toml"))


def test_a_measured_number_is_no_id(tmp_path: Path) -> None:
    """A count that happens to be different in most rows of a time is none, nor is a category that is not."""
    sight, _ = seen(tmp_path, hourly(5).drop(columns="pump"))
    assert (sight.id, sight.numbers, sight.categories) == ("", ("flow", "count"), ("sky",))


def test_unexplained_repeats_are_said(tmp_path: Path) -> None:
    """Times that repeat and no id for them: nothing is dropped, recipe and terminal say so, training refuses."""
    frame = hourly(5).drop(columns="pump")
    _, text = seen(tmp_path, frame)
    assert "duplicates =" not in text
    assert "# Note: 1200 of 1500 rows have the time of another row; no column tells them apart.\n" in text
    told = CliRunner().invoke(main, ["init", str(tmp_path / "data.csv"), "--output", str(tmp_path / "recipe.toml")])
    assert "note: 1200 of 1500 rows have the time of another row; no column tells them apart\n" in told.output
    with pytest.raises(ConfigError, match=r"repeats its stream's time; name the column of streams in data\.id"):
        load(load_recipe(tmp_path / "recipe.toml"))


def test_a_few_repeats_are_no_streams(tmp_path: Path) -> None:
    """Three rows that are there twice are slips, which do not make a category an id."""
    frame = hourly(1)
    again = frame.iloc[50:53].assign(sky=["a", "b", "c"])
    sight, text = seen(tmp_path, pd.concat([frame, again]))
    assert (sight.id, sight.categories, sight.steps.repeats) == ("", ("sky",), 3)
    assert 'duplicates = "first" # of two rows of one time; 3 row(s) are left out' in text


def test_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    """A file as German programs write it: separator, decimal sign and the way of its dates are in the recipe."""
    days = pd.date_range("2024-01-01", periods=60).strftime("%d.%m.%Y")
    rows = [f"{day};{number % 7},25;{number % 5}" for number, day in enumerate(days)]
    (tmp_path / "data.csv").write_text("\n".join(["Datum;Luft Druck;Regen", *rows]) + "\n")
    write_recipe(tmp_path / "data.csv", tmp_path / "recipe.toml", look(tmp_path / "data.csv"))
    (stream,) = load(load_recipe(tmp_path / "recipe.toml")).streams
    np.testing.assert_array_equal(stream.values[:2], [[0.25, 0], [1.25, 1]])
    assert stream.times[1] == np.datetime64("2024-01-02", "ns").astype(np.int64)


@pytest.mark.parametrize("row", [7, 1200])
@pytest.mark.parametrize(("cell", "problem"), [("unknown", "is 'unknown', which is not read"), ("", "is missing")])
def test_a_wrong_time_is_named(tmp_path: Path, row: int, cell: str, problem: str) -> None:
    """A cell that is no time is refused by its row, as in training, also behind the rows that are looked at first."""
    frame = hourly(1, 1500).astype({"at": str})
    frame.loc[row, "at"] = cell
    with pytest.raises(ConfigError, match=f"row {row + 1}: at {problem}"):
        seen(tmp_path, frame)


def test_dates_of_the_day_or_the_month_first(tmp_path: Path) -> None:
    """Dates with slashes are read in the one way that fits; if both do, they are not taken for times."""
    days = pd.date_range("2024-01-01", periods=40)
    for written, expected in (("%m/%d/%Y", "%m/%d/%Y"), ("%d/%m/%Y", "%d/%m/%Y"), ("%d.%m.%Y", "%d.%m.%Y")):
        sight, _ = seen(tmp_path, pd.DataFrame({"day": days.strftime(written), "level": np.arange(40.0)}))
        assert (sight.time, sight.time_format, sight.steps.frequency) == ("day", expected, "D")
    sight, text = seen(tmp_path, pd.DataFrame({"day": days[:12].strftime("%m/%d/%Y"), "level": np.arange(12.0)}))
    assert sight.time == ""
    assert "# Note: 'day' may be written %m/%d/%Y or %d/%m/%Y: rows are taken in their order, without times, " in text
    assert sight.left_out == ("day",)


def test_a_column_that_is_not_read_as_times_is_said(tmp_path: Path) -> None:
    """A date that nobody could make out is a note in the recipe; words of such a name are a category like others."""
    level = np.arange(60.0)
    frame = pd.DataFrame({"day": [f"{number}th of May" for number in range(60)], "daytime": "noon", "level": level})
    sight, text = seen(tmp_path, frame)
    assert (sight.time, sight.categories, sight.left_out) == ("", ("daytime",), ("day",))
    assert (
        "# Note: 'day' could not be read as times: rows are taken in their order, without times, until data.t" in text
    )
    assert "daytime'" not in text


def test_times_on_no_grid_are_said(tmp_path: Path) -> None:
    """Rows at irregular times are taken in order, which the recipe says; they load so, unless they are not in order."""
    frame = hourly(1)
    frame["at"] += pd.to_timedelta(np.cumsum(np.random.default_rng(0).exponential(9000, 300).astype(int)), unit="s")
    _, text = seen(tmp_path, frame)
    assert "# Note: no frequency fits the times of 'at': rows are taken in their order, without times.\n" in text
    assert "time =" not in text
    (tmp_path / "recipe.toml").write_text(text)
    assert len(load(load_recipe(tmp_path / "recipe.toml")).streams[0].values) == 300
    with pytest.raises(ConfigError, match=r"at: no frequency fits these times, .* not in their order; sort them"):
        seen(tmp_path, frame[::-1])


def test_names_that_begin_alike(tmp_path: Path) -> None:
    """Columns that differ behind the longest name get names that a recipe takes, each its own."""
    frame = pd.DataFrame({f"{'x' * 70}{number}": np.arange(30.0) + number for number in range(12)})
    _, text = seen(tmp_path, frame)
    (tmp_path / "recipe.toml").write_text(text)
    names = [column.name for column in load_recipe(tmp_path / "recipe.toml").features]
    assert names[0] == "x" * 64
    assert names[11] == "x" * 61 + "_12"


def test_names_of_any_characters(tmp_path: Path) -> None:
    """Whatever a header or a file is called, the recipe is TOML that names it, and its comments stay comments."""
    frame = pd.DataFrame({'\U0001f321 "in"\n\x7f\\': np.arange(60.0) % 7, "left\nout = 1": 1})
    data = tmp_path / "pond \U0001f41f.parquet"
    frame.to_parquet(data)
    write_recipe(data, tmp_path / "recipe.toml", look(data))
    (stream,) = load(load_recipe(tmp_path / "recipe.toml")).streams
    assert stream.values[:3].tolist() == [[0.0], [1.0], [2.0]]


def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """No TOML can name it: one clear line, and no file."""
    data = tmp_path / "pond\udcff.csv"
    pd.DataFrame({"level": np.arange(60.0) % 7}).to_csv(data, index=False)
    with pytest.raises(ConfigError, match="a name in UTF-8 is all that a recipe can hold; rename it"):
        write_recipe(data, tmp_path / "recipe.toml", look(data))
    assert not (tmp_path / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("name", "written", "frequency", "expected"),
    [
        ("ts", lambda days: days.as_unit("s").astype("int64"), "D", "unix s"),
        ("event_time", lambda days: days.as_unit("ms").astype("int64"), "D", "unix ms"),
        ("epoch", lambda days: days.as_unit("ns").astype("int64"), "D", "unix ns"),
        ("date", lambda days: days.strftime("%Y%m%d"), "D", ""),
        ("time", lambda days: days.strftime("%Y%m%d%H%M"), "D", "%Y%m%d%H%M"),
        ("year", lambda days: 1900 + np.arange(len(days)), "YS", ""),
    ],
)
def test_times_that_are_numbers(
    tmp_path: Path, name: str, written: Callable[[pd.DatetimeIndex], object], frequency: str, expected: str
) -> None:
    """Numbers since 1970, dates without signs between them, and years are times in a column of such a name; the recipe
    loads them as what they are."""
    days = pd.date_range("2024-01-01", periods=60)
    frame = pd.DataFrame({name: written(days), "level": np.arange(60.0) % 7})
    sight, text = seen(tmp_path, frame)
    assert (sight.time, sight.time_format, sight.steps.frequency) == (name, expected, frequency)
    (tmp_path / "recipe.toml").write_text(text)
    times = load(load_recipe(tmp_path / "recipe.toml")).streams[0].times
    first = "1900-01-01" if frequency == "YS" else "2024-01-01"
    assert times[0] == np.datetime64(first, "ns").astype(np.int64)
    assert len(times) == 60


@pytest.mark.parametrize("name", ["count", "time_on_duty"])
def test_counts_are_no_times(tmp_path: Path, name: str) -> None:
    """Large numbers of another name, and small ones of such a name, are what is measured."""
    large = 1_700_000_000 + np.arange(60) * 3600 if name == "count" else np.arange(60) + 1990
    sight, _ = seen(tmp_path, pd.DataFrame({name: large, "level": np.arange(60.0) % 7}))
    assert sight.time == ""
    assert name in sight.numbers


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    """Is refused with what to do."""
    (tmp_path / "data.csv").write_bytes("time,Wärme\n2024-01-01,1\n".encode("cp1252"))
    with pytest.raises(ConfigError, match=r"data\.csv: is not in UTF-8 .*; save it so"):
        look(tmp_path / "data.csv")
