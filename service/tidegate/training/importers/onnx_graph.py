"""An ONNX file as something to walk through: who makes a value, and which values are constants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import ConfigError, PackageError
from tidegate.model.graph import EXTRA, first_line

try:
    import onnx
    from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
except ImportError:
    raise ConfigError(f"reading ONNX files needs onnx and ONNX Runtime, which are not installed: {EXTRA}") from None

Values = NDArray[Any]

RECURRENT = ("LSTM", "GRU", "RNN")
ARRANGING = (
    "Cast",
    "Dropout",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
ZERO_FILLED = (*ARRANGING, "Expand", "Tile")
TORCH = (".pt", ".pth", ".safetensors")
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


class OnnxGraph:
    """A model's main graph. Values go by name; `bytes` is the whole file with its weights inside."""

    def __init__(self, path: Path) -> None:
        """Raises PackageError, unless the file is an ONNX model with no randomness in it."""
        if path.suffix in TORCH:
            raise PackageError(path.name, "is a file of torch; give it to `tidegate import torch`")
        try:
            model: ModelProto = onnx.load(path)
            onnx.checker.check_model(model)
            self.bytes: bytes = model.SerializeToString()
        except Exception as error:  # noqa: BLE001  (protobuf's, the checker's and the file system's)
            raise PackageError(path.name, f"is no ONNX model that can be read ({first_line(error)})") from None
        graph: GraphProto = model.graph
        self.nodes = list(graph.node)
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._constants = {entry.name: entry for entry in graph.initializer}
        self.inputs = {entry.name: _shape(entry) for entry in graph.input if entry.name not in self._constants}
        self.outputs = [entry.name for entry in graph.output]
        for node in self.nodes:
            if node.op_type in RANDOM:
                raise PackageError(label(node), "draws random numbers, so that no step of it could be repeated")

    def maker(self, name: str) -> NodeProto | None:
        """The node that a value comes from; None for inputs and constants."""
        return self._makers.get(name)

    def constant(self, name: str) -> Values | None:
        """The value of an initializer, of a Constant node, or of one that was only rearranged by Identity or Cast."""
        if name in self._constants:
            return numpy_helper.to_array(self._constants[name])
        node = self.maker(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            value = attributes(node).get("value")
            return None if value is None else numpy_helper.to_array(value)
        return self.constant(node.input[0]) if node.op_type in ("Identity", "Cast") else None

    def is_zero(self, name: str) -> bool:
        """Whether a value is made of zeros alone, whatever its size."""
        value, node = self.constant(name), self.maker(name)
        if value is not None:
            return not value.any()
        if node is None:
            return False
        if node.op_type == "ConstantOfShape":
            fill = attributes(node).get("value")
            return fill is None or not numpy_helper.to_array(fill).any()
        if node.op_type == "Concat":
            return all(self.is_zero(part) for part in node.input)
        return node.op_type in ZERO_FILLED and self.is_zero(node.input[0])

    def upstream(self, name: str) -> Iterator[NodeProto | str]:
        """What a value is made of: recurrent nodes, behind which it does not look, and inputs of the graph by name."""
        node = self.maker(name)
        if name in self.inputs:
            yield name
        if node is not None and node.op_type in RECURRENT:
            yield node
        elif node is not None:
            for part in node.input:
                yield from self.upstream(part)


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name; text as str."""
    found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {
        name: value.decode() if isinstance(value, bytes) else _texts(value) if isinstance(value, list) else value
        for name, value in found.items()
    }


def label(node: NodeProto) -> str:
    """How an error names a node: by its own name or else by what it makes."""
    return f"{node.op_type} {node.name or next(iter(node.output), '')}".strip()


def as_float(values: Values) -> NDArray[np.float32]:
    """float32, C order."""
    return np.array(values, np.float32, order="C")


def _texts(values: list[Any]) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in values]


def _shape(entry: Any) -> list[int | str | None]:
    """Sizes of an input: numbers, or the names of free ones."""
    sizes = entry.type.tensor_type.shape.dim
    return [size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in sizes]
