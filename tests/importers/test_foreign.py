"""Foreign graphs: whatever network steps by declared states is served as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper, load_from_string

from tests.graphs import foreign_graph
from tests.importers.command import imported, refusal
from tests.importers.test_onnx import single_step
from tests.model.test_bit_identity import assert_rows_keep_their_bits
from tidegate.model.graph import GraphKernel
from tidegate.training.importers.agreement import served_predictions

STATES = ("--state", "h_in:h_out", "--state", "m_in:m_out")


@pytest.mark.parametrize("batch", ["batch", 1, 8])
def test_a_foreign_graph_is_served_as_it_is(tmp_path: Path, batch: int | str) -> None:
    """A graph that no operator describes predicts through its package what ONNX Runtime steps, within 1e-5."""
    content, file = foreign_graph(batch), tmp_path / "net.onnx"
    file.write_bytes(content)
    package = imported("onnx", file, *STATES, "--features", "a,b,c")
    assert (package.manifest.cell, package.row_width) == ("onnx", 8)
    assert [feature.role for feature in package.manifest.features] == ["past"] * 3 + ["output"] * 2
    rows = batch if isinstance(batch, int) else 5
    x = np.random.default_rng(3).standard_normal((100, rows, 3)).astype(np.float32)
    session, h, m = onnxruntime.InferenceSession(content), np.zeros((rows, 6)), np.zeros((1, rows, 2))
    expected = []
    for values in x:
        feeds = {"x": values, "h_in": h.astype(np.float32), "m_in": m.astype(np.float32)}
        y, h, m = session.run(["y", "h_out", "m_out"], feeds)
        expected.append(y)
    assert np.abs(expected).max() > 0.05  # the comparison is of something
    np.testing.assert_allclose(served_predictions(package, x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sequence_first", [True, False])
@torch.inference_mode()
def test_an_operator_with_sequence_axes_runs_as_it_is(tmp_path: Path, sequence_first: bool) -> None:
    """An LSTM of 64 in a graph of one step, time or batch first, agrees, and its rows keep their bits in any tile."""
    file = tmp_path / "net.onnx"
    file.write_bytes(single_step(64, sequence_first))
    package = imported("onnx", file, "--state", "h_in:h_out", "--state", "c_in:c_out")
    assert package.manifest.graph is not None
    axis = 0 if sequence_first else 1
    assert (package.manifest.graph.sequence_axis, package.manifest.graph.output_sequence_axis) == (axis, axis)
    assert_rows_keep_their_bits(GraphKernel(package, torch.device("cpu")), seed=7)


WRONG = {
    "a state is left out": (("--state", "h_in:h_out"), "one input that is no declared state"),
    "no such input": (("--state", "z:h_out", *STATES), "z: is no input of the graph"),
    "no such output": (("--state", "h_in:z", "--state", "m_in:m_out"), "z: is no output"),
    "states crossed": (("--state", "h_in:m_out", "--state", "m_in:h_out"), "m_out: is"),
    "no pair": (("--state", "h_in"), "must be two names"),
}


@pytest.mark.parametrize(("states", "problem"), WRONG.values(), ids=WRONG)
def test_wrong_declarations_are_named(tmp_path: Path, states: tuple[str, ...], problem: str) -> None:
    """Refused with the name that is wrong, and nothing is written."""
    file = tmp_path / "net.onnx"
    file.write_bytes(foreign_graph())
    assert problem in refusal("onnx", file, *states)


def renamed(content: bytes, names: dict[str, str]) -> bytes:
    """The graph with other names for some of its values."""
    model = load_from_string(content)
    for entry in (*model.graph.input, *model.graph.output):
        entry.name = names.get(entry.name, entry.name)
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    changed: bytes = model.SerializeToString()
    return changed


def test_names_with_colons(tmp_path: Path) -> None:
    """Names of values such as h:0 are parted where the graph has both; a wrong one is still named."""
    file = tmp_path / "net.onnx"
    file.write_bytes(renamed(foreign_graph(), {"h_in": "h:0", "h_out": "hn:0", "m_in": "m:0"}))
    assert "z:0: is no output" in refusal("onnx", file, "--state", "h:0:z:0", "--state", "m:0:m_out")
    package = imported("onnx", file, "--state", "h:0:hn:0", "--state", "m:0:m_out")
    assert package.manifest.graph is not None
    assert [(state.input, state.output) for state in package.manifest.graph.states] == [
        ("h:0", "hn:0"),
        ("m:0", "m_out"),
    ]


def changed(last: str) -> bytes:
    """The foreign graph with one more node before its output."""
    model = load_from_string(foreign_graph())
    model.graph.node[-1].output[0] = "y_before"
    if last == "mix":
        model.graph.node.append(helper.make_node("ReduceMean", ["y_before"], ["mean"], axes=[0], keepdims=1))
        model.graph.node.append(helper.make_node("Add", ["y_before", "mean"], ["y"]))
    else:
        model.graph.node.append(helper.make_node("RandomNormalLike", ["y_before"], ["noise"], name="dice"))
        model.graph.node.append(helper.make_node("Add", ["y_before", "noise"], ["y"]))
    content: bytes = model.SerializeToString()
    return content


def test_a_graph_that_mixes_rows_is_refused(tmp_path: Path) -> None:
    """Sessions must not see each other: a graph that averages over its batch does not agree with its rows alone."""
    file = tmp_path / "net.onnx"
    file.write_bytes(changed("mix"))
    assert "predictions are up to" in refusal("onnx", file, *STATES)


def test_a_graph_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    """A retry must give the same prediction: the random node is named."""
    file = tmp_path / "net.onnx"
    file.write_bytes(changed("dice"))
    assert "RandomNormalLike dice" in refusal("onnx", file, *STATES)
