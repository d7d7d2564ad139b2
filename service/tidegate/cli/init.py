"""`tidegate init`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=Path("recipe.toml"))
def init(data: Path, output: Path) -> None:
    """Look at DATA (CSV or Parquet) and write a recipe for it, which trains as it is."""
    from tidegate.training.init import look  # noqa: PLC0415  # pandas, for this verb alone
    from tidegate.training.init_text import notes, write_recipe  # noqa: PLC0415

    sight = look(data)
    write_recipe(data, output, sight)
    click.echo(f"{output}: {len(sight.numbers)} numbers, {len(sight.categories)} categories, {sight.streams} stream(s)")
    for note in notes(sight):
        click.echo(f"note: {note}")
    click.echo(f"next: tidegate train {output}")
