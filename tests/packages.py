"""Model packages for tests: random weights, drawn as torch initialises its recurrent layers and nn.Linear."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.model.package import Package, Weights, expected_shapes, parse_manifest, save_package


def random_package(
    folder: Path,
    name: str = "random",
    version: str = "1",
    cell: str = "lstm",
    layers: int = 1,
    hidden: int = 32,
    features: int | Sequence[dict[str, Any]] = 4,
    targets: int | Sequence[str] = 4,
    seed: int = 0,
    **manifest_fields: Any,
) -> Package:
    """Writes `folder/name/version` through save_package and returns it as a server would load it.

    Features are x0, x1, …; the first `targets` of them are the targets, the others past covariates; or both are as the
    manifest has them. The same arguments give the same weights. `manifest_fields` (frequency, gaps, hidden_activation,
    gru_reset, …) are added as they are.
    """
    if isinstance(targets, int):
        targets = [f"x{index}" for index in range(targets)]
    if isinstance(features, int):
        names = [f"x{index}" for index in range(features)]
        features = [{"name": x, "role": "target" if x in targets else "past"} for x in names]
    manifest: dict[str, Any] = {
        "name": name,
        "version": version,
        "features": list(features),
        "targets": list(targets),
        "cell": cell,
        "layers": layers,
        "hidden_size": hidden,
        **manifest_fields,
    }
    return save_package(folder / name / version, manifest, random_weights(manifest, seed))


def unwritten(**fields: Any) -> Package:
    """A package in memory, with random weights: three features, the first two of which are targets, unless given."""
    manifest: dict[str, Any] = {
        "name": "random",
        "version": "1",
        "features": [{"name": "a"}, {"name": "b"}, {"name": "c", "role": "past"}],
        "targets": ["a", "b"],
        "hidden_size": 32,
        **fields,
    }
    checked = parse_manifest(json.dumps(manifest | {"weights_sha256": "0" * 64}).encode())
    return Package(checked, random_weights(manifest), "")


def random_weights(manifest: dict[str, Any], seed: int = 0) -> Weights:
    """Every tensor that the manifest asks for, uniform in ±1/sqrt(hidden size): torch's default for all of them."""
    checked = parse_manifest(json.dumps(manifest | {"weights_sha256": "0" * 64}).encode())
    bound = checked.hidden_size**-0.5
    random = np.random.default_rng(seed)
    shapes = expected_shapes(checked)
    return {name: random.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
