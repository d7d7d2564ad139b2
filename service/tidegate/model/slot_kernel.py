"""A step of cell and head on rows of a slab, by slot: the seam between kernels that read and write the slab themselves
and those that are given gathered rows. Which states may be written is known only at the end of a step, so it is two
calls: `step` leaves the new states beside the slab, `commit` copies those that are finite.
"""

from __future__ import annotations

import logging
from typing import Literal, Protocol

import torch
from torch import Tensor

from tidegate.model.kernels import build_kernel
from tidegate.model.package import Package
from tidegate.model.triton_lstm import TritonLstm, why_not

log = logging.getLogger(__name__)

KernelChoice = Literal["auto", "torch", "triton"]


class SlotKernel(Protocol):
    """M rows, a multiple of 32, of M sessions (or of the spare slot), each of as many channels as the package has."""

    capturable: bool  # whether a CUDA graph can hold it: it neither waits for the device nor leaves it

    def step(self, x: Tensor, state: Tensor, slots: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """The next states float32 [M, state width], not yet written, and the outputs float32 [M, outputs].

        x float32 [M x channels, inputs]; state float32 [slots, state width], only read; slots int64 [M]; fresh bool
        [M]: rows whose state counts as zero.
        """
        ...

    def commit(self, after: Tensor, state: Tensor, slots: Tensor, finite: Tensor) -> Tensor:
        """Writes the rows of `after` that are finite, and of which `finite` bool [M] says that all else is, to their
        slots; returns which [M]. The spare slot stays, or becomes, zero."""
        ...


class GatheringKernel:
    """Any cell of torch (or a foreign graph): index_select, the kernel, index_copy_."""

    def __init__(self, package: Package, device: torch.device, spare: int) -> None:
        self._kernel = build_kernel(package, device)
        self._spare = spare
        self.capturable = package.manifest.graph is None  # ONNX Runtime runs on the CPU

    def step(self, x: Tensor, state: Tensor, slots: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        before = state.index_select(0, slots).masked_fill_(fresh[:, None], 0.0)
        after = torch.empty_like(before)
        width = self._kernel.state_width
        outputs = self._kernel(x, before.view(-1, width), after.view(-1, width))
        return after, outputs.reshape(len(slots), -1)

    def commit(self, after: Tensor, state: Tensor, slots: Tensor, finite: Tensor) -> Tensor:
        finite = finite & torch.isfinite(after).all(1)
        state.index_copy_(0, torch.where(finite, slots, self._spare), after)
        state[self._spare] = 0
        return finite


def build_slot_kernel(
    package: Package, device: torch.device, spare: int, choice: KernelChoice = "auto", tf32: bool = False
) -> SlotKernel:
    """Triton's kernels where they are wanted and there are any for the package, else torch's; raises PackageError where
    a foreign graph cannot be run."""
    problem = "it is not wanted" if choice == "torch" else why_not(package)
    if not problem:
        return TritonLstm(package, device, spare, tf32)
    if choice == "triton":
        log.warning("%s: torch's kernel instead of Triton's: %s", package.manifest.name, problem)
    return GatheringKernel(package, device, spare)
