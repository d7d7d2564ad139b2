"""Predictions through gRPC against the equations in float64, and against torch's own layers with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.identity.feeds import DERIVED, Connection, derived_package, make_package
from tests.servers import RunningServer
from tidegate import Client
from tidegate.model import reference
from tidegate.model.inputs import Inputs
from tidegate.model.package import Package
from tidegate.wire.stubs import types_pb2

STEPS, SESSIONS, HIDDEN, TARGETS = 300, 3, 33, 3
TOLERANCE = 1e-5  # in training units
CELLS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "lstm_peephole": {"cell": "lstm_peephole"},
    "rnn_tanh": {"cell": "rnn_tanh"},
    "gru_after": {"cell": "gru", "gru_reset": "after"},
    "gru_before": {"cell": "gru", "gru_reset": "before"},
}
TORCH_LAYERS: dict[str, Callable[[int, int, int], torch.nn.RNNBase]] = {
    "lstm": torch.nn.LSTM,
    "rnn_tanh": torch.nn.RNN,
    "gru_after": torch.nn.GRU,
}
HOUR, START = 3_600_000_000_000, 1_700_000_000_000_000_000
LAYERS, ACTIVATIONS = (1, 2, 3), ("tanh", "identity")
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def packages() -> dict[str, Package]:
    return {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, packages: dict[str, Package]) -> Iterator[RunningServer]:
    """One server of thirty models: each cell, each activation, one to three layers."""
    models = tmp_path_factory.mktemp("reference") / "models"
    for cell, fields in CELLS.items():
        for layers in LAYERS:
            for activation in ACTIVATIONS:
                name = f"{cell}-{activation}-{layers}"
                packages[name] = make_package(
                    models, name, HIDDEN, TARGETS, layers=layers, hidden_activation=activation, seed=layers, **fields
                )
    with RunningServer(models) as running:
        yield running


def observations(package: Package) -> Floats:
    """Raw observations [steps, sessions, features] that are standard normal in training units."""
    scaled = np.random.default_rng(1).standard_normal((STEPS * SESSIONS, len(package.feature_names)))
    columns = []
    for feature, x in zip(package.manifest.features, scaled.T, strict=True):
        log1p = feature.scaling.transform == "log1p"
        transformed = x * feature.scaling.scale + feature.scaling.center
        columns.append(np.sign(transformed) * np.expm1(np.abs(transformed)) if log1p else transformed)
    return np.stack(columns, axis=1).reshape(STEPS, SESSIONS, -1)


def serve(server: RunningServer, model: str, raw: Floats, targets: int, timed: bool = False) -> NDArray[np.float32]:
    """Predictions [steps, sessions, targets] of a server, one batch a step, an hour after the other."""
    ids = [f"{model}-{number}" for number in range(raw.shape[1])]
    with Connection(server.grpc) as connection:
        stream = connection.stream(model)
        for hour, rows in enumerate(raw):
            batch = types_pb2.ObservationBatch(rows=len(ids), session_ids=ids, dtype=types_pb2.DTYPE_FLOAT64)
            batch.values = rows.astype("<f8").tobytes()
            if timed:
                batch.event_times_unix_ns.extend([START + hour * HOUR] * len(ids))
            stream.observe_batch(batch)
        answers = [np.frombuffer(stream.answer().batch.values, "<f4").reshape(len(ids), targets) for _ in raw]
        stream.end()
    return np.stack(answers)


@torch.inference_mode()
def torch_predictions(layer: Callable[[int, int, int], torch.nn.RNNBase], package: Package, scaled: Floats) -> Floats:
    """What torch.nn gives with the package's weights: inputs [steps, features] to [steps, targets]."""
    weights = {name: torch.tensor(value) for name, value in package.weights.items()}
    layers = package.manifest.layers
    recurrent = layer(len(package.feature_names), HIDDEN, layers)
    recurrent.load_state_dict({name: value for name, value in weights.items() if not name.startswith("head.")})
    hidden, _ = recurrent(torch.tensor(scaled, dtype=torch.float32))
    predictions = hidden @ weights["head.weight"].T + weights["head.bias"]
    return np.asarray(predictions.numpy(), np.float64)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_three_hundred_steps(
    server: RunningServer, packages: dict[str, Package], cell: str, activation: str, layers: int
) -> None:
    """Every cell and depth with torch's default weights: within 1e-5 of the equations, and of torch where it can."""
    name = f"{cell}-{activation}-{layers}"
    package = packages[name]
    raw = observations(package)
    predictions = serve(server, name, raw, TARGETS)
    for session in range(SESSIONS):
        derived = Inputs(package.manifest).derive(raw[:, session])
        scaled = derived.goals(predictions[:, session].astype(np.float64))
        wanted = reference.predict(package, raw[:, session]).scaled
        assert np.abs(scaled - wanted).max() < TOLERANCE
        if cell in TORCH_LAYERS and activation == "tanh":
            theirs = torch_predictions(TORCH_LAYERS[cell], package, derived.x[:, 0])
            assert np.abs(scaled - theirs).max() < TOLERANCE


@pytest.mark.parametrize("timed", [False, True])
def test_derived_inputs_and_heads(tmp_path: Path, timed: bool) -> None:
    """Lags, calendar, ids, channels, scaling by session, feedback, every head, with times and without: within 1e-5 of
    the equations."""
    models = tmp_path / "models"
    packages = {name: derived_package(models, name) for name in DERIVED}
    times = START + np.arange(STEPS) * HOUR if timed else None
    with RunningServer(models) as running:
        for name, package in packages.items():
            manifest = package.manifest
            raw = np.random.default_rng(2).normal(3.0, 2.0, (STEPS, SESSIONS, 3))
            predictions = serve(running, name, raw, len(manifest.targets), timed)
            for session in range(SESSIONS):
                wanted = reference.predict(package, raw[:, session], times).scaled[:, manifest.point_indices]
                found = predictions[:, session].astype(np.float64)
                if manifest.head.kind != "categorical":
                    found = Inputs(manifest).derive(raw[:, session], times).goals(found)
                first = 1 if name == "by-session" else 0  # at first its scale is less than float32 shows
                assert np.abs(found - wanted)[first:].max() < TOLERANCE, name


def bridged(package: Package, raw: Floats, hours: list[int], ahead: int) -> Floats:
    """Raw predictions at every hour from the first to `ahead` after the last, [hours, targets]: `raw` [rows, features]
    are the observations of some hours, a session's own predictions stand in for what is missing, and how old each
    target is by then is counted by hand."""
    observed = dict(zip(hours, raw.tolist(), strict=True))
    targets = package.target_indices.tolist()
    inputs, ages, told = list[list[float]](), list[list[int]](), list[Floats]()
    for hour in range(hours[-1] + 1 + ahead):
        row = observed.get(hour, [np.nan] * raw.shape[1])
        missing = [bool(np.isnan(row[target])) for target in targets]
        stand_in = list(inputs[-1]) if inputs else list(row)
        for place, target in enumerate(targets):
            stand_in[target] = told[-1][place] if told else row[target]
        inputs.append([s if np.isnan(x) else x for s, x in zip(stand_in, row, strict=True)])
        before = ages[-1] if ages else [0] * len(targets)
        ages.append([age + 1 if gone else 0 for age, gone in zip(before, missing, strict=True)])
        outputs = reference.predict(package, np.array(inputs), ages=np.array(ages, np.uint16)).raw[-1]
        told.append(outputs[package.manifest.point_indices])
    return np.array(told)


@pytest.mark.parametrize("kind", ["ages", "aged-channels"])
def test_what_is_missing_and_for_how_long(tmp_path: Path, kind: str) -> None:
    """Missing values, missing steps, and a forecast after them, of models that see how old their targets are: within
    1e-5 of the equations."""
    package = derived_package(tmp_path / "models", kind)
    raw = np.random.default_rng(4).normal(3.0, 2.0, (12, 3))
    hours = [0, 1, 2, 3, 6, 7, 8, 9, 11, 12, 13, 14]
    for row, feature in ((2, 0), (3, 0), (3, 1), (4, 1), (7, 0), (8, 0), (9, 2), (11, 0), (11, 1)):
        raw[row, feature] = np.nan
    wanted = bridged(package, raw, hours, ahead=4)
    with RunningServer(tmp_path / "models") as running, Client(running.grpc) as client:
        session, start = client.session(kind, "s"), np.datetime64("2024-01-01T00", "ns")
        found = [
            session.step(row.tolist(), time=start + np.timedelta64(hour, "h")).values
            for row, hour in zip(raw, hours, strict=True)
        ]
        forecast = session.forecast(5).values
    assert np.abs(found - wanted[hours]).max() < TOLERANCE * 3
    assert np.abs(forecast - wanted[hours[-1] :]).max() < TOLERANCE * 3
