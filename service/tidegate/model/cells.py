"""The batched one-step kernel: every cell and the head as two matrix products and a few pointwise passes.

Bit identity: a row's result depends on that row alone, whatever else is in the tile. It holds because
- M is a multiple of 32 (the stepper pads), so that no vectorised sigmoid meets a ragged tail: it runs on whole
  contiguous tiles only;
- every product is at least 16 columns wide, in multiples of 16 (narrow ones round by position), and a softmax takes
  whole products, so that every row of it begins at the same alignment;
- every other pointwise operation rounds once (mul, add, sub; `alpha` is a power of two), so that it is the same
  vectorised, scalar or fused. addcmul and lerp are not, and are not used;
- on CPU, one intra-op thread runs a tile (a thread split makes ragged tails again).
Speed: torch's tanh on CPU takes 4 to 6 times its sigmoid, so tanh(x) = 1 - 2 sigmoid(-2x), the -2 folded into weights.
Rejected: torch.nn.LSTM and torch.compile (no peepholes; a kernel for each shape).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tidegate.model.package import Package, head_prefixes

WIDTH = 16  # columns of a product are a multiple of this
ROWS = 32  # rows of a tile are a multiple of this
_split = torch.unsafe_split  # split at half its cost; what is unsafe about it is autograd, which has no part in this


class Kernel:
    """One step of a package's layers and head for M rows. Holds nothing that changes: any thread may call it.

    Call it in inference mode, or under no_grad; on CPU with one intra-op thread (three were seen to change bits). An
    infinite input may give a finite state by way of a saturated gate: whoever quarantines looks at the inputs too.
    """

    def __init__(self, package: Package, device: torch.device) -> None:
        manifest = package.manifest
        self.inputs, self.outputs = manifest.input_width, manifest.outputs // manifest.channels
        self.state_width = package.row_width
        self._hidden = manifest.hidden_size
        self._layers = [_build_cell(package, layer, device) for layer in range(manifest.layers)]
        self._head = Head(package, device)

    def __call__(self, x: Tensor, state: Tensor, new_state: Tensor) -> Tensor:
        """Writes the next states into `new_state` and returns the outputs [M, outputs], in training units: targets, or
        targets times levels (a target's lie together), or the probabilities of a vocabulary.

        x [M, inputs] in training units, state and new_state [M, state_width]: float32, contiguous, M a multiple of
        ROWS. A row of state is h_l0 | c_l0 | h_l1 | c_l1 … (h alone for GRU and RNN). `state` is only read. A
        channel-independent model takes a row for each session and channel, and gives one target's outputs for it.
        """
        before, after = _split(state, self._hidden, 1), _split(new_state, self._hidden, 1)
        parts = len(before) // len(self._layers)
        for index, cell in enumerate(self._layers):
            at = index * parts
            cell.step(x, before[at : at + parts], after[at : at + parts])
            x = after[at]
        return self._head(x)[:, : self.outputs]


class _Cell(Protocol):
    def step(self, x: Tensor, state: tuple[Tensor, ...], new_state: tuple[Tensor, ...]) -> None: ...


class _Affine:
    """weight x + bias as [M, columns], padded to a multiple of WIDTH: weights with zeros, biases with `padded`."""

    def __init__(self, weight: Tensor, bias: Tensor, device: torch.device, padded: float = 0.0) -> None:
        padding = (0, -len(bias) % WIDTH)
        self.weight = torch.nn.functional.pad(weight.T, padding).to(device, torch.float32).contiguous()
        self.bias = torch.nn.functional.pad(bias, padding, value=padded).to(device, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)

    def add_to(self, product: Tensor, x: Tensor) -> Tensor:
        """product += weight x, without the bias."""
        return product.addmm_(x, self.weight)


class Head:
    """From the last layer's h to the outputs: W h + b, behind a perceptron's hidden layers if there are any.

    Hidden layers stay padded (relu and tanh of 0 are 0). Of a vocabulary: softmax, in which padding is -inf.
    """

    def __init__(self, package: Package, device: torch.device) -> None:
        manifest = package.manifest
        self._tanh = manifest.head.activation == "tanh"
        self._softmax = manifest.head.kind == "categorical"
        *hidden, last = head_prefixes(manifest)
        self._hidden = [self._affine(package, prefix, device, -2.0 if self._tanh else 1.0) for prefix in hidden]
        self._last = self._affine(package, last, device, padded=-torch.inf if self._softmax else 0.0)

    def __call__(self, h: Tensor) -> Tensor:
        """h [M, hidden size] to outputs [M, columns], padded."""
        for layer in self._hidden:
            h = layer(h)
            h = h.sigmoid_().mul_(-2).add_(1) if self._tanh else h.relu_()
        product = self._last(h)
        return product.softmax(1) if self._softmax else product

    @staticmethod
    def _affine(
        package: Package, prefix: str, device: torch.device, factor: float = 1.0, padded: float = 0.0
    ) -> _Affine:
        """One layer, its input padded as the layer before pads its output."""
        weight, bias = (torch.tensor(package.weights[f"{prefix}.{name}"]).double() for name in ("weight", "bias"))
        if prefix not in ("head", "head.0"):
            weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % WIDTH))
        return _Affine(weight * factor, bias * factor, device, padded)


class _Layer:
    """The float64 weights of one layer, by gate, before they are folded into products."""

    def __init__(self, package: Package, layer: int, device: torch.device) -> None:
        suffix = f"_l{layer}"
        self.hidden = package.manifest.hidden_size
        self.device = device
        self._tensors = {
            name.removesuffix(suffix): torch.tensor(value, dtype=torch.float64)
            for name, value in package.weights.items()
            if name.endswith(suffix)
        }

    def peephole(self, gate: str) -> Tensor:
        return self._tensors[f"weight_c{gate}"].to(self.device, torch.float32)

    def affine(self, side: str, biases: str, factors: list[float], first: int = 0) -> _Affine:
        """The gates from number `first` on, each times its factor, from one side: `ih` (x) or `hh` (h).

        `biases` names the biases to add up: "ih", "hh", "ih hh" or "".
        """
        rows = slice(first * self.hidden, (first + len(factors)) * self.hidden)
        factor = torch.tensor(factors, dtype=torch.float64).repeat_interleave(self.hidden)
        bias = torch.zeros_like(factor)
        for name in biases.split():
            bias += self._tensors[f"bias_{name}"][rows]
        return _Affine(self._tensors[f"weight_{side}"][rows] * factor[:, None], bias * factor, self.device)


class _Lstm:
    """i, f, o = sigmoid(W x + U h + b); g = tanh(W x + U h + b); c' = f*c + i*g; h' = o*tanh(c').

    With peepholes, i and f see p*c and o sees p*c'. With identity activation, h' = o*c'.
    """

    def __init__(self, layer: _Layer, peepholes: bool, tanh: bool) -> None:
        self._hidden, self._tanh = layer.hidden, tanh
        factors = [1.0, 1.0, -2.0, 1.0]  # i, f, g, o: g becomes s = sigmoid(-2 g), and tanh(g) = 1 - 2s
        self._input = layer.affine("ih", "ih hh", factors)
        self._recurrent = layer.affine("hh", "", factors)
        self._peepholes = [layer.peephole(gate) for gate in "ifo"] if peepholes else None

    def step(self, x: Tensor, state: tuple[Tensor, ...], new_state: tuple[Tensor, ...]) -> None:
        (h, c), (new_h, new_c) = state, new_state
        gates = self._recurrent.add_to(self._input(x), h)
        i, f, s, o = _split(gates, self._hidden, 1)[:4]
        if self._peepholes:
            see_i, see_f, see_o = self._peepholes
            i.add_(c * see_i)
            f.add_(c * see_f)
            o_before = o.contiguous()  # o waits for c', in a whole tile of its own
        gates.sigmoid_()
        torch.mul(f, c, out=new_c)
        new_c.add_(i).sub_(s.mul_(i), alpha=2)
        if self._peepholes:
            o = o_before.add_(new_c * see_o).sigmoid_()
        if not self._tanh:
            torch.mul(o, new_c, out=new_h)
            return
        torch.sub(o, torch.mul(new_c, -2).sigmoid_().mul_(o), alpha=2, out=new_h)


class _Rnn:
    """h' = tanh(W x + U h + b); with identity activation, h' = W x + U h + b."""

    def __init__(self, layer: _Layer, tanh: bool) -> None:
        self._hidden, self._tanh = layer.hidden, tanh
        factors = [-2.0 if tanh else 1.0]
        self._input = layer.affine("ih", "ih hh", factors)
        self._recurrent = layer.affine("hh", "", factors)

    def step(self, x: Tensor, state: tuple[Tensor, ...], new_state: tuple[Tensor, ...]) -> None:
        (h,), (new_h,) = state, new_state
        product = self._recurrent.add_to(self._input(x), h)
        if not self._tanh:
            new_h.copy_(product[:, : self._hidden])
            return
        torch.mul(product.sigmoid_()[:, : self._hidden], -2, out=new_h).add_(1)


class _Gru:
    """r, z = sigmoid(W x + U h + b); h' = (1 - z)*n + z*h, computed as n + z*(h - n), where

    reset after:  n = tanh(W x + b_ih + r*(U h + b_hh)), as torch.nn.GRU;
    reset before: n = tanh(W x + b_ih + U (r*h) + b_hh). With identity activation, n is that sum itself.
    """

    def __init__(self, layer: _Layer, reset_after: bool, tanh: bool) -> None:
        self._hidden, self._tanh, self._reset_after = layer.hidden, tanh, reset_after
        factors = [-2.0 if tanh else 1.0]
        self._gates_input = layer.affine("ih", "ih hh", [1.0, 1.0])
        self._gates_recurrent = layer.affine("hh", "", [1.0, 1.0])
        self._input = layer.affine("ih", "ih" if reset_after else "ih hh", factors, first=2)
        self._recurrent = layer.affine("hh", "hh" if reset_after else "", factors, first=2)

    def step(self, x: Tensor, state: tuple[Tensor, ...], new_state: tuple[Tensor, ...]) -> None:
        (h,), (new_h,) = state, new_state
        gates = self._gates_recurrent.add_to(self._gates_input(x), h).sigmoid_()
        r, z = _split(gates, self._hidden, 1)[:2]
        product = self._input(x)
        n = product[:, : self._hidden]
        if self._reset_after:
            n.add_(self._recurrent(h)[:, : self._hidden].mul_(r))
        else:
            self._recurrent.add_to(product, r.mul_(h))
        if self._tanh:
            product.sigmoid_()
            n.mul_(-2).add_(1)
        torch.add(n, torch.sub(h, n).mul_(z), out=new_h)


def _build_cell(package: Package, index: int, device: torch.device) -> _Cell:
    manifest = package.manifest
    layer, tanh = _Layer(package, index, device), manifest.hidden_activation == "tanh"
    if manifest.cell == "gru":
        return _Gru(layer, manifest.gru_reset == "after", tanh)
    if manifest.cell == "rnn_tanh":
        return _Rnn(layer, tanh)
    return _Lstm(layer, manifest.cell == "lstm_peephole", tanh)
