"""The model package: `model.json` and `weights.safetensors` of one version, checked before anything is served.

The weights are named and laid out as those of torch.nn.LSTM, GRU and RNN (gates i f g o; r z n), with peepholes beside
them, and as nn.Linear or nn.Sequential names a head's. A foreign model has `graph.onnx` instead. No pickle is ever
loaded. Whatever disagrees is refused by a PackageError that names the field.
"""

from __future__ import annotations

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from tidegate.errors import PackageError
from tidegate.model.frequency import Frequency
from tidegate.model.manifest import Manifest

MANIFEST, WEIGHTS, GRAPH = "model.json", "weights.safetensors", "graph.onnx"
GATES = {"lstm": 4, "lstm_peephole": 4, "gru": 3, "rnn_tanh": 1}

Weights = dict[str, NDArray[np.float32]]


class Package:
    """One checked model version in memory. Weights are float32 arrays; `fingerprint` is the SHA-256 of both files.

    A foreign model has no weights but `graph`, the bytes of its ONNX file.
    """

    def __init__(self, manifest: Manifest, weights: Weights, fingerprint: str, graph: bytes = b"") -> None:
        check_weights(manifest, weights)
        self.manifest = manifest
        self.weights = weights
        self.graph = graph
        self.fingerprint = fingerprint
        self.frequency = Frequency.parse(manifest.frequency, manifest.time_zone)
        names = [feature.name for feature in manifest.features]
        self.feature_names = tuple(names)
        self.target_indices = np.array([names.index(target) for target in manifest.targets], np.intp)

    @property
    def row_width(self) -> int:
        """Float32 values of recurrent state a row of the cell: h and, for LSTMs, c of every layer."""
        manifest = self.manifest
        if manifest.graph is not None:
            return sum(prod(state.shape) for state in manifest.graph.states)
        parts = 2 if manifest.cell.startswith("lstm") else 1
        return parts * manifest.layers * manifest.hidden_size

    @property
    def state_width(self) -> int:
        """Float32 values of recurrent state a session: its rows, one or one a channel, after each other."""
        return self.manifest.channels * self.row_width


def expected_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a package of this manifest must hold, and no other."""
    shapes: dict[str, tuple[int, ...]] = {}
    if manifest.cell == "onnx":
        return shapes
    hidden, gates = manifest.hidden_size, GATES[manifest.cell]
    for layer in range(manifest.layers):
        width = manifest.input_width if layer == 0 else hidden
        shapes[f"weight_ih_l{layer}"] = (gates * hidden, width)
        shapes[f"weight_hh_l{layer}"] = (gates * hidden, hidden)
        shapes[f"bias_ih_l{layer}"] = shapes[f"bias_hh_l{layer}"] = (gates * hidden,)
        if manifest.cell == "lstm_peephole":
            for gate in "ifo":
                shapes[f"weight_c{gate}_l{layer}"] = (hidden,)
    widths = (hidden, *manifest.head.hidden, manifest.outputs // manifest.channels)
    for prefix, before, after in zip(head_prefixes(manifest), widths, widths[1:], strict=False):
        shapes[f"{prefix}.weight"], shapes[f"{prefix}.bias"] = (after, before), (after,)
    return shapes


def head_prefixes(manifest: Manifest) -> list[str]:
    """What the tensors of the head's layers are named after: `head`, or for an MLP, as in nn.Sequential, `head.0`,
    `head.2`, … (the odd numbers are activations)."""
    layers = len(manifest.head.hidden) + 1
    return ["head"] if layers == 1 else [f"head.{2 * layer}" for layer in range(layers)]


def check_weights(manifest: Manifest, weights: Weights) -> None:
    """Raises PackageError, naming the tensor, unless names, shapes, types and values are what the manifest says."""
    expected = expected_shapes(manifest)
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise PackageError(f"{WEIGHTS}:{name}", "is missing")
        if name not in expected:
            raise PackageError(f"{WEIGHTS}:{name}", f"is not part of a {manifest.layers}-layer {manifest.cell}")
        if weights[name].shape != expected[name]:
            raise PackageError(f"{WEIGHTS}:{name}", f"has shape {weights[name].shape}, must be {expected[name]}")
        if weights[name].dtype != np.float32:
            raise PackageError(f"{WEIGHTS}:{name}", f"is {weights[name].dtype}, must be float32")
        if not np.isfinite(weights[name]).all():
            raise PackageError(f"{WEIGHTS}:{name}", "has a value that is not finite")


def parse_manifest(text: bytes) -> Manifest:
    """Reads `model.json`; raises PackageError with the field's path."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise PackageError(f"{MANIFEST}:{path}" if path else MANIFEST, problem) from None


def parse_weights(content: bytes) -> Weights:
    """Reads `weights.safetensors`; raises PackageError."""
    try:
        tensors = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise PackageError(WEIGHTS, f"is not a safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if tensor["dtype"] != "F32":
            raise PackageError(f"{WEIGHTS}:{name}", f"is {tensor['dtype']}, must be F32")
    return {
        name: np.frombuffer(tensor["data"], "<f4").astype(np.float32).reshape(tensor["shape"])
        for name, tensor in tensors.items()
    }


def check_folder(manifest: Manifest, folder: Path) -> None:
    """Raises PackageError unless the folder is named after the model and the version."""
    for field, value, must in (
        ("name", manifest.name, folder.parent.name),
        ("version", manifest.version, folder.name),
    ):
        if value != must:
            raise PackageError(f"{MANIFEST}:{field}", f"is {value!r}, but the folder says {must!r}")


def load_package(folder: Path) -> Package:
    """Reads and checks the package in `folder` (`…/<name>/<version>`); raises PackageError."""
    text = _read(folder / MANIFEST)
    manifest = parse_manifest(text)
    check_folder(manifest, folder)
    name = WEIGHTS if manifest.graph is None else GRAPH
    content = _read(folder / name)
    if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
        raise PackageError(f"{MANIFEST}:weights_sha256", f"is not the hash of {name}")
    fingerprint = hashlib.sha256(text + content).hexdigest()
    if manifest.graph is not None:
        return Package(manifest, {}, fingerprint, content)
    return Package(manifest, parse_weights(content), fingerprint)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackageError(path.name, f"cannot be read ({error.strerror})") from None


def save_package(folder: Path, manifest: dict[str, Any], weights: Weights, graph: bytes = b"") -> Package:
    """Writes a version to `folder`, complete or not at all, and returns it as a server would load it.

    `manifest` holds the fields of Manifest but `weights_sha256`, which is computed. The folder must not exist yet:
    versions are immutable. A foreign model has no weights, but `graph`.
    """
    if folder.exists():
        raise PackageError(str(folder), "exists; a version is written once")
    content = graph or safetensors.numpy.save(weights)
    complete = manifest | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    try:
        checked = parse_manifest(json.dumps(complete, allow_nan=False).encode())
    except ValueError as error:  # JSON has no NaN and no infinity; a metric may be one
        raise PackageError(MANIFEST, f"cannot be written ({error})") from None
    check_folder(checked, folder)
    check_weights(checked, weights)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    (part / (WEIGHTS if checked.graph is None else GRAPH)).write_bytes(content)
    (part / MANIFEST).write_text(json.dumps(checked.model_dump(), indent=2) + "\n", encoding="utf-8")
    part.rename(folder)
    return load_package(folder)
