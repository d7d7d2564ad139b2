"""`tidegate evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.options import print_table
from tidegate.cli.table import check_features, column_option

if TYPE_CHECKING:
    from tidegate.model.package import Package
    from tidegate.training.evaluation.files import File
    from tidegate.training.evaluation.streams import Part, Stream

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
FOLDER = click.Path(path_type=Path, file_okay=False)


def read_horizons(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """`1,24` to (1, 24)."""
    try:
        return tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,24,48", ctx, param) from None


@click.command()
@click.argument("model")
@click.option("--models", type=FOLDER, help="The model repository; default: the one that the server opens.")
@click.option("--version", default="", help="Which version; default: the one that new sessions get.")
@click.option("--data", type=FILE, help="CSV or Parquet whose columns are named as the features are.")
@click.option("--recipe", type=FILE, help="A recipe; its data and parts are used, read as for training.")
@click.option("--part", type=click.Choice(["test", "validation"]), help="Of the recipe's data. [default: test]")
@click.option("--time", default="", metavar="COLUMN", help="The column of times in --data.")
@click.option(
    "--time-format",
    default="",
    metavar="FORMAT",
    help="How times are written, as strptime reads it; or `unix s` (ms, us, ns). [default: found]",
)
@click.option("--id", "id_", default="", metavar="COLUMN", help="The column that tells streams apart in --data.")
@column_option
@click.option("--start", default="", metavar="DATE", help="Score from here on. [default: the last fifth]")
@click.option("--end", default="", metavar="DATE", help="And before this.")
@click.option(
    "--horizons",
    callback=read_horizons,
    default="1",
    show_default=True,
    metavar="STEPS",
    help="Steps ahead that are reported, parted by commas.",
)
@click.option("--every", type=click.IntRange(min=0), default=0, help="Steps from one forecast's origin to the next.")
@click.option("--season", type=click.IntRange(min=1), help="Steps of a season. [default: by the frequency]")
@click.option("--device", default="cpu", show_default=True, help="Where the server runs the model.")
@click.option("--output", type=FOLDER, help="Write report.md, report.json and pictures here.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON instead of a table.")
def evaluate(
    model: str,
    models: Path | None,
    version: str,
    data: Path | None,
    recipe: Path | None,
    part: str | None,
    time: str,
    time_format: str,
    id_: str,
    columns: dict[str, str],
    start: str,
    end: str,
    horizons: tuple[int, ...],
    every: int,
    season: int | None,
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure MODEL on data that it has not seen, through a server, beside persistence, seasonal naive and ridge.

    A server is started for it on this machine. Give --data FILE, or --recipe RECIPE.
    """
    # torch, pandas and matplotlib, for this verb alone
    from tidegate.config import default_models  # noqa: PLC0415
    from tidegate.model.package import load_package  # noqa: PLC0415
    from tidegate.training.evaluation.files import File  # noqa: PLC0415
    from tidegate.training.evaluation.report import (  # noqa: PLC0415
        columns_for_terminal,
        rows_for_terminal,
        write_report,
    )
    from tidegate.training.evaluation.run import Options, evaluate_streams  # noqa: PLC0415

    if (data is None) == (recipe is None):
        raise click.UsageError("give either --data or --recipe")
    if recipe is not None and (time or time_format or id_ or columns or start or end):
        problem = "--time, --time-format, --id, --column, --start and --end go with --data; a recipe says them itself"
        raise click.UsageError(problem)
    if data is not None and part:
        raise click.UsageError("--part goes with --recipe; with --data, use --start and --end")
    folder = find_version(models or default_models(), model, version)
    package = load_package(folder)
    file = File(data, time, id_, start, end, columns, time_format) if data else None
    streams = read_streams(package, file, recipe, part or "test")
    source = str(data or recipe)
    evaluation, material = evaluate_streams(folder, streams, Options(horizons, every, season, device), source)
    if output is not None:
        write_report(evaluation, material, output)
    if as_json:
        click.echo(json.dumps(evaluation.record(), indent=2, allow_nan=False))
        return
    title = f"{model} {evaluation.version}: {evaluation.steps:,} steps of {evaluation.streams} streams"
    print_table(columns_for_terminal(evaluation), rows_for_terminal(evaluation), title)


def find_version(models: Path, model: str, version: str) -> Path:
    """The folder of a version, or of what an alias names; raises ConfigError."""
    from tidegate.errors import ConfigError  # noqa: PLC0415
    from tidegate.model.repository import scan  # noqa: PLC0415

    found = scan(models).models.get(model)
    if found is None:
        raise ConfigError(f"{models}: holds no model {model}")
    named = found.aliases.get(version, version) or found.default_version or ""
    if named not in found.versions:
        problem = found.refused.get(named, f"its versions are {', '.join(found.versions)}")
        raise ConfigError(f"{model}: has no good version {named!r}; {problem}")
    return models / model / named


def read_streams(package: Package, file: File | None, recipe: Path | None, part: str) -> list[Stream]:
    """What is evaluated; warns of a file without the times that the model wants, and of a part that it has seen."""
    from tidegate.training.evaluation.files import file_streams, lacks_times  # noqa: PLC0415
    from tidegate.training.evaluation.streams import recipe_streams, trained_on  # noqa: PLC0415
    from tidegate.training.recipe import load_recipe  # noqa: PLC0415

    if file is not None:
        check_features(file.columns, [feature.name for feature in package.manifest.features])
        if warning := lacks_times(file, package.manifest):
            click.echo(f"Warning: {warning}", err=True)
        return file_streams(file, package.manifest)
    assert recipe is not None
    scored: Part = "validation" if part == "validation" else "test"
    if warning := trained_on(package.manifest, scored):
        click.echo(f"Warning: {warning}", err=True)
    return recipe_streams(load_recipe(recipe), package.manifest, scored)
