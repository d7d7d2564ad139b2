"""The cell's inputs for many steps of one session at once: as `DeviceInputs` derives them for one step of many.

What is different is where the past comes from: for the first steps of the sequence from what the session remembers, for
later ones from the sequence itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tidegate.model.device_inputs import Clock, DeviceInputs, Memory, Observed


class SequenceInputs(DeviceInputs):
    """`observe` and `remember` take T steps of the one session in `slots` [1]; the steps are the rows."""

    def remember(self, seen: Observed, outputs: Tensor, steps: Tensor, memory: Memory, slots: Tensor) -> None:
        """Writes what the step after the last one needs."""
        del outputs  # a model that feeds them back is not taken so
        slot = int(slots)
        if seen.level is not None:
            ring = memory["ring"]
            last = seen.level[-ring.shape[1] :]
            ring[slot, steps[-len(last) :] % ring.shape[1]] = last
        if seen.scale is not None:
            memory["scale"][slot] = seen.scale[-1]

    def _past(self, lagged: Tensor, clock: Clock, ring: Tensor, slots: Tensor) -> Tensor:
        """The values that lie so many steps back: [T, steps back, lagged features]."""
        steps = torch.arange(len(lagged), device=lagged.device)[:, None] - self._ring_steps
        before = ring[int(slots)][(clock.seen[:, None] - self._ring_steps) % ring.shape[1]]
        return torch.where((steps >= 0)[:, :, None], lagged[steps.clamp(min=0)], before)

    def _scale_by_session(self, level: Tensor, clock: Clock, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The running mean and variance of each step hang on those of the step before: plain numbers in a loop are
        faster than tensors of one element."""
        values = level.index_select(1, self._by_session)
        start = before[0].clone() if int(clock.seen[0]) else torch.zeros_like(before[0])
        counts = (clock.seen + 1).clamp(max=self._manifest.scaling_window).tolist()
        columns = [
            _running(column, counts, mean, var)
            for column, mean, var in zip(values.T.tolist(), *start.tolist(), strict=True)
        ]
        after = torch.tensor(columns, dtype=torch.float64, device=level.device).permute(1, 2, 0)  # [T, 2, by session]
        center, scale = self._center_and_scale(after)
        steps = len(level)
        return (
            self._center.expand(steps, -1).index_copy(1, self._by_session, center),
            self._scale.expand(steps, -1).index_copy(1, self._by_session, scale),
            after,
        )


def _running(values: list[float], counts: list[int], mean: float, var: float) -> list[tuple[float, float]]:
    """Mean and variance after each value; see `inputs.Inputs.scales`."""
    after = []
    for value, n in zip(values, counts, strict=True):
        last, mean = mean, mean + (value - mean) / n
        var = var + ((value - last) * (value - mean) - var) / n
        after.append((mean, var))
    return after
