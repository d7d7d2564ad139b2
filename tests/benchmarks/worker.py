"""Measures in process, alone on its core: `python -m tests.benchmarks.worker slots|product|ort|derived HIDDEN LAYERS`.

Reads a number of rows and one of seconds from standard input, measures for so long, writes one line of JSON, and so on.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from tests.benchmarks.messages import FEATURES
from tests.benchmarks.peers.lstm_slots import Slots
from tests.benchmarks.steppers import Call, OrtStep, bare_products, derived_step, our_step

SLICE_SECONDS = 0.02  # how long one thing is measured before the other gets its turn
WARM_SECONDS = 0.2  # before the first time with so many rows
Measure = Callable[[int, float], dict[str, float]]


def slots(hidden: int, layers: int) -> Measure:
    """The peers' nn.LSTM with slots: predictions a second of batches of the same sessions."""
    model = Slots()
    assert (model.hidden, model.layers) == (hidden, layers)

    def measure(rows: int, seconds: float) -> dict[str, float]:
        sessions = list(range(rows))
        x = np.random.default_rng(0).standard_normal((rows, FEATURES)).astype(np.float32)
        batches, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds or not batches:
            model.step(sessions, x)
            batches += 1
        return {"predictions_per_second": batches * rows / taken}

    return measure


def step_against(
    reference: Callable[[int, int, int], Call], step: Callable[[int, int, int], Call] = our_step
) -> Callable[[int, int], Measure]:
    """Our step and a reference's: microseconds each, taken in turn."""

    def sized(hidden: int, layers: int) -> Measure:
        @cache
        def both(rows: int) -> dict[str, Call]:
            return {"step": step(hidden, layers, rows), "reference": reference(hidden, layers, rows)}

        def measure(rows: int, seconds: float) -> dict[str, float]:
            taken: dict[str, list[float]] = {name: [] for name in both(rows)}
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or not taken["step"]:
                for name, call in both(rows).items():
                    taken[name].append(one_slice(call))
            return {name: 1e6 * statistics.median(times) for name, times in taken.items()}

        return measure

    return sized


def one_slice(call: Call) -> float:
    """Seconds that a call takes on average, over a slice of time: this thread's, so that others' turns do not count."""
    calls, began = 0, time.thread_time()
    while (taken := time.thread_time() - began) < SLICE_SECONDS or not calls:
        call()
        calls += 1
    return taken / calls


MEASURES: dict[str, Callable[[int, int], Measure]] = {
    "slots": slots,
    "product": step_against(bare_products),
    "ort": step_against(OrtStep),
    "derived": step_against(our_step, derived_step),
}


def main(kind: str, hidden: str, layers: str) -> None:
    """Answers each line of standard input."""
    torch.set_num_threads(1)
    measure, warm = MEASURES[kind](int(hidden), int(layers)), set()
    print("ready", flush=True)
    for line in sys.stdin:
        rows, seconds = int(line.split()[0]), float(line.split()[1])
        if rows not in warm:
            measure(rows, WARM_SECONDS)
            warm.add(rows)
        print(json.dumps(measure(rows, seconds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
