"""The stepper of CUDA devices against the plain one. Where there is no such device it runs on CPU, without graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.harness import DEVICES
from tests.engine.test_recordings import RecordingQueue
from tests.packages import unwritten
from tidegate.engine.memory.slots import SPARE_SLOT
from tidegate.engine.step import cuda_choice
from tidegate.engine.step.cuda import CudaStepper
from tidegate.engine.step.cuda_choice import build_cuda_stepper
from tidegate.engine.step.device_queue import DeviceQueue
from tidegate.engine.step.staging import Field
from tidegate.engine.step.stepper import StepBatch, TorchStepper, memory_of_nobody
from tidegate.model.package import Package
from tidegate.model.slot_kernel import GatheringKernel

SESSIONS, BUCKETS = 300, (32, 64, 128)
DAY = 86_400_000_000_000
LAGS = [{"feature": name, "steps": [1, 3], "scales": [0.5, 2.0]} for name in ("a", "b")]
BY_SESSION = [{"name": "a", "scaling": {"by": "instance"}}, {"name": "b", "scaling": {"transform": "log1p"}}]
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "peephole": {"cell": "lstm_peephole", "layers": 2, "hidden_size": 40},
    "gru": {"cell": "gru", "hidden_size": 20},
    "derived": {
        "features": [*BY_SESSION, {"name": "kind", "role": "past", "categories": ["x", "y"]}],
        "lags": LAGS,
        "calendar": [{"field": "day_of_week"}],
        "frequency": "D",
        "ids": ["s1", "s2"],
        "ages": True,
        "feedback": True,
        "head": {"kind": "quantile", "levels": [0.1, 0.5, 0.9]},
    },
    "channels": {"features": BY_SESSION, "lags": LAGS, "channel_independent": True, "ages": True, "feedback": True},
    "change": {"head": {"output": "change", "change_scales": [0.5, 2.0], "hidden": [8], "activation": "relu"}},
    "words": {"features": [{"name": "a"}, {"name": "b"}], "head": {"kind": "categorical"}},
}


def batch(package: Package, random: np.random.Generator, rows: int, step: int) -> StepBatch:
    """Rows of random sessions, some of them fresh, some beyond float32."""
    features = package.manifest.features
    inputs = random.standard_normal((rows, len(features)))
    for place, feature in enumerate(features):
        if feature.categories:
            inputs[:, place] = random.integers(len(feature.categories), size=rows)
    inputs[random.random(rows) < 0.05, 0] = 1e300
    fresh = random.random(rows) < 0.1
    return StepBatch(
        slots=1 + random.permutation(SESSIONS)[:rows],
        inputs=inputs,
        fresh=fresh,
        seen=np.where(fresh, 0, 5 + step),
        time=np.full(rows, 20_000 * DAY) + step * DAY,
        identity=random.integers(0, len(package.manifest.ids) + 1, rows).astype(np.int32),
        ages=random.integers(0, 3, (rows, len(package.manifest.targets))).astype(np.uint16) if step % 2 else None,
    )


def memory_of(package: Package, device: str) -> dict[str, torch.Tensor]:
    """Sessions that have lived; the spare slot is zero, as in a slab."""
    memory = memory_of_nobody(package, SESSIONS, np.random.default_rng(3), torch.device(device))
    for column in memory.values():
        column[SPARE_SLOT] = 0
    return memory


def stepper_of(package: Package, device: str, queue: DeviceQueue | None = None) -> CudaStepper:
    where = torch.device(device)
    return CudaStepper(package, where, GatheringKernel(package, where, SPARE_SLOT), BUCKETS, queue)


def assert_same(found: NDArray[Any], wanted: NDArray[Any], device: str) -> None:
    """To the bit on CPU; on another device its own way of rounding is allowed for."""
    if device == "cpu":
        assert found.tobytes() == wanted.tobytes()
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", MODELS)
def test_it_steps_as_the_plain_stepper(model: str, device: str) -> None:
    """Batches of every size up to several pieces, of every kind of model: values, which rows are finite, and all that
    sessions remember are the plain stepper's on CPU, to the bit."""
    torch.set_num_threads(1)
    package, random = unwritten(**MODELS[model]), np.random.default_rng(1)
    plain, ours = TorchStepper(package, "cpu"), stepper_of(package, device)
    memory, our_memory = memory_of(package, "cpu"), memory_of(package, device)
    lost = 0
    for step, rows in enumerate((1, 31, 32, 33, 128, 129, 300, 64, 5, 5, 5, 5, 5)):
        rows_of_step = batch(package, random, rows, step)
        wanted = plain.launch(rows_of_step, memory).collect()
        found = ours.launch(rows_of_step, our_memory).collect()
        assert (found.finite == wanted.finite).all()
        lost += int((~found.finite).sum())
        assert_same(found.values[found.finite], wanted.values[found.finite], device)
        for name, column in memory.items():
            assert_same(our_memory[name].cpu().numpy(), column.numpy(), device)
    assert 0 < lost < 200  # of some rows the step was not taken
    slots = np.arange(1, 40)
    assert_same(ours.units(our_memory, slots), plain.units(memory, slots), device)


@pytest.mark.parametrize("device", DEVICES)
def test_several_steps_in_line(device: str) -> None:
    """Batches that are launched before the last ones were collected, and collected in any order, step as one by one."""
    package, random = unwritten(**MODELS["derived"]), np.random.default_rng(2)
    batches = [batch(package, random, rows, step) for step, rows in enumerate((300, 20, 20, 20, 130, 64, 20))]
    one, many = memory_of(package, device), memory_of(package, device)
    stepper = stepper_of(package, device)
    wanted = [stepper.launch(rows, one).collect() for rows in batches]
    tickets = [stepper.launch(rows, many) for rows in batches]
    found = {place: tickets[place].collect() for place in random.permutation(len(tickets)).tolist()}
    for place, result in enumerate(wanted):
        assert found[place].values.tobytes() == result.values.tobytes()
        assert (found[place].finite == result.finite).all()
    assert all(torch.equal(many[name], column) for name, column in one.items())


def test_recordings_are_of_their_memory() -> None:
    """A step is recorded for one memory and size; another memory is stepped from recordings of its own."""
    package, random, queue = unwritten(), np.random.default_rng(2), RecordingQueue()
    stepper, plain = stepper_of(package, "cpu", queue), stepper_of(package, "cpu")
    memories = [(memory_of(package, "cpu"), memory_of(package, "cpu")) for _ in range(2)]
    for step in range(100):
        ours, wanted = memories[random.integers(len(memories))]
        rows = batch(package, random, int(random.choice([20, 50])), step)
        found = stepper.launch(rows, ours).collect()
        assert found.values.tobytes() == plain.launch(rows, wanted).collect().values.tobytes()
        assert all(torch.equal(ours[name], column) for name, column in wanted.items())
    sizes, sets = 2, 2
    assert len(stepper.recordings) == queue.recorded == len(memories) * sizes * sets


class OnDeviceAlone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where an operation is given a tensor of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                assert tensor.device.type == "meta", f"{func} reads the host's memory"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", MODELS)
def test_a_graph_can_hold_the_step(model: str) -> None:
    """On torch's device without data, where to wait for a result is an error: from the columns that were sent to those
    that are returned, no operation asks what a tensor holds, nor takes one from the host."""
    package, meta = unwritten(**MODELS[model]), torch.device("meta")
    stepper = CudaStepper(package, meta, GatheringKernel(package, meta, SPARE_SLOT))
    memory = {name: column.to(meta) for name, column in memory_of(package, "cpu").items()}
    sent, returned = (_on(meta, fields) for fields in (stepper._sent, stepper._returned))
    with OnDeviceAlone():  # type: ignore[no-untyped-call]
        stepper._advance(sent, returned, memory)


def _on(device: torch.device, fields: list[Field]) -> dict[str, torch.Tensor]:
    return {
        field.name: torch.empty((64, *field.shape), dtype=getattr(torch, field.dtype), device=device)
        for field in fields
    }


def test_a_step_that_fails_leaves_the_stepper_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that fails raises; what is launched after it is stepped as ever."""
    package, random = unwritten(), np.random.default_rng(2)
    stepper, memory, wanted = stepper_of(package, "cpu"), memory_of(package, "cpu"), memory_of(package, "cpu")
    rows = batch(package, random, 40, 1)

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(GatheringKernel, "step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            stepper.launch(rows, memory)
    found = stepper.launch(rows, memory).collect()
    assert found.values.tobytes() == stepper_of(package, "cpu").launch(rows, wanted).collect().values.tobytes()


class RoundsBySize(GatheringKernel):
    """As a library does that chooses its kernels by the number of rows."""

    def step(
        self, x: torch.Tensor, state: torch.Tensor, slots: torch.Tensor, fresh: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        after, outputs = super().step(x, state, slots, fresh)
        return after, outputs * (1 + len(slots) * 2**-22)


class RoundsByPlace(GatheringKernel):
    """As no kernel should."""

    def step(
        self, x: torch.Tensor, state: torch.Tensor, slots: torch.Tensor, fresh: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        after, outputs = super().step(x, state, slots, fresh)
        return after, outputs * (1 + torch.arange(len(slots))[:, None] * 2**-22)


@pytest.mark.parametrize(
    ("kernel", "buckets", "said"),
    [
        (GatheringKernel, [32, 64, 128, 256, 512], ""),
        (RoundsBySize, [256], "in pieces of 256"),
        (RoundsByPlace, [256], "depend on its place"),
    ],
)
def test_sizes_are_tried_out(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kernel: type[GatheringKernel],
    buckets: list[int],
    said: str,
) -> None:
    """All sizes are used where a row's bits do not depend on them, else one; a kernel that rounds by the place is named
    in the log."""
    torch.set_num_threads(1)
    monkeypatch.setattr(cuda_choice, "GatheringKernel", kernel)
    monkeypatch.setattr("tidegate.model.slot_kernel.GatheringKernel", kernel)
    stepper = build_cuda_stepper(unwritten(), "cpu", "torch", buckets=(32, 64, 128, 256, 512))
    assert list(stepper.buckets) == buckets
    assert said in caplog.text
    assert bool(caplog.records) is bool(said)
    assert stepper.expected_seconds(1) > 0


def test_sizes_of_wide_states_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes whose rows of nobody do not fit into the trial's memory are not used: none goes untried."""
    monkeypatch.setattr(cuda_choice, "TRIAL_BYTES_MAX", 100 * 4 * 64)
    assert build_cuda_stepper(unwritten(), "cpu", "torch", buckets=(32, 64, 128)).buckets == [32, 64]
