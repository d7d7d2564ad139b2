"""Small ONNX graphs for tests, built node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shapes = Mapping[str, Sequence[int | str]]

OPSET = 17
FOREIGN_STATES: tuple[dict[str, Any], ...] = (
    {"input": "h_in", "output": "h_out", "shape": (6,)},
    {"input": "m_in", "output": "m_out", "shape": (1, 2), "batch_axis": 1},
)


def build_graph(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, NDArray[Any]],
    inputs: Shapes,
    outputs: Shapes,
) -> bytes:
    """An ONNX file's bytes; inputs and outputs are float32 of the given shapes, in which names are free sizes."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def foreign_graph(batch: int | str = "batch", seed: int = 0) -> bytes:
    """One step of a network that no operator of ONNX is, of plain products: x [batch, 3] to y [batch, 2].

    h' = tanh(x W + h U); m' = m/2 + h'[:2]; y = h' V + m'. States: h [batch, 6] and m [1, batch, 2].
    """
    random = np.random.default_rng(seed)
    weights: dict[str, NDArray[Any]] = {
        name: random.uniform(-0.5, 0.5, shape).astype(np.float32)
        for name, shape in (("W", (3, 6)), ("U", (6, 6)), ("V", (6, 2)))
    }
    weights["half"] = np.array([0.5], np.float32)
    weights |= {name: np.array([value]) for name, value in (("starts", 0), ("ends", 2), ("axes", 1), ("first", 0))}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["xw"]),
        helper.make_node("MatMul", ["h_in", "U"], ["hu"]),
        helper.make_node("Add", ["xw", "hu"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_out"]),
        helper.make_node("Slice", ["h_out", "starts", "ends", "axes"], ["start"]),
        helper.make_node("Mul", ["m_in", "half"], ["faded"]),
        helper.make_node("Unsqueeze", ["start", "first"], ["start3"]),
        helper.make_node("Add", ["faded", "start3"], ["m_out"]),
        helper.make_node("MatMul", ["h_out", "V"], ["hv"]),
        helper.make_node("Squeeze", ["m_out", "first"], ["m2"]),
        helper.make_node("Add", ["hv", "m2"], ["y"]),
    ]
    states: Shapes = {"h": [batch, 6], "m": [1, batch, 2]}
    return build_graph(
        nodes,
        weights,
        {"x": [batch, 3], **{f"{name}_in": shape for name, shape in states.items()}},
        {"y": [batch, 2], **{f"{name}_out": shape for name, shape in states.items()}},
    )
