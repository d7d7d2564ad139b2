"""The derivation in C, a step at a time, against that of a whole sequence."""

from __future__ import annotations

from ctypes import CDLL, c_int64, c_void_p

import numpy as np
import pytest

from tests.model.derivations import HOUR, MODELS, ROWS, STEPS, memory_of, observations, package_of
from tidegate.model.ages import Ages
from tidegate.model.calendar import Calendar
from tidegate.model.inputs import Inputs
from tidegate.model.native_lstm import NativeLstm, Workspace
from tidegate.native import address

FEEDBACK = {
    "feedback": {"feedback": True},
    "feedback of channels": {**MODELS["channels"], "feedback": True, "head": {"output": "change"}},
}
SIGNATURES = {
    "tidegate_derive": [c_void_p, c_int64],
    "tidegate_restore": [c_void_p, c_int64, c_void_p, c_int64, c_void_p],
    "tidegate_remember": [c_void_p, c_int64, c_void_p, c_int64],
}


@pytest.fixture
def parts(native: CDLL) -> CDLL:
    """What Python does not call by itself."""
    for name, arguments in SIGNATURES.items():
        getattr(native, name).argtypes, getattr(native, name).restype = arguments, None
    return native


@pytest.mark.parametrize("scaling", ["package", "running", "instance"])
@pytest.mark.parametrize("model", [*MODELS, *FEEDBACK])
def test_step_by_step_is_as_the_whole_sequence(parts: CDLL, model: str, scaling: str) -> None:
    """Inputs, and values from outputs, are those of `Inputs`, at every step, for every row alike; and the last outputs
    are seen again where the package wants it."""
    package = package_of(scaling, **(MODELS | FEEDBACK)[model])
    manifest, random = package.manifest, np.random.default_rng(1)
    fed, times = observations(random), np.arange(STEPS, dtype=np.int64) * HOUR
    ages = random.integers(0, 4, (STEPS, 2)).astype(np.uint16)
    whole = Inputs(manifest).derive(fed, times, "two", ages)
    calendar = Calendar(manifest).columns(times, np.arange(1, STEPS + 1))
    memory, slots = memory_of(manifest, ROWS), np.arange(1, ROWS + 1)
    cell = NativeLstm(package)
    space, channels = Workspace(cell, ROWS), manifest.channels
    now, values = space.described, np.empty((ROWS, manifest.outputs))
    now.ring_steps, now.slots = 24, address(slots)
    for name, field in (("ring", "ring"), ("scale", "running"), ("feedback", "feedback")):
        setattr(now, field, address(memory[name]) if memory[name].size else None)
    known = np.full(ROWS, manifest.ids.index("two") + 1 if manifest.ids else 0, np.int32)
    outputs = np.zeros((ROWS * channels, 16), np.float32)
    last = np.zeros((channels, manifest.outputs // channels))
    for step in range(STEPS):
        raw, seen = np.tile(fed[step], (ROWS, 1)), np.full(ROWS, step)
        dated = np.tile(calendar[step], (ROWS, 1))
        aged = Ages(manifest).columns(np.tile(ages[step], (ROWS, 1)), ROWS)
        now.raw, now.seen, now.id = address(raw), address(seen), address(known)
        now.calendar, now.ages = address(dated), address(aged)
        parts.tidegate_derive(space.where, ROWS)
        x = space.x[0].numpy()[:, : manifest.input_width].reshape(ROWS, channels, -1)
        expected = whole.x[step].copy()
        if manifest.feedback:
            expected[:, -last.shape[1] :] = last
        np.testing.assert_allclose(x, np.broadcast_to(expected, x.shape), rtol=1e-6, atol=1e-6)
        assert (x == x[0]).all()
        last = random.uniform(-1, 1, last.shape).astype(np.float32)
        outputs[:, : last.shape[1]] = np.tile(last, (ROWS, 1))
        for row in range(ROWS):
            at = values.strides[0] * row
            parts.tidegate_restore(space.where, row, address(outputs), 16, address(values) + at)
            parts.tidegate_remember(space.where, row, address(outputs), 16)
        restored = whole.restore(np.tile(last.reshape(-1), (STEPS, 1)).astype(np.float64))[step]
        np.testing.assert_allclose(values, np.broadcast_to(restored, values.shape), rtol=1e-9)


@pytest.mark.parametrize("scaling", ["package", "running"])
def test_probabilities_are_what_they_are(parts: CDLL, scaling: str) -> None:
    """However a vocabulary's words are scaled."""
    package = package_of(scaling, head={"kind": "categorical"})
    space, outputs, values = Workspace(NativeLstm(package), 1), np.array([0.25, 0.75], np.float32), np.empty(2)
    parts.tidegate_restore(space.where, 0, address(outputs), 16, address(values))
    assert values.tolist() == [0.25, 0.75]
