"""Steps that are C from end to end: by the equations, and the same bits alone, among others and in any threads."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.packages import random_package
from tests.wire.clients import until
from tidegate import native as parts
from tidegate.engine.step import native_stepper, stepper
from tidegate.engine.step.native_stepper import NativeStepper
from tidegate.engine.step.stepper import StepBatch, StepResult
from tidegate.model import reference
from tidegate.model.frequency import NO_TIME
from tidegate.model.package import Package
from tidegate.native import build, library

SESSIONS, STEPS = 150, 12
SIZES = {"small": (33, 1), "large": (300, 2)}  # by native_lstm.SMALL_BYTES_MAX; neither is whole panels
Memory = dict[str, torch.Tensor]


def package_of(folder: Path, size: str, cell: str = "lstm") -> Package:
    hidden, layers = SIZES[size]
    return random_package(folder, size, hidden=hidden, layers=layers, cell=cell, features=5, targets=3)


def stepper_of(package: Package, threads: int = 1) -> NativeStepper:
    native = library()
    assert native is not None
    return NativeStepper(package, native, threads)


def memory_of(package: Package) -> Memory:
    return {"state": torch.zeros(SESSIONS + 1, package.state_width)}


def batch_of(rows: NDArray[np.int64], inputs: NDArray[np.float64], fresh: bool = False) -> StepBatch:
    """Observations of the sessions `rows`, from 0 on."""
    count = len(rows)
    return StepBatch(
        slots=rows + 1,
        inputs=np.ascontiguousarray(inputs[rows]),
        fresh=np.full(count, fresh),
        seen=np.ones(count, np.int64),
        time=np.full(count, NO_TIME),
        identity=np.zeros(count, np.int32),
    )


def observations(seed: int = 1) -> NDArray[np.float64]:
    """[steps, sessions, features]."""
    return np.random.default_rng(seed).standard_normal((STEPS, SESSIONS, 5))


def alone(package: Package, inputs: NDArray[np.float64]) -> tuple[NDArray[np.float64], Memory]:
    """Every session for itself, in one thread: values [steps, sessions, targets], and the states."""
    one, memory = stepper_of(package), memory_of(package)
    values = [
        [
            one.launch(batch_of(np.array([row]), step, number == 0), memory).collect().values[0]
            for row in range(SESSIONS)
        ]
        for number, step in enumerate(inputs)
    ]
    return np.array(values), memory


@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole"])
@pytest.mark.parametrize("size", SIZES)
def test_the_equations(tmp_path: Path, size: str, cell: str) -> None:
    """Within 1e-6 of the reference in float64, small or large."""
    package, inputs = package_of(tmp_path, size, cell), observations()
    ours, memory = stepper_of(package), memory_of(package)
    assert ours.by_address == (size == "small")
    everyone = np.arange(SESSIONS)
    values = [
        ours.launch(batch_of(everyone, step, number == 0), memory).collect().values
        for number, step in enumerate(inputs)
    ]
    for session in (0, 77, SESSIONS - 1):
        expected = reference.predict_scaled(package, inputs[:, session])
        assert np.abs(expected).max() > 0.01  # the comparison is of something
        np.testing.assert_allclose(np.array(values)[:, session], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pieces", [32, 96, stepper.PIECE_ROWS])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("size", SIZES)
def test_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, threads: int, pieces: int) -> None:
    """A batch that a crew takes, posted or waited for, in shares of any size: the bits of sessions that are stepped
    alone, in values and states."""
    for module in (stepper, native_stepper):  # both, or rows would be written beyond their room
        monkeypatch.setattr(module, "PIECE_ROWS", pieces)
    monkeypatch.setattr(stepper, "THREAD_SECONDS_MIN", 1e-9)
    package, inputs = package_of(tmp_path, size), observations()
    wanted, states = alone(package, inputs)
    crew, memory, random = stepper_of(package, threads), memory_of(package), np.random.default_rng(threads)
    bell = os.eventfd(0)
    try:
        for number, step in enumerate(inputs):
            rows = random.permutation(SESSIONS)
            cut = int(random.integers(1, SESSIONS))
            for part in (rows[:cut], rows[cut:]):
                batch = batch_of(part, step, number == 0)
                result = posted(crew, batch, memory, bell) if number % 2 else crew.launch(batch, memory).collect()
                assert result.whole
                assert (result.values == wanted[number][part]).all()
        assert not select.select([bell], [], [], 0)[0]  # nobody rings for a step that is waited for
    finally:
        os.close(bell)
    assert torch.equal(memory["state"], states["state"])


def posted(crew: NativeStepper, batch: StepBatch, memory: Memory, bell: int) -> StepResult:
    """The step, once the bell has rung."""
    ticket = crew.post(batch, memory, bell)
    assert ticket is not None
    assert os.eventfd_read(bell) == 1  # waits
    return ticket.collect()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
async def test_a_crew_gives_way(tmp_path: Path) -> None:
    """Its threads run below the event loop's, and no others do."""
    package = package_of(tmp_path, "large")
    own, before = os.getpriority(os.PRIO_PROCESS, 0), priorities()
    crew, bell = stepper_of(package, 2), os.eventfd(0)
    try:
        posted(crew, batch_of(np.arange(SESSIONS), observations()[0], fresh=True), memory_of(package), bell)
    finally:
        os.close(bell)
    below = [min(own + 10, 19)] * 2
    await until(lambda: [now for thread, now in priorities().items() if before.get(thread, own) != now] == below, "two")
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def priorities() -> dict[int, int]:
    """Of this process's threads; of those of earlier tests some may be ending."""
    found = dict[int, int]()
    for thread in [int(thread.name) for thread in Path("/proc/self/task").iterdir()]:
        with contextlib.suppress(ProcessLookupError):
            found[thread] = os.getpriority(os.PRIO_PROCESS, thread)
    return found


@pytest.mark.skipif(not parts.fits(build.WIDE), reason="this processor has no AVX-512")
@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole"])
@pytest.mark.parametrize("size", SIZES)
def test_both_widths(tmp_path: Path, size: str, cell: str) -> None:
    """Eight or sixteen floats at a time: the same bits, in values and states."""
    package, inputs, found = package_of(tmp_path, size, cell), observations(), []
    for path in (build.LIBRARY, build.WIDE):
        native = parts.load(path)
        assert native is not None
        one, memory = NativeStepper(package, native, 1), memory_of(package)
        rows = [np.arange(count) for count in (SESSIONS, 1, 2, 3, 4, 5, 6, 11, 100)]
        values = [one.launch(batch_of(*args), memory).collect().values for args in zip(rows, inputs, strict=False)]
        found.append((np.concatenate(values).tobytes(), memory["state"].numpy().tobytes()))
    assert found[0] == found[1]


def test_what_is_not_finite(tmp_path: Path) -> None:
    """In a posted batch too: such rows are named, keep their state, and their neighbours step."""
    package, inputs = package_of(tmp_path, "large"), observations()
    crew, memory, bell = stepper_of(package, 2), memory_of(package), os.eventfd(0)
    everyone, bad = np.arange(SESSIONS), [0, 70, SESSIONS - 1]
    try:
        posted(crew, batch_of(everyone, inputs[0], fresh=True), memory, bell)
        before = memory["state"].clone()
        inputs[1][bad] = 1e300
        result = posted(crew, batch_of(everyone, inputs[1]), memory, bell)
    finally:
        os.close(bell)
    assert not result.whole
    assert np.flatnonzero(~result.finite).tolist() == bad
    moved = (memory["state"] != before).any(1).numpy()
    assert np.flatnonzero(~moved).tolist() == [0, *(row + 1 for row in bad)]


def test_no_threads_of_its_own(tmp_path: Path) -> None:
    """A model that torch steps is not posted: nothing happens."""
    package = random_package(tmp_path, hidden=16, features=5, targets=3, cell="gru")
    memory, torchs = memory_of(package), native_stepper.build_stepper(package, "cpu", 2)
    assert not torchs.shared
    assert torchs.post(batch_of(np.arange(9), observations()[0]), memory, -1) is None
    assert not memory["state"].any()
