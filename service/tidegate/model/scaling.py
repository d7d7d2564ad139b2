"""Raw units to training units and back, for many rows at once, in float64.

Every float has an answer: NaN stays NaN, and what float32 cannot hold becomes infinite without a warning. `log1p` keeps
the sign, sign(x) log(1 + |x|), so that a sensor's small negative reading has an answer too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.model.manifest import Manifest
from tidegate.model.package import Package

Raw = NDArray[np.float64]
Scaled = NDArray[np.float32]
NO_CATEGORY = -1.0


class Scaler:
    """The scaling of one package's features and targets."""

    def __init__(self, package: Package) -> None:
        scalings = [feature.scaling for feature in package.manifest.features]
        targets = package.target_indices
        self._center = np.array([scaling.center for scaling in scalings])
        self._scale = np.array([scaling.scale for scaling in scalings])
        log1p = np.array([scaling.transform == "log1p" for scaling in scalings])
        self._log1p = np.flatnonzero(log1p)
        self._target_center, self._target_scale = self._center[targets], self._scale[targets]
        self._target_log1p = np.flatnonzero(log1p[targets])

    def scale(self, x: Raw) -> Scaled:
        """Raw values [rows, features] to training units. `x` is not changed."""
        with np.errstate(all="ignore"):
            if self._log1p.size:
                x = x.copy()
                x[:, self._log1p] = _log1p(x[:, self._log1p])
            scaled: Scaled = ((x - self._center) / self._scale).astype(np.float32)
        return scaled

    def unscale(self, y: Scaled) -> Scaled:
        """Training units [rows, targets] to raw values, rounded once to float32."""
        with np.errstate(all="ignore"):
            x = y * self._target_scale + self._target_center
            if self._target_log1p.size:
                x[:, self._target_log1p] = _expm1(x[:, self._target_log1p])
            raw: Scaled = x.astype(np.float32)
        return raw


def unseen(manifest: Manifest) -> Raw:
    """What a feature is taken to be before it was ever observed, by a server as in training: raw [features], the value
    that scales to 0 (where scaling is by session, 0 itself), and no category."""
    centers = np.array([feature.scaling.center for feature in manifest.features])
    log1p = [feature.scaling.transform == "log1p" for feature in manifest.features]
    with np.errstate(all="ignore"):
        values: Raw = np.where(log1p, _expm1(centers), centers)
    values[[bool(feature.categories) for feature in manifest.features]] = NO_CATEGORY
    return values


def _log1p(x: Raw) -> Raw:
    transformed: Raw = np.copysign(np.log1p(np.abs(x)), x)
    return transformed


def _expm1(y: Raw) -> Raw:
    raw: Raw = np.copysign(np.expm1(np.abs(y)), y)
    return raw
