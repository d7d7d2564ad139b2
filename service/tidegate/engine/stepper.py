"""The stepper: gathers the slots' states, runs cell and head on padded tiles, commits what is finite.

Bit identity (a row's result depends on nothing but the row) is made here: rows are padded to whole tiles of 32, work is
split between threads only at whole tiles, and torch itself runs each tile on one thread, because its own splits cut
vectors at ragged places. Padding rows use the spare slot. A row whose state or output is not finite is written to the
spare slot instead of its own, so commit needs no second pass and no synchronisation on CUDA.
Everything between the host's float64 observations and float32 predictions happens on the device.
"""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tidegate.engine.pace import Pace
from tidegate.engine.slots import SPARE_SLOT
from tidegate.model.cells import Kernel
from tidegate.model.device_scaling import DeviceScaler
from tidegate.model.package import Package

log = logging.getLogger(__name__)

TILE_ROWS = 32
PIECE_ROWS = 256  # rows of one pass through the kernel: the tiles stay in a core's cache
THREAD_SECONDS_MIN = 5e-4  # work below this is not worth a second thread


@dataclass
class StepBatch:
    """n rows of n different sessions: slots int64 [n], inputs float64 [n, features] raw and complete (no NaN), fresh
    bool [n] (start from zero state), gaps int64 [n] (steps to bridge first, the model's own predictions fed back).

    A bridge starts from last_replies float32 [n, targets]; features that are not predicted hold last_inputs float64
    [n, features]. Where missing bool [n, features], its last prediction stands in for the observation's own target. The
    first two are raw, and all are read only where gaps is not 0.
    """

    slots: NDArray[np.int64]
    inputs: NDArray[np.float64]
    fresh: NDArray[np.bool_]
    gaps: NDArray[np.int64]
    last_inputs: NDArray[np.float64]
    last_replies: NDArray[np.float32]
    missing: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.slots)


@dataclass
class StepResult:
    """values float32 [n, targets] raw; finite bool [n]: False rows were not committed. `seconds` is what it took."""

    values: NDArray[np.float32]
    finite: NDArray[np.bool_]
    seconds: float


class Ticket(Protocol):
    """A step under way."""

    def collect(self) -> StepResult:
        """Waits for the step and returns its result."""
        ...


class Stepper(Protocol):
    """The seam for kernels: torch now, others later; all are judged by the float64 reference."""

    def expected_seconds(self, rows: int) -> float:
        """What a step of so many rows will probably take."""
        ...

    def launch(self, batch: StepBatch, state: torch.Tensor) -> Ticket:
        """Starts a step; `state` [slots, state_width] is changed where rows are finite."""
        ...


class TorchStepper:
    """Cell and head in torch, on CPU or CUDA. On CPU a step is done when `launch` returns."""

    def __init__(self, package: Package, device: str, threads: int = 1) -> None:
        self._device = torch.device(device)
        self._kernel = Kernel(package, self._device)
        self._scaler = DeviceScaler(package, self._device)
        self._targets = torch.from_numpy(package.target_indices).to(self._device)
        self._threads = threads if device == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads - 1, "tidegate-step") if self._threads > 1 else None
        self._piece_rows = PIECE_ROWS
        self._pace = Pace()
        self._try_out(package)

    def expected_seconds(self, rows: int) -> float:
        return self._pace.expected(rows)

    def launch(self, batch: StepBatch, state: torch.Tensor) -> Ticket:
        started = time.perf_counter()
        work = _Work(batch, self._device)
        bounds = self._split(work.padded)
        if len(bounds) == 2:
            self._run(work, 0, work.padded, state)
        else:
            assert self._pool is not None
            parts = [self._pool.submit(self._run, work, *part, state) for part in pairwise(bounds[1:])]
            try:
                self._run(work, bounds[0], bounds[1], state)
            finally:
                wait(parts)  # nobody writes to the slab after a launch, whether it succeeded or not
            for part in parts:
                part.result()
        if self._device.type == "cuda":
            return _OnDevice(work, started, self)
        return _Done(work, started, self)

    def measured(self, work: _Work, seconds: float) -> None:
        """Learns what a step of so many rows takes; bridged steps are none of its usual cost."""
        if work.gaps is None:
            self._pace.measured(work.rows, seconds)

    def _split(self, padded: int) -> list[int]:
        """Row bounds of each thread's part: whole tiles."""
        wanted = int(self.expected_seconds(padded) / THREAD_SECONDS_MIN) + 1
        parts = min(self._threads, wanted, padded // TILE_ROWS)
        tiles = padded // TILE_ROWS
        return [tiles * part // parts * TILE_ROWS for part in range(parts + 1)]

    def _run(self, work: _Work, start: int, stop: int, state: torch.Tensor) -> None:
        """Steps rows [start, stop), piece by piece."""
        with torch.inference_mode():
            for low in range(start, stop, self._piece_rows):
                self._piece(work, slice(low, min(low + self._piece_rows, stop)), state)

    def _piece(self, work: _Work, rows: slice, state: torch.Tensor) -> None:
        slots = work.slots[rows]
        before, inputs = state.index_select(0, slots), work.inputs[rows]
        if work.fresh is not None:
            before.masked_fill_(work.fresh[rows, None], 0.0)
        if work.gaps is not None:
            before, inputs = self._bridge(work, rows, before, inputs)
        after = torch.empty_like(before)
        scaled = self._scaler.scale(inputs)  # an observation beyond float32 is infinite here
        raw = self._scaler.unscale(self._kernel(scaled, before, after))
        work.values[rows] = raw
        real = max(0, min(work.rows, rows.stop) - rows.start)
        if not self._all_finite(scaled, after, raw):
            finite = torch.stack([torch.isfinite(tensor).all(1) for tensor in (scaled, after, raw)]).all(0)
            work.finite[rows] = finite
            slots = torch.where(finite, slots, SPARE_SLOT)
        state.index_copy_(0, slots[:real], after[:real])

    def _all_finite(self, *tensors: torch.Tensor) -> bool:
        """Whether there is no need to look at each row. On CUDA the answer would cost a synchronisation: not asked."""
        return self._device.type == "cpu" and math.isfinite(sum(float(tensor.sum()) for tensor in tensors))

    def _try_out(self, package: Package) -> None:
        """Steps rows of no session: measures a step, and makes sure that a row's bits do not depend on its batch.

        Where they do (a matrix library that rounds by the number of rows), work goes by single tiles.
        """
        features, targets = len(package.manifest.features), len(package.manifest.targets)
        random = np.random.default_rng(0)
        inputs = self._scaler.typical(torch.from_numpy(random.standard_normal((PIECE_ROWS, features)))).cpu().numpy()
        state = torch.from_numpy(random.uniform(-1, 1, (PIECE_ROWS, package.state_width)).astype(np.float32))
        state = state.to(self._device)
        results = []
        sizes = range(TILE_ROWS, PIECE_ROWS + 1, TILE_ROWS)
        for order in (random.permutation(PIECE_ROWS), *(np.arange(size) for size in sizes)):
            batch = StepBatch(
                slots=order,
                inputs=inputs[order],
                fresh=np.zeros(len(order), bool),
                gaps=np.zeros(len(order), np.int64),
                last_inputs=inputs[order],
                last_replies=np.zeros((len(order), targets), np.float32),
                missing=np.zeros((len(order), features), bool),
            )
            values, after = np.empty((PIECE_ROWS, targets), np.float32), state.clone()
            values[order] = self.launch(batch, after).collect().values
            results.append(values[:TILE_ROWS].tobytes() + after[:TILE_ROWS].cpu().numpy().tobytes())
        self._pace = Pace()  # what was measured so far includes the library's own start
        self.launch(batch, state.clone()).collect()
        if len(set(results)) > 1:
            log.warning("%s: matrix products round by batch size here; stepping tile by tile", package.manifest.name)
            self._piece_rows = TILE_ROWS

    def _bridge(
        self, work: _Work, rows: slice, state: torch.Tensor, inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The states after each row's missing steps, the model's predictions fed back as its observations; and the
        inputs of the step that follows."""
        assert work.gaps is not None
        gaps, fed, reply = work.gaps[rows, None], work.last_inputs[rows].clone(), work.last_replies[rows]
        for done in range(int(gaps.max())):
            fed.index_copy_(1, self._targets, reply.double())
            after = torch.empty_like(state)
            stepped = self._scaler.unscale(self._kernel(self._scaler.scale(fed), state, after))
            state = torch.where(gaps > done, after, state)
            reply = torch.where(gaps > done, stepped, reply)
        stands_in = work.missing[rows].index_select(1, self._targets) & (gaps > 0)
        targets = torch.where(stands_in, reply.double(), inputs.index_select(1, self._targets))
        return state, inputs.index_copy(1, self._targets, targets)


class _Work:
    """A batch on the device, padded to whole tiles with rows of the spare slot, and room for its results."""

    def __init__(self, batch: StepBatch, device: torch.device) -> None:
        self.rows = len(batch)
        self.padded = -(-self.rows // TILE_ROWS) * TILE_ROWS
        self._device = device
        self.slots = self._put(batch.slots, SPARE_SLOT)
        self.inputs = self._put(batch.inputs, 0.0)
        self.fresh = self._put(batch.fresh, False) if batch.fresh.any() else None
        self.gaps = None
        if batch.gaps.any():
            self.gaps = self._put(batch.gaps, 0)
            self.last_inputs = self._put(batch.last_inputs, 0.0)
            self.last_replies = self._put(batch.last_replies, 0.0)
            self.missing = self._put(batch.missing, False)
        self.values = torch.empty((self.padded, batch.last_replies.shape[1]), device=device)
        self.finite = torch.ones(self.padded, dtype=torch.bool, device=device)

    def _put(self, column: NDArray[np.generic], padding: float) -> torch.Tensor:
        if self.padded > self.rows:
            padded = np.full((self.padded, *column.shape[1:]), padding, column.dtype)
            padded[: self.rows] = column
            column = padded
        return torch.from_numpy(column).to(self._device, non_blocking=True)


class _Done:
    """A step that finished inside `launch`."""

    def __init__(self, work: _Work, started: float, stepper: TorchStepper) -> None:
        seconds = time.perf_counter() - started
        stepper.measured(work, seconds)
        self._result = StepResult(work.values.numpy()[: work.rows], work.finite.numpy()[: work.rows], seconds)

    def collect(self) -> StepResult:
        return self._result


class _OnDevice:
    """A CUDA step whose results are on their way to the host."""

    def __init__(self, work: _Work, started: float, stepper: TorchStepper) -> None:
        self._stepper = stepper
        self._values = work.values.to("cpu", non_blocking=True)
        self._finite = work.finite.to("cpu", non_blocking=True)
        self._work, self._started = work, started
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def collect(self) -> StepResult:
        self._event.synchronize()
        seconds = time.perf_counter() - self._started
        self._stepper.measured(self._work, seconds)
        rows = self._work.rows
        return StepResult(self._values.numpy()[:rows], self._finite.numpy()[:rows], seconds)
