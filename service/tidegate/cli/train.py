"""`tidegate train`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--models", type=click.Path(path_type=Path, file_okay=False), default=Path("models"), help="The model repository."
)
def train(recipe: Path, models: Path) -> None:
    """Train RECIPE (TOML) and write the next version into the model repository.

    A training that was killed goes on where its last checkpoint was. Under torchrun, processes share each batch:
    torchrun --nproc-per-node 2 -m tidegate.cli train RECIPE
    """
    from tidegate.training.terminal import train_with_bar  # noqa: PLC0415  # torch and pandas, for this verb alone

    package = train_with_bar(recipe, models)
    manifest = package.manifest
    if os.environ.get("RANK", "0") == "0":
        told = {"name": manifest.name, "version": manifest.version, "metrics": manifest.metrics}
        click.echo(json.dumps(told, indent=2))
