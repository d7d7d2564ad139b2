"""The step of plain LSTMs and their heads by Triton's kernels, straight from the slab's rows and back to them.

One tile configuration, below, for all sizes: so a row's bits are the same in every batch, which a library that chooses
its kernels by the number of rows does not give. Triton is optional: torch's builds for CUDA bring it. Without a GPU its
interpreter runs the same kernels, if TRITON_INTERPRET=1 is set before triton is imported; that is for tests.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from tidegate.model.package import Package, head_prefixes

# The tile configuration: with it the compiler spills no register (compute capability 9.0). Not tuned on a GPU yet.
ROWS = UNITS = 32
DEPTH = 16
WARPS = 4
COMMIT_ROWS, COMMIT_COLUMNS = 8, 128


def why_not(package: Package) -> str:
    """Why Triton cannot step the package; "" where it can."""
    manifest = package.manifest
    if manifest.graph is not None or manifest.cell != "lstm":
        return "it has kernels for the cell lstm alone"
    return "" if installed() else "it is not installed (pip install triton; torch's builds for CUDA bring it)"


def installed() -> bool:
    """Whether Triton can be imported."""
    return find_spec("triton") is not None


class TritonLstm:
    """A `SlotKernel` (see `model/slot_kernel.py`) for packages of which `why_not` says nothing."""

    capturable = True

    def __init__(self, package: Package, device: torch.device, spare: int, tf32: bool = False) -> None:
        from tidegate.model import triton_kernels  # noqa: PLC0415  (Triton is optional)

        manifest = package.manifest
        self._kernels: Any = triton_kernels
        self._precision = "tf32" if tf32 else "ieee"
        self._spare, self._channels = spare, manifest.channels
        self._hidden, self._row_width = manifest.hidden_size, package.row_width
        self._tanh = manifest.hidden_activation == "tanh"
        self._layers = [_layer(package, number, device) for number in range(manifest.layers)]
        self._softmax = manifest.head.kind == "categorical"
        self._outputs = manifest.outputs // manifest.channels
        *hidden, last = head_prefixes(manifest)
        self._head: list[tuple[Tensor, Tensor, int, str]] = [
            (*_affine(package, prefix, device), manifest.head.activation) for prefix in hidden
        ]
        self._head.append((*_affine(package, last, device, -torch.inf if self._softmax else 0.0), ""))

    def step(self, x: Tensor, state: Tensor, slots: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(slots) * self._channels
        after = torch.empty((rows, self._row_width), device=x.device)
        units = -(-self._hidden // UNITS)
        for layer, (weight, bias) in enumerate(self._layers):
            at = 2 * self._hidden * layer
            self._kernels.lstm_layer[(rows // ROWS, units)](
                *(x, x.stride(0), state, state.stride(0), slots, fresh.view(torch.uint8), weight, bias, after),
                INPUTS=x.shape[1],
                HIDDEN=self._hidden,
                CHANNELS=self._channels,
                ROW_WIDTH=self._row_width,
                H_AT=at,
                TANH=self._tanh,
                PRECISION=self._precision,
                ROWS=ROWS,
                UNITS=UNITS,
                DEPTH=DEPTH,
                num_warps=WARPS,
            )
            x = after[:, at : at + self._hidden]
        return after.view(len(slots), -1), self._outputs_of(x).reshape(len(slots), -1)

    def commit(self, after: Tensor, state: Tensor, slots: Tensor, finite: Tensor) -> Tensor:
        marks = finite.to(torch.uint8)
        self._kernels.commit[(len(slots) // COMMIT_ROWS,)](
            *(after, state, state.stride(0), slots, marks),
            WIDTH=after.shape[1],
            SPARE=self._spare,
            ROWS=COMMIT_ROWS,
            COLUMNS=COMMIT_COLUMNS,
            num_warps=WARPS,
        )
        return marks.view(torch.bool)

    def _outputs_of(self, h: Tensor) -> Tensor:
        """The head: h [M, hidden size] to outputs [M, outputs]."""
        y = h
        for weight, bias, width, activation in self._head:
            x, y = y, torch.empty((len(h), len(bias)), device=h.device)
            self._kernels.affine[(len(h) // ROWS, len(bias) // UNITS)](
                *(x, x.stride(0), weight, bias, y, len(bias)),
                WIDTH=width,
                ACTIVATION=activation,
                PRECISION=self._precision,
                ROWS=ROWS,
                UNITS=UNITS,
                DEPTH=DEPTH,
                num_warps=WARPS,
            )
        return (y.softmax(1) if self._softmax else y)[:, : self._outputs]


def _layer(package: Package, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights [padded inputs + padded hidden, 4 x padded hidden] and bias [4 x padded hidden], float32, zeros where
    they are padded; both biases are added up in float64."""
    named = {name: torch.tensor(package.weights[f"{name}_l{number}"], dtype=torch.float64) for name in _NAMES}
    hidden = package.manifest.hidden_size
    sides = [_padded(named[name].T.reshape(-1, 4, hidden), (DEPTH, 1, UNITS)) for name in _NAMES[:2]]
    weight = torch.cat(sides).flatten(1)
    bias = _padded((named["bias_ih"] + named["bias_hh"]).reshape(4, hidden), (1, UNITS)).flatten()
    return _placed(weight, device), _placed(bias, device)


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _affine(
    package: Package, prefix: str, device: torch.device, padded_bias: float = 0.0
) -> tuple[Tensor, Tensor, int]:
    """Weight [padded width, padded columns], bias [padded columns], and the width."""
    weight, bias = (torch.tensor(package.weights[f"{prefix}.{name}"]) for name in ("weight", "bias"))
    packed = _placed(_padded(weight.T, (DEPTH, UNITS)), device)
    return packed, _placed(_padded(bias, (UNITS,), padded_bias), device), weight.shape[1]


def _padded(tensor: Tensor, multiples: tuple[int, ...], value: float = 0.0) -> Tensor:
    """Each dimension to a multiple of its number."""
    padding: list[int] = []
    for size, multiple in zip(reversed(tensor.shape), reversed(multiples), strict=True):
        padding += [0, -size % multiple]
    return torch.nn.functional.pad(tensor, padding, value=value)


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, torch.float32).contiguous()
