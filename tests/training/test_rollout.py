"""Networks' own predictions: the C parts find what torch finds, and give way to it where predictions run away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from tidegate.native import library
from tidegate.training import rollout as rollouts
from tidegate.training.data import load
from tidegate.training.draft import checked, draft_manifest
from tidegate.training.examples import Examples, Stretch, make_examples
from tidegate.training.network import Network, detached, new_network
from tidegate.training.recipe import make_recipe
from tidegate.training.rollout import Memory, Rollout, Seen, make_batch, random_gaps

CPU = torch.device("cpu")
TIMED = {"time": "at", "id": "sensor", "frequency": "h"}
LEVELS = [{"name": "level"}, {"name": "flow", "transform": "log1p"}]
RECIPES: dict[str, dict[str, Any]] = {
    "scaled": {"features": LEVELS, "network": {"layers": 2, "hidden_size": 12}},
    "lags, calendar, ids, channels, change": {
        "features": LEVELS,
        "inputs": {
            "lags": [1, 3, 24],
            "calendar": ["hour_of_day", "day_of_week:one_hot"],
            "ids": True,
            "channel_independent": True,
            "scaling": "instance",
            "scaling_window": 20,
        },
        "network": {"hidden_size": 9, "head": {"output": "change"}},
    },
    "quantiles, feedback, ages, MLP": {
        "features": LEVELS,
        "inputs": {"feedback": True, "ages": True},
        "network": {"hidden_size": 10, "head": {"kind": "quantile", "hidden": [7], "activation": "tanh"}},
    },
    "by session, covariates": {
        "features": [
            *LEVELS,
            {"name": "valve", "role": "past", "categories": ["open", "shut"]},
            {"name": "price", "role": "future"},
        ],
        "inputs": {"scaling": "running", "lags": [2]},
    },
    "words": {
        "features": [{"name": "valve", "vocabulary": ["open", "shut"]}],
        "inputs": {"feedback": True},
        "network": {"hidden_size": 9, "head": {"kind": "categorical"}},
    },
}


def prepared(options: dict[str, Any]) -> tuple[Rollout, Examples, Network]:
    """Of two sensors over 200 hours, a tenth of whose values are missing."""
    if library() is None:
        pytest.skip("the C parts are not built here: there is no C compiler, or the processor is too old")
    random, rows = np.random.default_rng(0), 400
    hours = pd.date_range("2026-01-01", periods=rows // 2, freq="h")
    frame = pd.DataFrame(
        {
            "at": np.tile(hours, 2),
            "sensor": np.repeat(["north", "south"], rows // 2),
            "level": np.sin(np.arange(rows) / 5) + random.normal(0, 0.1, rows),
            "flow": random.exponential(20, rows),
            "valve": random.choice(["open", "shut"], rows),
            "price": random.normal(30, 5, rows),
        }
    )
    for name in ("level", "flow", "valve"):
        frame.loc[random.random(rows) < 0.1, name] = None
    recipe = make_recipe({"name": "pump", "data": TIMED} | options)
    dataset = load(recipe, frame)
    manifest = checked(draft_manifest(recipe, dataset))
    examples = make_examples(manifest, dataset, CPU)
    torch.manual_seed(0)
    return Rollout(manifest, examples, CPU), examples, new_network(recipe, manifest, CPU).eval()


@torch.no_grad()
def run(rollout: Rollout, network: Network) -> tuple[list[Tensor], Memory]:
    """What the cell sees of three stretches with gaps, 7 steps at a time, and what is remembered at the end."""
    stretches = [Stretch(0, 40), Stretch(30, 33), Stretch(210, 40)]
    gap = random_gaps(np.random.default_rng(1), 40, 3, 0.3, 5)
    batch = make_batch(stretches, CPU, gap)
    memory, state, found = rollout.start(batch), None, []
    for start in range(0, 40, 7):
        piece = rollout.piece(network, batch.piece(slice(start, start + 7)), memory, state)
        found += [piece.x, piece.base, piece.unit]
        _, state = network(piece.x, state)
        state = detached(state)
    return found, memory


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_as_by_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the rounding of float32, with every kind of input, missing values and gaps; states are carried over."""
    rollout, _, network = prepared(RECIPES[name])
    monkeypatch.setattr(Rollout, "_by_torch", lambda *_: pytest.fail("torch stepped"))
    found, memory = run(rollout, network)
    monkeypatch.undo()
    monkeypatch.setattr(rollouts, "library_for", lambda *_: None)
    by_torch, _, _ = prepared(RECIPES[name])
    wanted, wanted_memory = run(by_torch, network)
    pairs = [*zip(found, wanted, strict=True), (memory.last, wanted_memory.last), (memory.ages, wanted_memory.ages)]
    pairs += [(memory.columns[column], part) for column, part in wanted_memory.columns.items()]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_predictions_that_run_away(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network whose outputs are large, or beyond float32: torch clamps them, from what was remembered before."""
    options = RECIPES["lags, calendar, ids, channels, change"] | {"features": [{"name": "level"}]}
    rollout, _, network = prepared(options)
    with torch.no_grad():
        network.get_parameter("head.bias").fill_(size)
    stepped: list[Seen] = []
    by_torch = Rollout._by_torch

    def count(*given: Any) -> Seen:
        stepped.append(by_torch(*given))
        return stepped[-1]

    monkeypatch.setattr(Rollout, "_by_torch", count)
    found, memory = run(rollout, network)
    assert stepped
    monkeypatch.setattr(rollouts, "library_for", lambda *_: None)
    alone, _, _ = prepared(options)
    wanted, wanted_memory = run(alone, network)
    for mine, theirs in [*zip(found, wanted, strict=True), (memory.last, wanted_memory.last)]:
        assert torch.equal(mine, theirs)
        assert mine.isfinite().all()
