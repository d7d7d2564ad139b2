"""The model package: `model.json` and `weights.safetensors` of one version, checked before anything is served.

The JSON says what the numbers mean (features, units, scaling, cell, head, frequency); the weights are named and laid
out as those of torch.nn.LSTM, GRU and RNN (gates i f g o; r z n), with peepholes beside them. No pickle is ever loaded.
Whatever disagrees is refused by a PackageError that names the field.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tidegate.errors import PackageError
from tidegate.model.frequency import Frequency

MANIFEST, WEIGHTS = "model.json", "weights.safetensors"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
FEATURES_MAX, HIDDEN_MAX, LAYERS_MAX = 4096, 4096, 16
GATES = {"lstm": 4, "lstm_peephole": 4, "gru": 3, "rnn_tanh": 1}

Weights = dict[str, NDArray[np.float32]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scaling(_Strict):
    """Raw to training units: (transform(x) - center) / scale, in float64.

    `log1p` is sign(x) log(1 + |x|), for amounts such as rain.
    """

    transform: Literal["none", "log1p"] = "none"
    center: float = 0.0
    scale: float = Field(default=1.0, gt=0)


class Feature(_Strict):
    """One input: its name and unit as clients send it, its role and its scaling."""

    name: str = Field(pattern=NAME_PATTERN)
    unit: str = ""
    role: Literal["target", "past"] = "target"
    scaling: Scaling = Scaling()


class Head(_Strict):
    """From the last layer's hidden state to the targets: y = W h + b, in training units."""

    kind: Literal["regression"] = "regression"


class Gaps(_Strict):
    """What a session does about missing steps, missing values and times off the grid.

    `time_tolerance` is in intervals: how far from a whole number of intervals after the last observation a time may be.
    """

    policy: Literal["refuse", "impute"] = "refuse"
    gap_steps_max: int = Field(default=0, ge=0, le=1000)
    missing_steps_max: int = Field(default=24, ge=0, le=65_000)
    time_tolerance: float = Field(default=0.5, gt=0, le=0.5)

    @model_validator(mode="after")
    def _impute_needs_a_limit(self) -> Gaps:
        if self.policy == "impute" and not self.gap_steps_max:
            raise ValueError("policy 'impute' needs gap_steps_max of at least 1")
        return self


class Manifest(_Strict):
    """The content of `model.json`.

    `hidden_activation` is what the equations of rnn_tanh and gru call tanh of the new state, and in LSTMs the tanh of
    h = o*tanh(c): with identity, h = o*c, and the candidate keeps its tanh. `gru_reset` matters to gru alone: before
    or after the product with h (`after` is torch.nn.GRU).
    """

    format: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    features: tuple[Feature, ...] = Field(min_length=1, max_length=FEATURES_MAX)
    targets: tuple[str, ...] = Field(min_length=1, max_length=FEATURES_MAX)
    cell: Literal["lstm", "lstm_peephole", "rnn_tanh", "gru"] = "lstm"
    hidden_activation: Literal["tanh", "identity"] = "tanh"
    gru_reset: Literal["before", "after"] = "after"
    layers: int = Field(default=1, ge=1, le=LAYERS_MAX)
    hidden_size: int = Field(ge=1, le=HIDDEN_MAX)
    head: Head = Head()
    frequency: str = ""
    time_zone: Literal["UTC"] = "UTC"
    stamp: Literal["start", "end"] = "start"
    gaps: Gaps = Gaps()
    metrics: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("frequency")
    @classmethod
    def _frequency_is_known(cls, value: str) -> str:
        Frequency.parse(value)
        return value

    @model_validator(mode="after")
    def _targets_are_features(self) -> Manifest:
        roles = {feature.name: feature.role for feature in self.features}
        if len(roles) != len(self.features):
            raise ValueError("features: two features have the same name")
        marked = [name for name, role in roles.items() if role == "target"]
        if len(set(self.targets)) != len(self.targets) or sorted(marked) != sorted(self.targets):
            raise ValueError(f"targets: must name each feature of role 'target' once ({', '.join(marked)})")
        return self


class Package:
    """One checked model version in memory. Weights are float32 arrays; `fingerprint` is the SHA-256 of both files."""

    def __init__(self, manifest: Manifest, weights: Weights, fingerprint: str) -> None:
        check_weights(manifest, weights)
        self.manifest = manifest
        self.weights = weights
        self.fingerprint = fingerprint
        self.frequency = Frequency.parse(manifest.frequency)
        names = [feature.name for feature in manifest.features]
        self.feature_names = tuple(names)
        self.target_indices = np.array([names.index(target) for target in manifest.targets], np.intp)

    @property
    def state_width(self) -> int:
        """Float32 values of recurrent state a session: h and, for LSTMs, c of every layer."""
        parts = 2 if self.manifest.cell.startswith("lstm") else 1
        return parts * self.manifest.layers * self.manifest.hidden_size


def expected_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a package of this manifest must hold, and no other."""
    hidden, gates = manifest.hidden_size, GATES[manifest.cell]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(manifest.layers):
        width = len(manifest.features) if layer == 0 else hidden
        shapes[f"weight_ih_l{layer}"] = (gates * hidden, width)
        shapes[f"weight_hh_l{layer}"] = (gates * hidden, hidden)
        shapes[f"bias_ih_l{layer}"] = shapes[f"bias_hh_l{layer}"] = (gates * hidden,)
        if manifest.cell == "lstm_peephole":
            for gate in "ifo":
                shapes[f"weight_c{gate}_l{layer}"] = (hidden,)
    shapes["head.weight"] = (len(manifest.targets), hidden)
    shapes["head.bias"] = (len(manifest.targets),)
    return shapes


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
    contents: dict[str, bytes] = {}
    for name in (MANIFEST, WEIGHTS):
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise PackageError(name, f"cannot be read ({error.strerror})") from None
    manifest = parse_manifest(contents[MANIFEST])
    check_folder(manifest, folder)
    if hashlib.sha256(contents[WEIGHTS]).hexdigest() != manifest.weights_sha256:
        raise PackageError(f"{MANIFEST}:weights_sha256", f"is not the hash of {WEIGHTS}")
    weights = parse_weights(contents[WEIGHTS])
    return Package(manifest, weights, hashlib.sha256(contents[MANIFEST] + contents[WEIGHTS]).hexdigest())


def save_package(folder: Path, manifest: dict[str, Any], weights: Weights) -> Package:
    """Writes a version to `folder`, complete or not at all, and returns it as a server would load it.

    `manifest` holds the fields of Manifest but `weights_sha256`, which is computed. The folder must not exist yet:
    versions are immutable.
    """
    if folder.exists():
        raise PackageError(str(folder), "exists; a version is written once")
    content = safetensors.numpy.save(weights)
    complete = manifest | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    try:
        checked = parse_manifest(json.dumps(complete, allow_nan=False).encode())
    except ValueError as error:  # JSON has no NaN and no infinity; a metric may be one
        raise PackageError(MANIFEST, f"cannot be written ({error})") from None
    check_folder(checked, folder)
    check_weights(checked, weights)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    (part / WEIGHTS).write_bytes(content)
    (part / MANIFEST).write_text(json.dumps(checked.model_dump(), indent=2) + "\n", encoding="utf-8")
    part.rename(folder)
    return load_package(folder)
