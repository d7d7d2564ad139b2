"""How a CSV file is written: what stands between its cells, and its decimal sign."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

COMMA = ","
SEPARATORS = (";", "\t", "|", COMMA)  # a comma that parts as many cells as another is in numbers
LINES_LOOKED = 200
DECIMAL_COMMA, DECIMAL_POINT = (re.compile(rf"\s*[+-]?\d*{sign}\d+(?:[eE][+-]?\d+)?\s*") for sign in (",", r"\."))


@dataclass(frozen=True)
class Layout:
    """`data.separator` and `data.decimal` of a recipe."""

    separator: str = COMMA
    decimal: Literal[".", ","] = "."


def find_layout(path: Path) -> Layout:
    """Of the first lines of a file; the default for one that is not CSV. Raises OSError."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return layout_of(list(islice(file, LINES_LOOKED)))


def layout_of(lines: list[str]) -> Layout:
    """By the separator that parts the header into most cells, and no row into more of them than the header."""
    parted = {separator: _cells(lines, separator) for separator in SEPARATORS}
    fitting = [own for own, rows in parted.items() if rows and max(map(len, rows)) == len(rows[0]) > 1]
    separator = max(fitting, key=lambda own: len(parted[own][0]), default=COMMA)
    cells = [cell for row in parted[separator][1:] for cell in row]
    comma, point = (any(map(sign.fullmatch, cells)) for sign in (DECIMAL_COMMA, DECIMAL_POINT))
    return Layout(separator, "," if comma and not point and separator != COMMA else ".")


def _cells(lines: list[str], separator: str) -> list[list[str]]:
    """Rows of cells; none if they cannot be read so."""
    try:
        return [row for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error:
        return []
