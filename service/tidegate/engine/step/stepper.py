"""The stepper: derives inputs, gathers the slots' states, runs cell and head on padded tiles, commits what is finite.

Bit identity (a row's result depends on nothing but the row) is made here: rows are padded to whole tiles of 32, work is
split between threads only at whole tiles, and torch itself runs each tile on one thread, because its own splits cut
vectors at ragged places. Padding rows use the spare slot. A row whose state or output is not finite is written to the
spare slot instead of its own. CUDA devices have a stepper of their own, `engine/step/cuda.py`.
Everything between the host's raw observations and raw predictions happens on the device.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tidegate.engine.memory.columns import session_schema
from tidegate.engine.memory.slots import SPARE_SLOT
from tidegate.engine.step.device import use_one_thread
from tidegate.engine.step.pace import Pace
from tidegate.model.ages import Ages
from tidegate.model.calendar import Calendar
from tidegate.model.device_inputs import Clock, DeviceInputs
from tidegate.model.frequency import NO_TIME
from tidegate.model.kernels import StepKernel, build_kernel
from tidegate.model.native_lstm import Workspace
from tidegate.model.package import Package

log = logging.getLogger(__name__)

TILE_ROWS = 32
PIECE_ROWS = 256  # rows of one pass through the kernel: the tiles stay in a core's cache
THREAD_SECONDS_MIN = 5e-4  # work below this is not worth a second thread

Memory = Mapping[str, torch.Tensor]


@dataclass
class StepBatch:
    """n rows of n different sessions: slots int64 [n]; inputs float64 [n, features] raw and complete (no NaN); fresh
    bool [n]: start from zero state; seen int64 [n]: steps that the state has seen (0 where fresh); time int64 [n]: of
    the observation, ns since 1970 UTC or NO_TIME; identity int32 [n]: which of the package's ids, from 1, 0 for none;
    ages uint16 [n, targets]: for how many steps now each has not been observed, None where all were.
    """

    slots: NDArray[np.int64]
    inputs: NDArray[np.float64]
    fresh: NDArray[np.bool_]
    seen: NDArray[np.int64]
    time: NDArray[np.int64]
    identity: NDArray[np.int32]
    ages: NDArray[np.uint16] | None = None
    lies: tuple[int, int] | None = None  # where slots and inputs lie, if that is known, and that no row is fresh

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, rows: NDArray[np.int64] | slice) -> StepBatch:
        """Some of its rows."""
        return StepBatch(
            slots=self.slots[rows],
            inputs=self.inputs[rows],
            fresh=self.fresh[rows],
            seen=self.seen[rows],
            time=self.time[rows],
            identity=self.identity[rows],
            ages=None if self.ages is None else self.ages[rows],
        )


@dataclass
class StepResult:
    """values float64 [n, outputs] raw; finite bool [n]: False rows were not committed. `seconds` is what it took."""

    values: NDArray[np.float64]
    finite: NDArray[np.bool_]
    seconds: float
    lies: int = 0  # where the values lie, if that is known
    whole: bool = False  # all rows are finite; else who wants to know looks


class Ticket(Protocol):
    """A step under way."""

    def collect(self) -> StepResult:
        """Waits for the step and returns its result."""
        ...


class Begun(Protocol):
    """A batch that is being stepped: how many rows, and where the results will be."""

    rows: int

    def result(self, seconds: float) -> StepResult:
        """On CPU: what came out, after so many seconds."""
        ...


class Stepper(Protocol):
    """The seam for kernels: torch now, others later; all are judged by the float64 reference."""

    pace: Pace  # what its steps have taken so far

    def expected_seconds(self, rows: int) -> float:
        """What a step of so many rows will probably take."""
        ...

    def launch(self, batch: StepBatch, memory: Memory) -> Ticket:
        """Starts a step; `memory` are the device columns, [slots, …] each, changed where rows are finite."""
        ...

    def post(self, batch: StepBatch, memory: Memory, bell: int) -> Ticket | None:
        """Has threads of its own take a step, none other being under way: they write to the eventfd `bell` when it is
        done. None where it has no such threads, and nothing has happened."""
        ...

    @property
    def shared(self) -> bool:
        """Whether several threads of its own take a step that is posted."""
        ...

    @property
    def by_address(self) -> bool:
        """Whether `workspace` and `run` can be called."""
        ...

    def run(self, inputs: NDArray[np.float64], memory: Memory, slot: int) -> tuple[NDArray[np.float64], int]:
        """Steps one session, which is not fresh, by inputs [T, features], bit by bit as T launches. Returns the last
        values [outputs], and how many steps were taken: those before the first that is not finite."""
        ...

    def workspace(self) -> Workspace:
        """Room for steps that the caller takes itself, by the C parts."""
        ...

    def units(self, memory: Memory, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """How large one training unit of each target is, as of the sessions' last step: [n or 1, targets]."""
        ...


class TorchStepper:
    """Cell and head on CPU. A step is done when `launch` returns."""

    def __init__(self, package: Package, device: str, threads: int = 1) -> None:
        self._device = torch.device(device)
        self._package = package
        self._inputs = DeviceInputs(package, self._device)
        self._calendar, self._ages = Calendar(package.manifest), Ages(package.manifest)
        self._identified = bool(package.manifest.ids)
        self._channels, self._outputs = package.manifest.channels, package.manifest.outputs
        self._threads = threads if device == "cpu" else 1
        more = self._threads - 1
        # Libraries below torch have a setting for each thread; a new one begins with all cores.
        self._pool = ThreadPoolExecutor(more, "tidegate-step", initializer=use_one_thread) if more else None
        self._piece_rows = max(TILE_ROWS, PIECE_ROWS // self._channels // TILE_ROWS * TILE_ROWS)
        self.pace = Pace()
        self._try_out(package)

    @cached_property
    def _kernel(self) -> StepKernel:
        """Made when a step is tried out, and not at all by those whose steps are not torch's."""
        return build_kernel(self._package, self._device)

    @property
    def shared(self) -> bool:
        return False

    @property
    def by_address(self) -> bool:
        return False

    def run(self, inputs: NDArray[np.float64], memory: Memory, slot: int) -> tuple[NDArray[np.float64], int]:
        raise NotImplementedError

    def workspace(self) -> Workspace:
        raise NotImplementedError

    def expected_seconds(self, rows: int) -> float:
        return self.pace.expected(rows)

    def launch(self, batch: StepBatch, memory: Memory) -> Ticket:
        started = time.perf_counter()
        work = self._begin(batch)
        bounds = self._split(work.padded)
        if len(bounds) == 2:
            self._run(work, 0, work.padded, memory)
        else:
            assert self._pool is not None
            parts = [self._pool.submit(self._run, work, *part, memory) for part in pairwise(bounds[1:])]
            try:
                self._run(work, bounds[0], bounds[1], memory)
            finally:
                wait(parts)  # nobody writes to the slab after a launch, whether it succeeded or not
            for part in parts:
                part.result()
        return Done(work, time.perf_counter() - started, self.pace)

    def post(self, batch: StepBatch, memory: Memory, bell: int) -> Ticket | None:
        return None

    def units(self, memory: Memory, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        with torch.inference_mode():
            units: NDArray[np.float64] = (
                self._inputs.units(memory, torch.from_numpy(slots).to(self._device)).cpu().numpy()
            )
        return units

    def _begin(self, batch: StepBatch) -> Work:
        return Work(batch, self._calendar, self._ages, self._identified, self._outputs, self._device)

    def _split(self, padded: int) -> list[int]:
        """Row bounds of each thread's part: whole tiles."""
        tiles = padded // TILE_ROWS
        parts = min(self._parts(padded), tiles)
        return [tiles * part // parts * TILE_ROWS for part in range(parts + 1)]

    def _parts(self, rows: int) -> int:
        """Threads that are worth it."""
        return min(self._threads, int(self.expected_seconds(rows) / THREAD_SECONDS_MIN) + 1)

    def _run(self, work: Work, start: int, stop: int, memory: Memory) -> None:
        """Steps rows [start, stop), piece by piece."""
        with torch.inference_mode():
            for low in range(start, stop, self._piece_rows):
                self._piece(work, slice(low, min(low + self._piece_rows, stop)), memory)

    def _piece(self, work: Work, rows: slice, memory: Memory) -> None:
        slots, clock = work.slots[rows], work.clock(rows)
        before = memory["state"].index_select(0, slots)
        if work.fresh is not None:
            before.masked_fill_(work.fresh[rows, None], 0.0)
        observed = self._inputs.observe(work.inputs[rows], clock, memory, slots)
        after = torch.empty_like(before)
        width = before.shape[1] // self._channels
        outputs = self._kernel(observed.x, before.view(-1, width), after.view(-1, width)).reshape(len(slots), -1)
        raw = self._inputs.restore(outputs, observed.base, observed.unit)
        work.values[rows] = raw
        real = work.count(rows)
        x = observed.x.view(len(slots), -1)  # an observation beyond float32 is infinite here
        checked = [x, after, raw.float()]  # predictions travel as float32
        checked += [] if observed.scale is None else [observed.scale.flatten(1)]
        finite = self._all_finite(*checked)
        if not finite:
            rowwise = torch.stack([torch.isfinite(tensor).all(1) for tensor in checked]).all(0)
            work.finite[rows] = rowwise
            slots = torch.where(rowwise, slots, SPARE_SLOT)
        memory["state"].index_copy_(0, slots[:real], after[:real])
        self._inputs.remember(observed, outputs, clock.seen, memory, slots[:real])
        if not finite:
            for column in memory.values():
                column[SPARE_SLOT] = 0  # padding rows read it, and had better be finite

    def _all_finite(self, *tensors: torch.Tensor) -> bool:
        """Whether there is no need to look at each row."""
        return math.isfinite(sum(float(tensor.sum()) for tensor in tensors))

    def _try_out(self, package: Package) -> None:
        """Steps rows of no session: measures a step, and makes sure that a row's bits do not depend on its batch.

        Where they do (a matrix library that rounds by the number of rows), work goes by single tiles.
        """
        random = np.random.default_rng(0)
        normal = torch.from_numpy(random.standard_normal((PIECE_ROWS, len(package.manifest.features))))
        inputs = self._inputs.typical(normal).cpu().numpy()
        memory = memory_of_nobody(package, PIECE_ROWS, random, self._device)
        results = []
        sizes = range(TILE_ROWS, PIECE_ROWS + 1, TILE_ROWS)
        for order in (random.permutation(PIECE_ROWS), *(np.arange(size) for size in sizes)):
            batch = batch_of_nobody(package, order, inputs)
            values, after = np.empty((PIECE_ROWS, self._outputs)), {name: part.clone() for name, part in memory.items()}
            values[order] = self.launch(batch, after).collect().values
            moved = (part[1 : TILE_ROWS + 1].cpu().numpy().tobytes() for part in after.values())
            results.append(b"".join((values[:TILE_ROWS].tobytes(), *moved)))
        self.pace = Pace()  # what was measured so far includes the library's own start
        self.launch(batch, memory).collect()
        if len(set(results)) > 1:
            log.warning("%s: matrix products round by batch size here; stepping tile by tile", package.manifest.name)
            self._piece_rows = TILE_ROWS


def batch_of_nobody(package: Package, order: NDArray[np.int64], inputs: NDArray[np.float64]) -> StepBatch:
    """A batch of the rows `order` of inputs and of `memory_of_nobody`: to try out a step."""
    rows = len(order)
    return StepBatch(
        slots=order + 1,
        inputs=inputs[order],
        fresh=np.zeros(rows, bool),
        seen=np.full(rows, 2 * package.manifest.lag_steps_max),
        time=np.full(rows, NO_TIME),
        identity=np.zeros(rows, np.int32),
    )


def memory_of_nobody(
    package: Package, rows: int, random: np.random.Generator, device: torch.device
) -> dict[str, torch.Tensor]:
    """Device columns as sessions might have them, [rows + 1, …] each."""
    columns = [column for column in session_schema(package).device if not column.past_of]
    values = (random.uniform(-1, 1, (rows + 1, *column.shape)).astype(column.dtype) for column in columns)
    memory = {column.name: torch.from_numpy(value) for column, value in zip(columns, values, strict=True)}
    if "scale" in memory:
        memory["scale"][:, 1].abs_()  # a variance
    return {name: value.to(device) for name, value in memory.items()}


class Work:
    """A batch on the device, padded to whole tiles with rows of the spare slot, and room for its results."""

    def __init__(
        self,
        batch: StepBatch,
        calendar: Calendar,
        ages: Ages,
        identified: bool,
        outputs: int,
        device: torch.device,
    ) -> None:
        self.rows = len(batch)
        self.padded = -(-self.rows // TILE_ROWS) * TILE_ROWS
        self._device = device
        self.slots = self._put(batch.slots, SPARE_SLOT)
        self.inputs = self._put(batch.inputs, 0.0)
        self.fresh = self._put(batch.fresh, False) if batch.fresh.any() else None
        self._seen = self._put(batch.seen, 0)
        self._calendar = self._put(calendar.columns(batch.time, batch.seen + 1), 0.0) if calendar.width else None
        self._identity = self._put(batch.identity, 0) if identified else None
        self._ages = self._put(ages.columns(batch.ages, self.rows), 0.0) if ages.width else None
        self.values = torch.empty((self.padded, outputs), dtype=torch.float64, device=device)
        self.finite = torch.ones(self.padded, dtype=torch.bool, device=device)

    def clock(self, rows: slice) -> Clock:
        """What the derived inputs need to know of some rows."""
        known = (self._calendar, self._identity, self._ages)
        return Clock(self._seen[rows], *(None if column is None else column[rows] for column in known))

    def count(self, rows: slice) -> int:
        """How many of these are no padding."""
        count: int = max(0, min(self.rows, rows.stop) - rows.start)
        return count

    def result(self, seconds: float) -> StepResult:
        """On CPU: what came out, after so many seconds."""
        return StepResult(self.values.numpy()[: self.rows], self.finite.numpy()[: self.rows], seconds)

    def _put(self, column: NDArray[np.generic], padding: float) -> torch.Tensor:
        if self.padded > self.rows:
            padded = np.full((self.padded, *column.shape[1:]), padding, column.dtype)
            padded[: self.rows] = column
            column = padded
        return torch.from_numpy(column).to(self._device, non_blocking=True)


class Done:
    """A step that finished inside `launch`, in so many seconds."""

    def __init__(self, work: Begun, seconds: float, pace: Pace) -> None:
        pace.measured(work.rows, seconds)
        self._result = work.result(seconds)

    def collect(self) -> StepResult:
        return self._result
