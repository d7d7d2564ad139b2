"""The kernel against its judges: the float64 reference, and torch's own recurrent layers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.packages import random_package
from tidegate.model import reference
from tidegate.model.cells import ROWS, Kernel
from tidegate.model.package import Package

CELLS = {
    "lstm": {"cell": "lstm"},
    "lstm_peephole": {"cell": "lstm_peephole"},
    "rnn_tanh": {"cell": "rnn_tanh"},
    "gru_after": {"cell": "gru", "gru_reset": "after"},
    "gru_before": {"cell": "gru", "gru_reset": "before"},
}
TORCH_LAYERS = {"lstm": torch.nn.LSTM, "rnn_tanh": torch.nn.RNN, "gru_after": torch.nn.GRU}
STEPS, TOLERANCE = 300, 1e-5
CPU = torch.device("cpu")

Inputs = NDArray[np.float32]


def inputs(package: Package, rows: int, seed: int = 1) -> Inputs:
    """Random inputs [steps, rows, features] in training units."""
    shape = (STEPS, rows, len(package.feature_names))
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@torch.inference_mode()
def run_kernel(package: Package, x: Inputs) -> Inputs:
    """Steps the rows of x [steps, rows, features] from zero state; predictions [steps, rows, targets]."""
    kernel = Kernel(package, CPU)
    state = torch.zeros(x.shape[1], kernel.state_width)
    new_state = torch.empty_like(state)
    predictions = []
    for tile in torch.tensor(x):
        predictions.append(kernel(tile, state, new_state).clone())
        state, new_state = new_state, state
    return torch.stack(predictions).numpy()


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("fields", CELLS.values(), ids=CELLS)
def test_kernel_is_the_reference(tmp_path: Path, fields: dict[str, Any], layers: int, activation: str) -> None:
    """Every cell, stacked, with either activation: 300 steps stay within 1e-5 of the equations in float64."""
    package = random_package(
        tmp_path, layers=layers, hidden=33, features=5, targets=3, seed=7, hidden_activation=activation, **fields
    )
    x = inputs(package, ROWS)
    predictions = run_kernel(package, x)
    for row in (0, ROWS - 1):
        expected = reference.predict_scaled(package, x[:, row].astype(np.float64))
        assert np.abs(expected).max() > 0.05  # the comparison is of something
        np.testing.assert_allclose(predictions[:, row], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", TORCH_LAYERS)
def test_kernel_is_the_layer_of_torch(tmp_path: Path, name: str, layers: int) -> None:
    """Where torch has the cell, its layer with the same weights predicts the same within 1e-5 over 300 steps."""
    package = random_package(tmp_path, layers=layers, hidden=48, features=6, targets=4, seed=3, **CELLS[name])
    weights = {key: torch.tensor(value) for key, value in package.weights.items()}
    network = TORCH_LAYERS[name](6, 48, layers)
    network.load_state_dict({key: value for key, value in weights.items() if not key.startswith("head.")})
    x = inputs(package, ROWS)
    with torch.inference_mode():
        hidden = network(torch.tensor(x))[0]
        expected = torch.nn.functional.linear(hidden, weights["head.weight"], weights["head.bias"]).numpy()
    np.testing.assert_allclose(run_kernel(package, x), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["regression", "categorical"])
@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Tanh])
@pytest.mark.parametrize("hidden", [[], [19], [32, 7]])
def test_head_is_the_one_of_torch(
    tmp_path: Path, hidden: list[int], activation: type[torch.nn.Module], kind: str
) -> None:
    """Linear and MLP heads, of either activation, are torch's nn.Sequential with the same weights, behind a softmax
    where the targets are a vocabulary, within 1e-5."""
    head = {"kind": kind, "hidden": hidden, "activation": activation.__name__.lower()}
    package = random_package(tmp_path, hidden=24, features=5, targets=5, seed=5, head=head)
    weights = {key: torch.tensor(value) for key, value in package.weights.items()}
    recurrent = torch.nn.LSTM(5, 24)
    recurrent.load_state_dict({key: value for key, value in weights.items() if not key.startswith("head.")})
    widths, layers = [24, *hidden, 5], list[torch.nn.Module]()
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after), activation()]
    sequential = torch.nn.Sequential(*layers[:-1])
    prefix = "head." if hidden else "head"
    sequential.load_state_dict(
        {key.replace(prefix, "" if hidden else "0"): value for key, value in weights.items() if "head" in key}
    )
    x = inputs(package, ROWS)
    with torch.inference_mode():
        expected = sequential(recurrent(torch.tensor(x))[0])
        expected = expected.softmax(-1) if kind == "categorical" else expected
    np.testing.assert_allclose(run_kernel(package, x), expected.numpy(), rtol=0, atol=TOLERANCE)


def test_widths_are_those_of_the_manifest(tmp_path: Path) -> None:
    """A kernel takes derived inputs too, gives a target's levels together, and steps a row a channel."""
    head = {"kind": "quantile", "levels": [0.1, 0.5, 0.9]}
    package = random_package(
        tmp_path,
        hidden=8,
        features=4,
        targets=3,
        lags=[{"feature": f"x{index}", "steps": [1, 24], "scales": [1, 1]} for index in range(3)],
        ids=["a", "b"],
        feedback=True,
        channel_independent=True,
        head=head,
    )
    kernel = Kernel(package, CPU)
    own_and_past, lags, ids, channels, feedback = 2, 2, 2, 3, 3
    assert kernel.inputs == own_and_past + lags + ids + channels + feedback
    assert (kernel.outputs, kernel.state_width, package.state_width) == (3, 16, 48)
    state = torch.zeros(3 * ROWS, 16)
    assert kernel(torch.randn(3 * ROWS, kernel.inputs), state, torch.empty_like(state)).shape == (3 * ROWS, 3)


@pytest.mark.parametrize("fields", CELLS.values(), ids=CELLS)
def test_state_is_only_read(tmp_path: Path, fields: dict[str, Any]) -> None:
    """A step leaves the old state and the inputs as they were, and fills every column of the new one."""
    package = random_package(tmp_path, layers=2, hidden=20, **fields)
    kernel = Kernel(package, CPU)
    x, state = torch.randn(ROWS, 4), torch.randn(ROWS, kernel.state_width)
    x_before, state_before = x.clone(), state.clone()
    new_state = torch.full_like(state, torch.nan)
    with torch.inference_mode():
        predictions = kernel(x, state, new_state)
    assert torch.equal(x, x_before)
    assert torch.equal(state, state_before)
    assert torch.isfinite(new_state).all()
    assert predictions.shape == (ROWS, kernel.outputs)


@pytest.mark.parametrize("fields", CELLS.values(), ids=CELLS)
def test_a_broken_row_stays_alone(tmp_path: Path, fields: dict[str, Any]) -> None:
    """NaN and infinity in one row's input or state change no bit of any other row."""
    package = random_package(tmp_path, layers=2, hidden=20, **fields)
    kernel = Kernel(package, CPU)
    x, state = torch.randn(ROWS, 4), torch.randn(ROWS, kernel.state_width)
    broken_x, broken_state = x.clone(), state.clone()
    broken_x[5], broken_x[6], broken_state[7] = torch.nan, torch.inf, torch.nan
    whole, broken = torch.empty_like(state), torch.empty_like(state)
    with torch.inference_mode():
        expected, predictions = kernel(x, state, whole), kernel(broken_x, broken_state, broken)
    others = [row for row in range(ROWS) if row not in (5, 6, 7)]
    assert torch.equal(predictions[others], expected[others])
    assert torch.equal(broken[others], whole[others])
    assert torch.isnan(predictions[[5, 7]]).all()


def test_threads_share_a_kernel(tmp_path: Path) -> None:
    """Several threads that step different rows with one kernel get the bits of one thread."""
    package = random_package(tmp_path, hidden=64, layers=2)
    kernel = Kernel(package, CPU)
    xs, states = torch.randn(40, ROWS, 4), torch.randn(40, ROWS, kernel.state_width)

    def step(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.set_num_threads(1)
        new_state = torch.empty_like(states[index])
        with torch.inference_mode():
            return kernel(xs[index], states[index], new_state).clone(), new_state

    expected = [step(index) for index in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for (predictions, new_state), (wanted, wanted_state) in zip(pool.map(step, range(40)), expected, strict=True):
            assert torch.equal(predictions, wanted)
            assert torch.equal(new_state, wanted_state)
