"""What an importer reads out of a file: a recurrent network in the package's terms, and its source to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tidegate.model.manifest import Graph

Array = NDArray[np.float32]


class Source(Protocol):
    """The network as it came, run by what it came from."""

    name: str  # what runs it, with its version
    rows: int  # rows that it takes at once
    steps: int | None  # how many steps it takes; None: any number

    def predict(self, x: Array) -> dict[int, Array]:
        """x [steps, rows, inputs] from zero state to predictions [rows, outputs], by the number of steps taken."""
        ...


@dataclass(frozen=True)
class Affine:
    """y = weight x + bias: weight [outputs, inputs], bias [outputs]."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class Network:
    """Cell and head. `recurrent` is named as torch.nn.LSTM names it; a foreign one has `graph` and its bytes instead.

    `left_out` names what the file holds and the package does not: further outputs, say. `assumed` is what the file does
    not say.
    """

    cell: str
    inputs: int
    outputs: int
    layers: int = 1
    hidden_size: int = 0
    gru_reset: str = "after"
    recurrent: Mapping[str, Array] = field(default_factory=dict)
    head: tuple[Affine, ...] = ()
    activation: str = "relu"
    graph: Graph | None = None
    graph_bytes: bytes = b""
    left_out: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def manifest(self) -> dict[str, Any]:
        """Its fields of Manifest."""
        if self.graph is not None:
            return {"cell": self.cell, "graph": self.graph.model_dump()}
        hidden = [len(layer.bias) for layer in self.head[:-1]]
        return {
            "cell": self.cell,
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "gru_reset": self.gru_reset,
            "head": {"hidden": hidden, "activation": self.activation},
        }

    def tensors(self) -> dict[str, Array]:
        """The content of `weights.safetensors`: C-ordered float32."""
        named = dict(self.recurrent)
        for index, layer in enumerate(self.head):
            prefix = "head" if len(self.head) == 1 else f"head.{2 * index}"
            named[f"{prefix}.weight"], named[f"{prefix}.bias"] = layer.weight, layer.bias
        return {name: np.array(value, np.float32, order="C") for name, value in named.items()}
