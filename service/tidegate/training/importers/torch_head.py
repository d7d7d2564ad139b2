"""The head of a state dict: which linear layers follow the recurrent ones, and in which order.

A state dict does not say what `forward` does with its layers. A `.pt` file has them in the order in which the module
defines them, which is taken for the order in which it uses them. A `.safetensors` file has them sorted by name: there,
numbers in their names or their shapes must leave one order alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, pairwise

import numpy as np
from torch import Tensor

from tidegate.errors import PackageError
from tidegate.model.manifest import HEAD_LAYERS_MAX
from tidegate.model.repository import natural_order
from tidegate.training.importers.network import Affine, Array

NAMED_MAX = 6  # tensors that an error lists
EXPORT = "export such a network to ONNX"

Tensors = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, int]]  # outputs and inputs of each layer, by the prefix of its tensors


def read_head(tensors: Tensors, stack: Collection[str], inputs: int, hidden: int, in_order: bool) -> dict[str, Affine]:
    """The layers in their order, by the prefix of their tensors. They take up every tensor outside of `stack`, the
    recurrent layers of so many inputs and hidden values; `in_order`: tensors stand as the module defines them.

    Raises PackageError.
    """
    rest = {name: tensor for name, tensor in tensors.items() if name not in stack}
    if not rest:
        raise PackageError("head", "is missing: there is no linear layer after the recurrent one")
    weights = {name.removesuffix("weight"): t for name, t in rest.items() if name.endswith("weight") and t.ndim == 2}
    shapes = {prefix: (len(t), t.shape[1]) for prefix, t in weights.items()}
    feeding = [prefix for prefix in shapes if _may_feed(shapes[prefix], f"{prefix}bias" in rest, inputs)]
    if in_order:
        _check_before(tensors, stack, feeding)
    order = _order(shapes, [] if in_order else feeding, hidden, in_order)
    if not order:
        raise PackageError(
            next(iter(rest)), f"is no linear layer in a chain from the {hidden} hidden values on ({listed(rest)})"
        )
    layers = {prefix: _affine(rest, prefix) for prefix in order}
    if rest:
        raise PackageError(next(iter(rest)), f"is part of neither cell nor head; cannot be served: {listed(rest)}")
    return layers


def _may_feed(shape: tuple[int, int], bias: bool, inputs: int) -> bool:
    """Whether a linear layer of these outputs and inputs, or an embedding, gives what the recurrent layers take. One
    value is what a head predicts: no layer that gives one is taken to stand before them."""
    linear = shape[0] == inputs and inputs > 1
    embedding = shape[1] == inputs and not bias
    return linear or embedding


def _check_before(tensors: Tensors, stack: Collection[str], feeding: Collection[str]) -> None:
    """Raises PackageError for a layer that is defined before the recurrent ones, and may feed them."""
    for name in tensors:
        if name in stack:
            return
        if name.endswith("weight") and name.removesuffix("weight") in feeding:
            raise PackageError(
                name,
                f"stands before the recurrent layers: a layer or an embedding there is not served; {EXPORT} (or, if it "
                "is the head, save it behind them)",
            )


def _order(layers: Shapes, feeding: Collection[str], hidden: int, in_order: bool) -> Sequence[str]:
    """The prefixes in the order of the chain, none where there is no chain; raises PackageError where others fit, also
    of one that is `feeding` the recurrent layers, for all that is known."""
    if len(layers) > HEAD_LAYERS_MAX + 1:
        raise PackageError(
            next(iter(layers)), f"is one of {len(layers)} linear layers; {HEAD_LAYERS_MAX + 1} are served"
        )
    known = list(layers) if in_order else _numbered(layers)
    if known and _is_chain([layers[prefix] for prefix in known], hidden):
        return known
    chains = list(islice(_chains(layers, hidden), 2))
    if len(chains) > 1:
        raise _unsure(chains[0][0], f"{_told(chains[0])}, or {_told(chains[1])}")
    _check_one_place(layers, feeding, hidden)
    return chains[0] if chains else ()


def _check_one_place(layers: Shapes, feeding: Collection[str], hidden: int) -> None:
    """Raises PackageError for a layer that might as well stand before the recurrent ones."""
    for prefix in feeding:
        others = {other: sizes for other, sizes in layers.items() if other != prefix}
        if others and any(_chains(others, hidden)):
            raise _unsure(prefix, "it may stand before the recurrent layers, or in the head")


def _unsure(prefix: str, what: str) -> PackageError:
    return PackageError(
        f"{prefix}weight",
        f"has no certain place: {what}; a .safetensors file sorts layers by name, torch.save keeps them in their order",
    )


def _numbered(layers: Shapes) -> list[str]:
    """By the numbers in their names, where nothing else tells the names apart."""
    series = {re.sub(r"\d+", "0", prefix) for prefix in layers}
    return sorted(layers, key=natural_order) if len(series) == 1 and len(layers) > 1 else []


def _is_chain(shapes: Sequence[tuple[int, int]], width: int) -> bool:
    """Whether each layer takes what the one before gives, the first of them `width` values."""
    return shapes[0][1] == width and all(before[0] == after[1] for before, after in pairwise(shapes))


def _chains(layers: Shapes, width: int) -> Iterator[tuple[str, ...]]:
    """Every order of all layers that is a chain."""
    if not layers:
        yield ()
    for prefix, (outputs, inputs) in layers.items():
        if inputs == width:
            others = {other: shape for other, shape in layers.items() if other != prefix}
            yield from ((prefix, *chain) for chain in _chains(others, outputs))


def _affine(rest: Tensors, prefix: str) -> Affine:
    """Takes weight and bias out of `rest`."""
    weight = rest.pop(f"{prefix}weight")
    bias = rest.pop(f"{prefix}bias", weight.new_zeros(len(weight)))
    if bias.shape != weight.shape[:1]:
        raise PackageError(f"{prefix}bias", f"is {tuple(bias.shape)}, must be {tuple(weight.shape[:1])}")
    return Affine(as_array(weight), as_array(bias))


def as_array(tensor: Tensor) -> Array:
    """float32, C order."""
    return np.array(tensor.numpy(), np.float32, order="C")


def listed(tensors: Tensors) -> str:
    """Names and shapes for an error."""
    names = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()]
    return ", ".join(names[:NAMED_MAX]) + (f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else "")


def _told(chain: Sequence[str]) -> str:
    return " then ".join(prefix.rstrip(".") for prefix in chain)
