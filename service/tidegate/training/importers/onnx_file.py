"""An ONNX file with LSTM, GRU or RNN operators, one or stacked, and a head of linear layers.

The walk goes from an output back to the input. Nodes that only arrange values (Squeeze, Transpose, …) are passed over:
whether they were understood shows in the agreement with ONNX Runtime. Any other node on the way is refused by its name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import NodeProto

from tidegate.errors import PackageError
from tidegate.training.importers.network import Array, Network
from tidegate.training.importers.onnx_cells import CELLS, Layer, read_layer
from tidegate.training.importers.onnx_graph import ARRANGING, RECURRENT, OnnxGraph, label
from tidegate.training.importers.onnx_head import FOREIGN, find_head
from tidegate.training.importers.onnx_source import OnnxSource


def read_onnx(path: Path) -> tuple[Network, OnnxSource]:
    """Raises PackageError that names the node that cannot be served."""
    graph = OnnxGraph(path)
    if not any(node.op_type in RECURRENT for node in graph.nodes):
        raise PackageError(path.name, f"has no LSTM, GRU or RNN operator; {FOREIGN}")
    head = find_head(graph)
    nodes, x = _find_layers(graph, head.top)
    layers = [read_layer(graph, node) for node in nodes]
    _check_alike(nodes, layers)
    network = Network(
        cell=_cell(layers),
        inputs=layers[0].tensors["weight_ih"].shape[1],
        outputs=len(head.layers[-1].bias),
        layers=len(layers),
        hidden_size=layers[0].hidden,
        gru_reset=layers[0].gru_reset if layers[0].op == "GRU" else "after",
        recurrent=_tensors(layers),
        head=tuple(head.layers),
        activation=head.activation or "relu",
    )
    return network, OnnxSource(graph, x, head.output, nodes, network)


def _find_layers(graph: OnnxGraph, top: NodeProto) -> tuple[list[NodeProto], str]:
    """The stack, lowest first, and the input of the graph below it."""
    nodes = [top]
    name = top.input[0]
    while name not in graph.inputs:
        node = graph.maker(name)
        if node is None or node.op_type not in (*ARRANGING, *RECURRENT):
            raise PackageError(label(node) if node else name, "stands before a recurrent operator; " + FOREIGN)
        if node.op_type in RECURRENT:
            nodes.append(node)
        name = node.input[0]
    return nodes[::-1], name


def _check_alike(nodes: list[NodeProto], layers: list[Layer]) -> None:
    for node, layer in zip(nodes, layers, strict=True):
        if (layer.op, layer.hidden, layer.gru_reset) != (layers[0].op, layers[0].hidden, layers[0].gru_reset):
            raise PackageError(label(node), "is another cell or of another hidden size than the layer below it")


def _cell(layers: list[Layer]) -> str:
    peepholes = any(layer.peepholes is not None for layer in layers)
    return "lstm_peephole" if peepholes else CELLS[layers[0].op]


def _tensors(layers: list[Layer]) -> dict[str, Array]:
    named: dict[str, Array] = {}
    for index, layer in enumerate(layers):
        named |= {f"{name}_l{index}": value for name, value in layer.tensors.items()}
        if _cell(layers) == "lstm_peephole":
            seen = np.zeros((3, layer.hidden), np.float32) if layer.peepholes is None else layer.peepholes
            named |= {f"weight_c{gate}_l{index}": seen[place] for place, gate in enumerate("ifo")}
    return named
