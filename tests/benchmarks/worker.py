"""Measures in process, alone on its core: `python -m tests.benchmarks.worker slots ROWS | step HIDDEN LAYERS ROWS`.

Reads a number of seconds from standard input, measures for so long, writes one line of JSON, and so on.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.messages import FEATURES
from tests.benchmarks.peers.lstm_slots import Slots
from tests.packages import random_package
from tidegate.engine.native_stepper import build_stepper
from tidegate.engine.stepper import StepBatch
from tidegate.model.frequency import NO_TIME
from tidegate.model.package import Package

SESSIONS = 4096  # resident in the slab; batches take them in turn, in random order
SLICE_SECONDS = 0.02  # how long one thing is measured before the other gets its turn
Measure = Callable[[float], dict[str, float]]


def slots(rows: int) -> Measure:
    """The peers' nn.LSTM with slots: predictions a second of batches of the same sessions."""
    model, sessions = Slots(), list(range(rows))
    x = np.random.default_rng(0).standard_normal((rows, FEATURES)).astype(np.float32)

    def measure(seconds: float) -> dict[str, float]:
        batches, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds:
            model.step(sessions, x)
            batches += 1
        return {"predictions_per_second": batches * rows / taken}

    return measure


def step(hidden: int, layers: int, rows: int) -> Measure:
    """Our step, with gather and scatter, and the bare products of its layers: microseconds each, taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        package = random_package(Path(folder), hidden=hidden, layers=layers, features=FEATURES, targets=FEATURES)
    ours, product = our_step(package, rows), bare_products(hidden, layers, rows)

    def measure(seconds: float) -> dict[str, float]:
        ours(), product()
        taken: dict[str, list[float]] = {"step": [], "product": []}
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            taken["step"].append(one_slice(ours))
            taken["product"].append(one_slice(product))
        return {name: 1e6 * statistics.median(times) for name, times in taken.items()}

    return measure


def one_slice(call: Callable[[], object]) -> float:
    """Seconds that a call takes on average, over a slice of time: this thread's, so that others' turns do not count."""
    calls, began = 0, time.thread_time()
    while (taken := time.thread_time() - began) < SLICE_SECONDS or not calls:
        call()
        calls += 1
    return taken / calls


def our_step(package: Package, rows: int) -> Callable[[], object]:
    """Our stepper on batches of `rows` of the resident sessions."""
    random = np.random.default_rng(0)
    stepper = build_stepper(package, "cpu", threads=1)
    memory = {"state": torch.zeros(SESSIONS + 1, package.state_width)}
    order = 1 + random.permutation(SESSIONS).reshape(-1, rows).astype(np.int64)
    batches = [
        StepBatch(
            slots=slots_of_batch,
            inputs=random.standard_normal((rows, FEATURES)),
            fresh=np.zeros(rows, bool),
            seen=np.ones(rows, np.int64),
            time=np.full(rows, NO_TIME),
            identity=np.zeros(rows, np.int32),
        )
        for slots_of_batch in order
    ]
    turn = 0

    def call() -> object:
        nonlocal turn
        turn = (turn + 1) % len(batches)
        return stepper.launch(batches[turn], memory).collect()

    return call


def bare_products(hidden: int, layers: int, rows: int) -> Callable[[], object]:
    """torch.addmm of [x | h] and [W; U] with the bias, layer after layer, and nothing else."""
    products = []
    for layer in range(layers):
        width = (hidden if layer else FEATURES) + hidden
        x, weight, bias = torch.randn(rows, width), torch.randn(width, 4 * hidden), torch.randn(4 * hidden)
        products.append((bias, x, weight, torch.empty(rows, 4 * hidden)))

    def call() -> None:
        with torch.inference_mode():
            for bias, x, weight, out in products:
                torch.addmm(bias, x, weight, out=out)

    return call


def main(kind: str, *sizes: str) -> None:
    """Answers each line of standard input."""
    torch.set_num_threads(1)
    makers: dict[str, Callable[..., Measure]] = {"slots": slots, "step": step}
    measure = makers[kind](*map(int, sizes))
    measure(0.2)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(float(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
