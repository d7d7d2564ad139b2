"""Reads a recipe's source into a pandas DataFrame: CSV, Parquet, data of vega_datasets, or generated data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tidegate.errors import ConfigError
from tidegate.training.data_options import GENERATED, VEGA, Data

PARQUET = (".parquet", ".pq")
MISSING = ("", "NA", "N/A", "NaN", "nan", "null")


def read_source(
    data: Data, folder: Path, texts: frozenset[str] = frozenset(), verbatim: frozenset[str] = frozenset()
) -> pd.DataFrame:
    """The rows as they are in the source; `texts` names columns whose cells stay words, `verbatim` those of a CSV file
    in which no word, not even NA, means a missing value: if none, that of ids. Raises ConfigError."""
    source = data.source
    if not source:
        raise ConfigError("data.source: is empty; name a file, or hand over a DataFrame")
    if source.startswith(VEGA):
        return _vega(source)
    if source.startswith(GENERATED):
        generate: Callable[[str], pd.DataFrame]
        generate = importlib.import_module("tidegate.training.generated").generate
        return generate(source.removeprefix(GENERATED))
    path = folder / source
    try:
        if path.suffix in PARQUET:
            return _parquet(path)
        return _csv(path, data, texts, verbatim or frozenset({data.id} if data.id else ()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not in UTF-8 ({error}); save it so, or convert it with iconv -t UTF-8") from None
    except ValueError as error:
        kind = "Parquet" if path.suffix in PARQUET else "CSV"
        raise ConfigError(f"{path}: is not {kind} ({error})") from None


def _parquet(path: Path) -> pd.DataFrame:
    """An index that has a name is a column like the others."""
    frame = pd.read_parquet(path)
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return (frame.reset_index(named) if named else frame).reset_index(drop=True)


def _csv(path: Path, data: Data, texts: frozenset[str], verbatim: frozenset[str]) -> pd.DataFrame:
    missing = [*MISSING, *(str(cell) for cell in data.missing)]
    written = {"sep": data.separator, "decimal": data.decimal, "keep_default_na": False}
    names = [name for name in pd.read_csv(path, nrows=0, **written) if name not in verbatim]
    frame = pd.read_csv(
        path,
        na_values=dict.fromkeys(names, missing),
        dtype={name: "object" for name in (*texts, data.time, *verbatim) if name},
        low_memory=False,
        **written,
    )
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the cells beyond the header for one
        raise ConfigError(
            f"{path}: rows have more cells than the header; name what stands between them in data.separator (it is "
            f"{data.separator!r}), and the decimal sign in data.decimal (it is {data.decimal!r})"
        )
    return frame


def _vega(source: str) -> pd.DataFrame:
    name = source.removeprefix(VEGA).replace("-", "_")
    try:
        data = importlib.import_module("vega_datasets").local_data
    except ModuleNotFoundError:
        raise ConfigError(f"{source}: needs the package vega_datasets; install tidegate[demo]") from None
    held = [each.replace("-", "_") for each in data.list_datasets()]
    if name not in held:
        raise ConfigError(f"{source}: vega_datasets holds no such data, but {', '.join(held)}")
    return getattr(data, name)()
