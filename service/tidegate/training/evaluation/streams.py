"""What is evaluated: streams of observations on the model's grid of time, and which of their steps are scored.

The trainer's loader brings data to the grid; here its streams become ours. A step that the source lacks is a row of
NaN and is sent as such. Row t holds of a future covariate the value of step t + 1, which is the step that it predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import ConfigError
from tidegate.model.frequency import NO_TIME, Times
from tidegate.model.manifest import Manifest
from tidegate.training.data import Dataset, load
from tidegate.training.recipe import Recipe

Array = NDArray[np.float64]
Part = Literal["validation", "test"]


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


def recipe_streams(recipe: Recipe, manifest: Manifest, part: Part = "test") -> list[Stream]:
    """The streams of a recipe's data; raises ConfigError.

    Baselines are fitted on what the model was trained on: of a model that was trained again with the validation part,
    on that too, also where that is what is scored.
    """
    both = bool(manifest.provenance.get("refit", part == "test" and recipe.training.refit))
    return to_streams(load(recipe), manifest, part, both)


def trained_on(manifest: Manifest, part: Part) -> str:
    """A warning that the model was trained on the part that is scored, or ""."""
    if part == "test" or not manifest.provenance.get("refit"):
        return ""
    return (
        f"{manifest.name} was trained again with the {part} part (training.refit), so that it has seen what is scored"
    )


def scored(streams: Sequence[Stream]) -> int:
    """How many steps are scored in all; raises ConfigError when there is none."""
    steps = sum(max(0, stream.end - stream.start) for stream in streams)
    if not steps:
        raise ConfigError("no step lies in the part to be scored; look at start and end")
    return steps


def to_streams(dataset: Dataset, manifest: Manifest, part: Part, both: bool = False) -> list[Stream]:
    """The streams of loaded data; `both`: the training part goes on to the test. Raises ConfigError."""
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
