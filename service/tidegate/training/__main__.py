"""`python -m tidegate.training RECIPE.toml --models DIR`: trains a recipe and writes the next version."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tidegate.errors import ConfigError
from tidegate.training.recipe import load_recipe
from tidegate.training.trainer import train


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), help="the model repository")
def main(recipe: Path, models: Path) -> None:
    """Trains RECIPE and writes the next version into the model repository."""

    def progress(epoch: int, score: float) -> None:
        click.echo(f"\repoch {epoch}: {score:.4f} of persistence's error ", nl=False, err=True)

    try:
        package = train(load_recipe(recipe), models, progress=progress)
    except ConfigError as error:
        click.echo(error, err=True)
        sys.exit(2)
    click.echo(err=True)
    click.echo(json.dumps(package.manifest.metrics, indent=2))


if __name__ == "__main__":
    main()
