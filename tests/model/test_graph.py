"""Foreign graphs: ONNX Runtime behind the kernel's call, judged by the graph's own equations and by row bits."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from tests.graphs import FOREIGN_STATES, Shapes, build_graph, foreign_graph
from tests.model.test_bit_identity import assert_rows_keep_their_bits
from tidegate.errors import PackageError
from tidegate.model.graph import GraphKernel
from tidegate.model.kernels import build_kernel
from tidegate.model.package import Package, parse_manifest

CPU = torch.device("cpu")
ROWS = 64


def foreign_package(content: bytes, **graph: Any) -> Package:
    """A package of three features and two outputs around a graph; `graph` replaces fields of Graph."""
    manifest = {
        "name": "foreign",
        "version": "1",
        "features": [
            *({"name": f"x{index}", "role": "past"} for index in range(3)),
            *({"name": f"y{index}", "role": "output"} for index in range(2)),
        ],
        "targets": ["y0", "y1"],
        "cell": "onnx",
        "graph": {"input": "x", "output": "y", "states": FOREIGN_STATES} | graph,
        "weights_sha256": "0" * 64,
    }
    return Package(parse_manifest(json.dumps(manifest).encode()), {}, "", content)


@torch.inference_mode()
def test_a_graph_steps_as_its_equations() -> None:
    """Fifty steps of 64 rows are what the graph's equations give in float64 NumPy, outputs and every state."""
    content = foreign_graph()
    kernel = build_kernel(foreign_package(content), CPU)
    assert isinstance(kernel, GraphKernel)
    assert (kernel.inputs, kernel.outputs, kernel.state_width) == (3, 2, 8)
    held = onnx.load_from_string(content).graph.initializer
    w = {entry.name: numpy_helper.to_array(entry).astype(np.float64) for entry in held}
    x = np.random.default_rng(1).standard_normal((50, ROWS, 3)).astype(np.float32)
    state, h, m = torch.zeros(ROWS, 8), np.zeros((ROWS, 6)), np.zeros((ROWS, 2))
    for step in range(50):
        after = torch.empty_like(state)
        y = kernel(torch.from_numpy(x[step]), state, after)
        h = np.tanh(x[step] @ w["W"] + h @ w["U"])
        m = m / 2 + h[:, :2]
        np.testing.assert_allclose(y.numpy(), h @ w["V"] + m, rtol=0, atol=1e-5)
        np.testing.assert_allclose(after.numpy(), np.concatenate([h, m], 1), rtol=0, atol=1e-5)
        state = after


@pytest.mark.parametrize("batch", ["batch", 1, 16])
@torch.inference_mode()
def test_rows_keep_their_bits(batch: int | str) -> None:
    """A row's bits depend on the row alone, whatever batch size the graph was exported with."""
    assert_rows_keep_their_bits(GraphKernel(foreign_package(foreign_graph(batch)), CPU), seed=3)


@torch.inference_mode()
def test_sequence_axes_are_put_in_and_taken_out() -> None:
    """A graph that takes [1, batch, width] and gives [batch, 1, outputs] steps as one without those axes."""
    plain = onnx.load_from_string(foreign_graph()).graph
    weights = {entry.name: numpy_helper.to_array(entry) for entry in plain.initializer}
    nodes = [
        helper.make_node("Squeeze", ["x3", "first"], ["x"]),
        *plain.node,
        helper.make_node("Unsqueeze", ["y", "axes"], ["y3"]),
    ]
    shapes: Shapes = {"h": ["batch", 6], "m": [1, "batch", 2]}
    content = build_graph(
        nodes,
        weights,
        {"x3": [1, "batch", 3], **{f"{name}_in": shape for name, shape in shapes.items()}},
        {"y3": ["batch", 1, 2], **{f"{name}_out": shape for name, shape in shapes.items()}},
    )
    package = foreign_package(content, input="x3", output="y3", sequence_axis=0, output_sequence_axis=1)
    kernels = GraphKernel(package, CPU), GraphKernel(foreign_package(foreign_graph()), CPU)
    x, state = torch.randn(32, 3), torch.randn(32, 8)
    after = torch.empty_like(state), torch.empty_like(state)
    assert torch.equal(kernels[0](x, state, after[0]), kernels[1](x, state, after[1]))
    assert torch.equal(*after)


def other_states(**fields: Any) -> list[dict[str, Any]]:
    return [FOREIGN_STATES[0] | fields, FOREIGN_STATES[1]]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": "z"}, "z: is no input of the graph, which takes x, h_in, m_in"),
    "no output": ({"output": "z"}, "z: is no output of the graph, which has y, h_out, m_out"),
    "no state": ({"states": other_states(output="z")}, "z: is no output"),
    "a state is left out": ({"states": FOREIGN_STATES[:1]}, "m_in: is an input of the graph that is declared neither"),
    "a state's shape": ({"states": other_states(shape=(7,))}, r"h_in: is tensor\(float\) \['batch', 6\], declared"),
    "an axis too many": ({"sequence_axis": 0}, r"x: is tensor\(float\) \['batch', 3\], declared as"),
    "the output's axis": ({"output_sequence_axis": 0}, r"y: is float32 \[32, 2\] for a batch of 32, declared"),
}


@pytest.mark.parametrize(("fields", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_was_declared_wrongly_is_named(fields: dict[str, Any], problem: str) -> None:
    """A declaration that is not the graph's is refused when the kernel is built, with the name that is wrong."""
    with pytest.raises(PackageError, match=problem):
        GraphKernel(foreign_package(foreign_graph(), **fields), CPU)


def test_a_batch_size_that_fits_no_tile_is_refused() -> None:
    """A graph of batch size 5 cannot step tiles of 32 rows, and says so."""
    with pytest.raises(PackageError, match=r"fixed batch sizes .* divides 32"):
        GraphKernel(foreign_package(foreign_graph(5)), CPU)


def test_bytes_that_are_no_graph_are_refused() -> None:
    """A broken file is a PackageError in one line."""
    with pytest.raises(PackageError, match="is no graph that ONNX Runtime can run"):
        GraphKernel(foreign_package(b"not a graph"), CPU)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime is not installed, the error says which extra brings it."""
    package = foreign_package(foreign_graph())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails
    with pytest.raises(PackageError, match=r"tidegate\[onnx\]"):
        GraphKernel(package, CPU)
