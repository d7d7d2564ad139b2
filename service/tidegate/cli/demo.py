"""`tidegate demo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("name", type=click.Choice(["weather"]), default="weather")
@click.option("--keep", is_flag=True, help="Leave the server running afterwards, until Ctrl-C.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Save the last screen as an SVG picture.")
@click.pass_context
def demo(ctx: click.Context, /, name: str, keep: bool, svg: Path | None) -> None:
    """Start a server, replay a real year through it, and show how well it predicts.

    weather: Seattle's weather of 2015, day by day, beside 300 more sessions.
    """
    from tidegate.demo import run_demo  # noqa: PLC0415

    ctx.exit(run_demo(keep=keep, svg=svg))
