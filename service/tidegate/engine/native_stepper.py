"""The stepper on CPU where the C parts are: `TorchStepper` with other pieces. See `model/native_lstm.py`.

Where inputs and outputs are scaled by package and nothing else is derived, a piece is C from end to end. Else what the
cell sees is derived by torch, as in `TorchStepper`, and cell and commit are C.
"""

from __future__ import annotations

import time
from ctypes import CDLL
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from tidegate.engine.crew import NO_BELL, Crew, crew_of
from tidegate.engine.cuda_choice import build_cuda_stepper
from tidegate.engine.pace import Pace
from tidegate.engine.slots import SPARE_SLOT
from tidegate.engine.stepper import (
    PIECE_ROWS,
    TILE_ROWS,
    Begun,
    Done,
    Memory,
    StepBatch,
    Stepper,
    StepResult,
    Ticket,
    TorchStepper,
    Work,
)
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

    @cached_property
    def _straight(self) -> bool:
        """Whether all of a step is C."""
        return self._inputs.linear is not None and self._cell.head is not None

    @cached_property
    def shared(self) -> bool:
        return self._straight and self._threads > 1

    @cached_property
    def by_address(self) -> bool:
        return self._straight and self._cell.small  # a large one steps too long for the caller's thread

    @cached_property
    def _crew(self) -> Crew | None:
        return crew_of(self._native, [self._space() for _ in range(self._threads)])

    def step_at(
        self, rows: int, slots: int, inputs: int, values: int, finite: int, memory: Memory
    ) -> tuple[int, float]:
        started = time.perf_counter()
        space = self._spaces.pop() if self._spaces else self._space()
        assert rows <= space.rows
        _point(space, memory, slots, inputs, values, finite)
        lost: int = self._native.tidegate_step(space.where, rows)
        self._spaces.append(space)
        seconds = time.perf_counter() - started
        self._pace.measured(rows, seconds)
        return lost, seconds

    def run(self, inputs: NDArray[np.float64], memory: Memory, slot: int) -> tuple[NDArray[np.float64], int]:
        inputs, where = np.ascontiguousarray(inputs), np.array([slot])
        values, finite = np.empty(self._outputs), np.ones(1, np.bool_)
        space = self._spaces.pop() if self._spaces else self._space()
        _point(space, memory, address(where), address(inputs), address(values), address(finite))
        taken: int = self._native.tidegate_history(space.where, len(inputs))
        self._spaces.append(space)
        return values, taken

    def launch(self, batch: StepBatch, memory: Memory) -> Ticket:
        if not self._straight:
            return super().launch(batch, memory)
        started = time.perf_counter()
        work = _Rows(batch, self._outputs)
        if self._parts(work.rows) > 1 and self._crew is not None:
            return self._post(work, self._crew, memory, NO_BELL)
        self._run(work, 0, work.rows, memory)
        return Done(work, started, self._pace)

    def post(self, batch: StepBatch, memory: Memory, bell: int) -> Ticket | None:
        if not self._straight or self._crew is None:
            return None
        return self._post(_Rows(batch, self._outputs), self._crew, memory, bell)

    def _post(self, work: _Rows, crew: Crew, memory: Memory, bell: int) -> Ticket:
        for space in crew.spaces:
            _point(space, memory, work.slots, work.raw, work.values, work.finite, work.fresh)
        crew.post(work.rows, min(-(-work.rows // self._parts(work.rows)), PIECE_ROWS), bell)
        return _Posted(work, crew, self._pace)

    def _begin(self, batch: StepBatch) -> Begun:
        if self._inputs.linear is not None:
            return _Rows(batch, self._outputs)
        work = super()._begin(batch)
        assert isinstance(work, Work)
        return _Derived(work)

    def _run(self, work: Begun, start: int, stop: int, memory: Memory) -> None:
        if not isinstance(work, _Rows) or self._cell.head is None:
            super()._run(work, start, stop, memory)
            return
        for low in range(start, stop, PIECE_ROWS):  # torch has no part in it
            self._piece(work, slice(low, min(low + PIECE_ROWS, stop)), memory)

    def _piece(self, work: Begun, rows: slice, memory: Memory) -> None:
        assert isinstance(work, _Rows | _Derived)
        space = self._spaces.pop() if self._spaces else self._space()
        start, now = rows.start, space.described
        assert (rows.stop - start) * self._channels <= space.rows  # C writes as many
        now.state = memory["state"].data_ptr()
        now.slots = work.slots + 8 * start
        now.fresh = None if work.fresh is None else work.fresh + start
        now.values = work.values + 8 * self._outputs * start
        now.finite = work.finite + start
        count = min(work.rows, rows.stop) - start
        try:
            if isinstance(work, _Rows):
                now.raw = work.raw + 8 * self._cell.width * start
                if self._scaled(count, rows.stop - start, space):
                    work.whole = False  # set, and not counted: other threads step other rows of it
            else:
                self._derived(work.work, rows, count, memory, space)
        finally:
            self._spaces.append(space)

    def _scaled(self, count: int, padded: int, space: Workspace) -> int:
        """Inputs and outputs in C too. Returns how many rows are not finite."""
        if self._cell.head is not None:
            lost: int = self._native.tidegate_step(space.where, count)
        else:
            outputs = self._cell(space, count, padded)
            lost = self._native.tidegate_finish(space.where, count, outputs.data_ptr(), outputs.shape[1])
        return lost

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
        rows = self.rows = len(batch)
        self.padded = -(-rows // TILE_ROWS) * TILE_ROWS
        self.whole = True
        room = np.empty(rows * (outputs + 1))
        self._values = room[: rows * outputs].reshape(rows, outputs)
        self._finite = room[rows * outputs :].view(np.bool_)[:rows]
        self._finite.fill(True)
        self.values = address(room)
        self.finite = self.values + 8 * rows * outputs
        self._batch = batch  # whose columns must outlive this
        if batch.lies is not None:
            self.slots, self.raw = batch.lies
            self.fresh = None
            return
        self.slots, self.raw = address(batch.slots), address(batch.inputs)
        self.fresh = address(batch.fresh) if batch.fresh.any() else None

    def result(self, seconds: float) -> StepResult:
        return StepResult(self._values, self._finite, seconds, self.values, whole=self.whole)


class _Derived:
    """The same of a batch that torch sees too."""

    def __init__(self, work: Work) -> None:
        self.work, self.rows, self.padded = work, work.rows, work.padded
        self.slots = work.slots.data_ptr()
        self.fresh = None if work.fresh is None else work.fresh.data_ptr()
        self.values, self.finite = work.values.data_ptr(), work.finite.data_ptr()

    def result(self, seconds: float) -> StepResult:
        return self.work.result(seconds)


class _Posted:
    """A step that a crew takes."""

    def __init__(self, work: _Rows, crew: Crew, pace: Pace) -> None:
        self._work, self._crew, self._pace = work, crew, pace

    def collect(self) -> StepResult:
        lost, seconds = self._crew.wait()
        self._pace.measured(self._work.rows, seconds)
        self._work.whole = not lost
        return self._work.result(seconds)


def _point(
    space: Workspace, memory: Memory, slots: int, raw: int, values: int, finite: int, fresh: int | None = None
) -> None:
    """Has a pass begin at these addresses."""
    now = space.described
    now.state, now.slots, now.fresh = memory["state"].data_ptr(), slots, fresh
    now.raw, now.values, now.finite = raw, values, finite
