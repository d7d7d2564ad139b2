"""An imported network through a running server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from tests.graphs import foreign_graph
from tests.importers.command import imported
from tests.servers import RunningServer
from tidegate import Client

STEPS = 20


def served(models: Path, x: np.ndarray) -> np.ndarray:
    """Predictions [steps, sessions, targets] of model `net` for x [steps, sessions, features]."""
    with RunningServer(models) as server, Client(server.grpc) as client, client.batches("net") as batches:
        ids = [f"s{row}" for row in range(x.shape[1])]
        return np.stack([batches.step(ids, values).values for values in x])


def test_a_foreign_graph_through_a_server(tmp_path: Path) -> None:
    """A server steps forty sessions of a foreign graph, each with its own states, as ONNX Runtime does."""
    content, file = foreign_graph(), tmp_path / "net.onnx"
    file.write_bytes(content)
    imported("onnx", file, "--state", "h_in:h_out", "--state", "m_in:m_out")
    x = np.random.default_rng(4).standard_normal((STEPS, 40, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(content)
    h, m, expected = np.zeros((40, 6), np.float32), np.zeros((1, 40, 2), np.float32), []
    for values in x:
        y, h, m = session.run(["y", "h_out", "m_out"], {"x": values, "h_in": h, "m_in": m})
        expected.append(y)
    np.testing.assert_allclose(served(tmp_path / "models", x), expected, rtol=0, atol=1e-5)


def test_a_torch_network_through_a_server(tmp_path: Path) -> None:
    """A client of an imported nn.GRU sends its features alone and gets what the module gives."""
    torch.manual_seed(5)
    net = nn.ModuleDict({"cell": nn.GRU(3, 12), "head": nn.Linear(12, 2)})
    torch.save(net.state_dict(), tmp_path / "net.pt")
    imported("torch", tmp_path / "net.pt")
    x = np.random.default_rng(6).standard_normal((STEPS, 7, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net["head"](net["cell"](torch.from_numpy(x))[0]).numpy()
    np.testing.assert_allclose(served(tmp_path / "models", x), expected, rtol=0, atol=1e-5)
