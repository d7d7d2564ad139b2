"""The stepper of CUDA devices: batches of few sizes, columns that cross once each way, a CUDA graph for each size.

Everything from raw observations to raw predictions is one function of tensors, `_advance`, that never waits for the
device and takes nothing from the host, so that a graph can hold it. A row that pads a batch stands on the spare slot;
new states go beside the slab and are committed where the row is finite. `launch` returns when the work is in line:
two sets of buffers are used in turn, so that the next batch can come while this one is stepped.
Bit identity: Triton's kernels have one tile configuration, whatever the size. Those of torch may round by the size, and
where they do, all rows are stepped in pieces of one size. On CPU the same class runs without graphs: tests do that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tidegate.engine.memory.slots import SPARE_SLOT
from tidegate.engine.step.device_queue import DeviceQueue, Work, queue_of
from tidegate.engine.step.pace import Pace
from tidegate.engine.step.recordings import Recordings
from tidegate.engine.step.staging import BUCKETS, Field, buffer_bytes, columns, fill, pieces, places
from tidegate.engine.step.stepper import Memory, StepBatch, StepResult, Ticket
from tidegate.model.ages import Ages
from tidegate.model.calendar import Calendar
from tidegate.model.device_inputs import Clock, DeviceInputs
from tidegate.model.native_lstm import Workspace
from tidegate.model.package import Package
from tidegate.model.slot_kernel import SlotKernel

log = logging.getLogger(__name__)

SETS = 2  # of buffers for each size, used in turn


class CudaStepper:
    """Cell and head on CUDA (or, for tests, on CPU), by the kernel that is given. See `engine/step/cuda_choice.py`."""

    def __init__(
        self,
        package: Package,
        device: torch.device,
        kernel: SlotKernel,
        buckets: Sequence[int] = BUCKETS,
        queue: DeviceQueue | None = None,
    ) -> None:
        manifest = package.manifest
        self._device, self._kernel, self.buckets = device, kernel, buckets
        self._inputs = DeviceInputs(package, device)
        self._calendar, self._ages = Calendar(manifest), Ages(manifest)
        self._queue = queue or queue_of(device)
        self.recordings = Recordings(self._queue, manifest.name, kernel.capturable)
        self._sent = [
            Field("slots", "int64", padding=SPARE_SLOT),
            Field("seen", "int64"),
            Field("inputs", "float64", (len(manifest.features),)),
            Field("fresh", "bool"),
            *([Field("calendar", "float32", (manifest.calendar_width,))] if manifest.calendar_width else []),
            *([Field("identity", "int32")] if manifest.ids else []),
            *([Field("ages", "float32", (manifest.age_width,))] if manifest.ages else []),
        ]
        self._returned = [Field("values", "float64", (manifest.outputs,)), Field("finite", "bool")]
        self._stages: dict[tuple[int, int], _Stage] = {}  # by set and bucket
        self._turn = 0
        self.pace = Pace()

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

    def post(self, batch: StepBatch, memory: Memory, bell: int) -> Ticket | None:
        return None

    def launch(self, batch: StepBatch, memory: Memory) -> Ticket:
        started = time.perf_counter()
        cut = pieces(len(batch), self.buckets)
        try:
            parts = [self._launch(batch.take(slice(piece.start, piece.stop)), piece.bucket, memory) for piece in cut]
        except Exception:
            self._queue.settle()  # nobody writes to the slab after a launch that failed
            raise
        return _Landing(parts, len(batch), started, self.pace)

    def units(self, memory: Memory, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        with torch.inference_mode():
            found = self._inputs.units(memory, torch.from_numpy(slots).to(self._device))
            units: NDArray[np.float64] = found.cpu().numpy()
        return units

    def _launch(self, batch: StepBatch, bucket: int, memory: Memory) -> _Part:
        """Puts rows in line that fit a bucket."""
        self._turn = (self._turn + 1) % SETS
        stage = self._stage(self._turn, bucket)
        stage.free()
        fill(self._sent, bucket, stage.host_in.numpy(), self._columns(batch))
        key = self._turn, bucket, _addresses(memory)
        self._queue.bring(stage.host_in, stage.device_in)
        self._queue.run(lambda: self.recordings.run(key, lambda: self._advance(stage.sent, stage.returned, memory)))
        landed = self._queue.land(stage.device_out, stage.host_out)
        stage.part = _Part(landed, columns(self._returned, bucket, stage.host_out.numpy()), len(batch))
        return stage.part

    def _columns(self, batch: StepBatch) -> dict[str, NDArray[np.generic]]:
        """What is sent of a batch."""
        sent: dict[str, NDArray[np.generic]] = {
            name: getattr(batch, name) for name in ("slots", "seen", "inputs", "fresh", "identity")
        }
        if self._calendar.width:
            sent["calendar"] = self._calendar.columns(batch.time, batch.seen + 1)
        if self._ages.width:
            sent["ages"] = self._ages.columns(batch.ages, len(batch))
        return sent

    def _advance(self, sent: Mapping[str, Tensor], returned: Mapping[str, Tensor], memory: Memory) -> None:
        """The step of one bucket: reads the columns that were sent, and the sessions'; writes both."""
        with torch.inference_mode():
            slots, inputs = sent["slots"], self._inputs
            clock = Clock(sent["seen"], sent.get("calendar"), sent.get("identity"), sent.get("ages"))
            observed = inputs.observe(sent["inputs"], clock, memory, slots)
            after, outputs = self._kernel.step(observed.x, memory["state"], slots, sent["fresh"])
            values = inputs.restore(outputs, observed.base, observed.unit)
            checked = [observed.x.view(len(slots), -1), values.float()]  # predictions travel as float32
            checked += [] if observed.scale is None else [observed.scale.flatten(1)]
            finite = torch.stack([torch.isfinite(tensor).all(1) for tensor in checked]).all(0)
            finite = self._kernel.commit(after, memory["state"], slots, finite)
            inputs.remember(observed, outputs, clock.seen, memory, torch.where(finite, slots, SPARE_SLOT))
            for name in inputs.remembered:
                memory[name][SPARE_SLOT] = 0  # rows that pad read it, and had better be finite
            returned["values"].copy_(values)
            returned["finite"].copy_(finite)

    def _stage(self, turn: int, bucket: int) -> _Stage:
        if (turn, bucket) not in self._stages:
            sent = self._queue.buffers(buffer_bytes(self._sent, bucket))
            returned = self._queue.buffers(buffer_bytes(self._returned, bucket))
            views = _views(self._sent, bucket, sent[1]), _views(self._returned, bucket, returned[1])
            self._stages[turn, bucket] = _Stage(*sent, *returned, *views)
        return self._stages[turn, bucket]


@dataclass
class _Part:
    """Rows on their way: `wait` returns when `columns`, which have room for more rows, hold their results."""

    wait: Work
    columns: Mapping[str, NDArray[np.generic]]
    rows: int
    values: NDArray[np.float64] | None = None
    finite: NDArray[np.bool_] | None = None

    def collect(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Waits, the first time, and takes the results out of the buffer."""
        if self.values is None or self.finite is None:
            self.wait()
            self.values = np.array(self.columns["values"][: self.rows], np.float64)
            self.finite = np.array(self.columns["finite"][: self.rows], np.bool_)
        return self.values, self.finite


@dataclass
class _Stage:
    """The buffers of one set and bucket, and their columns on the device. Their addresses never move."""

    host_in: Tensor
    device_in: Tensor
    host_out: Tensor
    device_out: Tensor
    sent: dict[str, Tensor]
    returned: dict[str, Tensor]
    part: _Part | None = field(default=None)

    def free(self) -> None:
        """Returns when the buffers may be written: their last results are there, and taken out."""
        if self.part is not None:
            self.part.collect()
            self.part = None


class _Landing:
    """A batch on its way."""

    def __init__(self, parts: list[_Part], rows: int, started: float, pace: Pace) -> None:
        self._parts, self._rows, self._started, self._pace = parts, rows, started, pace

    def collect(self) -> StepResult:
        collected = [part.collect() for part in self._parts]
        seconds = time.perf_counter() - self._started
        self._pace.measured(self._rows, seconds)
        values, finite = zip(*collected, strict=True)
        if len(collected) == 1:
            return StepResult(values[0], finite[0], seconds)
        return StepResult(np.concatenate(values), np.concatenate(finite), seconds)


def _views(fields: Sequence[Field], bucket: int, buffer: Tensor) -> dict[str, Tensor]:
    """The columns of a buffer on the device."""
    views = {}
    for entry, (start, stop) in zip(fields, places(fields, bucket).values(), strict=True):
        dtype = getattr(torch, entry.dtype)
        views[entry.name] = buffer[start:stop].view(dtype).view(bucket, *entry.shape)
    return views


def _addresses(memory: Memory) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    """Where the sessions' columns are: all that a step depends on beside its own buffers."""
    return tuple((name, column.data_ptr(), tuple(column.shape)) for name, column in memory.items())
