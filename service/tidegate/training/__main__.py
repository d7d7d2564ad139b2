"""`python -m tidegate.training RECIPE.toml --models DIR`: what `tidegate train` does; torchrun takes it with -m too."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tidegate.errors import ConfigError, PackageError
from tidegate.training.terminal import train_with_bar


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), help="the model repository")
def main(recipe: Path, models: Path) -> None:
    """Trains RECIPE and writes the next version into the model repository."""
    try:
        package = train_with_bar(recipe, models)
    except ConfigError as error:
        click.echo(error, err=True)
        sys.exit(2)
    except PackageError as error:
        click.echo(error, err=True)
        sys.exit(1)
    click.echo(json.dumps(package.manifest.metrics, indent=2))


if __name__ == "__main__":
    main()
