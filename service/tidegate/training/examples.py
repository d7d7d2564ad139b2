"""The streams as tensors: all rows of all streams after each other, inputs derived once where nothing needs the model.

A step's goal is the next row. What depends on the model's own predictions (missing values, feedback, simulated gaps)
is derived while it trains, a step at a time, by `rollout.py`; what that needs lies here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tidegate.model.calendar import Calendar
from tidegate.model.inputs import Inputs
from tidegate.model.manifest import Manifest
from tidegate.model.scaling import unseen
from tidegate.training.cells import Values
from tidegate.training.data import Dataset, Stream
from tidegate.training.draft import held, transformed
from tidegate.training.recipe import Training


class Stretch(NamedTuple):
    """Contiguous rows from `start` (of all rows), `steps` of them; the first `skip` only warm the state up."""

    start: int
    steps: int
    skip: int = 0


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows are steps. x float32 [rows, channels, width]; base and unit float64 [rows, targets], see `model/inputs.py`;
    goal float64 [rows, targets]: the next row's transformed targets, NaN where unknown.

    For rollouts: raw float64 [rows, features], NaN where missing, and filled, the same without NaN; calendar float32
    [rows, columns]; seen int64 [rows], steps before it in its stream; identity int64 [rows]; moments float64 [rows, 2,
    scaled by session], mean and variance before the row; means float64 [features], raw: what a feature is taken to be
    before its first value. `firsts` is where each stream begins.
    """

    x: Tensor
    base: Tensor
    unit: Tensor
    goal: Tensor
    raw: Tensor
    filled: Tensor
    calendar: Tensor
    seen: Tensor
    identity: Tensor
    moments: Tensor
    means: Tensor
    firsts: tuple[int, ...]
    streams: tuple[Stream, ...]
    missing: bool

    def stretches(self, settings: Training, refit: bool) -> list[Stretch]:
        """The rows to train on, stream by stream; with `refit`, those of validation too."""
        spans = []
        for first, stream in zip(self.firsts, self.streams, strict=True):
            steps = (stream.test if refit else stream.validation) - 1  # the last one's goal is another part's
            if steps > 0:
                spans.append(Stretch(first, steps))
        return spans

    def lanes(self, part: str, stretch: int) -> list[Stretch]:
        """Validation or test cut into pieces of `stretch` steps, each after as long a warm-up, or what there is."""
        pieces = []
        for first, stream in zip(self.firsts, self.streams, strict=True):
            begin, end = (stream.validation, stream.test) if part == "validation" else (stream.test, len(stream.times))
            for row in range(max(begin - 1, 0), end - 1, stretch):
                warm = min(row, stretch)
                steps = min(stretch, end - 1 - row)
                pieces.append(Stretch(first + row - warm, warm + steps, warm))
        return pieces


def make_examples(manifest: Manifest, dataset: Dataset, device: torch.device) -> Examples:
    """Derives everything that does not depend on the model."""
    means = unseen(manifest)
    parts = [_stream_arrays(manifest, stream, means) for stream in dataset.streams]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    lengths = [len(stream.times) for stream in dataset.streams]
    firsts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
    tensors = {name: torch.from_numpy(value).to(device) for name, value in joined.items()}
    missing = bool(np.isnan(joined["raw"]).any())
    stand_ins = torch.from_numpy(means).to(device)
    return Examples(**tensors, means=stand_ins, firsts=tuple(firsts), streams=dataset.streams, missing=missing)


def _stream_arrays(manifest: Manifest, stream: Stream, means: Values) -> dict[str, np.ndarray]:
    filled = held(stream.values, means)
    derived = Inputs(manifest).derive(filled, stream.times, stream.id)
    targets = [[feature.name for feature in manifest.features].index(target) for target in manifest.targets]
    log1p = np.array([feature.scaling.transform == "log1p" for feature in manifest.features])
    levels = np.where(log1p, transformed(stream.values, True), stream.values)
    goal = np.full((len(levels), len(targets)), np.nan)
    goal[:-1] = levels[1:, targets]
    steps = np.arange(len(levels), dtype=np.int64)
    identity = manifest.ids.index(stream.id) + 1 if stream.id in manifest.ids else 0
    return {
        "x": derived.x.astype(np.float32),
        "base": derived.base,
        "unit": np.broadcast_to(derived.unit, derived.base.shape).copy(),
        "goal": goal,
        "raw": stream.values,
        "filled": filled,
        "calendar": Calendar(manifest).columns(stream.times, steps + 1),
        "seen": steps,
        "identity": np.full(len(levels), identity, np.int64),
        "moments": _moments(manifest, np.where(log1p, transformed(filled, True), filled)),
    }


def _moments(manifest: Manifest, levels: Values) -> Values:
    """Running mean and variance before each row of the features that are scaled by session: [rows, 2, features]."""
    columns = [index for index, feature in enumerate(manifest.features) if feature.scaling.by != "package"]
    moments = np.zeros((len(levels), 2, len(columns)))
    mean, var = np.zeros(len(columns)), np.zeros(len(columns))
    for step, values in enumerate(levels[:, columns] if columns else ()):
        moments[step] = mean, var
        n = min(step + 1, manifest.scaling_window)
        before, mean = mean, mean + (values - mean) / n
        var = var + ((values - before) * (values - mean) - var) / n
    return moments
