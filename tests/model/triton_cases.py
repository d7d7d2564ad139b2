"""Triton's kernels against their judges. `test_triton.py` runs this file: in Triton's interpreter, and on a GPU if
there is one. (What interprets is decided when triton is imported, so that it takes a process of its own.)"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.packages import random_package
from tidegate.engine.memory.slots import SPARE_SLOT
from tidegate.engine.step import cuda_choice
from tidegate.engine.step.cuda import CudaStepper
from tidegate.engine.step.cuda_choice import build_cuda_stepper
from tidegate.engine.step.stepper import StepBatch, memory_of_nobody
from tidegate.model import reference
from tidegate.model.package import Package
from tidegate.model.slot_kernel import GatheringKernel
from tidegate.model.triton_lstm import ROWS, TritonLstm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TOLERANCE, STEPS = 1e-5, 6
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy warns of infinite numbers
HEADS: dict[str, dict[str, Any]] = {
    "linear": {},
    "relu": {"hidden": [33, 8], "activation": "relu"},
    "tanh": {"hidden": [20], "activation": "tanh"},
    "categorical": {"kind": "categorical", "hidden": [17], "activation": "tanh"},
}


def kernels(package: Package) -> tuple[TritonLstm, GatheringKernel]:
    """Triton's and the plain one."""
    return TritonLstm(package, DEVICE, SPARE_SLOT), GatheringKernel(package, DEVICE, SPARE_SLOT)


def padded(rows: int) -> int:
    return -(-rows // ROWS) * ROWS


def random_rows(package: Package, rows: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Inputs, a slab with more sessions than rows, slots in random order, and which rows are fresh."""
    random = torch.Generator().manual_seed(seed)
    channels = package.manifest.channels
    x = torch.randn(rows * channels, package.manifest.input_width, generator=random)
    state = torch.rand(2 * rows + 1, package.state_width, generator=random) * 2 - 1
    state[SPARE_SLOT] = 0
    slots = 1 + torch.randperm(2 * rows, generator=random)[:rows]
    fresh = torch.rand(rows, generator=random) < 0.2
    return tuple(tensor.to(DEVICE) for tensor in (x, state, slots, fresh))


@pytest.mark.parametrize(
    ("rows", "hidden", "layers"),
    [(32, 16, 1), (32, 40, 2), (50, 64, 1), (300, 16, 2), (300, 40, 1), (96, 64, 2), (33, 33, 3)],
)
@torch.inference_mode()
def test_the_kernel_is_the_reference(tmp_path: Path, rows: int, hidden: int, layers: int) -> None:
    """Sessions in random slots, stepped from zero state with rows that pad: within 1e-5 of the equations in float64;
    neither the spare slot nor another session's changes a bit."""
    package = random_package(tmp_path, layers=layers, hidden=hidden, features=5, targets=3, seed=7)
    kernel = kernels(package)[0]
    x, state, chosen, _ = random_rows(package, padded(rows))
    before, x = (
        state.clone(),
        torch.randn(STEPS, padded(rows), 5, generator=torch.Generator().manual_seed(1)).to(DEVICE),
    )
    slots = torch.where(torch.arange(padded(rows), device=DEVICE) < rows, chosen, SPARE_SLOT)
    outputs = []
    for step in range(STEPS):
        fresh = torch.full((padded(rows),), step == 0, device=DEVICE)
        after, found = kernel.step(x[step], state, slots, fresh)
        finite = kernel.commit(after, state, slots, torch.ones(padded(rows), dtype=torch.bool, device=DEVICE))
        assert finite.all()
        outputs.append(found.cpu().numpy())
    for row in (0, 1, rows // 2, rows - 1):
        expected = reference.predict_scaled(package, x[:, row].double().cpu().numpy())
        assert np.abs(expected).max() > 0.02  # the comparison is of something
        np.testing.assert_allclose([step[row] for step in outputs], expected, rtol=0, atol=TOLERANCE)
    others = torch.ones(len(state), dtype=torch.bool, device=DEVICE)
    others[slots[:rows]] = False
    assert torch.equal(state[others], before[others])
    assert not torch.equal(state[~others], before[~others])


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@torch.inference_mode()
def test_the_kernel_is_the_plain_one(tmp_path: Path, head: dict[str, Any], activation: str) -> None:
    """Every head, either activation, fresh rows among others: states and outputs are the plain kernel's within 1e-5."""
    package = random_package(
        tmp_path, layers=2, hidden=40, features=35, targets=35, head=head, hidden_activation=activation
    )
    x, state, slots, fresh = random_rows(package, 64)
    found, wanted = (kernel.step(x, state, slots, fresh) for kernel in kernels(package))
    for ours, plain in zip(found, wanted, strict=True):
        assert ours.shape == plain.shape
        torch.testing.assert_close(ours, plain, rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_channels_are_rows(tmp_path: Path) -> None:
    """A channel-independent model's sessions hold a state for each channel: all are stepped, each from its own."""
    package = random_package(tmp_path, hidden=24, layers=2, features=3, targets=3, channel_independent=True)
    x, state, slots, fresh = random_rows(package, 32)
    found, wanted = (kernel.step(x, state, slots, fresh) for kernel in kernels(package))
    assert found[0].shape == (32, 3 * 2 * 2 * 24)
    for ours, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_only_what_is_finite_is_committed(tmp_path: Path) -> None:
    """A row whose new state is not finite, or of which something else is not, keeps its old state; the spare slot is
    never written. The rows that are left, and the slots, are those of the plain kernel."""
    package = random_package(tmp_path, hidden=70, layers=1)
    _, state, slots, _ = random_rows(package, 64)
    after, finite = torch.rand(64, package.state_width, device=DEVICE), torch.ones(64, dtype=torch.bool, device=DEVICE)
    after[3, 0], after[9, 139], after[11, 77], after[13, 128] = torch.nan, torch.inf, -torch.inf, torch.nan
    finite[20] = False
    slots[30] = SPARE_SLOT
    slabs, (ours, plain) = (state.clone(), state.clone()), kernels(package)
    left = [ours.commit(after, slabs[0], slots, finite.clone()), plain.commit(after, slabs[1], slots, finite.clone())]
    assert torch.equal(left[0], left[1])
    assert left[0].sum() == 64 - 5
    assert torch.equal(slabs[0], slabs[1])
    assert torch.equal(slabs[0][slots[[3, 20]]], state[slots[[3, 20]]])
    assert torch.equal(slabs[0][slots[4]], after[4])


@torch.inference_mode()
def test_a_rows_bits_are_its_own(tmp_path: Path) -> None:
    """In batches of 32 to 320 rows, in any tile and beside any neighbours, broken ones too, a row comes out the same to
    the bit. (On a GPU at any place in its tile; the interpreter's products are NumPy's, which round by the place.)"""
    package = random_package(tmp_path, hidden=40, layers=2, features=5, targets=3)
    kernel = kernels(package)[0]
    x, state, slots, fresh = random_rows(package, 320)
    after, outputs = kernel.step(x, state, slots, fresh)
    random = np.random.default_rng(0)
    for rows in (32, 64, 160, 320):
        order = random.permutation(320)[:rows]
        if INTERPRETED:
            tiles, places = random.permutation(320 // ROWS)[: rows // ROWS], np.arange(ROWS)
            order = (tiles[:, None] * ROWS + places).flatten()
        chosen = torch.from_numpy(order).to(DEVICE)
        ours = torch.from_numpy(random.random(rows) < 0.5).to(DEVICE)
        neighbours = torch.where(ours[:, None], x[chosen], torch.nan)
        moved = torch.where(ours, slots[chosen], torch.from_numpy(random.permutation(rows)).to(DEVICE))
        found = kernel.step(neighbours, state, moved, fresh[chosen])
        assert torch.equal(found[0][ours], after[chosen][ours])
        assert torch.equal(found[1][ours], outputs[chosen][ours])


def test_the_stepper_with_triton(tmp_path: Path) -> None:
    """Batches of several sizes through the whole stepper, non-finite rows among them, predict and remember as with the
    plain kernel, within 1e-5."""
    package = random_package(tmp_path, hidden=24, layers=2, features=3, targets=2, feedback=True)
    random, buckets = np.random.default_rng(0), (32, 64)
    memories = [memory_of_nobody(package, 200, np.random.default_rng(1), DEVICE) for _ in range(2)]
    steppers = [CudaStepper(package, DEVICE, kernel, buckets) for kernel in kernels(package)]
    for memory in memories:
        for column in memory.values():
            column[SPARE_SLOT] = 0
    for rows in (1, 40, 100, 40, 40, 40, 40, 40):
        inputs = random.standard_normal((rows, 3))
        inputs[random.random(rows) < 0.1] = 1e300
        batch = StepBatch(
            slots=1 + random.permutation(200)[:rows],
            inputs=inputs,
            fresh=random.random(rows) < 0.2,
            seen=np.full(rows, 3),
            time=np.zeros(rows, np.int64),
            identity=np.zeros(rows, np.int32),
        )
        found, wanted = (one.launch(batch, memory).collect() for one, memory in zip(steppers, memories, strict=True))
        assert (found.finite == wanted.finite).all()
        np.testing.assert_allclose(found.values[found.finite], wanted.values[wanted.finite], rtol=0, atol=TOLERANCE)
        for name, column in memories[0].items():
            torch.testing.assert_close(column, memories[1][name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("choice", ["auto", "triton", "torch"])
def test_the_kernel_that_is_chosen(tmp_path: Path, choice: Any) -> None:
    """Triton's where it is wanted and there is one for the cell."""
    lstm = random_package(tmp_path, "lstm", hidden=16)
    peephole = random_package(tmp_path, "peephole", cell="lstm_peephole", hidden=16)
    chosen = [build_cuda_stepper(one, DEVICE.type, choice, buckets=(32,))._kernel for one in (lstm, peephole)]
    assert [type(one) for one in chosen] == [GatheringKernel if choice == "torch" else TritonLstm, GatheringKernel]


def test_a_kernel_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Triton's kernel is judged before it steps a session: where it predicts otherwise, or fails, torch's is used and
    the log says why; whoever asked for Triton's is refused."""
    package, tile = random_package(tmp_path, hidden=16), ROWS
    step = TritonLstm.step

    def wrong(self: TritonLstm, *arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        after, outputs = step(self, *arguments)
        return after, outputs + 0.01

    def failing(self: TritonLstm, *arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise ValueError("no such architecture")

    for broken, said in ((wrong, "does not predict"), (failing, "no such architecture")):
        monkeypatch.setattr(TritonLstm, "step", broken)
        assert isinstance(build_cuda_stepper(package, DEVICE.type, buckets=(tile,))._kernel, GatheringKernel)
        assert said in caplog.text
        with pytest.raises((RuntimeError, ValueError), match=said):
            build_cuda_stepper(package, DEVICE.type, "triton", buckets=(tile,))
    assert cuda_choice.TOLERANCE[False] < 0.01
