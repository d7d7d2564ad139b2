"""The step-by-step derivation on the device against the derivation of a whole sequence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.packages import random_weights
from tidegate.model.ages import Ages
from tidegate.model.calendar import Calendar
from tidegate.model.device_inputs import Clock, DeviceInputs
from tidegate.model.inputs import Inputs
from tidegate.model.package import Package, parse_manifest

HOUR, STEPS, ROWS = 3_600_000_000_000, 60, 32
LAGS = [{"feature": name, "steps": [1, 3, 24], "scales": [0.5, 1.0, 2.0]} for name in ("a", "b")]
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "derived": {"lags": LAGS, "calendar": [{"field": "hour_of_day"}], "ids": ["one", "two"], "frequency": "h"},
    "channels": {"lags": LAGS, "channel_independent": True, "ids": ["two"]},
    "change": {"lags": LAGS[:1], "head": {"output": "change", "change_scales": [0.5, 2.0]}},
    "ages": {"ages": True},
    "ages of channels": {"lags": LAGS, "channel_independent": True, "ages": True, "ids": ["two"]},
    "quantiles": {"head": {"kind": "quantile", "levels": [0.1, 0.5, 0.9]}},
}


def _package(scaling: str, **fields: Any) -> Package:
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


@pytest.mark.parametrize("scaling", ["package", "running", "instance"])
@pytest.mark.parametrize("model", MODELS)
def test_step_by_step_is_as_the_whole_sequence(model: str, scaling: str) -> None:
    """Inputs, goals' base and unit, and restored outputs are those of `Inputs`, at every step, for every row alike."""
    package = _package(scaling, **MODELS[model])
    manifest = package.manifest
    random = np.random.default_rng(1)
    observations = random.normal(3.0, 2.0, (STEPS, 3))
    observations[:, 1] = random.integers(0, 4, STEPS)
    times = np.arange(STEPS, dtype=np.int64) * HOUR
    ages = random.integers(0, 4, (STEPS, 2)).astype(np.uint16)
    whole = Inputs(manifest).derive(observations, times, "two", ages)
    aged = Ages(manifest)
    calendar = Calendar(manifest).columns(times, np.arange(1, STEPS + 1))
    device = DeviceInputs(package, torch.device("cpu"))
    memory = {
        "ring": torch.full((ROWS + 1, 24, len(manifest.lags)), 7.0, dtype=torch.float64),
        "scale": torch.full((ROWS + 1, 2, 2), 9.0, dtype=torch.float64)[
            :, :, : 0 if scaling == "package" else 1
        ].clone(),
    }
    slots = torch.arange(1, ROWS + 1)
    known = torch.tensor(manifest.ids.index("two") + 1 if manifest.ids else 0)
    for step in range(STEPS):
        seen = torch.full((ROWS,), step)
        clock = Clock(seen, torch.from_numpy(calendar[step]).expand(ROWS, -1), known.expand(ROWS))
        if manifest.ages:
            clock.ages = torch.from_numpy(aged.columns(np.tile(ages[step], (ROWS, 1)), ROWS))
        raw = torch.from_numpy(observations[step]).expand(ROWS, -1)
        found = device.observe(raw, clock, memory, slots)
        outputs = torch.linspace(-1, 1, manifest.outputs).expand(ROWS, -1)
        device.remember(found, outputs, seen, memory, slots)
        x = found.x.view(ROWS, manifest.channels, -1).numpy()
        np.testing.assert_allclose(x, np.broadcast_to(whole.x[step], x.shape), rtol=1e-6, atol=1e-6)
        raw_outputs = device.restore(outputs, found.base, found.unit).numpy()
        expected = whole.restore(np.tile(outputs[0].double().numpy(), (STEPS, 1)))[step]
        np.testing.assert_allclose(raw_outputs, np.broadcast_to(expected, raw_outputs.shape), rtol=1e-9)
        assert (x == x[0]).all()
