"""`tidegate demo`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.options import NewFile

NAMES = ("weather", "weather-us", "dinner", "storybook", "storybook-rnn")


@click.command()
@click.argument("name", type=click.Choice(NAMES), default="weather")
@click.option("--keep", is_flag=True, help="Leave the server running afterwards, until Ctrl-C.")
@click.option("--svg", type=NewFile(), help="weather: save the last screen as an SVG picture.")
@click.pass_context
def demo(ctx: click.Context, /, name: str, keep: bool, svg: Path | None) -> None:
    """Start a server and show what one of its models can do.

    \b
    weather        Seattle's weather of 2015, day by day, beside 300 more sessions, and how well it is predicted
    weather-us     five figures of a day in New York in, tomorrow's out
    dinner         two weeks of dinners with unknown days, and a forecast of the next week
    storybook      a story of `Name saw Name .`, drawn word by word, its mistakes marked
    storybook-rnn  the same by a network that forgets, for contrast
    """
    if name == "weather":
        from tidegate.demo import run_demo  # noqa: PLC0415

        ctx.exit(run_demo(keep=keep, svg=svg))
    if svg is not None:
        raise click.UsageError("--svg belongs to the demo weather")
    from tidegate.demo.plays import run_play  # noqa: PLC0415

    ctx.exit(run_play(name, keep=keep))
