"""Reading a CSV file as observations. Pure but for the file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from tidegate.errors import Reason, TidegateError


@dataclass(frozen=True, slots=True)
class Row:
    """One observation: its line in the file, session, time as written and as read, and a value a feature (or NaN)."""

    line: int
    session: str
    written_time: str
    time: datetime | None
    values: list[float]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns hold what."""

    features: tuple[str, ...]
    session: str
    id_column: str | None
    time_column: str | None


def count_rows(path: Path) -> int:
    """Lines below the header; close enough for a progress bar."""
    with path.open("rb") as file:
        return max(0, sum(1 for _ in file) - 1)


def read_rows(file: TextIO, layout: Layout) -> Iterator[Row]:
    """The rows of a CSV file with a header. Raises BAD_OBSERVATION, which names the column or the line."""
    reader = csv.DictReader(file)
    columns = list(reader.fieldnames or [])
    wanted = [*layout.features, layout.id_column, layout.time_column]
    missing = [name for name in wanted if name is not None and name not in columns]
    if missing:
        problem = f"the file has no column {', '.join(missing)}; its columns are {', '.join(columns)}"
        raise TidegateError(Reason.BAD_OBSERVATION, problem)
    for cells in reader:
        yield read_row(cells, reader.line_num, layout)


def read_row(cells: dict[str, str], line: int, layout: Layout) -> Row:
    """One line."""
    try:
        written = cells[layout.time_column] if layout.time_column else ""
        time = to_time(written) if written else None
        values = [to_value(cells[name]) for name in layout.features]
    except (TypeError, ValueError) as error:
        raise TidegateError(Reason.BAD_OBSERVATION, f"line {line}: {error}") from None
    return Row(line, cells[layout.id_column] if layout.id_column else layout.session, written, time, values)


def to_value(cell: str | None) -> float:
    """A number; an empty cell is a missing value."""
    return float(cell) if cell is not None and cell.strip() else float("nan")


def to_time(cell: str) -> datetime:
    """An ISO 8601 date or time (slashes are taken too); without a time zone it is UTC."""
    time = datetime.fromisoformat(cell.strip().replace("/", "-"))
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
