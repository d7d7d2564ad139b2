"""What is evaluated: streams of observations on the model's grid of time, and which of their steps are scored.

The trainer's loader brings data to the grid; here its streams become ours. A step that the source lacks is a row of
NaN and is sent as such. Row t holds of a future covariate the value of step t + 1, which is the step that it predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import ConfigError
from tidegate.model.frequency import NO_TIME, Times
from tidegate.model.manifest import Feature, Manifest
from tidegate.training.data import Dataset, load
from tidegate.training.recipe import Recipe, make_recipe

Array = NDArray[np.float64]
Part = Literal["validation", "test"]
SCORED_FROM = 0.8  # of a file whose parts nobody has named


@dataclass(frozen=True, eq=False)
class Stream:
    """One session's observations: values [steps, features] in the package's order, NaN where missing.

    `times` int64 [steps] in ns since 1970 UTC, or None. Rows before `fit` are the training part: baselines are fitted
    and errors scaled on it. Steps from `start` to `end` (exclusive) are scored; those before warm the session up, and
    what is behind is not sent.
    """

    id: str
    times: Times | None
    values: Array
    fit: int
    start: int
    end: int


@dataclass(frozen=True)
class File:
    """Data without a recipe: a CSV or Parquet file whose columns are named as the features are.

    The scored part begins at `start` (a date; empty: the last fifth) and ends before `end`; what is before `start`
    warms sessions up, and baselines are fitted on it. Without a column of times, rows are in order.
    """

    path: Path
    time: str = ""
    id: str = ""
    start: str = ""
    end: str = ""


def recipe_streams(recipe: Recipe, manifest: Manifest, part: Part = "test") -> list[Stream]:
    """The streams of a recipe's data; raises ConfigError.

    Baselines may be fitted on what the model was trained on: of a model that was trained again with the validation
    part, on that too.
    """
    dataset = load(recipe)
    both = part == "test" and recipe.training.refit
    return _streams(dataset, manifest, part, both)


def file_streams(file: File, manifest: Manifest) -> list[Stream]:
    """The streams of a file; raises ConfigError."""
    return _streams(load(make_recipe(_options(file, manifest))), manifest, "validation", both=False)


def scored(streams: Sequence[Stream]) -> int:
    """How many steps are scored in all; raises ConfigError when there is none."""
    steps = sum(max(0, stream.end - stream.start) for stream in streams)
    if not steps:
        raise ConfigError("no step lies in the part to be scored; look at start and end")
    return steps


def _streams(dataset: Dataset, manifest: Manifest, part: Part, both: bool) -> list[Stream]:
    names = [feature.name for feature in manifest.features]
    missing = [name for name in names if name not in dataset.names]
    if missing:
        raise ConfigError(f"the data gives no {', '.join(missing)}, which {manifest.name} takes")
    order = [dataset.names.index(name) for name in names]
    streams = []
    for found in dataset.streams:
        known = not (found.times == NO_TIME).any()
        start, end = (found.test, len(found.values)) if part == "test" else (found.validation, found.test)
        streams.append(
            Stream(
                id=found.id or manifest.name,
                times=found.times if known else None,
                values=found.values[:, order],
                fit=found.test if both else found.validation,
                start=start,
                end=end,
            )
        )
    return streams


def _options(file: File, manifest: Manifest) -> dict[str, Any]:
    """A recipe of the package's features; its validation part is what is scored."""
    if file.time and not manifest.frequency:
        raise ConfigError(f"{manifest.name} has no frequency; leave the column of times away")
    data = {
        "source": str(file.path.resolve()),
        "time": file.time,
        "id": file.id,
        "frequency": manifest.frequency if file.time else "",
        "time_zone": manifest.time_zone,
        "time_tolerance": manifest.gaps.time_tolerance,
        "stamp": manifest.stamp,
        "validation": file.start or SCORED_FROM,
        "test": None,
        "end": file.end or None,
    }
    categorical = {"network": {"head": {"kind": "categorical"}}} if manifest.head.kind == "categorical" else {}
    return {"name": manifest.name, "data": data, "features": _columns(manifest)} | categorical


def _columns(manifest: Manifest) -> list[dict[str, Any]]:
    return [_column(feature) for feature in manifest.features]


def _column(feature: Feature) -> dict[str, Any]:
    """A feature as a column; one that is not sent is a target all the same."""
    role = "target" if feature.role == "output" else feature.role
    categories = {"categories": feature.categories} if feature.categories else {}
    return {"name": feature.name, "role": role, **categories}
