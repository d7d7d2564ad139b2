"""`tidegate train`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from tidegate.errors import ConfigError, PackageError, TidegateError


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--models", type=click.Path(path_type=Path, file_okay=False), default=Path("models"), help="The model repository."
)
@click.option(
    "--report/--no-report", default=True, show_default=True, help="Evaluate it through a server, and write its card."
)
def train(recipe: Path, models: Path, report: bool) -> None:
    """Train RECIPE (TOML), write the next version into the model repository, and report how good it is.

    The report (DIR/NAME/VERSION/evaluation, and a section of DIR/NAME/card.md) is of the recipe's test part, streamed
    through a real server.

    A training that was killed goes on where its last checkpoint was. Under torchrun, processes share each batch:
    torchrun --nproc-per-node 2 -m tidegate.cli train RECIPE
    """
    from tidegate.training.terminal import train_with_bar  # noqa: PLC0415  # torch and pandas, for this verb alone

    package = train_with_bar(recipe, models)
    manifest = package.manifest
    if os.environ.get("RANK", "0") != "0":
        return
    told = {"name": manifest.name, "version": manifest.version, "metrics": manifest.metrics}
    click.echo(json.dumps(told, indent=2))
    if report:
        write_report(recipe, models, manifest.name, manifest.version)


def write_report(recipe: Path, models: Path, name: str, version: str) -> None:
    """Evaluates what was trained. The version is there in any case: a problem is a line, not a failure."""
    from tidegate.training.evaluation import evaluate_package  # noqa: PLC0415
    from tidegate.training.recipe import load_recipe  # noqa: PLC0415

    try:
        evaluate_package(models, name, version, load_recipe(recipe))
    except (ConfigError, PackageError, TidegateError) as error:
        click.echo(f"no report: {error}", err=True)
    else:
        click.echo(f"report: {models / name / version / 'evaluation' / 'report.md'}", err=True)
