"""Losses over what was observed: Huber, L1 or squares, pinball for quantiles, cross-entropy for a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tidegate.model.manifest import Manifest
from tidegate.training.recipe import Training

GOAL_MAX = 30.0  # a goal beyond so many units of a session's young scale says nothing yet


class Loss:
    """Sum of losses over observed goals, and their number."""

    def __init__(self, manifest: Manifest, settings: Training) -> None:
        self._head = manifest.head
        self._settings = settings
        self._levels = torch.tensor(manifest.head.levels)
        self._by_session = any(feature.scaling.by != "package" for feature in manifest.features)

    def __call__(self, outputs: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """outputs [..., targets x width] and goals [..., targets] (NaN: not observed), in training units."""
        known = torch.isfinite(goals)
        if self._by_session:
            known &= goals.abs() < GOAL_MAX
        if self._head.kind == "categorical":
            whole = known.all(-1)
            losses = functional.cross_entropy(outputs[whole], goals[whole].argmax(-1), reduction="sum")
            return losses, whole.sum()
        goals = torch.where(known, goals, 0.0)
        if self._head.kind == "quantile":
            losses = self._pinball(outputs.view(*goals.shape, len(self._levels)), goals)
        else:
            losses = self._pointwise(outputs, goals)
        return (losses * known).sum(), known.sum()

    def _pinball(self, outputs: Tensor, goals: Tensor) -> Tensor:
        """Twice the mean over levels, which for the median alone is L1."""
        over = goals[..., None] - outputs
        levels = self._levels.to(outputs.device)
        return 2 * torch.maximum(levels * over, (levels - 1) * over).mean(-1)

    def _pointwise(self, outputs: Tensor, goals: Tensor) -> Tensor:
        if self._settings.loss == "l1":
            return functional.l1_loss(outputs, goals, reduction="none")
        if self._settings.loss == "mse":
            return functional.mse_loss(outputs, goals, reduction="none")
        return functional.huber_loss(outputs, goals, reduction="none", delta=self._settings.huber_delta)
