"""Scaling on the device: the same as `scaling.Scaler`, in torch, for tiles of whole rows.

In float64 by column. On tiles of 32 rows no vectorised operation meets a ragged end, so that a row keeps its bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tidegate.model.manifest import Feature
from tidegate.model.package import Package

Columns = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # center, scale, which are log1p


class DeviceScaler:
    """Raw float64 to scaled float32 and back, in float64 on the device, by column."""

    def __init__(self, package: Package, device: torch.device) -> None:
        features = package.manifest.features
        self._inputs = _columns(features, device)
        self._outputs = _columns([features[index] for index in package.target_indices], device)

    def scale(self, raw: torch.Tensor) -> torch.Tensor:
        """[rows, features] float64 to float32."""
        center, scale, log = self._inputs
        if log is not None:
            raw = torch.where(log, torch.copysign(torch.log1p(raw.abs()), raw), raw)
        return ((raw - center) / scale).float()

    def typical(self, normal: torch.Tensor) -> torch.Tensor:
        """Raw values [rows, features] float64 that scale to the given ones."""
        return _raw(normal.to(self._inputs[0].device), self._inputs)

    def unscale(self, scaled: torch.Tensor) -> torch.Tensor:
        """[rows, targets] float32 to float32."""
        return _raw(scaled.double(), self._outputs).float()


def _raw(scaled: torch.Tensor, columns: Columns) -> torch.Tensor:
    center, scale, log = columns
    raw = scaled * scale + center
    if log is not None:
        raw = torch.where(log, torch.copysign(torch.expm1(raw.abs()), raw), raw)
    return raw


def _columns(features: Sequence[Feature], device: torch.device) -> Columns:
    log = torch.tensor([feature.scaling.transform == "log1p" for feature in features], device=device)
    center = torch.tensor([feature.scaling.center for feature in features], dtype=torch.float64, device=device)
    scale = torch.tensor([feature.scaling.scale for feature in features], dtype=torch.float64, device=device)
    return center, scale, log if bool(log.any()) else None
