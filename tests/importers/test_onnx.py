"""ONNX files: what is served predicts as ONNX Runtime runs the file; the rest is refused by the name of its node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper

from tests.graphs import Shapes, build_graph, foreign_graph
from tests.importers.command import imported, refusal
from tidegate.training.importers.agreement import served_predictions

INPUTS, HIDDEN, OUTPUTS, TOLERANCE = 4, 10, 3, 1e-5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PEEPHOLES = 7  # place of an LSTM's P

Weights = dict[str, NDArray[Any]]


def recurrent(
    op: str, x: str, width: int, peepholes: bool = False, hidden: int = HIDDEN, **options: Any
) -> tuple[NodeProto, Weights]:
    """A node that makes `{x}_y` [steps, 1, rows, hidden], `{x}_h` and, of an LSTM, `{x}_c`; and its weights."""
    random, gates = np.random.default_rng(len(x)), GATES[op]
    shapes = {"W": (1, gates * hidden, width), "R": (1, gates * hidden, hidden), "B": (1, 2 * gates * hidden)}
    names = [f"{x}_{name}" for name in shapes]
    inputs = [x, *names]
    if peepholes:
        shapes["P"] = (1, 3 * hidden)
        names.append(f"{x}_P")
        inputs += [""] * (PEEPHOLES - len(inputs)) + [f"{x}_P"]
    weights: Weights = {
        name: random.uniform(-0.4, 0.4, shape).astype(np.float32)
        for name, shape in zip(names, shapes.values(), strict=True)
    }
    outputs = [f"{x}_y", f"{x}_h", *([f"{x}_c"] if op == "LSTM" else [])]
    return helper.make_node(op, inputs, outputs, name=f"{x}_cell", hidden_size=hidden, **options), weights


def head(x: str, relu: bool = False, hidden: int = HIDDEN) -> tuple[list[NodeProto], Weights]:
    """From x [steps, rows, hidden] to `y`, by MatMul and Add."""
    random = np.random.default_rng(9)
    widths = [hidden, 8, OUTPUTS] if relu else [hidden, OUTPUTS]
    weights: Weights = {"axis1": np.array([1])}
    nodes: list[NodeProto] = []
    for index in range(len(widths) - 1):
        shape = widths[index : index + 2]
        weights[f"head_w{index}"] = random.uniform(-0.4, 0.4, shape).astype(np.float32)
        weights[f"head_b{index}"] = random.uniform(-0.4, 0.4, shape[1]).astype(np.float32)
        last = index == len(widths) - 2
        nodes += [
            helper.make_node("MatMul", [x, f"head_w{index}"], [f"product{index}"], name=f"product{index}"),
            helper.make_node("Add", [f"head_b{index}", f"product{index}"], ["y" if last else f"sum{index}"]),
        ]
        if not last:
            nodes.append(helper.make_node("Relu", [f"sum{index}"], [f"relu{index}"], name=f"relu{index}"))
            x = f"relu{index}"
    return nodes, weights


def sequence(op: str, relu: bool = False, layers: int = 1, **options: Any) -> bytes:
    """x [steps, rows, inputs] to y [steps, rows, outputs]."""
    x, nodes, weights = "x", list[NodeProto](), Weights()
    for layer in range(layers):
        node, own = recurrent(op, x, HIDDEN if layer else INPUTS, **options)
        nodes += [node, helper.make_node("Squeeze", [f"{x}_y", "axis1"], [f"{x}_s"])]
        weights |= own
        x = f"{x}_s"
    end, own = head(x, relu)
    ends: Shapes = {"x": ["steps", "rows", INPUTS]}
    return build_graph(nodes + end, weights | own, ends, {"y": ["steps", "rows", OUTPUTS]})


def batch_major() -> bytes:
    """x [rows, steps, inputs] to y [rows, steps, outputs], with the nodes that exporters put between."""
    node, weights = recurrent("LSTM", "t", INPUTS)
    end, own = head("b")
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node,
        helper.make_node("Transpose", ["t_y"], ["u"], perm=[2, 0, 1, 3]),
        helper.make_node("Squeeze", ["u", "axis2"], ["b"]),
        *end,
    ]
    weights |= own | {"axis2": np.array([2])}
    return build_graph(nodes, weights, {"x": ["rows", "steps", INPUTS]}, {"y": ["rows", "steps", OUTPUTS]})


def last_step() -> bytes:
    """x [steps, rows, inputs] to the prediction after the last step alone, y [rows, outputs], by Gemm of Y_h."""
    node, weights = recurrent("GRU", "x", INPUTS, linear_before_reset=1)
    own = head("")[1]
    nodes = [
        node,
        helper.make_node("Squeeze", ["x_h", "axis0"], ["h"]),
        helper.make_node("Gemm", ["h", "head_w", "head_b0"], ["y"], transB=1, alpha=0.5, beta=2.0),
    ]
    weights |= {"axis0": np.array([0]), "head_w": own["head_w0"].T.copy(), "head_b0": own["head_b0"]}
    return build_graph(nodes, weights, {"x": ["steps", "rows", INPUTS]}, {"y": ["rows", OUTPUTS]})


def single_step(hidden: int = HIDDEN, sequence_first: bool = True) -> bytes:
    """x [1, rows, inputs] and the states h and c, as inputs and outputs; or x [rows, 1, inputs]."""
    node, weights = recurrent("LSTM", "t", INPUTS, hidden=hidden)
    node.input.extend(["", "h_in", "c_in"])
    end, own = head("s", hidden=hidden)
    order = [0, 1, 2] if sequence_first else [1, 0, 2]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=order),
        node,
        helper.make_node("Identity", ["t_h"], ["h_out"]),
        helper.make_node("Identity", ["t_c"], ["c_out"]),
        helper.make_node("Squeeze", ["t_y", "axis1"], ["u"]),
        helper.make_node("Transpose", ["u"], ["s"], perm=order),
        *end,
    ]
    state: Sequence[int | str] = [1, "rows", hidden]
    ends: Sequence[int | str] = [1, "rows"] if sequence_first else ["rows", 1]
    inputs: Shapes = {"x": [*ends, INPUTS], "h_in": state, "c_in": state}
    outputs: Shapes = {"h_out": state, "c_out": state, "y": [*ends, OUTPUTS]}
    return build_graph(nodes, weights | own, inputs, outputs)


GRAPHS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "lstm": (sequence("LSTM"), {"cell": "lstm"}),
    "lstm with peepholes": (sequence("LSTM", peepholes=True), {"cell": "lstm_peephole"}),
    "three lstms, mlp": (sequence("LSTM", relu=True, layers=3), {"cell": "lstm", "layers": 3}),
    "gru, reset after": (sequence("GRU", linear_before_reset=1), {"cell": "gru", "gru_reset": "after"}),
    "gru, reset before": (sequence("GRU", linear_before_reset=0), {"cell": "gru", "gru_reset": "before"}),
    "two rnns": (sequence("RNN", layers=2), {"cell": "rnn_tanh", "layers": 2}),
}


@pytest.mark.parametrize(("content", "fields"), GRAPHS.values(), ids=GRAPHS)
def test_an_import_predicts_as_onnxruntime(tmp_path: Path, content: bytes, fields: dict[str, Any]) -> None:
    """The written package gives what ONNX Runtime gives for the whole sequence, within 1e-5 over 100 steps."""
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    package = imported("onnx", file)
    assert {name: getattr(package.manifest, name) for name in fields} == fields
    x = np.random.default_rng(2).standard_normal((100, 4, INPUTS)).astype(np.float32)
    expected = onnxruntime.InferenceSession(content).run(["y"], {"x": x})[0]
    assert np.abs(expected).max() > 0.05  # the comparison is of something
    np.testing.assert_allclose(served_predictions(package, x), expected, rtol=0, atol=TOLERANCE)


SHAPES = {
    "batch first": batch_major(),
    "the last step alone": last_step(),
    "one step": single_step(),
    "one step, batch first": single_step(sequence_first=False),
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_what_exporters_put_around_is_understood(tmp_path: Path, content: bytes) -> None:
    """Other orders of axes, the last prediction alone, and single steps with states agree too."""
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    package = imported("onnx", file)
    assert package.manifest.provenance["agreement"]["error_max"] <= TOLERANCE
    assert package.manifest.provenance["agreement"]["steps"] == 64


def between(op: str, **options: Any) -> bytes:
    """An LSTM whose head begins with another node."""
    node, weights = recurrent("LSTM", "x", INPUTS)
    end, own = head("z")
    nodes = [
        node,
        helper.make_node("Squeeze", ["x_y", "axis1"], ["s"]),
        helper.make_node(op, ["s"], ["z"], name="odd", **options),
        *end,
    ]
    ends: Shapes = {"x": ["steps", "rows", INPUTS]}
    return build_graph(nodes, weights | own, ends, {"y": ["steps", "rows", OUTPUTS]})


def biased(*shape: int) -> bytes:
    """An LSTM of 5 steps whose head adds a constant of such a shape."""
    node, weights = recurrent("LSTM", "x", INPUTS)
    end, own = head("s")
    weights |= own | {"head_b0": np.ones(shape, np.float32)}
    nodes = [node, helper.make_node("Squeeze", ["x_y", "axis1"], ["s"]), *end]
    return build_graph(nodes, weights, {"x": [5, 1, INPUTS]}, {"y": [5, 1, OUTPUTS]})


def backwards() -> bytes:
    """An LSTM that reads its sequence from the end."""
    return sequence("LSTM", direction="reverse")


def no_recurrence() -> bytes:
    """A linear layer alone."""
    nodes, weights = head("x")
    return build_graph(nodes, weights, {"x": ["steps", "rows", HIDDEN]}, {"y": ["steps", "rows", OUTPUTS]})


REFUSED: dict[str, tuple[bytes, str]] = {
    "an unknown node": (between("Softplus"), "Softplus odd: is no part"),
    "an activation before the head": (between("Tanh"), "Tanh odd: is not followed"),
    "backwards": (backwards(), "LSTM x_cell: is reverse"),
    "another activation": (sequence("RNN", activations=["Relu"]), "RNN x_cell: has activations relu"),
    "clipped": (sequence("LSTM", clip=3.0), "LSTM x_cell: has clip 3"),
    "a bias of each step": (biased(5, 1, OUTPUTS), "Add y: adds [5, 1, 3] values, other ones at other steps"),
    "one value of each step": (biased(5, 1, 1), "Add y: adds [5, 1, 1] values"),
    "no recurrent operator": (no_recurrence(), "has no LSTM, GRU or RNN operator"),
    "no recurrent operator, states": (foreign_graph(), "--state IN:OUT"),
    "no model": (b"nonsense", "is no ONNX model"),
}


@pytest.mark.parametrize(("content", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_served_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    """Refused in one line with the node's name, and nothing is written."""
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    assert problem in refusal("onnx", file)


def test_a_file_of_torch(tmp_path: Path) -> None:
    """A state dict that is given to the other command is said to be one."""
    (tmp_path / "net.pt").write_bytes(b"PK")
    assert "net.pt: is a file of torch; give it to `tidegate import torch`" in refusal("onnx", tmp_path / "net.pt")


def test_a_bidirectional_operator_is_refused(tmp_path: Path) -> None:
    """Both directions need the future."""
    node, weights = recurrent("GRU", "x", INPUTS, direction="bidirectional")
    weights = {name: np.concatenate([value, value]) for name, value in weights.items()}
    end, own = head("s")
    nodes = [node, helper.make_node("Slice", ["x_y", "low", "high", "axis1"], ["one"])]
    nodes += [helper.make_node("Squeeze", ["one", "axis1"], ["s"]), *end]
    weights |= own | {"low": np.array([0]), "high": np.array([1])}
    file = tmp_path / "net.onnx"
    file.write_bytes(build_graph(nodes, weights, {"x": ["t", "b", INPUTS]}, {"y": ["t", "b", OUTPUTS]}))
    assert "GRU x_cell: is bidirectional" in refusal("onnx", file)


def test_what_was_misunderstood_does_not_agree(tmp_path: Path) -> None:
    """A slice that reverses the sequence is passed over as an arrangement; the comparison finds it, and refuses."""
    node, weights = recurrent("LSTM", "r", INPUTS)
    end, own = head("s")
    nodes = [
        helper.make_node("Slice", ["x", "low", "high", "time", "back"], ["r"]),
        node,
        helper.make_node("Squeeze", ["r_y", "axis1"], ["s"]),
        *end,
    ]
    bounds = {"low": -1, "high": -(2**31), "time": 0, "back": -1}
    weights |= own | {name: np.array([value]) for name, value in bounds.items()}
    file = tmp_path / "net.onnx"
    file.write_bytes(build_graph(nodes, weights, {"x": ["t", "b", INPUTS]}, {"y": ["t", "b", OUTPUTS]}))
    assert "predictions are up to" in refusal("onnx", file)
