"""Which kernel and which sizes a CUDA stepper takes: tried out on rows of no session before the first is stepped.

Triton's kernels are taken where they predict as torch's do. Sizes are all of them where a row's bits do not depend on
the size, else the one size at which they do not depend on the place in the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tidegate.engine.memory.columns import session_schema
from tidegate.engine.memory.slots import SPARE_SLOT
from tidegate.engine.step.cuda import CudaStepper
from tidegate.engine.step.device_queue import DeviceQueue
from tidegate.engine.step.pace import Pace
from tidegate.engine.step.staging import BUCKETS
from tidegate.engine.step.stepper import TILE_ROWS, batch_of_nobody, memory_of_nobody
from tidegate.model.device_inputs import DeviceInputs
from tidegate.model.package import Package
from tidegate.model.slot_kernel import GatheringKernel, KernelChoice, SlotKernel, build_slot_kernel

log = logging.getLogger(__name__)

TRIAL_BYTES_MAX = 1 << 28  # memory of the rows of no session; larger sizes than fit are not used
ONE_BUCKET = 256  # the size of all batches where bits depend on it
JUDGED_ROWS = 96
TOLERANCE = {False: 1e-4, True: 3e-2}  # between two kernels, of the largest state or output, by whether TF32 is used


def build_cuda_stepper(
    package: Package,
    device: str,
    choice: KernelChoice = "auto",
    tf32: bool = False,
    buckets: Sequence[int] = BUCKETS,
    queue: DeviceQueue | None = None,
) -> CudaStepper:
    """A stepper that was tried out. Raises PackageError where a foreign graph cannot be run, RuntimeError where Triton
    is asked for and does not predict as torch does."""
    where = torch.device(device)
    kernel = _kernel(package, where, choice, tf32)
    row_bytes = sum(column.row_bytes for column in session_schema(package).device if not column.past_of)
    fitting = [size for size in buckets if size * row_bytes <= TRIAL_BYTES_MAX] or list(buckets[:1])
    stepper = CudaStepper(package, where, kernel, fitting, queue)
    trial = _Trial(package, where, fitting[-1])
    if not trial.same_bits(stepper):
        one = max(size for size in fitting if size <= max(ONE_BUCKET, fitting[0]))
        log.warning("%s: products round by batch size here; stepping in pieces of %d", package.manifest.name, one)
        stepper.buckets = [one]
        if not trial.same_bits(stepper):
            log.error("%s: a row's bits depend on its place in the batch here", package.manifest.name)
    stepper.pace = Pace()  # what was measured so far includes the libraries' own start
    for rows in (1, stepper.buckets[-1]):
        trial.step(stepper, np.arange(rows))
    return stepper


def agrees(kernel: SlotKernel, judge: SlotKernel, package: Package, device: torch.device, tolerance: float) -> bool:
    """Whether two kernels make the same states and outputs of random rows, within the tolerance."""
    random = np.random.default_rng(0)
    state = memory_of_nobody(package, JUDGED_ROWS, random, device)["state"]
    shape = JUDGED_ROWS * package.manifest.channels, package.manifest.input_width
    x = torch.from_numpy(random.standard_normal(shape).astype(np.float32)).to(device)
    slots = torch.arange(1, JUDGED_ROWS + 1, device=device)
    fresh = slots % 3 == 0
    with torch.inference_mode():
        found, wanted = (one.step(x, state, slots, fresh) for one in (kernel, judge))
        distances = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)]
        both = [one.commit(wanted[0], state.clone(), slots, ~fresh) for one in (kernel, judge)]
    return max(distances) <= tolerance and bool((both[0] == both[1]).all())


def _kernel(package: Package, device: torch.device, choice: KernelChoice, tf32: bool) -> SlotKernel:
    """The kernel that is wanted, if it can be had and is right."""
    kernel = build_slot_kernel(package, device, SPARE_SLOT, choice, tf32)
    if isinstance(kernel, GatheringKernel):
        return kernel
    judge = GatheringKernel(package, device, SPARE_SLOT)
    problem = "Triton's kernel does not predict as torch's does"
    try:
        if agrees(kernel, judge, package, device, TOLERANCE[tf32]):
            return kernel
    except Exception as error:  # its compiler has dozens
        if choice == "triton":
            raise
        problem = f"Triton's kernel does not run ({type(error).__name__}: {error})"
    if choice == "triton":
        raise RuntimeError(problem)
    log.warning("%s: %s; torch's is used", package.manifest.name, problem)
    return judge


class _Trial:
    """Rows of no session."""

    def __init__(self, package: Package, device: torch.device, rows: int) -> None:
        random = np.random.default_rng(0)
        normal = torch.from_numpy(random.standard_normal((rows, len(package.manifest.features))))
        self._package = package
        self._inputs: NDArray[np.float64] = DeviceInputs(package, device).typical(normal).cpu().numpy()
        self._memory = memory_of_nobody(package, rows, random, device)

    def same_bits(self, stepper: CudaStepper) -> bool:
        """Whether the first rows come out the same in batches of every size, and in any order."""
        buckets = stepper.buckets
        shuffled = [np.random.default_rng(size).permutation(size) for size in (buckets[0], buckets[-1])]
        return len({self.step(stepper, order) for order in (*shuffled, *map(np.arange, buckets))}) == 1

    def step(self, stepper: CudaStepper, order: NDArray[np.int64]) -> bytes:
        """The bytes that come of the first rows in a batch of rows in that order, from the same memory each time."""
        memory = {name: part.clone() for name, part in self._memory.items()}
        result = stepper.launch(batch_of_nobody(self._package, order, self._inputs), memory).collect()
        values = result.values[np.argsort(order)[:TILE_ROWS]]
        moved = (part[1 : TILE_ROWS + 1].cpu().numpy().tobytes() for part in memory.values())
        return b"".join((values.tobytes(), *moved))
