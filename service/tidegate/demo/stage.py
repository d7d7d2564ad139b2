"""Where the shorter demos speak: lines and tables, in colour on a terminal and plain elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


class Stage:
    """Says things as they happen."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def say(self, text: str, style: str = "") -> None:
        """One line."""
        self._console.print(text, style=style or None, soft_wrap=True, markup=False)

    def title(self, text: str) -> None:
        """The heading of what follows."""
        self.say("")
        self.say(text, "bold")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows of text under named columns."""
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        self._console.print(table, soft_wrap=True)
