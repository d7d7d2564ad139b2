"""What the cell sees, derived from a whole sequence at once, in float64 NumPy: for training, and for the reference.

The server derives the same a step at a time (`model/device_inputs.py`); a test holds them equal. A row of inputs is

    features in the package's order (one-hot where they are categories)
    | lag differences, feature by feature | calendar | ids, one-hot | ages | feedback.

A channel-independent model has such a row for each target: of the targets' columns, it holds the channel's own, in the
place of the first target's, and after the ages the channel's number, one-hot.

Every output is (transform(x) - base) / unit, the transform that of its target: base and unit are the center and scale
of the scaling (of the package, or those that the session has at that step) or, where the head predicts the change, the
last value and the scale times `change_scales`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.model.ages import Ages
from tidegate.model.calendar import Calendar
from tidegate.model.frequency import NO_TIME
from tidegate.model.manifest import AGE_COLUMNS, Feature, Manifest

Array = NDArray[np.float64]


class Scales(NamedTuple):
    """Center and scale of every feature at every step: [steps, features], transformed units."""

    center: Array
    scale: Array


@dataclass(frozen=True)
class Derived:
    """x [steps, channels, input_width] (feedback columns are zeros); base and unit [steps, targets]; `transforms` marks
    the targets that are log1p."""

    x: Array
    base: Array
    unit: Array
    log1p: NDArray[np.bool_]
    width: int  # outputs a target

    def goals(self, targets: Array) -> Array:
        """Raw targets [steps, targets], each the one that its step predicts, to training units."""
        return (_transform(targets, self.log1p) - self.base) / self.unit

    def restore(self, outputs: Array) -> Array:
        """Outputs [steps, targets x width] in training units to raw units."""
        wide = [np.repeat(part, self.width, axis=-1) for part in (self.base, self.unit)]
        return _untransform(outputs * wide[1] + wide[0], np.repeat(self.log1p, self.width))


class Inputs:
    """The derivation of one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._names = [feature.name for feature in manifest.features]
        self._targets = [self._names.index(target) for target in manifest.targets]
        self._log1p = np.array([feature.scaling.transform == "log1p" for feature in manifest.features])
        self._calendar, self._ages = Calendar(manifest), Ages(manifest)

    def derive(
        self,
        observations: Array,
        times: NDArray[np.int64] | None = None,
        session_id: str = "",
        ages: NDArray[np.uint16] | None = None,
    ) -> Derived:
        """Inputs of a session that begins with the first of `observations` [steps, features] (raw, complete: no NaN).

        `ages` [steps, targets]: for how many steps now each has not been observed; None: all were at all times.

        `times` int64 [steps] in ns since 1970 UTC; without them, or where they are NO_TIME, a step is one interval
        after the one before, the first at the first interval after 1970 began.
        """
        manifest = self._manifest
        levels = _transform(np.asarray(observations, np.float64), self._log1p)
        scales = self.scales(levels)
        values = [
            self._values(feature, column, scales.center[:, index], scales.scale[:, index])
            for index, (feature, column) in enumerate(zip(manifest.features, levels.T, strict=True))
        ]
        lags = {entry.feature: self._lags(index, levels, scales) for index, entry in enumerate(manifest.lags)}
        known = np.full(len(levels), NO_TIME) if times is None else times
        calendar = self._calendar.columns(known, np.arange(1, len(levels) + 1))
        ids = np.zeros((len(levels), len(manifest.ids)))
        if session_id in manifest.ids:
            ids[:, manifest.ids.index(session_id)] = 1.0
        rows = [
            self._row(channel, values, lags, [calendar.astype(np.float64), ids, self._aged(channel, ages, len(levels))])
            for channel in range(manifest.channels)
        ]
        base, unit = self._outputs(levels, scales)
        return Derived(np.stack(rows, axis=1), base, unit, self._log1p[self._targets], manifest.head.width)

    def scales(self, levels: Array) -> Scales:
        """Center and scale by the package, or by what the session has seen up to each step.

        By session: mean' = mean + (v - mean)/n and var' = var + ((v - mean)(v - mean') - var)/n with n the steps seen,
        at most the window (Welford 1962, then exponential); `instance` takes both, `running` the root of
        var' + mean'^2. A scale is never below 1e-6 of the mean, nor 1e-12.
        """
        center, scale = np.empty_like(levels), np.empty_like(levels)
        for index, feature in enumerate(self._manifest.features):
            scaling = feature.scaling
            center[:, index], scale[:, index] = scaling.center, scaling.scale
            if scaling.by == "package":
                continue
            mean = var = 0.0
            for step, value in enumerate(levels[:, index].tolist()):
                n = min(step + 1, self._manifest.scaling_window)
                before, mean = mean, mean + (value - mean) / n
                var = var + ((value - before) * (value - mean) - var) / n
                instance = scaling.by == "instance"
                center[step, index] = mean if instance else 0.0
                scale[step, index] = max((var if instance else var + mean * mean) ** 0.5, 1e-6 * abs(mean), 1e-12)
        return Scales(center, scale)

    def _values(self, feature: Feature, column: Array, center: Array, scale: Array) -> Array:
        """The columns [steps, width] of one feature itself."""
        if not feature.width:
            return np.empty((len(column), 0))
        if feature.categories:
            one_hot: Array = (column[:, None] == np.arange(len(feature.categories))).astype(np.float64)
            return one_hot
        scaled: Array = (column - center) / scale
        return scaled[:, None]

    def _lags(self, entry: int, levels: Array, scales: Scales) -> Array:
        lags = self._manifest.lags[entry]
        index = self._names.index(lags.feature)
        column, scaling = levels[:, index], self._manifest.features[index].scaling
        unit = np.ones(len(column)) if scaling.by == "package" else scales.scale[:, index]
        differences = np.zeros((len(column), len(lags.steps)))
        for place, (back, scale) in enumerate(zip(lags.steps, lags.scales, strict=True)):
            differences[back:, place] = (column[back:] - column[:-back]) / (unit[back:] * scale)
        return differences

    def _row(self, channel: int, values: list[Array], lags: dict[str, Array], rest: list[Array]) -> Array:
        """One channel's inputs in order."""
        manifest = self._manifest
        own = manifest.targets[channel] if manifest.channel_independent else None
        first = min(self._targets)

        def mine(name: str) -> bool:
            return own is None or name not in manifest.targets

        parts = []
        for index, name in enumerate(self._names):
            if mine(name):
                parts.append(values[index])
            elif index == first:
                parts.append(values[self._names.index(own or name)])
        placed = False
        for entry in manifest.lags:
            if mine(entry.feature):
                parts.append(lags[entry.feature])
            elif not placed:
                parts.append(lags[own or entry.feature])
                placed = True
        parts += rest
        if manifest.channel_independent:
            parts.append(np.tile(np.eye(manifest.channels)[channel], (len(parts[0]), 1)))
        width = sum(part.shape[1] for part in parts)
        parts.append(np.zeros((len(parts[0]), manifest.input_width - width)))  # feedback
        return np.concatenate(parts, axis=1)

    def _aged(self, channel: int, ages: NDArray[np.uint16] | None, steps: int) -> Array:
        """The age inputs that one channel sees."""
        columns = self._ages.columns(ages, steps).astype(np.float64)
        own = (
            slice(AGE_COLUMNS * channel, AGE_COLUMNS * (channel + 1))
            if self._manifest.channel_independent
            else slice(None)
        )
        return columns[:, own]

    def _outputs(self, levels: Array, scales: Scales) -> tuple[Array, Array]:
        """Base and unit of the targets at every step."""
        head, targets = self._manifest.head, self._targets
        if head.output == "level":
            return scales.center[:, targets], scales.scale[:, targets]
        by_session = [self._manifest.features[index].scaling.by != "package" for index in targets]
        unit = np.where(by_session, scales.scale[:, targets], 1.0) * np.array(head.change_scales or 1.0)
        return levels[:, targets], unit


def _transform(x: Array, log1p: NDArray[np.bool_]) -> Array:
    with np.errstate(all="ignore"):
        return np.where(log1p, np.copysign(np.log1p(np.abs(x)), x), x)


def _untransform(y: Array, log1p: NDArray[np.bool_]) -> Array:
    with np.errstate(all="ignore"):
        return np.where(log1p, np.copysign(np.expm1(np.abs(y)), y), y)
