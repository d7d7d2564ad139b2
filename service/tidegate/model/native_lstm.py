"""The LSTM cell on CPU, fast: in C, weights packed once, with what it sees (`native_inputs.py`).

The same equations as `cells.py`, in other roundings. A layer takes one product, of [x | h] and [W; U], because the C
parts lay the two beside each other while they gather h; c is read from the slab and never gathered. Rows go through
all layers some at a time, so that they stay in the cache.
Bit identity: all C parts work row by row, products included (native/product.h).
"""

from __future__ import annotations

from ctypes import addressof
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tidegate.model.cells import WIDTH
from tidegate.model.device_inputs import Memory
from tidegate.model.native_inputs import NativeInputs
from tidegate.model.package import Package, head_prefixes
from tidegate.native import Pass, address

CELLS = ("lstm", "lstm_peephole")
SMALL_BYTES_MAX = 512 * 1024  # of weights: about what a core's own cache holds
DERIVED = ("level", "whole", "new_levels", "new_running", "meaning")
ROWS_SMALL, ROWS_LARGE = 24, 96  # at a time: few stay in the nearest cache; for many, weights are read less often


@dataclass
class _Layer:
    """panels [columns / WIDTH, depth, WIDTH], the weight as native/product.h wants it; bias [columns]; peephole
    [3 x hidden] of a cell, or None: float32, gates i, f, g, o. `width`: what it sees beside its own h."""

    panels: Tensor
    bias: Tensor
    peephole: Tensor | None
    width: int


class Workspace:
    """Room for a pass over so many sessions at a time, for one thread: what is derived, [x | h] of each layer, a
    chunk's product, new states, outputs; and the C parts' description of the pass, `described`, at `where`."""

    def __init__(self, cell: NativeLstm, sessions: int) -> None:
        rows = sessions * cell.channels
        self.sessions = sessions
        self.x = [torch.zeros(rows, layer.width + cell.hidden) for layer in cell.layers]
        self.product = torch.zeros(cell.chunk, len(cell.layers[0].bias))
        self.after = torch.zeros(rows, cell.part_width)
        self.zeros = torch.zeros(cell.hidden)
        widest = max(len(layer.bias) for layer in cell.heads)
        self.between = [torch.zeros(cell.chunk, widest) for _ in cell.heads[1:3]]
        self.put_out = torch.zeros(rows, len(cell.heads[-1].bias))
        inputs = self.inputs = cell.inputs
        self.level, self.whole = np.empty(3 * inputs.features), np.empty(inputs.columns, np.float32)
        self.new_levels = np.empty((sessions, inputs.lagged))
        self.new_running = np.empty((sessions, 2, inputs.session_features))
        self.meaning = np.empty((sessions, 2, cell.targets)) if inputs.meaning is None else inputs.meaning
        self.described = self._describe(cell)
        self.where = addressof(self.described)

    def point(self, memory: Memory, slots: int, raw: int, values: int, finite: int, fresh: int = 0) -> None:
        """Has a pass begin at these addresses; 0 where there is nothing."""
        now, inputs = self.described, self.inputs
        now.state, now.slots, now.fresh = memory["state"].data_ptr(), slots, fresh
        now.raw, now.values, now.finite = raw, values, finite
        if inputs.lagged:
            now.ring, now.ring_steps = memory["ring"].data_ptr(), memory["ring"].shape[1]
        if inputs.session_features:
            now.running = memory["scale"].data_ptr()
        if inputs.described.feedback:
            now.feedback = memory["feedback"].data_ptr()

    def _describe(self, cell: NativeLstm) -> Pass:
        described = Pass(
            hidden=cell.hidden,
            layers=len(cell.layers),
            channels=cell.channels,
            part_width=cell.part_width,
            row_width=cell.channels * cell.part_width,
            identity=cell.identity,
            columns=self.product.shape[1],
            product=self.product.data_ptr(),
            after=self.after.data_ptr(),
            zeros=self.zeros.data_ptr(),
            inputs=cell.inputs.where,
            **{name: address(getattr(self, name)) for name in DERIVED},
            outputs=cell.channels * cell.outputs,
            room=self.sessions,
            chunk=cell.chunk,
            heads=len(cell.heads),
            tanh=cell.tanh,
            softmax=cell.softmax,
            put_out=self.put_out.data_ptr(),
        )
        for number, (layer, x) in enumerate(zip(cell.layers, self.x, strict=True)):
            described.x[number], described.width[number] = x.data_ptr(), layer.width
            described.bias[number] = layer.bias.data_ptr()
            described.weight[number] = layer.panels.data_ptr()
            described.peephole[number] = None if layer.peephole is None else layer.peephole.data_ptr()
        for number, layer in enumerate(cell.heads):
            described.head_weight[number], described.head_bias[number] = layer.panels.data_ptr(), layer.bias.data_ptr()
            described.head_depth[number], described.head_panels[number] = layer.width, len(layer.bias) // WIDTH
        for number, room in enumerate(self.between):
            described.between[number] = room.data_ptr()
        return described


class NativeLstm:
    """A package's LSTM layers and head, and what they see, as the C parts want them. Holds nothing that changes."""

    def __init__(self, package: Package) -> None:
        manifest = package.manifest
        self.hidden, self.channels = manifest.hidden_size, manifest.channels
        self.part_width = package.row_width
        self.outputs, self.targets = manifest.outputs // manifest.channels, len(manifest.targets)
        self.inputs = NativeInputs(package)
        self.layers = [_layer(package, number) for number in range(manifest.layers)]
        self.identity = int(manifest.hidden_activation != "tanh")
        self.heads = [_head(package, prefix) for prefix in head_prefixes(manifest)]
        self.tanh = int(manifest.head.activation == "tanh")
        self.softmax = int(manifest.head.kind == "categorical")
        self.small = sum(layer.panels.nbytes for layer in [*self.layers, *self.heads]) <= SMALL_BYTES_MAX
        self.chunk = ROWS_SMALL if self.small else ROWS_LARGE


def _layer(package: Package, number: int) -> _Layer:
    weights = {
        name.removesuffix(f"_l{number}"): torch.tensor(value, dtype=torch.float64)
        for name, value in package.weights.items()
        if name.endswith(f"_l{number}")
    }
    weight = torch.cat([weights["weight_ih"], weights["weight_hh"]], 1)
    peephole = None
    if package.manifest.cell == "lstm_peephole":
        peephole = torch.cat([weights[f"weight_c{gate}"] for gate in "ifo"]).float()
    return _packed(weight, weights["bias_ih"] + weights["bias_hh"], weights["weight_ih"].shape[1], peephole)


def _head(package: Package, prefix: str) -> _Layer:
    weight, bias = (torch.tensor(package.weights[f"{prefix}.{name}"]).double() for name in ("weight", "bias"))
    return _packed(weight, bias, weight.shape[1])


def _packed(weight: Tensor, bias: Tensor, width: int, peephole: Tensor | None = None) -> _Layer:
    """weight [columns, depth] and bias [columns], float64, padded to whole panels."""
    padding = (0, -len(bias) % WIDTH)
    padded = torch.nn.functional.pad(weight.T, padding).float().contiguous()
    return _Layer(_panels(padded), torch.nn.functional.pad(bias, padding).float(), peephole, width)


def _panels(weight: Tensor) -> Tensor:
    """[depth, columns] to [columns / WIDTH, depth, WIDTH]."""
    return weight.view(len(weight), -1, WIDTH).transpose(0, 1).contiguous()
