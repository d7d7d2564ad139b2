"""What a feature is before its first value: in training what it is where the model is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.engine.harness import InProcess
from tidegate.model.package import save_package
from tidegate.training.data import Stream, load
from tidegate.training.draft import checked, draft_manifest
from tidegate.training.examples import Stretch, make_examples
from tidegate.training.network import Network, new_network
from tidegate.training.recipe import make_recipe
from tidegate.training.rollout import Piece, Rollout, make_batch

CPU = torch.device("cpu")
FEATURES: list[dict[str, Any]] = [
    {"name": "level"},
    {"name": "rain", "transform": "log1p"},
    {"name": "temperature", "role": "past"},
    {"name": "sky", "role": "past", "categories": ["sun", "rain"]},
]
UNSEEN, STEPS = 12, 60  # steps before a first value, and all


def prepared(folder: Path, scaling: str, features: list[dict[str, Any]]) -> tuple[Rollout, Network, Stream]:
    """A random network, served from `folder` too, and its stream; what it sees while it trains."""
    random = np.random.default_rng(0)
    columns = {
        "steady": 5 + np.sin(np.arange(STEPS)),
        "level": 1000 + np.sin(np.arange(STEPS) / 3),
        "rain": random.exponential(20, STEPS),
        "temperature": random.normal(12, 4, STEPS),
        "sky": random.choice(["sun", "rain"], STEPS).astype(object),
    }
    for name, first in (("level", 3), ("rain", UNSEEN), ("temperature", UNSEEN), ("sky", UNSEEN)):
        columns[name][:first] = None if name == "sky" else np.nan
    inputs = {"scaling": scaling, "lags": [2]}
    recipe = make_recipe({"name": "pump", "features": features, "inputs": inputs, "network": {"hidden_size": 8}})
    dataset = load(recipe, pd.DataFrame(columns))
    fields = draft_manifest(recipe, dataset, "1")
    manifest = checked(fields)
    torch.manual_seed(0)
    network = new_network(recipe, manifest, CPU).eval()
    save_package(folder / "pump" / "1", fields, network.weights())
    return Rollout(manifest, make_examples(manifest, dataset, CPU), CPU), network, dataset.streams[0]


def seen(rollout: Rollout, network: Network, start: int) -> Piece:
    """What the network sees in the stretch from there on."""
    batch = make_batch([Stretch(start, STEPS - start - 1)], CPU)
    return rollout.piece(network, batch, rollout.start(batch), None)


@pytest.mark.parametrize("scaling", ["package", "instance", "running"])
def test_a_session_that_begins_so(tmp_path: Path, scaling: str) -> None:
    """Outputs in training are a session's predictions, which is sent as missing what is missing."""
    rollout, network, stream = prepared(tmp_path, scaling, FEATURES)
    piece = seen(rollout, network, 0)
    with torch.no_grad():
        outputs, _ = network(piece.x)
    levels = outputs[..., :2].double() * piece.unit + piece.base
    trained = levels[:, 0].numpy()
    trained[:, 1] = np.copysign(np.expm1(np.abs(trained[:, 1])), trained[:, 1])
    engine = InProcess(tmp_path)
    served = [engine.ask("a", row, scope="pump").values for row in stream.values[:-1]]
    np.testing.assert_allclose(trained, served, rtol=1e-4, atol=1e-4)


def test_a_stretch_that_begins_later(tmp_path: Path) -> None:
    """It knows as little of a feature without a value so far as one from the stream's beginning."""
    rollout, network, _ = prepared(tmp_path, "package", [{"name": "steady"}, *FEATURES[2:]])
    later = UNSEEN // 2
    torch.testing.assert_close(seen(rollout, network, later).x, seen(rollout, network, 0).x[later:])
