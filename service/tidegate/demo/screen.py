"""What the demo shows: a live table on a terminal, a line a month elsewhere, and the results."""

from __future__ import annotations

import io
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidegate.client.values.accuracy import Score, score_rows
from tidegate.demo.year import Year

DAYS_SHOWN = 12
DAYS_BETWEEN_LINES = 30
SVG_WIDTH = 100
FONTS_FETCHED = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # from afar; a picture should need nobody
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo found. `server_exit` is None when the server had to be killed."""

    scores: list[Score]
    steps: float
    seconds: float
    batch_mean: float
    batch_largest: float
    server_exit: int | None


class Screen:
    """Shows days as they pass, then the results."""

    def __init__(self, year: Year) -> None:
        self._year = year
        self._console = Console()
        self._rows: deque[tuple[str, ...]] = deque(maxlen=DAYS_SHOWN)
        self._targets: tuple[str, ...] = ()
        self._live = Live(console=self._console, get_renderable=self._days, refresh_per_second=8, transient=True)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, day: int, targets: tuple[str, ...], observed: Vector, expected: Vector) -> None:
        """One day: what was observed, and what had been predicted for it the day before."""
        self._targets = targets
        pairs = zip(observed, expected, strict=True)
        cells = [f"{seen:.1f} / {'–' if np.isnan(said) else f'{round(said, 1) + 0.0:.1f}'}" for seen, said in pairs]
        self._rows.append((str(self._year.days[day]), *cells))
        if not self._console.is_terminal and (day + 1) % DAYS_BETWEEN_LINES == 0:
            named = zip(targets, cells, strict=True)
            self.say(f"{self._year.days[day]}  " + "   ".join(f"{name} {cell}" for name, cell in named))

    def _days(self) -> Table:
        """The last days."""
        table = Table("day", *self._targets, title="Seattle 2015: observed / predicted the day before")
        for row in self._rows:
            table.add_row(*row)
        return table

    def finish(self, summary: Summary, svg: Path | None) -> None:
        """The results, and the picture of the last screen."""
        screen = Group(self._days(), results(summary)) if self._console.is_terminal else results(summary)
        self._console.print(screen)
        if svg is not None:
            picture = Console(record=True, width=SVG_WIDTH, file=io.StringIO(), force_terminal=True)
            picture.print(Group(self._days(), results(summary)))
            drawn = FONTS_FETCHED.sub("", picture.export_svg(title="tidegate demo"))
            svg.write_text(drawn, encoding="utf-8")


def results(summary: Summary) -> Group:
    """Errors beside persistence's, then what the server did."""
    table = Table(title="Mean absolute error over the year, one day ahead")
    table.add_column("feature")
    for column in ("tidegate", "persistence", "below"):
        table.add_column(column, justify="right")
    for score, row in zip(summary.scores, score_rows(summary.scores), strict=True):
        table.add_row(*row, style="green" if score.model < score.persistence else "red")
    return Group(table, *(Text(line) for line in lines(summary)))


def lines(summary: Summary) -> list[str]:
    """The server's side in words."""
    rate = summary.steps / summary.seconds
    ended = "drained and exited cleanly" if summary.server_exit == 0 else f"ended badly (exit {summary.server_exit})"
    return [
        f"{summary.steps:,.0f} steps in {summary.seconds:.1f} s: {rate:,.0f} a second",
        f"batches of {summary.batch_mean:.0f} rows on average, the largest up to {summary.batch_largest:g}",
        f"the server {ended}",
    ]
