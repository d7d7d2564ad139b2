"""A state dict of nn.LSTM, nn.GRU or nn.RNN and a head of nn.Linear, from a `.pt` or `.safetensors` file.

A state dict holds tensors and their names, no structure: the kind of cell is read off the gate count, the head is the
chain of linear layers that leads from the hidden size on (`torch_head.py`). What `forward` does beside cannot be seen,
and is said to be assumed. Pickles are read by torch's `weights_only` reader, which runs
no code.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from tidegate.errors import PackageError
from tidegate.training.importers.network import Array, Network
from tidegate.training.importers.torch_head import Tensors, as_array, listed, read_head

HOLDERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module")
CELLS = {4: "lstm", 3: "gru", 1: "rnn_tanh"}
MODULES: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}
HOLDERS_DEEP_MAX = 4  # one in another
SOURCE_ROWS = 3
SAFETENSORS = ".safetensors"
ZIP, PICKLE = b"PK", b"\x80"  # what a file of torch.save begins with, today's and the older kind

Activation = Literal["relu", "tanh"]


def read_torch(path: Path, activation: Activation = "relu") -> tuple[Network, TorchSource]:
    """Reads and checks a state dict; raises PackageError that names what cannot be served.

    `activation` is what stands between the linear layers of an MLP head, which a state dict does not say.
    """
    tensors = load_tensors(path)
    prefix = _prefix(tensors)
    recurrent = {name.removeprefix(prefix): t for name, t in tensors.items() if _is_recurrent(name, prefix)}
    cell, layers, hidden = _shape(recurrent, prefix)
    stack = [name for name in tensors if _is_recurrent(name, prefix)]
    inputs = recurrent["weight_ih_l0"].shape[1]
    head = read_head(tensors, stack, inputs, hidden, in_order=path.suffix != SAFETENSORS)
    for layer in range(layers):
        for side in ("ih", "hh"):
            weight = recurrent[f"weight_{side}_l{layer}"]
            recurrent.setdefault(f"bias_{side}_l{layer}", weight.new_zeros(len(weight)))
    network = Network(
        cell=cell,
        inputs=inputs,
        outputs=len(list(head.values())[-1].bias),
        layers=layers,
        hidden_size=hidden,
        recurrent={name: as_array(tensor) for name, tensor in recurrent.items()},
        head=tuple(head.values()),
        activation=activation,
        assumed=_assumed(cell, prefix, tuple(head), activation),
    )
    return network, TorchSource(network)


def _assumed(cell: str, prefix: str, head: Sequence[str], activation: Activation) -> tuple[str, ...]:
    """What a state dict does not say, so that agreement cannot show it."""
    of_cell = ("nn.RNN with its default nonlinearity, tanh",) if cell == "rnn_tanh" else ()
    steps = [prefix.rstrip(".") or "the recurrent layers"]
    for layer in head:
        steps += [activation] if len(steps) > 1 else []
        steps.append(layer.rstrip(".") or "the head")
    return (*of_cell, f"forward takes {', '.join(steps)} in this order and does nothing else")


def load_tensors(path: Path) -> Tensors:
    """The floating-point tensors of the file by name, float32 or float64; raises PackageError. Runs no code of it."""
    if path.suffix == SAFETENSORS:
        try:
            held: object = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise PackageError(path.name, f"is not a safetensors file that can be read ({error})") from None
    else:
        held = _unpickle(path)
    tensors = _tensors(held, path.name)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise PackageError(f"{path.name}:{name}", "has a value that is not finite")
    return tensors


def _unpickle(path: Path) -> object:
    advice = "save the weights alone: torch.save(model.state_dict(), FILE) or safetensors.torch.save_file"
    _check_kind(path, advice)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of other pickle protocols: they are read or refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.<>]+)|class ([\w.<>]+)|function ([\w.<>]+)", str(error))
        what = next(filter(None, found.groups())) if found else "something that is no tensor"
        raise PackageError(path.name, f"is a pickle with {what} in it, which was not run; {advice}") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise PackageError(path.name, f"cannot be read as a state dict ({reason}); {advice}") from None


def _check_kind(path: Path, advice: str) -> None:
    """Raises PackageError for a file that torch.save did not write; torch itself tells little of it."""
    if path.suffix == ".onnx":
        raise PackageError(path.name, "is an ONNX file; give it to `tidegate import onnx`")
    try:
        with path.open("rb") as file:
            start = file.read(len(ZIP))
    except OSError as error:
        raise PackageError(path.name, f"cannot be read ({error.strerror})") from None
    if not start.startswith((ZIP, PICKLE)):
        raise PackageError(path.name, f"is {'no' if start else 'empty, no'} file of torch.save; {advice}")


def _tensors(held: object, name: str) -> Tensors:
    """Looks into a checkpoint that holds the state dict beside other things, of which some are tensors too."""
    found = _state_dict(held)
    if found is None:
        raise PackageError(name, f"holds no state dict: no tensors, also not under {', '.join(HOLDERS)}")
    return {
        str(key): tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
        for key, tensor in found.items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
    }


def _state_dict(held: object, deep: int = 0) -> Mapping[object, object] | None:
    """What lies under one of HOLDERS, else `held` itself; None if it holds no tensors."""
    if not isinstance(held, Mapping) or deep > HOLDERS_DEEP_MAX:
        return None
    inner = (_state_dict(held.get(key), deep + 1) for key in HOLDERS)
    itself = held if any(isinstance(value, Tensor) for value in held.values()) else None
    return next((found for found in inner if found is not None), itself)


def _prefix(tensors: Tensors) -> str:
    """What comes before weight_ih_l0 of the one recurrent stack."""
    found = [name.removesuffix("weight_ih_l0") for name in tensors if re.search(r"(^|\.)weight_ih_l0$", name)]
    if not found:
        raise PackageError("weight_ih_l0", f"is missing: there is no nn.LSTM, GRU or RNN among {listed(tensors)}")
    if len(found) > 1:
        stacks = ", ".join(prefix.rstrip(".") or "the root" for prefix in found)
        raise PackageError(f"{found[1]}weight_ih_l0", f"is a second recurrent stack ({stacks}); one is served")
    return found[0]


def _is_recurrent(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and re.fullmatch(r"(weight|bias)_[a-z]+_l\d+\w*", name[len(prefix) :]) is not None


def _shape(recurrent: Tensors, prefix: str) -> tuple[str, int, int]:
    """Cell, layers and hidden size."""
    for name in recurrent:
        if name.endswith("_reverse"):
            raise PackageError(prefix + name, "is of a bidirectional network, which needs the future to predict it")
        if name.startswith("weight_hr"):
            raise PackageError(prefix + name, "is a projection (proj_size), which is not served")
    layers = sum(name.startswith("weight_ih_l") for name in recurrent)
    first = recurrent.get("weight_hh_l0")
    if first is None or first.ndim != 2:
        raise PackageError(f"{prefix}weight_hh_l0", "is missing or no matrix")
    gates, hidden = first.shape[0] // max(first.shape[1], 1), first.shape[1]
    if gates not in CELLS or first.shape[0] != gates * hidden:
        raise PackageError(f"{prefix}weight_hh_l0", f"is {tuple(first.shape)}: no LSTM (4 gates), GRU (3) or RNN (1)")
    _check_shapes(recurrent, prefix, CELLS[gates], layers)
    return CELLS[gates], layers, hidden


def _check_shapes(recurrent: Tensors, prefix: str, cell: str, layers: int) -> None:
    """Every tensor of the stack is there, in its shape, and no other; biases are all there, or none is."""
    biases = any(name.startswith("bias") for name in recurrent)
    gate_rows, hidden = recurrent["weight_hh_l0"].shape
    expected: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        width = recurrent["weight_ih_l0"].shape[-1] if layer == 0 else hidden
        expected[f"weight_ih_l{layer}"], expected[f"weight_hh_l{layer}"] = (gate_rows, width), (gate_rows, hidden)
        expected[f"bias_ih_l{layer}"] = expected[f"bias_hh_l{layer}"] = (gate_rows,)
    for name in (*expected, *recurrent):
        if name not in expected:
            raise PackageError(prefix + name, f"is not part of a {layers}-layer {cell}")
        if name not in recurrent and (biases or name.startswith("weight")):
            others = "" if name.startswith("weight") else ", but other biases are there"
            raise PackageError(prefix + name, f"is missing{others}")
        if name in recurrent and tuple(recurrent[name].shape) != expected[name]:
            raise PackageError(prefix + name, f"is {tuple(recurrent[name].shape)}, must be {expected[name]}")


class TorchSource:
    """torch's own layers with the weights of the file, in the assumed order, over the whole sequence at once."""

    rows, steps = SOURCE_ROWS, None

    def __init__(self, network: Network) -> None:
        self.name = f"torch {torch.__version__}'s own layers in the assumed order"
        module = MODULES[network.cell]
        self._module = module(network.inputs, network.hidden_size, network.layers)
        self._module.load_state_dict({name: torch.from_numpy(value) for name, value in network.recurrent.items()})
        self._head = nn.Sequential()
        for index, layer in enumerate(network.head):
            if index:
                self._head.append(nn.ReLU() if network.activation == "relu" else nn.Tanh())
            linear = nn.Linear(layer.weight.shape[1], len(layer.bias))
            linear.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
            self._head.append(linear)

    def predict(self, x: Array) -> dict[int, Array]:
        """See Source."""
        with torch.no_grad():
            hidden, _ = self._module(torch.from_numpy(x))
            predictions = self._head(hidden).numpy()
        return {step + 1: values for step, values in enumerate(predictions)}
