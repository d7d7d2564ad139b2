"""The kernel of a foreign model: one step of its ONNX graph by ONNX Runtime, on the CPU.

Bit identity: the graph sees tiles of one size only, so that ONNX Runtime takes the same path for a row whatever it is
served with; one thread runs a tile. A graph whose batch size is fixed gets tiles of that size.
Rejected: binding the graph's inputs and outputs to the slab's memory (a state there is a view with strides).
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tidegate.errors import PackageError
from tidegate.model.cells import ROWS
from tidegate.model.manifest import Graph
from tidegate.model.package import GRAPH, Package

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FLOAT = "tensor(float)"
EXTRA = "pip install 'tidegate[onnx]'"

Array = NDArray[np.float32]
Shape = list[int | None]  # None is the batch


class GraphKernel:
    """One step of a package's graph for M rows. Holds nothing that changes: any thread may call it."""

    def __init__(self, package: Package, device: torch.device) -> None:
        """Raises PackageError, naming the input, output or state, unless the graph is what the manifest declares."""
        manifest = package.manifest
        assert manifest.graph is not None
        self.inputs, self.outputs = manifest.input_width, manifest.outputs // manifest.channels
        self.state_width = package.row_width
        self._graph, self._device = manifest.graph, device
        self._session = open_session(package.graph)
        bounds = accumulate((prod(state.shape) for state in manifest.graph.states), initial=0)
        self._states = list(zip(manifest.graph.states, pairwise(bounds), strict=True))
        self._rows = _batch_size(self._session, _declared_inputs(manifest.graph, self.inputs))
        self._check_outputs(_declared_outputs(manifest.graph, self.outputs))

    def __call__(self, x: Tensor, state: Tensor, new_state: Tensor) -> Tensor:
        """As `Kernel.__call__`; outputs are as the graph gives them. A row of state is the graph's states after each
        other, each in C order of the shape that the manifest declares."""
        values, before = x.cpu().numpy(), state.cpu().numpy()
        outputs, after = np.empty((len(values), self.outputs), np.float32), np.empty_like(before)
        for low in range(0, len(values), self._rows):
            rows = slice(low, low + self._rows)
            results = self._run(values[rows], before[rows])
            outputs[rows] = results[0].reshape(-1, self.outputs)
            for (entry, (start, stop)), result in zip(self._states, results[1:], strict=True):
                after[rows, start:stop] = np.moveaxis(result, entry.batch_axis, 0).reshape(-1, stop - start)
        new_state.copy_(torch.from_numpy(after))
        return torch.from_numpy(outputs).to(self._device)

    def _run(self, x: Array, state: Array) -> list[Array]:
        """One tile: the output and the next states, as the graph shapes them."""
        axis = self._graph.sequence_axis
        feeds = {self._graph.input: x if axis is None else np.expand_dims(x, axis)}
        for entry, (start, stop) in self._states:
            feeds[entry.input] = np.moveaxis(state[:, start:stop].reshape(-1, *entry.shape), 0, entry.batch_axis)
        wanted = [self._graph.output, *(entry.output for entry, _ in self._states)]
        contiguous = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        results: list[Array] = self._session.run(wanted, contiguous)
        return results

    def _check_outputs(self, declared: dict[str, Shape]) -> None:
        """Steps a tile of zeros, to see that everything comes back in its declared shape."""
        known = [entry.name for entry in self._session.get_outputs()]
        for name in declared:
            if name not in known:
                raise PackageError(f"{GRAPH}:{name}", f"is no output of the graph, which has {', '.join(known)}")
        tile = np.zeros((self._rows, self.inputs), np.float32), np.zeros((self._rows, self.state_width), np.float32)
        try:
            results = self._run(*tile)
        except Exception as error:  # noqa: BLE001  (those of ONNX Runtime have no base of their own)
            raise PackageError(GRAPH, f"cannot step a batch of {self._rows} ({first_line(error)})") from None
        for (name, shape), result in zip(declared.items(), results, strict=True):
            expected = [self._rows if size is None else size for size in shape]
            if list(result.shape) != expected or result.dtype != np.float32:
                found = f"{result.dtype} {list(result.shape)} for a batch of {self._rows}"
                raise PackageError(f"{GRAPH}:{name}", f"is {found}, declared as float32 {expected}")


def open_session(graph: bytes) -> InferenceSession:
    """Opens an ONNX file's bytes on the CPU, to be run by the calling thread alone; raises PackageError."""
    try:
        import onnxruntime  # noqa: PLC0415  (an extra)
    except ImportError:
        raise PackageError(GRAPH, f"needs ONNX Runtime, which is not installed: {EXTRA}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors reach us as exceptions
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  (those of ONNX Runtime have no base of their own)
        raise PackageError(GRAPH, f"is no graph that ONNX Runtime can run ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """What ONNX Runtime says, short enough for one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def _declared_inputs(graph: Graph, width: int) -> dict[str, Shape]:
    shapes = {graph.input: _with_axis([None, width], graph.sequence_axis)}
    return shapes | {state.input: _with_batch(state.shape, state.batch_axis) for state in graph.states}


def _declared_outputs(graph: Graph, width: int) -> dict[str, Shape]:
    shapes = {graph.output: _with_axis([None, width], graph.output_sequence_axis)}
    return shapes | {state.output: _with_batch(state.shape, state.batch_axis) for state in graph.states}


def _with_axis(shape: Shape, axis: int | None) -> Shape:
    return shape if axis is None else [*shape[:axis], 1, *shape[axis:]]


def _with_batch(shape: tuple[int, ...], axis: int) -> Shape:
    return [*shape[:axis], None, *shape[axis:]]


def _batch_size(session: InferenceSession, declared: dict[str, Shape]) -> int:
    """Checks what the graph takes; returns the batch size that it fixes, or ROWS where it takes any."""
    found: dict[str, Any] = {entry.name: entry for entry in session.get_inputs()}
    fixed: dict[int, str] = {}
    for name, shape in declared.items():
        if name not in found:
            raise PackageError(f"{GRAPH}:{name}", f"is no input of the graph, which takes {', '.join(found)}")
        taken = found[name].shape
        if found[name].type != FLOAT or not _fits(taken, shape):
            raise PackageError(f"{GRAPH}:{name}", f"is {found[name].type} {taken}, declared as {FLOAT} {shape}")
        batch = taken[shape.index(None)]
        if isinstance(batch, int):
            fixed[batch] = name
    for name in found:
        if name not in declared:
            raise PackageError(
                f"{GRAPH}:{name}", "is an input of the graph that is declared neither as one nor as a state"
            )
    rows = min(fixed, default=ROWS)
    if len(fixed) > 1 or rows < 1 or ROWS % rows:
        sizes = ", ".join(f"{name} {size}" for size, name in fixed.items())
        raise PackageError(
            GRAPH, f"has fixed batch sizes ({sizes}); a batch must be free, or one size that divides {ROWS}"
        )
    return rows


def _fits(taken: list[int | str | None], declared: Shape) -> bool:
    """Whether a graph's shape, in which names and None are any size, is the declared one."""
    if len(taken) != len(declared):
        return False
    pairs = zip(taken, declared, strict=True)
    return all(want is None or not isinstance(size, int) or size == want for size, want in pairs)
