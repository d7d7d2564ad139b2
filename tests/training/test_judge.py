"""The judge of the best epoch: it sees the gaps that training has, the same ones every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tidegate.training.data import load
from tidegate.training.draft import checked, draft_manifest
from tidegate.training.examples import make_examples
from tidegate.training.judge import gap_lanes, lane_gaps, validation_judge
from tidegate.training.network import new_network
from tidegate.training.recipe import make_recipe
from tidegate.training.rollout import Rollout

CPU = torch.device("cpu")


def prepared(training: dict[str, Any]) -> tuple[Any, ...]:
    """Manifest, examples, rollout, settings and an untrained network of a sine of 600 steps."""
    recipe = make_recipe({"name": "sine", "features": [{"name": "level"}], "network": {"hidden_size": 8}} | training)
    dataset = load(recipe, pd.DataFrame({"level": np.sin(np.arange(600) / 2)}))
    manifest = checked(draft_manifest(recipe, dataset))
    examples = make_examples(manifest, dataset, CPU)
    torch.manual_seed(0)
    network = new_network(recipe, manifest, CPU).eval()
    return manifest, examples, Rollout(manifest, examples, CPU), recipe.training, network


def judged(**training: Any) -> float:
    """The untrained network's loss."""
    manifest, examples, rollout, settings, network = prepared({"training": {"stretch": 60, **training}})
    first, second = (validation_judge(manifest, examples, rollout, settings)(network) for _ in range(2))
    assert first == second
    return first


def test_gaps_weigh_as_in_training() -> None:
    """Without gaps the loss is one-step alone; with them in all batches gapped alone; else their weighted mean."""
    plain = judged(gap_batches=0.25)
    gapped = judged(gap_share=0.3, gap_steps=10, gap_batches=1.0)
    assert gapped != plain
    mixed = judged(gap_share=0.3, gap_steps=10, gap_batches=0.25)
    assert mixed == pytest.approx(0.75 * plain + 0.25 * gapped)


def test_gapped_lanes_cover_validation_once() -> None:
    """Every goal of the validation part is scored in one lane, and about the share of their steps is taken away."""
    options = {"stretch": 60, "gap_share": 0.3, "gap_steps": 10}
    _, examples, _, settings, _ = prepared({"training": options})
    lanes = gap_lanes(examples, settings)
    scored = [row for lane in lanes for row in range(lane.start + lane.skip, lane.start + lane.steps)]
    assert scored == list(range(419, 509))
    assert 0.1 < lane_gaps(lanes, settings).mean() < 0.5
