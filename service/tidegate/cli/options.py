"""What several verbs share: the server's address, and printing records as a table or as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 240  # columns of a table that no terminal limits
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def read_address(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Not an empty one, such as that of a variable which is not set."""
    if not value.strip():
        raise click.BadParameter("is empty; give HOST:PORT", ctx, param)
    return value


address = click.option(
    "--address",
    default="127.0.0.1:8001",
    show_default=True,
    metavar="HOST:PORT",
    callback=read_address,
    help="Where the server listens.",
)


class NewFile(click.Path):
    """A file to write, whose folder must be there: said before the work and not after it."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; fails as click does."""
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}; make it first", param, ctx)
        return path


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a table.")


def print_json(record: Any) -> None:
    """A dataclass (or a dict) as one line of JSON."""
    fields = dataclasses.asdict(record) if dataclasses.is_dataclass(record) and not isinstance(record, type) else record
    click.echo(json.dumps(fields, default=to_text))


def to_text(value: Any) -> Any:
    """What JSON does not know: times in ISO 8601, NumPy numbers as numbers."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table on standard output; as wide as it has to be when that is not a terminal."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*("" if cell is None else CONTROL.sub(shown, str(cell)) for cell in row))
    console = Console(emoji=False)
    console = console if console.is_terminal else Console(width=PIPED_WIDTH, emoji=False)
    console.print(table, markup=False)


def shown(control: re.Match[str]) -> str:
    """A control character in words: whoever names a session is not to steer a terminal."""
    return f"\\x{ord(control[0]):02x}"
