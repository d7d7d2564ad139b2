"""Any ONNX graph of one step whose state inputs and outputs are declared: it is served as it is.

Whatever the file leaves open is read off the shapes that it declares: the one input that is no state is the
observation, the first output that is no state the prediction, and the batch is the axis of free size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from tidegate.errors import ConfigError, PackageError
from tidegate.model.graph import first_line, open_session
from tidegate.model.manifest import Graph, GraphState
from tidegate.training.importers.network import Array, Network
from tidegate.training.importers.onnx_graph import OnnxGraph

Shape = list[int | str | None]
ROWS = 3
SHAPE_ROWS = 2  # a batch of one looks like a sequence of one


def read_foreign(path: Path, declared: Sequence[str]) -> tuple[Network, ForeignSource]:
    """`declared` are the states: an input, a colon, and the output that holds its next value. Raises PackageError, and
    ConfigError for what is not two names."""
    graph = OnnxGraph(path)
    states = dict(_pair(text, graph) for text in declared)
    for name in states:
        if name not in graph.inputs:
            raise PackageError(name, f"is no input of the graph, which takes {', '.join(graph.inputs)}")
    for name in states.values():
        if name not in graph.outputs:
            raise PackageError(name, f"is no output of the graph, which has {', '.join(graph.outputs)}")
    observed = [name for name in graph.inputs if name not in states]
    predicted = [name for name in graph.outputs if name not in states.values()]
    if len(observed) != 1 or not predicted:
        held = ", ".join(observed) or "none"
        raise PackageError(path.name, f"must have one input that is no declared state ({held}), and an output")
    batches = {graph.inputs[name][_batch_axis(name, graph.inputs[name])] for name in states}
    entries = [_state(name, output, graph.inputs[name]) for name, output in states.items()]
    axis = _sequence_axis(observed[0], graph.inputs[observed[0]], batches)
    width = graph.inputs[observed[0]][-1]
    if not isinstance(width, int):
        raise PackageError(observed[0], f"does not say how many values it takes: {graph.inputs[observed[0]]}")
    source = ForeignSource(graph, observed[0], predicted[0], entries, axis)
    several = ForeignSource(graph, observed[0], predicted[0], entries, axis, SHAPE_ROWS)
    shape = several.output_shape(width)
    known = Graph(
        input=observed[0],
        output=predicted[0],
        states=tuple(entries),
        sequence_axis=axis,
        output_sequence_axis=_output_axis(predicted[0], shape, several.rows_at_once),
    )
    network = Network(
        cell="onnx",
        inputs=width,
        outputs=shape[-1],
        graph=known,
        graph_bytes=graph.bytes,
        left_out=tuple(predicted[1:]),
    )
    return network, source


def _pair(text: str, graph: OnnxGraph) -> tuple[str, str]:
    """The two names, parted at the colon that the graph's names say, as they may have some themselves."""
    pairs = [(text[:place], text[place + 1 :]) for place in range(1, len(text) - 1) if text[place] == ":"]
    if not pairs:
        raise ConfigError(f"--state {text}: must be two names with ':' between them")
    known = [(left in graph.inputs) + (right in graph.outputs) for left, right in pairs]
    best = [pair for pair, names in zip(pairs, known, strict=True) if names == max(known)]
    return best[-1]


class ForeignSource:
    """See network.Source: each row on its own, so that a graph that mixes rows disagrees."""

    rows, steps = ROWS, None

    def __init__(
        self, graph: OnnxGraph, x: str, output: str, states: list[GraphState], axis: int | None, rows: int = 1
    ) -> None:
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._session = open_session(graph.bytes)
        self._x, self._output, self._states, self._axis = x, output, states, axis
        fixed = [graph.inputs[state.input][state.batch_axis] for state in states]
        self.rows_at_once = next((size for size in fixed if isinstance(size, int)), rows)

    def predict(self, x: Array) -> dict[int, Array]:
        """See network.Source."""
        rows = [self._row(x[:, row]) for row in range(x.shape[1])]
        return {step + 1: np.stack([row[step] for row in rows]) for step in range(len(x))}

    def output_shape(self, width: int) -> tuple[int, ...]:
        """The shape of the prediction; raises PackageError unless the states come back as they went in."""
        before = self._zeros()
        output, after = self._step(np.zeros(width, np.float32), before)
        for entry, old, new in zip(self._states, before, after, strict=True):
            if old.shape != new.shape:
                raise PackageError(entry.output, f"is {list(new.shape)}, but {entry.input} takes {list(old.shape)}")
        return output.shape

    def _row(self, x: Array) -> list[Array]:
        """x [steps, inputs] to the outputs of each step."""
        states, outputs = self._zeros(), []
        for values in x:
            output, states = self._step(values, states)
            outputs.append(output.reshape(self.rows_at_once, -1)[0])
        return outputs

    def _step(self, x: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        batch = np.tile(x, (self.rows_at_once, 1))
        feeds = {self._x: batch if self._axis is None else np.expand_dims(batch, self._axis)}
        feeds |= {entry.input: value for entry, value in zip(self._states, states, strict=True)}
        try:
            output, *after = self._session.run([self._output, *(entry.output for entry in self._states)], feeds)
        except Exception as error:  # noqa: BLE001  (those of ONNX Runtime have no base of their own)
            raise PackageError(self._x, f"cannot be stepped ({first_line(error)})") from None
        return output, after

    def _zeros(self) -> list[Array]:
        return [
            np.zeros(np.insert(entry.shape, entry.batch_axis, self.rows_at_once), np.float32) for entry in self._states
        ]


def _state(name: str, output: str, shape: Shape) -> GraphState:
    axis = _batch_axis(name, shape)
    rest = [size for place, size in enumerate(shape) if place != axis]
    if not all(isinstance(size, int) for size in rest):
        raise PackageError(name, f"is a state whose size is not fixed: {shape}")
    return GraphState(input=name, output=output, shape=tuple(int(str(size)) for size in rest), batch_axis=axis)


def _batch_axis(name: str, shape: Shape) -> int:
    """The one free axis; where all are fixed, the first of two or the second of three, as recurrent layers have it."""
    free = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    if len(free) > 1 or not shape:
        raise PackageError(name, f"is a state of shape {shape}; one axis of it, the batch, may be free")
    return free[0] if free else int(len(shape) == 3)


def _sequence_axis(name: str, shape: Shape, batches: set[int | str | None]) -> int | None:
    """Where an input of three axes has the axis of one step."""
    if len(shape) == 2:
        return None
    if len(shape) != 3:
        raise PackageError(name, f"has {len(shape)} axes; an input is [batch, values], perhaps with a sequence of one")
    places = [
        axis for axis in (0, 1) if shape[axis] == 1 or (shape[axis] not in batches and shape[1 - axis] in batches)
    ]
    if not places:
        raise PackageError(name, f"is {shape}: which axis is the batch, and which a sequence of one step?")
    return places[0]


def _output_axis(name: str, shape: tuple[int, ...], rows: int) -> int | None:
    if len(shape) == 2:
        return None
    places = [axis for axis in (1, 0) if len(shape) == 3 and shape[axis] == 1 and shape[1 - axis] == rows]
    if not places:
        raise PackageError(name, f"is {list(shape)} for a batch of {rows}; a prediction is [batch, values]")
    return places[0]
