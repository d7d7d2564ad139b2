"""Packages that derive what their cells see in every way there is, and what they are fed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.packages import random_weights
from tidegate.model.manifest import Manifest
from tidegate.model.package import Package, parse_manifest

HOUR, STEPS, ROWS = 3_600_000_000_000, 60, 32
LAGS = [{"feature": name, "steps": [1, 3, 24], "scales": [0.5, 1.0, 2.0]} for name in ("a", "b")]
BARE = [  # no features but numbers that are scaled by package
    {"name": "a", "scaling": {"center": 1.5, "scale": 2.5}},
    {"name": "kind", "role": "past"},
    {"name": "b", "scaling": {"center": -1.0, "scale": 3.0}},
]
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "derived": {"lags": LAGS, "calendar": [{"field": "hour_of_day"}], "ids": ["one", "two"], "frequency": "h"},
    "channels": {"lags": LAGS, "channel_independent": True, "ids": ["two"]},
    "change": {"lags": LAGS[:1], "head": {"output": "change", "change_scales": [0.5, 2.0]}},
    "ages": {"ages": True},
    "ages of channels": {"lags": LAGS, "channel_independent": True, "ages": True, "ids": ["two"]},
    "bare": {"features": BARE},
    "bare changes": {"features": BARE, "head": {"output": "change", "change_scales": [0.5, 2.0]}},
    "quantiles": {"head": {"kind": "quantile", "levels": [0.1, 0.5, 0.9]}},
}


def package_of(scaling: str, **fields: Any) -> Package:
    by_package = {"transform": "log1p", "center": 1.5, "scale": 2.5}
    manifest = {
        "name": "m",
        "version": "1",
        "features": [
            {"name": "a", "scaling": by_package if scaling == "package" else {"by": scaling}},
            {"name": "kind", "role": "past", "categories": ["x", "y", "z"]},
            {"name": "b", "scaling": {"center": -1.0, "scale": 3.0}},
        ],
        "targets": ["a", "b"],
        "hidden_size": 4,
        "scaling_window": 20,
        **fields,
    }
    weights = random_weights(manifest)
    return Package(parse_manifest(json.dumps(manifest | {"weights_sha256": "0" * 64}).encode()), weights, "")


def observations(random: np.random.Generator) -> NDArray[np.float64]:
    """[steps, features]; one in four is of no category."""
    rows = random.normal(3.0, 2.0, (STEPS, 3))
    rows[:, 1] = random.integers(0, 4, STEPS)
    return rows


def memory_of(manifest: Manifest, rows: int) -> dict[str, NDArray[Any]]:
    """What `rows` sessions might remember of others who had their slots before."""
    by_session = sum(feature.scaling.by != "package" for feature in manifest.features)
    return {
        "ring": np.full((rows + 1, 24, len(manifest.lags)), 7.0),
        "scale": np.full((rows + 1, 2, by_session), 9.0),
        "feedback": np.full((rows + 1, manifest.outputs), 5.0, np.float32),
    }
