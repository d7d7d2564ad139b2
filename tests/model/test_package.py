"""The package on disk: what is written is what is read, and whatever disagrees is refused with the field named."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.packages import random_package, random_weights
from tidegate.errors import PackageError
from tidegate.model.package import MANIFEST, WEIGHTS, Package, Weights, load_package, save_package


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def write_weights(folder: Path, content: bytes) -> None:
    """Replaces the weights, hash and all, so that only what they hold can be at fault."""
    (folder / WEIGHTS).write_bytes(content)
    edit_manifest(folder, lambda m: m.update(weights_sha256=hashlib.sha256(content).hexdigest()))


def refusal(folder: Path) -> str:
    with pytest.raises(PackageError) as refused:
        load_package(folder)
    return str(refused.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_package(tmp_path, "random", "1", cell="lstm_peephole", layers=2, hidden=8, features=3, targets=2)
    return tmp_path / "random" / "1"


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,8}", fullmatch=True), min_size=1, unique=True))
    targets = draw(st.permutations(names))[: draw(st.integers(1, len(names)))]
    finite = st.floats(allow_nan=False, allow_infinity=False)
    scaling = st.fixed_dictionaries(
        {"transform": st.sampled_from(["none", "log1p"]), "center": finite, "scale": st.floats(1e-300, 1e300)}
    )
    features = [
        {"name": x, "unit": draw(st.text(max_size=5)), "role": "target" if x in targets else "past"} for x in names
    ]
    return {
        "name": "m",
        "version": "1",
        "features": [feature | {"scaling": draw(scaling)} for feature in features],
        "targets": targets,
        "cell": draw(st.sampled_from(["lstm", "lstm_peephole", "rnn_tanh", "gru"])),
        "hidden_activation": draw(st.sampled_from(["tanh", "identity"])),
        "gru_reset": draw(st.sampled_from(["before", "after"])),
        "layers": draw(st.integers(1, 4)),
        "hidden_size": draw(st.integers(1, 5)),
        "frequency": draw(st.sampled_from(["", "D", "15min", "MS", "2h"])),
        "gaps": {"policy": "impute", "gap_steps_max": draw(st.integers(1, 1000))},
        "metrics": draw(st.dictionaries(st.text(max_size=5), finite, max_size=3)),
    }


@given(manifests(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, manifest: dict[str, Any], seed: int) -> None:
    """Every manifest and every weight comes back from disk as it was written, to the bit."""
    folder = tmp_path_factory.mktemp("models") / "m" / "1"
    weights = random_weights(manifest, seed)
    saved = save_package(folder, manifest, weights)
    loaded = load_package(folder)
    assert loaded.manifest == saved.manifest
    assert loaded.fingerprint == saved.fingerprint
    written = loaded.manifest.model_dump(exclude={"weights_sha256"})
    for field in manifest.keys() - {"features", "targets", "gaps"}:
        assert written[field] == manifest[field]
    assert [(f["name"], f["unit"], f["scaling"]) for f in written["features"]] == [
        (f["name"], f["unit"], {"by": "package", **f["scaling"]}) for f in manifest["features"]
    ]
    assert [loaded.feature_names[index] for index in loaded.target_indices] == manifest["targets"]
    assert loaded.weights.keys() == weights.keys()
    assert all(np.array_equal(loaded.weights[name], weights[name]) for name in weights)


def test_names_are_those_of_torch(tmp_path: Path) -> None:
    """A package's recurrent tensors load into torch's own layers by name and shape."""
    for cell, layer in (("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU), ("rnn_tanh", torch.nn.RNN)):
        package = random_package(tmp_path, cell, cell=cell, layers=3, hidden=8, features=5, targets=2)
        tensors = {k: torch.tensor(v) for k, v in package.weights.items() if not k.startswith("head.")}
        layer(5, 8, 3).load_state_dict(tensors, strict=True)


def without(*names: str) -> Callable[[Weights], object]:
    return lambda weights: [weights.pop(name) for name in names]


def with_values(name: str, value: Any) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: np.asarray(value)})


NAN_ROW = np.full((16,), np.nan, np.float32)[:2]
WEIGHT_FAULTS: dict[str, tuple[Callable[[Weights], object], str]] = {
    "missing": (without("weight_hh_l1"), f"{WEIGHTS}:weight_hh_l1: is missing"),
    "no peephole": (without("weight_co_l0"), f"{WEIGHTS}:weight_co_l0: is missing"),
    "extra": (
        with_values("weight_hr_l0", np.zeros(2, np.float32)),
        f"{WEIGHTS}:weight_hr_l0: is not part of a 2-layer",
    ),
    "shape": (with_values("head.bias", np.zeros(3, np.float32)), f"{WEIGHTS}:head.bias: has shape (3,), must be (2,)"),
    "type": (with_values("head.bias", np.zeros(2, np.float64)), f"{WEIGHTS}:head.bias: is F64, must be F32"),
    "NaN": (with_values("head.bias", NAN_ROW), f"{WEIGHTS}:head.bias: has a value that is not finite"),
}


@pytest.mark.parametrize(("fault", "message"), WEIGHT_FAULTS.values(), ids=WEIGHT_FAULTS)
def test_weights_that_disagree(folder: Path, fault: Callable[[Weights], object], message: str) -> None:
    """A tensor that is missing, extra, misshapen, of another type or not finite is refused by its name."""
    weights = safetensors.numpy.load((folder / WEIGHTS).read_bytes())
    fault(weights)
    write_weights(folder, safetensors.numpy.save(weights))
    assert refusal(folder).startswith(message)


def test_wrong_hash(folder: Path) -> None:
    """Weights other than those that the manifest was written with are refused, though they parse."""
    weights = safetensors.numpy.load((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save({name: value * 2 for name, value in weights.items()}))
    assert refusal(folder) == f"{MANIFEST}:weights_sha256: is not the hash of {WEIGHTS}"


class Bomb:
    """Unpickling this creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_loaded(folder: Path, tmp_path: Path) -> None:
    """A pickle in the place of the weights is refused, and its code does not run."""
    write_weights(folder, pickle.dumps(Bomb(tmp_path / "exploded")))
    assert refusal(folder).startswith(f"{WEIGHTS}: is not a safetensors file")
    assert not (tmp_path / "exploded").exists()


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_weights(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """However the bytes of the weights are cut or changed, the answer is a PackageError or a checked package."""
    base = tmp_path_factory.mktemp("models")
    random_package(base, hidden=2, features=1, targets=1)
    folder = base / "random" / "1"
    content = bytearray((folder / WEIGHTS).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content) - 1, 700)))] = data.draw(st.integers(0, 255))
    write_weights(folder, bytes(content[: data.draw(st.integers(len(content) - 8, len(content)))]))
    try:
        values = load_package(folder).weights.values()
    except PackageError as error:
        event(error.problem.split("(")[0])
    else:
        assert all(np.isfinite(value).all() for value in values)


def put(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.update(fields)


MANIFEST_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "name of another folder": (put(name="other"), "name: is 'other', but the folder says 'random'"),
    "version of another folder": (put(version="2"), "version: is '2', but the folder says '1'"),
    "name with a slash": (put(name="a/b"), "name: "),
    "unknown field": (put(hiden_size=8), "hiden_size: "),
    "unknown field inside": (lambda m: m["features"][1].update(units="mm"), "features.1.units: "),
    "unknown unit of frequency": (put(frequency="3fortnights"), "frequency: '3fortnights' is not a frequency"),
    "endless frequency": (put(frequency="999999W"), "frequency: '999999W' is longer than 100 years"),
    "unknown cell": (put(cell="transformer"), "cell: "),
    "later format": (put(format=2), "format: "),
    "no features": (put(features=[]), "features: "),
    "no layers": (put(layers=0), "layers: "),
    "too many layers": (put(layers=17), "layers: "),
    "scale of zero": (lambda m: m["features"][0]["scaling"].update(scale=0), "features.0.scaling.scale: "),
    "impute without a limit": (put(gaps={"policy": "impute"}), "gaps: policy 'impute' needs gap_steps_max"),
    "no hash": (lambda m: m.pop("weights_sha256"), "weights_sha256: "),
}


@pytest.mark.parametrize(("fault", "message"), MANIFEST_FAULTS.values(), ids=MANIFEST_FAULTS)
def test_manifest_that_disagrees(folder: Path, fault: Callable[[dict[str, Any]], object], message: str) -> None:
    """A manifest field that is unknown, missing or out of range is refused by its path."""
    edit_manifest(folder, fault)
    assert refusal(folder).startswith(f"{MANIFEST}:{message}")


@pytest.mark.parametrize(
    "change",
    [
        put(targets=["x0"]),
        put(targets=["x0", "x0"]),
        put(targets=["x0", "x9"]),
        lambda m: m["features"][1].update(name="x0"),
    ],
    ids=["a target left out", "one twice", "no such feature", "two features of one name"],
)
def test_targets_and_features_agree(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Targets name each feature of that role once, and features have names of their own."""
    edit_manifest(folder, change)
    assert refusal(folder).startswith((f"{MANIFEST}: targets: ", f"{MANIFEST}: features: "))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_manifest_that_is_no_manifest(folder: Path, content: bytes) -> None:
    """A manifest that is not a JSON object is refused."""
    (folder / MANIFEST).write_bytes(content)
    assert refusal(folder).startswith(f"{MANIFEST}: ")


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_missing_file(folder: Path, name: str) -> None:
    """A folder that lacks either file is refused by the file's name."""
    (folder / name).unlink()
    assert refusal(folder) == f"{name}: cannot be read (No such file or directory)"


def test_versions_are_written_once(folder: Path) -> None:
    """Saving over a version is refused, and what was there stays."""
    before = load_package(folder)
    with pytest.raises(PackageError, match="a version is written once"):
        random_package(folder.parent.parent, "random", "1", hidden=4)
    assert load_package(folder).fingerprint == before.fingerprint


def test_nothing_is_written_unless_whole(tmp_path: Path) -> None:
    """A save that is refused (shape, folder, a metric of NaN) leaves no version behind."""
    manifest = {"name": "m", "version": "1", "features": [{"name": "x"}], "targets": ["x"], "hidden_size": 2}
    weights = random_weights(manifest)
    for folder, fields, tensors in (
        (tmp_path / "m" / "1", {}, weights | {"head.bias": np.zeros(5, np.float32)}),
        (tmp_path / "m" / "2", {}, weights),
        (tmp_path / "m" / "1", {"metrics": {"mae": float("nan")}}, weights),
    ):
        with pytest.raises(PackageError):
            save_package(folder, manifest | fields, tensors)
    assert not list(tmp_path.rglob("*.json"))


def test_state_width(tmp_path: Path) -> None:
    """h alone for GRU and RNN, h and c for LSTMs, for every layer."""

    def package(cell: str) -> Package:
        return random_package(tmp_path, cell, cell=cell, layers=3, hidden=5)

    assert [package(cell).state_width for cell in ("lstm", "lstm_peephole", "gru", "rnn_tanh")] == [30, 30, 15, 15]
