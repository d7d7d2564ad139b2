"""The head of an ONNX file: the linear layers between an output and the recurrent operator below it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from tidegate.errors import PackageError
from tidegate.training.importers.network import Affine, Array
from tidegate.training.importers.onnx_graph import ARRANGING, RECURRENT, OnnxGraph, as_float, attributes, label

FOREIGN = "any graph runs as it is when its states are declared: --state IN:OUT"
ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh"}


@dataclass(frozen=True)
class Head:
    """`layers` from the node `top` on to the graph's `output`, with `activation` between them if there are several."""

    output: str
    top: NodeProto
    layers: tuple[Affine, ...]
    activation: str


def find_head(graph: OnnxGraph) -> Head:
    """That of the first output behind a linear layer (outputs without one are states); raises PackageError."""
    for output in graph.outputs:
        head = _Walk(graph).back_from(output)
        if head.layers:
            return head
    raise PackageError(graph.outputs[0], "comes from the recurrent operator without a head (Gemm, or MatMul and Add)")


@dataclass
class _Walk:
    """The way back from an output: what was gathered, and what waits for the linear layer that it belongs to."""

    graph: OnnxGraph
    layers: list[Affine] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    bias: Array | None = None
    activation: NodeProto | None = None

    def back_from(self, output: str) -> Head:
        name = output
        while True:
            node = self.graph.maker(name)
            if node is None:
                raise PackageError(output, f"comes from {name}, not from an LSTM, GRU or RNN operator; {FOREIGN}")
            if node.op_type in RECURRENT:
                break
            name = self._pass(node)
        if self.bias is not None or self.activation is not None:
            raise PackageError(label(self.activation or node), "is not followed by the linear layer of a head")
        return Head(output, node, tuple(self.layers[::-1]), next(iter(self.kinds), "relu"))

    def _pass(self, node: NodeProto) -> str:
        """Takes a node up; the value to go on from."""
        if node.op_type == "Add":
            return self._add(node)
        if node.op_type in ACTIVATIONS:
            if not self.layers or self.activation is not None or self.bias is not None:
                raise PackageError(label(node), "is no activation between two linear layers")
            self.activation = node
        elif node.op_type in ("MatMul", "Gemm"):
            self._multiply(node)
        elif node.op_type not in ARRANGING:
            raise PackageError(label(node), f"is no part of a linear or MLP head; {FOREIGN}")
        return node.input[0]

    def _add(self, node: NodeProto) -> str:
        values = [self.graph.constant(name) for name in node.input]
        constants = [(place, value) for place, value in enumerate(values) if value is not None]
        if len(constants) != 1 or self.bias is not None:
            raise PackageError(label(node), f"adds something that is no bias; {FOREIGN}")
        place, value = constants[0]
        if value.size != (value.shape or (1,))[-1]:
            raise PackageError(label(node), f"adds {list(value.shape)} values, other ones at other steps; {FOREIGN}")
        self.bias = as_float(value).reshape(-1)
        return node.input[1 - place]

    def _multiply(self, node: NodeProto) -> None:
        if self.layers and self.activation is None:
            raise PackageError(label(node), "is followed by another linear layer without an activation between them")
        if self.activation is not None:
            self.kinds.add(ACTIVATIONS[self.activation.op_type])
        if len(self.kinds) > 1:
            raise PackageError(label(node), "is part of a head with both Relu and Tanh; one of them is served")
        self.layers.append(_affine(self.graph, node, self.bias))
        self.bias = self.activation = None


def _affine(graph: OnnxGraph, node: NodeProto, bias: Array | None) -> Affine:
    settings, weight = attributes(node), graph.constant(node.input[1])
    if weight is None or weight.ndim != 2 or settings.get("transA"):
        raise PackageError(label(node), "does not multiply by a constant matrix")
    weight = (weight if settings.get("transB") else weight.T) * np.float32(settings.get("alpha", 1.0))
    biases = [] if bias is None else [bias]
    if len(node.input) > 2 and node.input[2]:
        own = graph.constant(node.input[2])
        if own is None:
            raise PackageError(label(node), "adds something that is no constant")
        biases.append(own.reshape(-1) * np.float32(settings.get("beta", 1.0)))
    for one in biases:
        if len(one) not in (1, len(weight)):
            raise PackageError(label(node), f"has a bias of {len(one)} for {len(weight)} outputs")
    return Affine(as_float(weight), as_float(sum(biases, np.zeros(len(weight), np.float32))))
