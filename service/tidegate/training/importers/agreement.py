"""Whether a package predicts as its source: over a random sequence, a step at a time, by the kernel that serves it.

The package steps whole tiles, as in a server; the source takes the sequence in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tidegate.errors import PackageError
from tidegate.model.cells import ROWS
from tidegate.model.kernels import build_kernel
from tidegate.model.package import Package
from tidegate.training.importers.network import Array, Source

STEPS = 64
ERROR_MAX = 1e-5  # in training units: what the network itself puts out


@dataclass(frozen=True)
class Agreement:
    """The largest difference found, over so many steps of so many rows, and what ran the source."""

    error_max: float
    steps: int
    rows: int
    source: str


def check_agreement(package: Package, source: Source) -> Agreement:
    """Raises PackageError, which says how far off and from which step on, unless all are within ERROR_MAX."""
    steps = min(source.steps or STEPS, STEPS)
    shape = (steps, source.rows, package.manifest.input_width)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected, served = source.predict(x), served_predictions(package, x)
    errors = {step: _error(served[step - 1], values) for step, values in sorted(expected.items())}
    worst = max(errors.values())
    if not worst <= ERROR_MAX:
        first = next(step for step, error in errors.items() if not error <= ERROR_MAX)
        raise PackageError(
            "agreement",
            f"predictions are up to {worst:.3g} off from those of {source.name}, first at step {first} of {steps} "
            f"(at most {ERROR_MAX:g} is accepted)",
        )
    return Agreement(worst, steps, source.rows, source.name)


def served_predictions(package: Package, x: Array) -> Array:
    """x [steps, rows, inputs] from zero state to predictions [steps, rows, outputs], all in training units."""
    device, rows = torch.device("cpu"), x.shape[1]
    kernel = build_kernel(package, device)
    padded = -(-rows // ROWS) * ROWS
    tile = torch.zeros(len(x), padded, x.shape[2])
    tile[:, :rows] = torch.from_numpy(x)
    state = torch.zeros(padded, package.row_width)
    predictions = np.empty((len(x), rows, package.manifest.outputs), np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server's steps run
    try:
        with torch.inference_mode():
            for step in range(len(x)):
                after = torch.empty_like(state)
                predictions[step] = kernel(tile[step], state, after)[:rows].numpy()
                state = after
    finally:
        torch.set_num_threads(threads)
    return predictions


def _error(served: Array, expected: Array) -> float:
    if served.shape != expected.shape:
        raise PackageError("agreement", f"the source gives {expected.shape} for {served.shape} values")
    difference = np.abs(served.astype(np.float64) - expected).max(initial=0.0)
    return float(difference) if np.isfinite(difference) else float("inf")
