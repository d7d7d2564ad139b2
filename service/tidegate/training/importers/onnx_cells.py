"""The recurrent operators of ONNX (LSTM, GRU, RNN) as the package's cells: gates and peepholes in torch's order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from tidegate.errors import PackageError
from tidegate.training.importers.network import Array
from tidegate.training.importers.onnx_graph import OnnxGraph, as_float, attributes, label

GATE_ORDER = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}  # iofc to ifgo, zrh to rzn
ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}
W, R, B, SEQUENCE_LENGTHS, P = 1, 2, 3, 4, 7  # places of a node's inputs
STATES = (5, 6)  # initial h and c


@dataclass(frozen=True)
class Layer:
    """One recurrent node. `tensors` are named as torch.nn.LSTM names them, without the layer's number; `peepholes` i, f
    and o, if any is not zero."""

    op: str
    hidden: int
    gru_reset: str
    tensors: dict[str, Array]
    peepholes: Array | None


def read_layer(graph: OnnxGraph, node: NodeProto) -> Layer:
    """Raises PackageError that names the node and what of it cannot be served."""
    settings = attributes(node)
    _check_settings(node, settings)
    order = GATE_ORDER[node.op_type]
    weights = {name: _matrix(graph, node, place) for name, place in (("weight_ih", W), ("weight_hh", R))}
    hidden = weights["weight_hh"].shape[1]
    tensors = {name: _reorder(value, order) for name, value in weights.items()}
    bias = _optional(graph, node, B, np.zeros((1, 2 * len(order) * hidden)))[0]
    for name, half in zip(("bias_ih", "bias_hh"), np.split(bias, 2), strict=True):
        tensors[name] = _reorder(half, order)
    peepholes = _optional(graph, node, P, np.zeros((1, 3 * hidden)))[0].reshape(3, hidden)[[0, 2, 1]]
    _check_states(graph, node)
    reset = "after" if settings.get("linear_before_reset", 0) else "before"
    return Layer(node.op_type, hidden, reset, tensors, as_float(peepholes) if peepholes.any() else None)


def given(node: NodeProto, place: int) -> str:
    """The name of a node's input, empty where it is left out."""
    return node.input[place] if place < len(node.input) else ""


def _check_settings(node: NodeProto, settings: dict[str, Any]) -> None:
    if settings.get("direction", "forward") != "forward":
        raise PackageError(label(node), f"is {settings['direction']}, and only the past is known: forward is served")
    chosen = [name.lower() for name in settings.get("activations", ACTIVATIONS[node.op_type])]
    if chosen != ACTIVATIONS[node.op_type]:
        raise PackageError(label(node), f"has activations {', '.join(chosen)}; the default ones are served")
    for name in ("clip", "input_forget"):
        if settings.get(name):
            raise PackageError(label(node), f"has {name} {settings[name]:g}, which is not served")
    if given(node, SEQUENCE_LENGTHS):
        raise PackageError(label(node), "takes sequence lengths; export it without")


def _check_states(graph: OnnxGraph, node: NodeProto) -> None:
    for place in STATES:
        name = given(node, place)
        if name and not graph.is_zero(name) and not any(isinstance(part, str) for part in graph.upstream(name)):
            raise PackageError(label(node), f"begins with {name}, which is neither zero nor an input of the graph")


def _matrix(graph: OnnxGraph, node: NodeProto, place: int) -> Array:
    value = graph.constant(given(node, place))
    if value is None or value.ndim != 3:
        raise PackageError(label(node), f"has weights that are no constant ({given(node, place)})")
    return as_float(value[0])


def _optional(graph: OnnxGraph, node: NodeProto, place: int, default: Any) -> Any:
    name = given(node, place)
    value = graph.constant(name) if name else default
    if value is None:
        raise PackageError(label(node), f"has weights that are no constant ({name})")
    return value


def _reorder(value: Any, order: list[int]) -> Array:
    gates = np.split(value, len(order))
    return as_float(np.concatenate([gates[place] for place in order]))
