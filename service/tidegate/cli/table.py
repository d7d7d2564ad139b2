"""Reading a CSV file as observations. Pure but for the file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np

from tidegate.client.values.observations import Words, to_nanoseconds, to_number
from tidegate.errors import TidegateError

ENCODING = "utf-8-sig"  # UTF-8, with a byte order mark or without
MISSING = ("", "NA", "N/A", "NaN", "nan", "null")  # those of tidegate.training.sources, which a client need not have
UNIX = re.compile(r"\d{9,19}(\.\d+)?")  # seconds, milliseconds, micro- or nanoseconds, by how large they are
COMPACT = {10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # dates that are numbers, by their digits
CENTURIES = ("19", "20")  # that such a date begins with
UNIX_SECONDS = {1e11: 1.0, 1e14: 1e-3, 1e17: 1e-6, 1e20: 1e-9}  # of one of them, where a number is below
TRUTHS = {"True": 1.0, "TRUE": 1.0, "true": 1.0, "False": 0.0, "FALSE": 0.0, "false": 0.0}


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
    """Which columns hold what: `columns` are the headers of features that have another one than their name, `words` the
    categories of those that have some. `word_column` holds a word in the place of a column a word of the `vocabulary`.
    """

    features: tuple[str, ...]
    session: str
    id_column: str | None
    time_column: str | None
    words: Words = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    word_column: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The column of each feature, in their order."""
        headers = {name: self.columns.get(name, name) for name in self.features}
        if self.word_column is not None:
            headers |= {name: self.word_column for name in self.features if name in self.vocabulary}
        return headers


def read_columns(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """`heat_out=heat out`, once a feature, as headers by name."""
    columns = {}
    for value in values:
        name, _, header = value.partition("=")
        if not name or not header:
            raise click.BadParameter(f"{value!r} is not NAME=HEADER, such as 'heat_out=heat out'", ctx, param)
        columns[name] = header
    return columns


column_option = click.option(
    "--column",
    "columns",
    multiple=True,
    callback=read_columns,
    metavar="NAME=HEADER",
    help="The column of a feature whose name it does not have; repeatable.",
)


def check_features(columns: Mapping[str, str], features: Sequence[str]) -> None:
    """Raises UsageError for a --column of no feature."""
    unknown = [name for name in columns if name not in features]
    if unknown:
        raise click.UsageError(f"--column: the model has no feature {', '.join(unknown)}, but {', '.join(features)}")


def read_header(path: Path) -> list[str]:
    """The columns' names; none of a file that is no CSV, which `read_rows` says."""
    try:
        with path.open(newline="", encoding=ENCODING) as file:
            return next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def count_rows(path: Path) -> int:
    """Lines below the header; close enough for a progress bar."""
    with path.open("rb") as file:
        return max(0, sum(1 for _ in file) - 1)


def read_rows(file: TextIO, layout: Layout) -> Iterator[Row]:
    """The rows of a CSV file with a header. Raises ClickException, which names the column or the line."""
    reader, headers = csv.DictReader(file), layout.headers
    try:
        check_header(file.name, list(reader.fieldnames or []), layout)
        for cells in reader:
            if None in cells:  # where csv puts what is beyond the header
                problem = f"line {reader.line_num}: has more cells than the header; a cell with a comma needs quotes"
                raise click.ClickException(problem)
            yield read_row(cells, reader.line_num, layout, headers)
    except (UnicodeDecodeError, csv.Error) as error:
        raise click.ClickException(f"{file.name}: is not a CSV in UTF-8 ({error}); save it as one") from None


def check_header(file: str, found: list[str], layout: Layout) -> None:
    """Raises ClickException for a column that is not there."""
    if layout.word_column is not None and not layout.vocabulary:
        raise click.UsageError("--words: the model predicts numbers and no words")
    features = [header for header in dict.fromkeys(layout.headers.values()) if header not in found]
    others = [name for name in (layout.id_column, layout.time_column) if name is not None and name not in found]
    if features or others:
        problem = f"{file}: has no column {', '.join([*features, *others])}, but {', '.join(found)}"
        advice = "; --column NAME=HEADER says which column is a feature's" if features else ""
        if layout.vocabulary and not layout.word_column:
            advice += ", --words HEADER which one holds words"
        raise click.ClickException(problem + advice)


def read_row(cells: dict[str, Any], line: int, layout: Layout, headers: Mapping[str, str]) -> Row:
    """One line."""
    try:
        written = cells[layout.time_column] or "" if layout.time_column else ""
        time = to_time(written) if written else None
        values = [to_cell(name, cells[header], layout) for name, header in headers.items()]
    except TidegateError as error:
        raise click.ClickException(f"line {line}: {error.problem}") from None
    except ValueError as error:
        raise click.ClickException(f"line {line}: {error}") from None
    return Row(line, cells[layout.id_column] or "" if layout.id_column else layout.session, written, time, values)


def to_cell(name: str, cell: str | None, layout: Layout) -> float:
    """What a cell says of a feature: its value or, of a word of the vocabulary, whether it is this one."""
    if layout.word_column is None or name not in layout.vocabulary:
        return to_value(name, cell, layout.words.get(name, ()))
    number = to_value(layout.word_column, cell, layout.vocabulary)
    return number if np.isnan(number) else float(layout.vocabulary[int(number)] == name)


def to_value(name: str, cell: str | None, categories: tuple[str, ...] = ()) -> float:
    """A number, a truth as 1 or 0, or a word's number; NaN for a missing value. All as training reads it."""
    text = "" if cell is None else cell.strip()
    if text in MISSING:
        return float("nan")
    return TRUTHS[text] if not categories and text in TRUTHS else to_number(name, cell, categories)


def to_time(cell: str) -> datetime:
    """An ISO 8601 date or time (slashes are taken too), or a number as training reads it; without a time zone UTC.
    Raises ValueError, and BAD_OBSERVATION outside of 1677 to 2262."""
    text = cell.strip()
    try:
        read = _of_number(text) if UNIX.fullmatch(text) else datetime.fromisoformat(text.replace("/", "-"))
    except (OverflowError, ValueError):
        raise ValueError(f"the time is {cell!r}; write it as 2024-01-31 or 2024-01-31T07:00:00+01:00") from None
    time = read.replace(tzinfo=UTC) if read.tzinfo is None else read
    to_nanoseconds(time)
    return time


def _of_number(text: str) -> datetime:
    """A date such as 2024013107, or a time since 1970."""
    if len(text) in COMPACT and text.startswith(CENTURIES):
        with suppress(ValueError):
            return datetime.strptime(text, COMPACT[len(text)]).replace(tzinfo=UTC)
    seconds = next(seconds for end, seconds in UNIX_SECONDS.items() if float(text) < end)
    return datetime.fromtimestamp(float(text) * seconds, UTC)
