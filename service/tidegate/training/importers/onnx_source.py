"""An ONNX file run by ONNX Runtime as it came, for comparison: over a whole sequence, or a step at a time if its time
axis is fixed at one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto

from tidegate.errors import PackageError
from tidegate.model.graph import first_line, open_session
from tidegate.training.importers.network import Array, Network
from tidegate.training.importers.onnx_cells import STATES, given
from tidegate.training.importers.onnx_graph import OnnxGraph, attributes

ROWS = 3
PREFIXES = (
    1,
    2,
    3,
    5,
    8,
    13,
    21,
    34,
    55,
    64,
)  # steps after which a graph that gives its last prediction alone is asked


class OnnxSource:
    """See network.Source."""

    def __init__(self, graph: OnnxGraph, x: str, output: str, nodes: Sequence[NodeProto], network: Network) -> None:
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._graph, self._x, self._output, self._outputs = graph, x, output, network.outputs
        self._session = open_session(graph.bytes)
        shape = graph.inputs[x]
        self._rank, self._batch_major = len(shape), _is_batch_major(graph, nodes[0])
        if self._rank not in (2, 3):
            raise PackageError(x, f"has {self._rank} axes; a sequence has three, one step two")
        steps, rows = (1, shape[0]) if self._rank == 2 else shape[1::-1] if self._batch_major else shape[:2]
        self._length = steps if isinstance(steps, int) else None
        self.rows = rows if isinstance(rows, int) else ROWS
        self._carried = _carried(graph, x, output, nodes) if self._length == 1 else {}
        self.steps = None if self._length == 1 else self._length

    def predict(self, x: Array) -> dict[int, Array]:
        """See network.Source."""
        if self._length == 1:
            return self._stepwise(x)
        whole, _ = self._run(x, {})
        every = self._by_step(whole, len(x))
        if every is not None:
            return {step + 1: values for step, values in enumerate(every)}
        if self._length is not None:
            return {len(x): whole.reshape(self.rows, -1)}
        prefixes = [step for step in PREFIXES if step <= len(x)]
        return {step: self._run(x[:step], {})[0].reshape(self.rows, -1) for step in prefixes}

    def _stepwise(self, x: Array) -> dict[int, Array]:
        """One step a run, the states carried over."""
        states: dict[str, Array] = {}
        predictions = {}
        for step in range(len(x)):
            output, states = self._run(x[step : step + 1], states)
            predictions[step + 1] = output.reshape(self.rows, -1)
        return predictions

    def _run(self, x: Array, states: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """x [steps, rows, inputs] to the output and the next states, by the names of their inputs; zero at first."""
        arranged = x[0] if self._rank == 2 else x.swapaxes(0, 1) if self._batch_major else x
        feeds: dict[str, Any] = {self._x: np.ascontiguousarray(arranged)}
        for name, shape in self._graph.inputs.items():
            if name != self._x:
                sizes = [size if isinstance(size, int) else self.rows for size in shape]
                feeds[name] = states.get(name, np.zeros(sizes, np.float32))
        try:
            results = self._session.run([self._output, *self._carried.values()], feeds)
        except Exception as error:  # noqa: BLE001  (those of ONNX Runtime have no base of their own)
            raise PackageError(self._x, f"cannot be run for comparison ({first_line(error)})") from None
        return results[0], dict(zip(self._carried, results[1:], strict=True))

    def _by_step(self, output: Array, steps: int) -> Array | None:
        """[steps, rows, outputs], or None if the output is the last step's alone."""
        if output.size != steps * self.rows * self._outputs:
            return None
        sizes = [size for size in output.shape[:-1] if size != 1]
        swapped = sizes == [self.rows, steps] or (self._batch_major and sizes != [steps, self.rows])
        if swapped:
            return output.reshape(self.rows, steps, -1).swapaxes(0, 1)
        return output.reshape(steps, self.rows, -1)


def _is_batch_major(graph: OnnxGraph, node: NodeProto) -> bool:
    """Whether the graph's input has its batch first: the operator says so, or there is a transposition before it."""
    batch_major = bool(attributes(node).get("layout", 0))
    name = node.input[0]
    while (maker := graph.maker(name)) is not None:
        if maker.op_type == "Transpose":
            batch_major = batch_major != (list(attributes(maker).get("perm", [2, 1, 0]))[:2] == [1, 0])
        name = maker.input[0]
    return batch_major


def _carried(graph: OnnxGraph, x: str, output: str, nodes: Sequence[NodeProto]) -> dict[str, str]:
    """Which outputs are the next values of the inputs that hold states; raises PackageError unless each has one."""
    goes_to: dict[str, set[tuple[str, int]]] = {name: set() for name in graph.inputs if name != x}
    for node in nodes:
        for number, place in enumerate(STATES):
            for name in graph.upstream(given(node, place)) if given(node, place) else ():
                if isinstance(name, str) and name in goes_to:
                    goes_to[name].add((node.output[0] or node.name, number))
    comes_from = {name: _states_in(graph, name) for name in graph.outputs if name != output}
    carried = {}
    for name, places in goes_to.items():
        match = next((other for other, states in comes_from.items() if states == places), None)
        if match is None or not places:
            raise PackageError(name, "is an input whose next value is no output; one step of it cannot be compared")
        carried[name] = match
    if not carried:
        raise PackageError(x, "is one step, and the states are no inputs: the graph has no memory")
    return carried


def _states_in(graph: OnnxGraph, output: str) -> set[tuple[str, int]]:
    """The states (node, 0 for h and 1 for c) that an output holds."""
    found: set[tuple[str, int]] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        node = graph.maker(name)
        if node is None:
            continue
        if node.op_type in ("LSTM", "GRU", "RNN"):
            found.add((node.output[0] or node.name, 1 if list(node.output).index(name) == 2 else 0))
        else:
            pending += node.input
    return found
