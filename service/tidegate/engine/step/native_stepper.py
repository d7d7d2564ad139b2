"""The stepper on CPU where the C parts are: `TorchStepper` with other pieces. See `model/native_lstm.py`.

A step is C from end to end: what the cell sees, the cell, the head, and what sessions remember.
"""

from __future__ import annotations

import time
from ctypes import CDLL
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.step.crew import NO_BELL, Crew, crew_of
from tidegate.engine.step.cuda_choice import build_cuda_stepper
from tidegate.engine.step.pace import Pace
from tidegate.engine.step.stepper import (
    PIECE_ROWS,
    TILE_ROWS,
    Done,
    Memory,
    StepBatch,
    Stepper,
    StepResult,
    Ticket,
    TorchStepper,
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
        self._cell = NativeLstm(package)
        self._spaces: list[Workspace] = []  # those that no thread uses now
        super().__init__(package, "cpu", threads)

    @cached_property
    def shared(self) -> bool:
        return self._threads > 1

    @cached_property
    def by_address(self) -> bool:
        """Of those that need no clock and no memory. A large one steps too long for the caller's thread."""
        return self._cell.inputs.alone and self._cell.small and self._channels == 1

    @cached_property
    def _crew(self) -> Crew | None:
        return crew_of(self._native, [self.workspace() for _ in range(self._threads)])

    def workspace(self) -> Workspace:
        """For the largest piece."""
        return Workspace(self._cell, max(TILE_ROWS, PIECE_ROWS // self._channels))

    def run(self, inputs: NDArray[np.float64], memory: Memory, slot: int) -> tuple[NDArray[np.float64], int]:
        inputs, where = np.ascontiguousarray(inputs), np.array([slot])
        values, finite = np.empty(self._outputs), np.ones(1, np.bool_)
        space = self._free_space()
        space.point(memory, address(where), address(inputs), address(values), address(finite))
        taken: int = self._native.tidegate_history(space.where, len(inputs))
        self._spaces.append(space)
        return values, taken

    def launch(self, batch: StepBatch, memory: Memory) -> Ticket:
        started = time.thread_time()  # of this one: the event loop may have the core meanwhile
        work = self._rows(batch)
        if self._parts(work.rows) > 1 and self._crew is not None:
            return self._post(work, self._crew, memory, NO_BELL)
        space = self._free_space()
        work.point(space, memory)
        work.whole = not self._native.tidegate_step(space.where, work.rows)
        self._spaces.append(space)
        return Done(work, time.thread_time() - started, self.pace)

    def post(self, batch: StepBatch, memory: Memory, bell: int) -> Ticket | None:
        if self._crew is None:
            return None
        return self._post(self._rows(batch), self._crew, memory, bell)

    def _post(self, work: _Rows, crew: Crew, memory: Memory, bell: int) -> Ticket:
        for space in crew.spaces:
            work.point(space, memory)
        crew.post(work.rows, min(-(-work.rows // self._parts(work.rows)), crew.spaces[0].sessions), bell)
        return _Posted(work, crew, self.pace)

    def _rows(self, batch: StepBatch) -> _Rows:
        calendar = self._calendar.columns(batch.time, batch.seen + 1) if self._calendar.width else None
        ages = self._ages.columns(batch.ages, len(batch)) if self._ages.width else None
        return _Rows(batch, self._outputs, calendar, ages, clocked=not self._cell.inputs.alone)

    def _free_space(self) -> Workspace:
        try:
            return self._spaces.pop()
        except IndexError:  # asked first, another thread might take the last one between
            return self.workspace()


class _Rows:
    """A batch as the addresses of its columns, and room for its results. calendar and ages float32 [n, columns] are
    derived on the host; None where the package does not ask for them."""

    def __init__(
        self,
        batch: StepBatch,
        outputs: int,
        calendar: NDArray[np.float32] | None,
        ages: NDArray[np.float32] | None,
        clocked: bool,
    ) -> None:
        rows = self.rows = len(batch)
        self.whole = True
        room = np.empty(rows * (outputs + 1))
        self._values = room[: rows * outputs].reshape(rows, outputs)
        self._finite = room[rows * outputs :].view(np.bool_)[:rows]
        self.values = address(room)
        self.finite = self.values + 8 * rows * outputs
        self._kept: list[object] = [batch, calendar, ages]  # columns that must outlive this
        self.calendar = 0 if calendar is None else address(calendar)
        self.ages = 0 if ages is None else address(ages)
        self.seen = self._lies(batch.seen) if clocked else 0
        self.identity = self._lies(batch.identity) if clocked else 0
        self.fresh = 0
        if batch.lies is not None:
            self.slots, self.raw = batch.lies
            return
        self.slots, self.raw = self._lies(batch.slots), self._lies(batch.inputs)
        if batch.fresh.any():
            self.fresh = self._lies(batch.fresh)

    def _lies(self, column: NDArray[np.generic]) -> int:
        if not column.flags.c_contiguous:
            column = np.ascontiguousarray(column)
            self._kept.append(column)
        return address(column)

    def point(self, space: Workspace, memory: Memory) -> None:
        """Has a pass begin here."""
        now = space.described
        space.point(memory, self.slots, self.raw, self.values, self.finite, self.fresh)
        now.seen, now.id, now.calendar, now.ages = self.seen, self.identity, self.calendar, self.ages

    def result(self, seconds: float) -> StepResult:
        return StepResult(self._values, self._finite, seconds, self.values, whole=self.whole)


class _Posted:
    """A step that a crew takes."""

    def __init__(self, work: _Rows, crew: Crew, pace: Pace) -> None:
        self._work, self._crew, self._pace = work, crew, pace

    def collect(self) -> StepResult:
        lost, seconds = self._crew.wait()
        self._pace.measured(self._work.rows, seconds)
        self._work.whole = not lost
        return self._work.result(seconds)
