"""The step-by-step derivation on the device against the derivation of a whole sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.model.derivations import HOUR, MODELS, ROWS, STEPS, memory_of, observations, package_of
from tidegate.model.ages import Ages
from tidegate.model.calendar import Calendar
from tidegate.model.device_inputs import Clock, DeviceInputs
from tidegate.model.inputs import Inputs


@pytest.mark.parametrize("scaling", ["package", "running", "instance"])
@pytest.mark.parametrize("model", MODELS)
def test_step_by_step_is_as_the_whole_sequence(model: str, scaling: str) -> None:
    """Inputs, goals' base and unit, and restored outputs are those of `Inputs`, at every step, for every row alike."""
    package = package_of(scaling, **MODELS[model])
    manifest = package.manifest
    random = np.random.default_rng(1)
    fed = observations(random)
    times = np.arange(STEPS, dtype=np.int64) * HOUR
    ages = random.integers(0, 4, (STEPS, 2)).astype(np.uint16)
    whole = Inputs(manifest).derive(fed, times, "two", ages)
    aged = Ages(manifest)
    calendar = Calendar(manifest).columns(times, np.arange(1, STEPS + 1))
    device = DeviceInputs(package, torch.device("cpu"))
    memory = {name: torch.from_numpy(column) for name, column in memory_of(manifest, ROWS).items()}
    slots = torch.arange(1, ROWS + 1)
    known = torch.tensor(manifest.ids.index("two") + 1 if manifest.ids else 0)
    for step in range(STEPS):
        seen = torch.full((ROWS,), step)
        clock = Clock(seen, torch.from_numpy(calendar[step]).expand(ROWS, -1), known.expand(ROWS))
        if manifest.ages:
            clock.ages = torch.from_numpy(aged.columns(np.tile(ages[step], (ROWS, 1)), ROWS))
        raw = torch.from_numpy(fed[step]).expand(ROWS, -1)
        found = device.observe(raw, clock, memory, slots)
        outputs = torch.linspace(-1, 1, manifest.outputs).expand(ROWS, -1)
        device.remember(found, outputs, seen, memory, slots)
        x = found.x.view(ROWS, manifest.channels, -1).numpy()
        np.testing.assert_allclose(x, np.broadcast_to(whole.x[step], x.shape), rtol=1e-6, atol=1e-6)
        raw_outputs = device.restore(outputs, found.base, found.unit).numpy()
        expected = whole.restore(np.tile(outputs[0].double().numpy(), (STEPS, 1)))[step]
        np.testing.assert_allclose(raw_outputs, np.broadcast_to(expected, raw_outputs.shape), rtol=1e-9)
        assert (x == x[0]).all()
