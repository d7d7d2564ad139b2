"""From the cells of a table to numbers: parsing, categories and vocabularies, what counts as missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidegate.errors import ConfigError
from tidegate.training.data_options import Column, Data

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """A column of the recipe with the words that it has: resolved where the recipe says auto."""

    column: Column
    words: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it becomes."""
        return self.words if self.column.vocabulary else (self.column.name,)


def plan_columns(
    columns: tuple[Column, ...], frame: pd.DataFrame, training: NDArray[np.bool_], origin: str
) -> tuple[Plan, ...]:
    """Words of `auto` are those of the rows marked `training`, sorted; raises ConfigError where there are none."""
    plans = []
    for column in columns:
        words = column.categories or column.vocabulary
        if words == "auto":
            cells = frame.loc[training, column.source].dropna()
            words = tuple(sorted({str(cell) for cell in cells}))
            if not words:
                raise ConfigError(f"{origin}: {column.name} has no word in the training part")
        plans.append(Plan(column, tuple(words)))
    return tuple(plans)


def parse_ids(cells: pd.Series[Any], origin: str) -> pd.Series[Any]:
    """The id of each row's stream, as text. Any word is one, also "NA"; raises ConfigError for a row without."""
    absent = without_id(cells)
    if absent.any():
        row = int(np.flatnonzero(absent)[0])
        raise ConfigError(f"{origin}: row {row + 1}: {cells.name} is missing; every row needs the id of its stream")
    return cells.astype(str)


def without_id(cells: pd.Series[Any]) -> NDArray[np.bool_]:
    """Which rows have none."""
    absent: NDArray[np.bool_] = (cells.isna() | (cells.astype(str) == "")).to_numpy(np.bool_)
    return absent


def without_missing(frame: pd.DataFrame, columns: tuple[Column, ...], data: Data) -> pd.DataFrame:
    """The frame, with nothing where a feature's cell is one that `data.missing` names: by its text, or as a number,
    which a word is not."""
    if not data.missing:
        return frame
    whole = {str(int(cell)) for cell in data.missing if isinstance(cell, float) and cell.is_integer()}
    texts = {str(cell) for cell in data.missing} | whole  # -999.0 is written -999, as a rule
    numbers = pd.to_numeric(pd.Series(sorted(texts), dtype=object), errors="coerce").to_numpy(np.float64)
    with np.errstate(over="ignore"):
        numbers = np.append(numbers, numbers.astype(np.float32))  # as a column of float32 holds them
    named = {column.source for column in columns}
    measured = {column.source for column in columns if not column.is_text}
    return frame.assign(**{name: _without(frame[name], texts, numbers, name in measured) for name in named})


def _without(cells: pd.Series[Any], texts: set[str], numbers: Values, measured: bool) -> pd.Series[Any]:
    """`measured`: its texts are numbers, and no words."""
    found = np.zeros(len(cells), np.bool_)
    if measured or pd.api.types.is_numeric_dtype(cells):
        found = np.isin(pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan), numbers)
    if not pd.api.types.is_numeric_dtype(cells):
        found |= cells.astype(str).isin(texts).to_numpy()
    return cells.astype(object).mask(found) if found.any() else cells  # objects: a whole number stays one, and a word


def parse_columns(plans: tuple[Plan, ...], frame: pd.DataFrame, origin: str) -> Values:
    """float64 [rows, features], NaN where missing. Raises ConfigError for a cell that is no number."""
    parts = [_words(plan, frame) if plan.column.is_text else _numbers(plan, frame, origin) for plan in plans]
    return np.concatenate(parts, axis=1)


def _words(plan: Plan, frame: pd.DataFrame) -> Values:
    """Numbers of categories, or one-hot words; a word that is not known is missing (a category: none of them)."""
    cells: pd.Series[Any] = frame[plan.column.source]
    numbers = {word: number for number, word in enumerate(plan.words)}
    known = cells.map(lambda cell: numbers.get(str(cell), -1)).to_numpy(np.int64)
    absent = cells.isna().to_numpy()
    if plan.column.vocabulary:
        one_hot: Values = np.eye(len(plan.words))[known]
        one_hot[absent | (known < 0)] = np.nan
        return one_hot
    values: Values = known.astype(np.float64)
    values[absent] = np.nan
    column: Values = values[:, None]
    return column


def _numbers(plan: Plan, frame: pd.DataFrame, origin: str) -> Values:
    column = plan.column
    cells = frame[column.source]
    numbers = pd.to_numeric(cells, errors="coerce")
    wrong = numbers.isna() & cells.notna()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigError(f"{origin}: row {row + 1}: {column.source} is {cells.iloc[row]!r}, which is no number")
    values: Values = numbers.to_numpy(np.float64, copy=True)
    values[~np.isfinite(values)] = np.nan
    if column.minimum is not None:
        values[values < column.minimum] = np.nan
    if column.maximum is not None:
        values[values > column.maximum] = np.nan
    scaled: Values = (values * column.multiply)[:, None]
    return scaled
