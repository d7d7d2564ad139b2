"""The LSTM cell on CPU, fast: in C, weights packed once.

The same equations as `cells.py`, in other roundings. A layer takes one product, of [x | h] and [W; U], because the C
parts lay the two beside each other while they gather h; c is read from the slab and never gathered. Rows go through
all layers some at a time, so that they stay in the cache.
Bit identity: all C parts work row by row, products included (native/product.h); a head that is not linear is torch's,
as in `cells.py`.
"""

from __future__ import annotations

from ctypes import CDLL, addressof
from dataclasses import dataclass

import torch
from torch import Tensor

from tidegate.model.cells import WIDTH, Head
from tidegate.model.package import Package
from tidegate.native import Pass

CELLS = ("lstm", "lstm_peephole")
SMALL_BYTES_MAX = 512 * 1024  # of weights: about what a core's own cache holds
ROWS_SMALL, ROWS_LARGE = 24, 96  # at a time: few stay in the nearest cache; for many, weights are read less often


@dataclass
class _Layer:
    """panels [columns / WIDTH, width + hidden, WIDTH], the weight as native/product.h wants it; bias [columns];
    peephole [3 x hidden] or None: float32, gates i, f, g, o."""

    panels: Tensor
    bias: Tensor
    peephole: Tensor | None
    width: int


class Workspace:
    """Room for one pass of up to `rows` rows, for one thread at a time: [x | h] of each layer, a chunk's product, new
    states, outputs; and the C parts' description of the pass, `described`, at `where`."""

    def __init__(self, cell: NativeLstm, rows: int) -> None:
        self.rows = rows
        self.x = [torch.zeros(rows, layer.width + cell.hidden) for layer in cell.layers]
        self.product = torch.zeros(cell.chunk, len(cell.layers[0].bias))
        self.after = torch.zeros(rows, cell.part_width)
        self.zeros = torch.zeros(cell.hidden)
        self.put_out = torch.zeros(rows, 0 if cell.head is None else cell.head[0].shape[1])
        self.described = self._describe(cell)
        self.where = addressof(self.described)
        last = cell.part_width - 2 * cell.hidden
        self.last = self.after[:, last : last + cell.hidden]  # the last layer's new h

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
            outputs=cell.channels * cell.outputs,
            chunk=cell.chunk,
        )
        for number, (layer, x) in enumerate(zip(cell.layers, self.x, strict=True)):
            described.x[number], described.width[number] = x.data_ptr(), layer.width
            described.bias[number] = layer.bias.data_ptr()
            described.weight[number] = layer.panels.data_ptr()
            described.peephole[number] = None if layer.peephole is None else layer.peephole.data_ptr()
        if cell.head is not None:
            weight, bias = cell.head
            described.head_weight, described.head_bias = cell.head_panels.data_ptr(), bias.data_ptr()
            described.head_panels, described.put_out = weight.shape[1] // WIDTH, self.put_out.data_ptr()
        return described


class NativeLstm:
    """One step of a package's LSTM layers and head for sessions in their slots. Holds nothing that changes."""

    def __init__(self, package: Package, native: CDLL) -> None:
        manifest = package.manifest
        self.hidden, self.channels = manifest.hidden_size, manifest.channels
        self.part_width = package.row_width
        self.outputs = manifest.outputs // manifest.channels
        self.layers = [_layer(package, number) for number in range(manifest.layers)]
        self.identity = int(manifest.hidden_activation != "tanh")
        self._native = native
        self._head = Head(package, torch.device("cpu"))
        self.small = sum(layer.panels.nbytes for layer in self.layers) <= SMALL_BYTES_MAX
        self.chunk = ROWS_SMALL if self.small else ROWS_LARGE
        self.head = self._head.linear  # the C parts have it, if it is one
        self.head_panels = torch.empty(0) if self.head is None else _panels(self.head[0])

    @property
    def width(self) -> int:
        """Values that the first layer sees of an observation."""
        return self.layers[0].width

    def __call__(self, space: Workspace, rows: int, padded: int) -> Tensor:
        """Steps the rows that `space.described` names; a head that is torch's takes `padded` of them (whole tiles; what
        the others hold does not matter). Returns outputs [padded, outputs or more] in training units, columns
        contiguous; new states are in `space.after`, and nowhere else."""
        self._native.tidegate_cells(space.where, rows)
        return space.put_out[:padded] if self.head is not None else self._head(space.last[:padded])


def _layer(package: Package, number: int) -> _Layer:
    weights = {
        name.removesuffix(f"_l{number}"): torch.tensor(value, dtype=torch.float64)
        for name, value in package.weights.items()
        if name.endswith(f"_l{number}")
    }
    weight = torch.cat([weights["weight_ih"], weights["weight_hh"]], 1).T
    bias = weights["bias_ih"] + weights["bias_hh"]
    padding = (0, -len(bias) % WIDTH)
    padded = torch.nn.functional.pad(weight, padding).float().contiguous()
    peephole = None
    if package.manifest.cell == "lstm_peephole":
        peephole = torch.cat([weights[f"weight_c{gate}"] for gate in "ifo"]).float()
    width = weights["weight_ih"].shape[1]
    return _Layer(_panels(padded), torch.nn.functional.pad(bias, padding).float(), peephole, width)


def _panels(weight: Tensor) -> Tensor:
    """[depth, columns] to [columns / WIDTH, depth, WIDTH]."""
    return weight.view(len(weight), -1, WIDTH).transpose(0, 1).contiguous()
