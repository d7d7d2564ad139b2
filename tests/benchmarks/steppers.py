"""One step in process, three ways: the engine's, ONNX Runtime's with slots, and the bare products. A call each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.benchmarks.messages import FEATURES
from tests.benchmarks.peers.lstm_slots import Slots
from tests.packages import random_package
from tidegate.engine.step.native_stepper import build_stepper
from tidegate.engine.step.stepper import StepBatch, memory_of_nobody

SESSIONS = 4096  # resident; batches take them in turn, in random order
Call = Callable[[], object]


def turns(rows: int) -> list[NDArray[np.int64]]:
    """Slots of each batch: no session is in two of them, and those that are left over are in none."""
    order = 1 + np.random.default_rng(0).permutation(SESSIONS).astype(np.int64)
    return list(order[: SESSIONS // rows * rows].reshape(-1, rows))


LAGGED = [{"feature": f"x{number}", "steps": [1, 24, 168], "scales": [1.0, 1.0, 1.0]} for number in range(FEATURES)]
LOGARITHMS = {"transform": "log1p", "center": 0.5, "scale": 2.0}
DERIVED: dict[str, Any] = {
    "features": [{"name": f"x{number}", "scaling": LOGARITHMS} for number in range(FEATURES)],
    "targets": [f"x{number}" for number in range(FEATURES)],
    "lags": LAGGED,
    "calendar": [{"field": "hour_of_day"}, {"field": "day_of_year"}],
    "frequency": "h",
}
NOON = 1_704_110_400_000_000_000  # of the first day of 2024


def our_step(hidden: int, layers: int, rows: int) -> Call:
    """Our stepper, with gather and scatter, scaling, and the look for what is not finite."""
    return a_step(rows, hidden=hidden, layers=layers, features=FEATURES, targets=FEATURES)


def derived_step(hidden: int, layers: int, rows: int) -> Call:
    """The same with logarithms, three lag differences a feature and two calendar fields, all sessions at one time."""
    return a_step(rows, hidden=hidden, layers=layers, **DERIVED)


def a_step(rows: int, **fields: Any) -> Call:
    """A step of so many rows of a random package."""
    with tempfile.TemporaryDirectory() as folder:
        package = random_package(Path(folder), **fields)
    random = np.random.default_rng(0)
    stepper = build_stepper(package, "cpu", threads=1)
    memory = memory_of_nobody(package, SESSIONS, random, torch.device("cpu"))
    batches = cycle(
        StepBatch(
            slots=slots,
            inputs=random.standard_normal((rows, FEATURES)),
            fresh=np.zeros(rows, bool),
            seen=np.full(rows, 1_000),
            time=np.full(rows, NOON),
            identity=np.zeros(rows, np.int32),
        )
        for slots in turns(rows)
    )
    return lambda: stepper.launch(next(batches), memory).collect()


class OrtStep:
    """ONNX Runtime's LSTM and head (PEER_ENGINE=ort, PEER_SIZE), with the gather and scatter that it needs.

    Bound to buffers that are made once, and gathered by np.take: of the five ways that were tried the fastest or close
    to it at every size, by a third at one row.
    """

    def __init__(self, hidden: int, layers: int, rows: int) -> None:
        session = Slots(capacity=0).ort
        assert session is not None
        self._session = session
        self._h, self._c = (np.zeros((layers, SESSIONS + 1, hidden), np.float32) for _ in range(2))
        self._batches = cycle(turns(rows))
        x = np.random.default_rng(0).standard_normal((rows, FEATURES)).astype(np.float32)
        state = (layers, rows, hidden)
        self._inputs = {"x": x, "h": np.empty(state, np.float32), "c": np.empty(state, np.float32)}
        self._outputs = {name: np.empty(state, np.float32) for name in ("h2", "c2")} | {"y": np.empty_like(x)}
        self._binding = self._session.io_binding()  # it holds addresses alone
        for name, array in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def __call__(self) -> None:
        slots = next(self._batches)
        self._h.take(slots, axis=1, out=self._inputs["h"], mode="clip")  # "raise" would copy
        self._c.take(slots, axis=1, out=self._inputs["c"], mode="clip")
        self._session.run_with_iobinding(self._binding)
        self._h[:, slots] = self._outputs["h2"]
        self._c[:, slots] = self._outputs["c2"]


def bare_products(hidden: int, layers: int, rows: int) -> Call:
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
