"""Tables and rows that name their columns themselves: frames and series of pandas and the like, without importing any.

A frame has `columns`, a series an `index` of texts. They are matched by name as a mapping is: what is in another order
is put in the model's, never taken for it. Names that are no texts (0, 1, …) say nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np


def column_names(table: object) -> list[str] | None:
    """Those of a frame; None where it has none."""
    return _texts(getattr(table, "columns", None))


def row_names(values: object) -> list[str] | None:
    """Those of a series; None where it has none. (A list's `index` is a method.)"""
    return _texts(getattr(values, "index", None))


def _texts(names: Any) -> list[str] | None:
    if not isinstance(names, Iterable):
        return None
    found = list(names)
    return [str(name) for name in found] if any(isinstance(name, str) for name in found) else None


def misnamed(names: Collection[str], features: tuple[str, ...], model: str) -> str | None:
    """What is wrong with the names: every feature must be there once, and no other."""
    given, taken = set(names), set(features)
    missing = [name for name in features if name not in given]
    unknown = [str(name) for name in names if name not in taken]
    if missing:
        return f"no value for {', '.join(missing)} of {model} (None says that a value is missing)"
    if unknown:
        return f"{model} has no feature {', '.join(unknown)}; its features are {', '.join(features)}"
    if len(names) > len(features):
        return f"{model} takes each of {', '.join(features)} once"
    return None


def places(names: Sequence[str], features: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Where each feature stands among the names."""
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[name] for name in features], np.intp)
