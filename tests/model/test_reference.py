"""The judge of derived inputs and heads, judged itself by the device's derivation and the kernel, a step at a time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.packages import random_weights
from tidegate.model.calendar import Calendar
from tidegate.model.cells import ROWS, Kernel
from tidegate.model.device_inputs import Clock, DeviceInputs
from tidegate.model.package import Package, parse_manifest
from tidegate.model.reference import Array, predict

HOUR, STEPS, DEPTH = 3_600_000_000_000, 60, 24
LAGS = [{"feature": name, "steps": [1, 3, 24], "scales": [0.5, 1.0, 2.0]} for name in ("a", "b")]
QUANTILES = {"kind": "quantile", "levels": [0.1, 0.5, 0.9]}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mlp": {"head": {"hidden": [9, 5], "activation": "tanh"}},
    "derived": {"lags": LAGS, "calendar": [{"field": "hour_of_day"}], "ids": ["one", "two"], "frequency": "h"},
    "feedback": {"feedback": True, "head": QUANTILES},
    "channels": {"lags": LAGS, "channel_independent": True, "ids": ["two"]},
    "channels fed back": {"channel_independent": True, "feedback": True, "head": QUANTILES | {"hidden": [7]}},
    "change": {"lags": LAGS[:1], "head": {"output": "change", "change_scales": [0.5, 2.0]}},
    "vocabulary": {"head": {"kind": "categorical"}, "feedback": True},
}


def package_of(**fields: Any) -> Package:
    """Two targets, one scaled by session, and a category between them."""
    manifest = {
        "name": "m",
        "version": "1",
        "features": [
            {"name": "a", "scaling": {"by": "instance"}},
            {"name": "kind", "role": "past", "categories": ["x", "y", "z"]},
            {"name": "b", "scaling": {"transform": "log1p", "center": 1.0, "scale": 3.0}},
        ],
        "targets": ["a", "b"],
        "hidden_size": 6,
        "layers": 2,
        "scaling_window": 20,
        **fields,
    }
    weights = random_weights(manifest)
    return Package(parse_manifest(json.dumps(manifest | {"weights_sha256": "0" * 64}).encode()), weights, "")


def observe() -> tuple[Array, np.ndarray[Any, np.dtype[np.int64]]]:
    """Observations of STEPS hours, and their times."""
    random = np.random.default_rng(1)
    observations = random.normal(3.0, 2.0, (STEPS, 3))
    observations[:, 1] = random.integers(0, 4, STEPS)
    return observations, np.arange(STEPS, dtype=np.int64) * HOUR


@torch.inference_mode()
def stepped(package: Package, observations: Array, times: np.ndarray[Any, np.dtype[np.int64]]) -> Array:
    """Raw outputs [steps, outputs] of the kernel and the device's inputs, for a session named `two`."""
    manifest = package.manifest
    device, kernel = DeviceInputs(package, torch.device("cpu")), Kernel(package, torch.device("cpu"))
    calendar = Calendar(manifest).columns(times, np.arange(1, STEPS + 1))
    memory = {
        "ring": torch.full((ROWS, DEPTH, len(manifest.lags)), 7.0, dtype=torch.float64),
        "scale": torch.full((ROWS, 2, 1), 9.0, dtype=torch.float64),
        "feedback": torch.full((ROWS, manifest.outputs), 5.0),
    }
    slots, identity = torch.arange(ROWS), torch.tensor(manifest.ids.index("two") + 1 if manifest.ids else 0)
    state = torch.zeros(ROWS * manifest.channels, kernel.state_width)
    results = []
    for step in range(STEPS):
        seen = torch.full((ROWS,), step)
        clock = Clock(seen, torch.from_numpy(calendar[step]).expand(ROWS, -1), identity.expand(ROWS))
        found = device.observe(torch.from_numpy(observations[step]).expand(ROWS, -1), clock, memory, slots)
        after = torch.empty_like(state)
        outputs = kernel(found.x, state, after).reshape(ROWS, -1)
        device.remember(found, outputs, seen, memory, slots)
        results.append(device.restore(outputs, found.base, found.unit)[0].numpy())
        state = after
    return np.stack(results)


@pytest.mark.parametrize("model", MODELS)
def test_the_whole_sequence_is_as_step_by_step(model: str) -> None:
    """Raw predictions of whatever a manifest can say are those of the kernel on derived inputs, within 1e-4."""
    package = package_of(**MODELS[model])
    observations, times = observe()
    expected = predict(package, observations, times, "two").raw
    assert expected.shape == (STEPS, package.manifest.outputs)
    assert np.ptp(expected, axis=0).min() > 0.01  # the comparison is of something
    np.testing.assert_allclose(stepped(package, observations, times), expected, rtol=1e-4, atol=1e-4)


def test_a_vocabulary_gets_probabilities() -> None:
    """Outputs of a categorical head are positive and add up to one, and are their own raw values."""
    package = package_of(**MODELS["vocabulary"])
    scaled, raw = predict(package, *observe(), "two")
    np.testing.assert_allclose(raw.sum(axis=1), 1.0, rtol=1e-12)
    assert (raw > 0).all()
    assert (scaled == raw).all()


def test_a_channel_is_a_row_of_its_own() -> None:
    """In a channel-independent model without ids, a channel's predictions do not change with another channel's past."""
    package = package_of(channel_independent=True)
    observations, times = observe()
    before = predict(package, observations, times).raw
    observations[:, 2] += 1.0
    after = predict(package, observations, times).raw
    assert (before[:, 0] == after[:, 0]).all()
    assert (before[:, 1] != after[:, 1]).all()
