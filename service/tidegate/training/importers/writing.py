"""From a network that was read to a version in the model repository: names, agreement, package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidegate.errors import ConfigError
from tidegate.model.package import Package, parse_manifest, save_package
from tidegate.training.importers.agreement import Agreement, check_agreement
from tidegate.training.importers.network import Network, Source
from tidegate.training.versions import next_version


@dataclass(frozen=True)
class Meaning:
    """What the file cannot say: the package's name, and what its numbers are.

    A name that is among `features` and `targets` is an ordinary target: sent, seen by the cell and predicted. A target
    that is no feature is an output: predicted, not seen by the cell and never sent. `scaling`
    holds fields of Scaling by name: the network works in training units.
    """

    name: str
    features: tuple[str, ...] = ()  # x0, x1, … when empty
    targets: tuple[str, ...] = ()  # y0, y1, … when empty
    units: Mapping[str, str] = field(default_factory=dict)
    scaling: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    frequency: str = ""
    description: str = ""


def write_import(
    models: Path, meaning: Meaning, file: Path, network: Network, source: Source
) -> tuple[Package, Agreement]:
    """Writes the next version of `models/<name>/`, if it predicts as its source; raises ConfigError, PackageError."""
    folder = models / meaning.name / str(next_version(models / meaning.name))
    manifest = {
        "name": meaning.name,
        "version": folder.name,
        "description": meaning.description or f"imported from {file.name}",
        "frequency": meaning.frequency,
        **features_and_targets(network, meaning),
        **network.manifest(),
        "provenance": {"source": file.name, "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
    }
    tensors = network.tensors()
    unwritten = parse_manifest(json.dumps(manifest | {"weights_sha256": "0" * 64}).encode())
    agreement = check_agreement(Package(unwritten, tensors, "", network.graph_bytes), source)
    manifest["provenance"] |= {
        "agreement": {
            "with": agreement.source,
            "error_max": agreement.error_max,
            "steps": agreement.steps,
            "rows": agreement.rows,
        }
    }
    return save_package(folder, manifest, tensors, network.graph_bytes), agreement


def features_and_targets(network: Network, meaning: Meaning) -> dict[str, Any]:
    """The manifest's features, first those that the cell sees, and targets; raises ConfigError."""
    names = meaning.features or tuple(f"x{index}" for index in range(network.inputs))
    targets = meaning.targets or tuple(f"y{index}" for index in range(network.outputs))
    for what, given, count in (("features", names, network.inputs), ("targets", targets, network.outputs)):
        if len(given) != count:
            raise ConfigError(f"{what}: {len(given)} were named ({', '.join(given)}), but the network has {count}")
        if len(set(given)) != count:
            raise ConfigError(f"{what}: two have the same name ({', '.join(given)})")
    every = (*names, *(target for target in targets if target not in names))
    for option, known in (("unit", meaning.units), ("scaling", meaning.scaling)):
        for name in known:
            if name not in every:
                raise ConfigError(f"{option}: there is no {name!r}; features and targets: {', '.join(every)}")
    features = [
        {
            "name": name,
            "unit": meaning.units.get(name, ""),
            "role": _role(name, names, targets),
            "scaling": dict(meaning.scaling.get(name, {})),
        }
        for name in every
    ]
    return {"features": features, "targets": list(targets)}


def _role(name: str, features: Collection[str], targets: Collection[str]) -> str:
    """Seen and predicted: a target. Seen: a past covariate. Predicted: an output, which nobody sends."""
    if name not in targets:
        return "past"
    return "target" if name in features else "output"
