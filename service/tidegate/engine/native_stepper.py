"""The stepper on CPU where the C parts are: `TorchStepper` with other pieces. See `model/native_lstm.py`.

Where inputs and outputs are scaled by package and nothing else is derived, a piece is C but for its products. Else what
the cell sees is derived by torch, as in `TorchStepper`, and cell and commit are C.
"""

from __future__ import annotations

from ctypes import CDLL

import numpy as np
import torch
from numpy.typing import NDArray

from tidegate.engine.cuda_choice import build_cuda_stepper
from tidegate.engine.slots import SPARE_SLOT
from tidegate.engine.stepper import PIECE_ROWS, TILE_ROWS, Begun, Memory, StepBatch, Stepper, TorchStepper, Work
from tidegate.model.native_lstm import CELLS, NativeLstm, Workspace
from tidegate.model.package import Package
from tidegate.model.slot_kernel import KernelChoice
from tidegate.native import address, library


def build_stepper(
    package: Package, device: str, threads: int = 1, kernel: KernelChoice = "auto", tf32: bool = False
) -> Stepper:
    """The fastest stepper for the package there is; `kernel` and `tf32` are for CUDA. Raises PackageError where a
    foreign graph cannot be run."""
    if device != "cpu":
        return build_cuda_stepper(package, device, kernel, tf32)
    native = library()
    if native is None or package.manifest.graph is not None or package.manifest.cell not in CELLS:
        return TorchStepper(package, device, threads)
    return NativeStepper(package, native, threads)


class NativeStepper(TorchStepper):
    """LSTMs on CPU."""

    def __init__(self, package: Package, native: CDLL, threads: int = 1) -> None:
        self._native = native
        self._cell = NativeLstm(package, native)
        self._spaces: list[Workspace] = []  # those that no thread uses now
        super().__init__(package, "cpu", threads)

    def _begin(self, batch: StepBatch) -> Begun:
        if self._inputs.linear is not None:
            return _Rows(batch, self._outputs)
        work = super()._begin(batch)
        assert isinstance(work, Work)
        return _Derived(work)

    def _piece(self, work: Begun, rows: slice, memory: Memory) -> None:
        assert isinstance(work, _Rows | _Derived)
        space = self._spaces.pop() if self._spaces else self._space()
        start, now = rows.start, space.described
        now.state = memory["state"].data_ptr()
        now.slots = work.slots + 8 * start
        now.fresh = None if work.fresh is None else work.fresh + start
        now.values = work.values + 8 * self._outputs * start
        now.finite = work.finite + start
        count = min(work.rows, rows.stop) - start
        try:
            if isinstance(work, _Rows):
                now.raw = work.raw + 8 * self._cell.width * start
                self._straight(count, rows.stop - start, space)
            else:
                self._derived(work.work, rows, count, memory, space)
        finally:
            self._spaces.append(space)

    def _straight(self, count: int, padded: int, space: Workspace) -> None:
        """Inputs and outputs in C too."""
        if self._cell.head is not None:
            self._native.tidegate_step(space.where, count)
            return
        outputs = self._cell(space, count, padded)
        self._native.tidegate_finish(space.where, count, outputs.data_ptr(), outputs.shape[1])

    def _derived(self, work: Work, rows: slice, count: int, memory: Memory, space: Workspace) -> None:
        """Inputs and outputs by torch."""
        slots, clock = work.slots[rows], work.clock(rows)
        observed = self._inputs.observe(work.inputs[rows], clock, memory, slots)
        space.x[0][: len(observed.x), : self._cell.width].copy_(observed.x)
        wide = self._cell(space, count * self._channels, len(observed.x))
        outputs = wide[:, : self._cell.outputs].reshape(len(slots), -1)
        work.values[rows] = self._inputs.restore(outputs, observed.base, observed.unit)
        finite = work.finite[rows]
        if observed.scale is not None:
            finite &= torch.isfinite(observed.scale.flatten(1)).all(1)
        lost = self._native.tidegate_finish(space.where, count, None, 0)
        slots = torch.where(finite, slots, SPARE_SLOT) if lost else slots
        self._inputs.remember(observed, outputs, clock.seen, memory, slots[:count])
        if lost:
            for column in memory.values():
                column[SPARE_SLOT] = 0  # padding rows read it, and had better be finite

    def _space(self) -> Workspace:
        """For the largest piece; it scales by itself where that is all there is to derive."""
        space = Workspace(self._cell, max(PIECE_ROWS, TILE_ROWS * self._channels))
        if self._inputs.linear is not None:
            for name, column in self._inputs.linear._asdict().items():
                setattr(space.described, name, address(column))
        return space


class _Rows:
    """A batch as the addresses of its columns, and room for its results."""

    def __init__(self, batch: StepBatch, outputs: int) -> None:
        self.rows = len(batch)
        self.padded = -(-self.rows // TILE_ROWS) * TILE_ROWS
        self._batch = batch
        self._values = np.empty((self.rows, outputs))
        self._finite = np.ones(self.rows, np.bool_)
        self.slots, self.raw = address(batch.slots), address(batch.inputs)
        self.fresh = None if batch.under_way or not batch.fresh.any() else address(batch.fresh)
        self.values, self.finite = address(self._values), address(self._finite)

    def results(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return self._values, self._finite


class _Derived:
    """The same of a batch that torch sees too."""

    def __init__(self, work: Work) -> None:
        self.work, self.rows, self.padded = work, work.rows, work.padded
        self.slots = work.slots.data_ptr()
        self.fresh = None if work.fresh is None else work.fresh.data_ptr()
        self.values, self.finite = work.values.data_ptr(), work.finite.data_ptr()

    def results(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return self.work.results()
