"""Which kernel steps a package: the cells of Tidegate, or ONNX Runtime for a foreign graph."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tidegate.model.cells import Kernel
from tidegate.model.graph import GraphKernel
from tidegate.model.package import Package


class StepKernel(Protocol):
    """One step for M rows; see `Kernel`."""

    @property
    def inputs(self) -> int:
        """Values that the cell sees a row."""
        ...

    @property
    def outputs(self) -> int:
        """Values that a row puts out."""
        ...

    @property
    def state_width(self) -> int:
        """Values of state a row."""
        ...

    def __call__(self, x: Tensor, state: Tensor, new_state: Tensor) -> Tensor:
        """Writes the next states [M, state_width] into `new_state` and returns the outputs [M, outputs]."""
        ...


def build_kernel(package: Package, device: torch.device) -> StepKernel:
    """Raises PackageError where a foreign graph cannot be run."""
    return Kernel(package, device) if package.manifest.graph is None else GraphKernel(package, device)
