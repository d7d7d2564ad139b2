"""The cell's inputs and outputs a step at a time, on the device, for tiles of whole rows.

The same as `inputs.Inputs` derives over a sequence (which says the order of the columns and the equations), from what
a session remembers: a ring of its last values, its running scale, its last prediction. In float64 until the cast. A
row's bits depend on that row alone: copies, and pointwise operations on tiles of 32 rows.

What sessions remember beside the cell's state are columns, by name (each is there if the package derives it):
`ring` float64 [L, lagged features], transformed values, that of step n (from 0) at n mod L; `scale` float64 [2,
features scaled by session], mean and variance; `feedback` float32 [outputs], the last prediction in training units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tidegate.model.derivation import derivation_of
from tidegate.model.package import Package

Memory = Mapping[str, Tensor]  # a slab's device columns, or a copy of some of its rows


@dataclass
class Clock:
    """What the host knows of M rows: seen int64 [M], steps since the state was zero; calendar float32 [M, columns];
    identity int32 [M], the number of the session's id among the package's ids from 1, 0 if it is none of them; ages
    float32 [M, columns]. The last three are None for packages without."""

    seen: Tensor
    calendar: Tensor | None = None
    identity: Tensor | None = None
    ages: Tensor | None = None

    @staticmethod
    def joined(clocks: Sequence[Clock]) -> Clock:
        """The rows of all, which are of one package, one after another."""
        known = zip(*((clock.calendar, clock.identity, clock.ages) for clock in clocks), strict=True)
        others = (None if column[0] is None else torch.cat(column) for column in known)
        return Clock(torch.cat([clock.seen for clock in clocks]), *others)


@dataclass
class Observed:
    """x float32 [M x channels, width] for the cell; base and unit float64 [M or 1, targets] (see `inputs.py`); what is
    to be remembered: level float64 [M, lagged], scale float64 [M, 2, scaled by session], None where nothing is."""

    x: Tensor
    base: Tensor
    unit: Tensor
    level: Tensor | None
    scale: Tensor | None


class DeviceInputs:
    """Derives inputs, restores outputs, and remembers. Holds nothing that changes."""

    def __init__(self, package: Package, device: torch.device) -> None:
        manifest, derivation = package.manifest, derivation_of(package)
        self._manifest, self._device = manifest, device
        self._log1p = self._mask(derivation.curved)
        self._center, self._scale = self._put(derivation.center), self._put(derivation.scale)
        self._targets = self._put(derivation.targets)
        self._target_log1p = self._mask(derivation.curved[derivation.targets])
        self._by_session, self._instance = self._put(derivation.session_features), self._put(derivation.instance)
        self._session_targets = self._mask(np.isin(derivation.targets, derivation.session_features))
        self._lagged = self._put(derivation.lagged_features)
        back, places = np.unique(derivation.lag_steps, return_inverse=True)
        self._ring_steps = self._put(back)
        self._pairs = self._put(places * len(manifest.lags) + derivation.lag_entry)
        self._pair_feature = self._put(derivation.lagged_features[derivation.lag_entry])
        self._pair_scale = self._put(derivation.lag_scale)
        self._change_scale = None if derivation.change is None else self._put(derivation.change)
        self._inputs = [index for index, feature in enumerate(manifest.features) if feature.width]
        self._plain = derivation.by_features_alone
        self._arrange = None if derivation.arrange is None else self._put(derivation.arrange)
        self._channel_ids = torch.eye(manifest.channels, device=device) if manifest.channel_independent else None
        self._fixed: tuple[Tensor, Tensor] | None = None  # base and unit, where they are the same for every row
        if not len(derivation.session_features) and derivation.change is None:
            self._fixed = self._center.index_select(0, self._targets)[None], self._unit(self._scale)

    @cached_property
    def remembered(self) -> list[str]:
        """The columns beside `state` that `remember` writes."""
        manifest = self._manifest
        written = {"ring": manifest.lags, "scale": len(self._by_session), "feedback": manifest.feedback}
        return [name for name, there in written.items() if there]

    def typical(self, normal: Tensor) -> Tensor:
        """Raw values [M, features] float64 that are scaled, where scaling is by package, to the given ones."""
        return _untransform(normal.to(self._device) * self._scale + self._center, self._log1p)

    def observe(self, raw: Tensor, clock: Clock, memory: Memory, slots: Tensor) -> Observed:
        """Inputs for observations raw float64 [M, features] (complete) of the sessions in `slots` int64 [M]."""
        level = _transform(raw, self._log1p)
        center, scale, remembered = self._center, self._scale, None
        if len(self._by_session):
            center, scale, remembered = self._scale_by_session(level, clock, memory["scale"].index_select(0, slots))
        scaled = (level - center) / scale
        parts = [scaled.float()] if self._plain else [self._values(raw, scaled)]
        lagged = None
        if self._manifest.lags:
            lagged = level.index_select(1, self._lagged)
            parts.append(self._differences(lagged, scale, clock, memory["ring"], slots))
        parts += [clock.calendar] if clock.calendar is not None else []
        parts += [self._one_hot(clock.identity)] if clock.identity is not None else []
        parts += [clock.ages] if clock.ages is not None else []
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        if self._channel_ids is not None:
            x = self._by_channel(x)
        if self._manifest.feedback:
            x = self._with_feedback(x, clock, memory["feedback"].index_select(0, slots))
        base, unit = self._outputs(level, center, scale)
        return Observed(x, base, unit, lagged, remembered)

    def restore(self, outputs: Tensor, base: Tensor, unit: Tensor) -> Tensor:
        """Outputs [M, targets x width] float32 in training units to raw float64."""
        manifest = self._manifest
        if manifest.head.kind == "categorical":
            return outputs.double()
        width = manifest.head.width
        if width == 1:
            return _untransform(outputs * unit + base, self._target_log1p)
        wide = outputs.double().view(-1, len(manifest.targets), width) * unit[:, :, None] + base[:, :, None]
        log1p = None if self._target_log1p is None else self._target_log1p[:, None]
        return _untransform(wide, log1p).reshape(-1, manifest.outputs)

    def in_training_units(self, raw: Tensor, base: Tensor, unit: Tensor) -> Tensor:
        """The inverse of `restore`, float64 [M, targets x width]."""
        manifest = self._manifest
        if manifest.head.kind == "categorical":
            return raw
        wide = raw.view(-1, len(manifest.targets), manifest.head.width)
        log1p = None if self._target_log1p is None else self._target_log1p[:, None]
        return ((_transform(wide, log1p) - base[:, :, None]) / unit[:, :, None]).flatten(1)

    def remember(self, seen: Observed, outputs: Tensor, steps: Tensor, memory: Memory, slots: Tensor) -> None:
        """Writes what the next step needs; `steps` are those that the sessions had seen before. The first len(slots)
        rows count, the rest is padding."""
        rows = len(slots)
        if seen.level is not None:
            ring = memory["ring"]
            ring.index_put_((slots, steps[:rows] % ring.shape[1]), seen.level[:rows])
        if seen.scale is not None:
            memory["scale"].index_copy_(0, slots, seen.scale[:rows])
        if self._manifest.feedback:
            memory["feedback"].index_copy_(0, slots, outputs[:rows])

    def units(self, memory: Memory, slots: Tensor) -> Tensor:
        """Raw-side size of one training unit, transformed: float64 [M or 1, targets], as of the sessions' last step."""
        scale = self._scale
        if len(self._by_session):
            _, by_session = self._center_and_scale(memory["scale"].index_select(0, slots))
            scale = self._scale.expand(len(slots), -1).index_copy(1, self._by_session, by_session)
        return self._unit(scale)

    def _values(self, raw: Tensor, scaled: Tensor) -> Tensor:
        """The features themselves, categories one-hot, without those that are no inputs: float32 [M, columns]."""
        parts = []
        for index in self._inputs:
            count = len(self._manifest.features[index].categories)
            if count:
                parts.append((raw[:, index, None] == torch.arange(count, device=self._device)).float())
            else:
                parts.append(scaled[:, index, None].float())
        return torch.cat(parts, 1) if parts else torch.empty((len(raw), 0), device=self._device)

    def _differences(self, lagged: Tensor, scale: Tensor, clock: Clock, ring: Tensor, slots: Tensor) -> Tensor:
        """Lag differences float32 [M, lags], 0 where the session is too young."""
        past = self._past(lagged, clock, ring, slots)
        young = clock.seen[:, None] < self._ring_steps
        past = torch.where(young[:, :, None], lagged[:, None, :], past)
        differences = (lagged[:, None, :] - past).flatten(1).index_select(1, self._pairs)
        unit = self._pair_scale
        if len(self._by_session):
            session = torch.ones_like(scale).index_copy(1, self._by_session, scale.index_select(1, self._by_session))
            unit = session.index_select(1, self._pair_feature) * unit
        return (differences / unit).float()

    def _past(self, lagged: Tensor, clock: Clock, ring: Tensor, slots: Tensor) -> Tensor:
        """The values that lie so many steps back: [M, steps back, lagged features]."""
        del lagged
        places = (clock.seen[:, None] - self._ring_steps) % ring.shape[1]
        return ring[slots[:, None], places]

    def _scale_by_session(self, level: Tensor, clock: Clock, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Center and scale [M, features], and the running mean and variance [M, 2, by session] after this step."""
        values = level.index_select(1, self._by_session)
        first = (clock.seen == 0)[:, None]
        mean, var = (torch.where(first, 0.0, part) for part in before.unbind(1))
        n = (clock.seen + 1).clamp(max=self._manifest.scaling_window).double()[:, None]
        new_mean = mean + (values - mean) / n
        new_var = var + ((values - mean) * (values - new_mean) - var) / n
        after = torch.stack([new_mean, new_var], 1)
        center, scale = self._center_and_scale(after)
        rows = len(level)
        return (
            self._center.expand(rows, -1).index_copy(1, self._by_session, center),
            self._scale.expand(rows, -1).index_copy(1, self._by_session, scale),
            after,
        )

    def _center_and_scale(self, running: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = running.unbind(1)
        square = torch.where(self._instance, var, var + mean * mean)
        floor = (mean.abs() * 1e-6).clamp(min=1e-12)
        return torch.where(self._instance, mean, 0.0), torch.maximum(square.clamp(min=0.0).sqrt(), floor)

    def _outputs(self, level: Tensor, center: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        if self._fixed is not None:
            return self._fixed
        if self._change_scale is not None:
            return level.index_select(1, self._targets), self._unit(scale)
        center = center if center.dim() == 2 else center[None]
        return center.index_select(1, self._targets), self._unit(scale)

    def _unit(self, scale: Tensor) -> Tensor:
        """[M or 1, targets] from the features' scales."""
        unit = (scale if scale.dim() == 2 else scale[None]).index_select(1, self._targets)
        if self._change_scale is None:
            return unit
        if self._session_targets is not None:
            return torch.where(self._session_targets, unit, 1.0) * self._change_scale
        return self._change_scale[None]

    def _one_hot(self, identity: Tensor) -> Tensor:
        """float32 [M, ids]; 0 is none of them."""
        return (identity[:, None] == torch.arange(1, len(self._manifest.ids) + 1, device=self._device)).float()

    def _by_channel(self, x: Tensor) -> Tensor:
        """[M, columns] to [M x channels, width], each channel its own row."""
        assert self._channel_ids is not None
        assert self._arrange is not None
        rows = x.index_select(1, self._arrange.flatten()).view(len(x), *self._arrange.shape)
        ids = self._channel_ids.expand(len(x), -1, -1)
        return torch.cat([rows, ids], 2).flatten(0, 1)

    def _with_feedback(self, x: Tensor, clock: Clock, last: Tensor) -> Tensor:
        last = torch.where((clock.seen == 0)[:, None], 0.0, last)
        return torch.cat([x, last.view(len(x), -1)], 1)

    def _put(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _mask(self, values: NDArray[np.bool_]) -> Tensor | None:
        return self._put(values) if values.any() else None


def _transform(raw: Tensor, log1p: Tensor | None) -> Tensor:
    return raw if log1p is None else torch.where(log1p, torch.copysign(torch.log1p(raw.abs()), raw), raw)


def _untransform(level: Tensor, log1p: Tensor | None) -> Tensor:
    return level if log1p is None else torch.where(log1p, torch.copysign(torch.expm1(level.abs()), level), level)
