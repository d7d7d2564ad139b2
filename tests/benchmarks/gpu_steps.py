"""Steps on a GPU, in this process: ours, the bare product of cuBLAS, and cuDNN's LSTM with gather and scatter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.messages import FEATURES
from tests.benchmarks.report import Finding
from tests.packages import random_package
from tidegate.engine.step.cuda import CudaStepper
from tidegate.engine.step.cuda_choice import build_cuda_stepper
from tidegate.engine.step.device import allow_tf32
from tidegate.engine.step.stepper import StepBatch, Ticket
from tidegate.model.frequency import NO_TIME
from tidegate.model.package import Package
from tidegate.model.slot_kernel import KernelChoice
from tidegate.model.triton_lstm import installed

BATCHES = 4  # of different sessions, in turn
SLICE_SECONDS = 0.05  # how long one thing is measured before the other gets its turn
WARM_CALLS = 24  # of each, before anything is measured: graphs are recorded in it
CALLS = 200  # of a small batch, one by one
Call = Callable[[], object]


def step(folder: Path, device: str, hidden: int, rows: int, runs: int) -> list[Finding]:
    """A step of many rows, in float32 and in TF32, each kernel of ours beside the product alone and cuDNN."""
    findings = []
    for tf32 in (False, True):
        allow_tf32(tf32)
        package = random_package(folder / str(tf32), hidden=hidden, features=FEATURES, targets=FEATURES)
        calls: dict[str, Call] = {"product": product(device, hidden, rows), "cudnn": cudnn(device, hidden, rows)}
        for kernel in kernels(device):
            ours = Ours(package, device, kernel, tf32, rows)
            calls[f"{kernel}, one by one"], calls[f"{kernel}, in line"] = ours.one_by_one, ours.in_line
        times = in_turn(calls, device, runs)
        findings += [compared(name, times, hidden, rows, tf32) for name in times if name not in ("product", "cudnn")]
    allow_tf32(False)
    return findings


def small(folder: Path, device: str, hidden: int, sizes: Sequence[int], runs: int) -> list[Finding]:
    """Microseconds of one small batch from the call to its results on the host, replayed from a graph on CUDA."""
    findings = []
    for kernel in kernels(device):
        package = random_package(folder / f"small-{kernel}", hidden=hidden, features=FEATURES, targets=FEATURES)
        for rows in sizes:
            ours = Ours(package, device, kernel, False, rows)
            repeat(ours.one_by_one, WARM_CALLS)
            taken = [[timed(ours.one_by_one) for _ in range(CALLS)] for _ in range(runs)]
            p99 = [1e6 * float(np.percentile(times, 99)) for times in taken]
            findings.append(
                Finding(
                    f"small-{kernel}-{rows}",
                    f"a batch of {rows}, hidden {hidden}, {kernel}, {len(ours.stepper.recordings)} graphs: median",
                    [1e6 * float(np.median(times)) for times in taken],
                    unit="us",
                    raw={"p99, us": p99},
                )
            )
    return findings


def kernels(device: str) -> list[KernelChoice]:
    """Those that can be measured: Triton's needs a GPU."""
    return ["torch", "triton"] if device == "cuda" and installed() else ["torch"]


class Ours:
    """Our stepper on batches of resident sessions, which take turns."""

    def __init__(self, package: Package, device: str, kernel: KernelChoice, tf32: bool, rows: int) -> None:
        random = np.random.default_rng(0)
        self.stepper: CudaStepper = build_cuda_stepper(package, device, kernel, tf32)
        self._memory = {"state": torch.zeros(BATCHES * rows + 1, package.state_width, device=device)}
        order = 1 + random.permutation(BATCHES * rows).reshape(BATCHES, rows)
        self._batches = [
            StepBatch(
                slots=slots,
                inputs=random.standard_normal((rows, FEATURES)),
                fresh=np.zeros(rows, bool),
                seen=np.ones(rows, np.int64),
                time=np.full(rows, NO_TIME),
                identity=np.zeros(rows, np.int32),
            )
            for slots in order
        ]
        self._turn = 0
        self._ahead: Ticket | None = None

    def one_by_one(self) -> None:
        """A step, from the host's columns to the host's results."""
        self._launch().collect()

    def in_line(self) -> None:
        """The same, but the next batch is put in line before this one's results are waited for."""
        before, self._ahead = self._ahead, self._launch()
        if before is not None:
            before.collect()

    def _launch(self) -> Ticket:
        self._turn = (self._turn + 1) % BATCHES
        return self.stepper.launch(self._batches[self._turn], self._memory)


def product(device: str, hidden: int, rows: int) -> Call:
    """cuBLAS: [x | h] times [W; U] with the bias, into a buffer, and nothing else."""
    width, columns = FEATURES + hidden, 4 * hidden
    bias, x, weight = (torch.randn(shape, device=device) for shape in ((columns,), (rows, width), (width, columns)))
    out = torch.empty(rows, columns, device=device)

    def call() -> None:
        with torch.inference_mode():
            torch.addmm(bias, x, weight, out=out)

    return call


def cudnn(device: str, hidden: int, rows: int) -> Call:
    """nn.LSTM and a linear head with slots, as one would write it: inputs from the host, results to it."""
    lstm = torch.nn.LSTM(FEATURES, hidden, device=device)
    head = torch.nn.Linear(hidden, FEATURES, device=device)
    h, c = (torch.zeros(1, BATCHES * rows, hidden, device=device) for _ in range(2))
    inputs = np.random.default_rng(0).standard_normal((rows, FEATURES)).astype(np.float32)
    order = np.random.default_rng(0).permutation(BATCHES * rows)[:rows]

    def call() -> None:
        with torch.inference_mode():
            slots, x = torch.from_numpy(order).to(device), torch.from_numpy(inputs).to(device)
            y, (new_h, new_c) = lstm(x[None], (h.index_select(1, slots), c.index_select(1, slots)))
            h.index_copy_(1, slots, new_h)
            c.index_copy_(1, slots, new_c)
            head(y[0]).cpu()

    return call


def in_turn(calls: dict[str, Call], device: str, runs: int) -> dict[str, list[float]]:
    """Seconds a call, one entry a run: slices of time, all of them in turn."""
    for call in calls.values():
        repeat(call, WARM_CALLS)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            taken[name].append(one_slice(call, device))
    return taken


def one_slice(call: Call, device: str) -> float:
    """Seconds that a call takes on average, over a slice of time, until the device has done them all."""
    settle(device)
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < SLICE_SECONDS or not calls:
        call()
        calls += 1
    settle(device)
    return (time.perf_counter() - began) / calls


def settle(device: str) -> None:
    """Waits for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def repeat(call: Call, times: int) -> None:
    for _ in range(times):
        call()


def compared(name: str, times: dict[str, list[float]], hidden: int, rows: int, tf32: bool) -> Finding:
    """One of ours over the bare product."""
    kind = "tf32" if tf32 else "fp32"
    raw = {f"{label}, us": [1e6 * seconds for seconds in times[label]] for label in (name, "product", "cudnn")}
    raw["over cuDNN's, times"] = [ours / theirs for ours, theirs in zip(times[name], times["cudnn"], strict=True)]
    return Finding(
        f"step-{kind}-{name.replace(', ', '-').replace(' ', '-')}",
        f"time of a step of {rows} rows, hidden {hidden}, {kind}, {name}, over the product alone",
        [ours / bare for ours, bare in zip(times[name], times["product"], strict=True)],
        raw=raw,
    )
