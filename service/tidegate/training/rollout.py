"""Batches of stretches, a few steps at a time: their inputs and goals for the network.

Where inputs depend on the model (feedback, missing values, gaps made for training), the network first runs the steps
one by one without gradients, by the serving code's own derivation (`model/device_inputs.py`) and the serving rule: a
missing target is replaced by the model's last prediction, any other feature by its last value. The inputs that it met
are then those of the training pass.
"""

from __future__ import annotations

from ctypes import CDLL
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tidegate.model.ages import AGE_MAX, Ages
from tidegate.model.device_inputs import Clock, DeviceInputs, Observed
from tidegate.model.manifest import Manifest
from tidegate.model.package import Package, expected_shapes
from tidegate.training.examples import Examples, Stretch
from tidegate.training.native_rollout import Recorded, Stepper, Taken, library_for
from tidegate.training.network import Network, State

OUTPUT_MAX = 50.0  # training units: an untrained network's own predictions do not run away


class Batch(NamedTuple):
    """rows int64 [steps, stretches], which example each step is; real bool, whether it is one and not padding; scored
    bool, whether its loss counts; gap bool, whether its observation is taken away."""

    rows: Tensor
    real: Tensor
    scored: Tensor
    gap: Tensor | None

    def piece(self, steps: slice) -> Batch:
        """Some of the steps."""
        return Batch(
            self.rows[steps], self.real[steps], self.scored[steps], None if self.gap is None else self.gap[steps]
        )


class Piece(NamedTuple):
    """What a pass of the network takes: x [steps, stretches x channels, width], goals [steps, stretches, targets] in
    training units (NaN where there is none), base and unit alike."""

    x: Tensor
    goals: Tensor
    base: Tensor
    unit: Tensor


class Seen(NamedTuple):
    """What the cell sees, x [steps, stretches x channels, width], and what its outputs mean: base and unit float64
    [steps, stretches, targets]."""

    x: Tensor
    base: Tensor
    unit: Tensor


@dataclass
class Memory:
    """What the stretches' sessions remember between pieces."""

    last: Tensor  # raw float64 [stretches, features]: what stands in for missing values
    ages: Tensor  # int64 [stretches, targets]: for how many steps now they have been missing
    columns: dict[str, Tensor]

    def copy(self) -> Memory:
        """As it is now: `last` and `ages` are replaced and never written to, the columns are."""
        return Memory(self.last, self.ages, {name: column.clone() for name, column in self.columns.items()})

    def restore(self, before: Memory) -> None:
        """Becomes that again."""
        self.last, self.ages, self.columns = before.last, before.ages, before.columns


def make_batch(stretches: list[Stretch], device: torch.device, gap: np.ndarray | None = None) -> Batch:
    """Side by side, the shorter ones padded with their last row."""
    steps = np.arange(max(stretch.steps for stretch in stretches))[:, None]
    starts, lengths, skips = np.array(stretches, np.int64).T
    real = steps < lengths
    rows = starts + np.minimum(steps, lengths - 1)
    rows_, real_, scored = (torch.from_numpy(part).to(device) for part in (rows, real, real & (steps >= skips)))
    return Batch(rows_, real_, scored, None if gap is None else torch.from_numpy(gap).to(device))


def random_gaps(random: np.random.Generator, steps: int, stretches: int, share: float, longest: int) -> np.ndarray:
    """bool [steps, stretches]: blocks of 1 to `longest` steps, about `share` of all. The first step is never in one."""
    gap = np.zeros((steps, stretches), np.bool_)
    mean = (1 + longest) / 2
    between = max(1.0, mean * (1 - share) / share)
    for column in range(stretches):
        step = 1 + int(random.exponential(between) * random.random())
        while step < steps:
            length = int(random.integers(1, longest + 1))
            gap[step : step + length, column] = True
            step += length + 1 + int(random.exponential(between))
    return gap


class Rollout:
    """Makes pieces of batches. Holds nothing that changes."""

    def __init__(self, manifest: Manifest, examples: Examples, device: torch.device) -> None:
        self._manifest, self._examples, self._device = manifest, examples, device
        zeros = {name: np.zeros(shape, np.float32) for name, shape in expected_shapes(manifest).items()}
        package = Package(manifest, zeros, "")
        self._inputs, self._recorded = DeviceInputs(package, device), Recorded(package, device)
        self._native = library_for(package, device)
        self._targets = torch.from_numpy(package.target_indices).to(device)
        self._ages = Ages(manifest)
        self._age_table = torch.from_numpy(self._ages.table).to(device) if manifest.ages else None
        self._points = torch.from_numpy(manifest.point_indices).to(device)
        names = list(package.feature_names)
        self._lagged = torch.tensor([names.index(lags.feature) for lags in manifest.lags], device=device).long()
        self._log1p = torch.tensor([f.scaling.transform == "log1p" for f in manifest.features], device=device)
        self._ring = max((lags.steps[-1] for lags in manifest.lags), default=0)
        known = [feature.role in ("future", "static") for feature in manifest.features]
        self._known = torch.tensor(known, device=device)  # not taken away by a gap
        self.by_model = examples.missing or manifest.feedback

    def start(self, batch: Batch) -> Memory:
        """As if the sessions had seen all that is before their stretches."""
        examples, first = self._examples, batch.rows[0]
        seen = examples.seen[first]
        before = (first - 1).clamp(min=0)
        last = torch.where((seen > 0)[:, None], examples.filled[before], examples.means)
        columns = {"scale": examples.moments[first].clone(), "ring": self._history(first, seen)}
        columns["feedback"] = torch.zeros(len(first), self._manifest.outputs, device=self._device)
        ages = torch.zeros((len(first), len(self._targets)), dtype=torch.int64, device=self._device)
        return Memory(last, ages, columns)

    def _history(self, first: Tensor, seen: Tensor) -> Tensor:
        """Rings [stretches, length, lagged] that hold step n at n mod length."""
        back = torch.arange(1, self._ring + 1, device=self._device)
        rows = (first[:, None] - back).clamp(min=0)
        values = self._examples.filled[rows][:, :, self._lagged]
        log1p = self._log1p[self._lagged]
        levels = torch.where(log1p, torch.copysign(torch.log1p(values.abs()), values), values)
        ring = torch.zeros(len(first), max(self._ring, 1), len(self._lagged), dtype=torch.float64, device=self._device)
        places = (seen[:, None] - back) % max(self._ring, 1)
        return ring.scatter(1, places[:, :, None].expand_as(levels), levels) if self._ring else ring

    def piece(self, network: Network, batch: Batch, memory: Memory | None, state: State) -> Piece:
        """Inputs and goals of all steps of `batch`; with a memory, by way of the network's own predictions."""
        if memory is not None:
            x, base, unit = self._own_predictions(network, batch, memory, state)
        else:
            x = self._examples.x[batch.rows].flatten(1, 2)
            base, unit = self._examples.base[batch.rows], self._examples.unit[batch.rows]
        goals = self._examples.goal[batch.rows]
        if self._manifest.head.kind != "categorical":
            goals = (goals - base) / unit
        goals = torch.where(batch.scored[:, :, None], goals, torch.nan).float()
        return Piece(x, goals, base, unit)

    @torch.no_grad()
    def _own_predictions(self, network: Network, batch: Batch, memory: Memory, state: State) -> Seen:
        training = network.training
        network.eval()
        found = None if self._native is None else self._natively(self._native, network, batch, memory, state)
        if found is None:
            found = self._by_torch(network, batch, memory, state)
        network.train(training)
        return found

    def _natively(self, native: CDLL, network: Network, batch: Batch, memory: Memory, state: State) -> Seen | None:
        """By the C parts. None where predictions run away, and then the memory is as it was."""
        before = memory.copy()
        stepper = Stepper(native, self._manifest, network, batch.rows.shape[1], state, memory.columns)
        taken: list[Taken] = []
        for step in range(len(batch.rows)):
            raw, clock = self._step(batch, step, memory)
            kept = self._recorded.before(clock, memory.columns)
            predicted = stepper.step(raw, clock)
            if predicted is None:
                break
            taken.append(Taken(raw, clock, kept, predicted))
            self._go_on(memory, raw.clone(), predicted)
        if len(taken) == len(batch.rows):
            seen, outputs = self._recorded.again(taken)
            if self._manifest.head.kind == "categorical" or bool((outputs.abs() <= OUTPUT_MAX).all()):
                return _cut(seen, batch)
        memory.restore(before)
        return None

    def _by_torch(self, network: Network, batch: Batch, memory: Memory, state: State) -> Seen:
        stretches = batch.rows.shape[1]
        slots = torch.arange(stretches, device=self._device)
        parts = []
        for step in range(len(batch.rows)):
            raw, clock = self._step(batch, step, memory)
            seen = self._inputs.observe(raw, clock, memory.columns, slots)
            outputs, state = network(seen.x[None], state)
            outputs = outputs.view(stretches, -1).clamp(-OUTPUT_MAX, OUTPUT_MAX)
            if self._manifest.head.kind == "categorical":
                outputs = outputs.softmax(1)
            self._inputs.remember(seen, outputs, clock.seen, memory.columns, slots)
            self._go_on(memory, raw, self._inputs.restore(outputs, seen.base, seen.unit))
            parts.append((seen.x, seen.base.expand(stretches, -1), seen.unit.expand(stretches, -1)))
        return Seen(*(torch.stack(part) for part in zip(*parts, strict=True)))

    def _step(self, batch: Batch, step: int, memory: Memory) -> tuple[Tensor, Clock]:
        """What the sessions observe in a step, complete, and when."""
        examples, rows = self._examples, batch.rows[step]
        raw = self._complete(rows, None if batch.gap is None else batch.gap[step], memory)
        return raw, Clock(examples.seen[rows], examples.calendar[rows], examples.identity[rows], self._aged(memory))

    def _go_on(self, memory: Memory, raw: Tensor, predicted: Tensor) -> None:
        """What stands in for what the next step misses; `raw` becomes a part of it."""
        memory.last = raw
        memory.last[:, self._targets] = self._stand_in(predicted)

    def _complete(self, rows: Tensor, gap: Tensor | None, memory: Memory) -> Tensor:
        raw = self._examples.raw[rows]
        missing = raw.isnan()
        if gap is not None:
            missing |= gap[:, None] & ~self._known
        memory.ages = torch.where(missing[:, self._targets], memory.ages + 1, 0)
        return torch.where(missing, memory.last, raw)

    def _aged(self, memory: Memory) -> Tensor | None:
        """The age inputs [stretches, columns]."""
        if self._age_table is None:
            return None
        return self._age_table[memory.ages[:, : self._ages.targets].clamp(max=AGE_MAX)].flatten(1)

    def _stand_in(self, predictions: Tensor) -> Tensor:
        """float64 [stretches, targets]: points, or the one-hot of the likeliest word."""
        if self._manifest.head.kind == "categorical":
            one_hot = torch.nn.functional.one_hot(predictions.argmax(1), predictions.shape[1])
            return one_hot.double()
        return predictions[:, self._points]


def _cut(seen: Observed, batch: Batch) -> Seen:
    """Rows of all steps, one step after another, as steps."""
    steps, stretches = batch.rows.shape
    base, unit = (part.expand(steps * stretches, -1).view(steps, stretches, -1) for part in (seen.base, seen.unit))
    return Seen(seen.x.view(steps, -1, seen.x.shape[1]), base, unit)
