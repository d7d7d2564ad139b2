"""Variations of the training data: what is multiplied, and that it is the same as if the data had been."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.packages import unwritten
from tidegate.errors import ConfigError
from tidegate.model.inputs import Inputs
from tidegate.model.manifest import Manifest
from tidegate.training.augmentation import own_columns, random_factors
from tidegate.training.data import load
from tidegate.training.draft import checked, draft_manifest
from tidegate.training.examples import Stretch, make_examples
from tidegate.training.network import Network, new_network
from tidegate.training.recipe import Recipe, Training, make_recipe
from tidegate.training.rollout import Piece, Rollout, make_batch

CPU, STEPS, FACTORS = torch.device("cpu"), 40, np.array([[-1.0, 3.0], [0.5, -2.0]], np.float32)
LAGS = [{"feature": name, "steps": [1, 3], "scales": [0.5, 2.0]} for name in ("a", "c", "b")]
FEATURES: list[dict[str, Any]] = [
    {"name": "kind", "role": "past", "categories": ["x", "y", "z"]},
    {"name": "a", "scaling": {"scale": 2.0}},
    {"name": "c", "role": "past"},
    {"name": "b", "scaling": {"scale": 3.0}},
]


def test_what_is_a_channels_own() -> None:
    """Its value, lags and feedback, at the places where they change with the target; nothing else does."""
    manifest = unwritten(
        features=FEATURES,
        targets=["b", "a"],
        lags=LAGS,
        calendar=[{"field": "hour_of_day"}],
        frequency="h",
        ids=["s"],
        ages=True,
        feedback=True,
        channel_independent=True,
    ).manifest
    random = np.random.default_rng(0)
    raw = np.column_stack([random.integers(0, 3, STEPS), random.normal(0, 2, (STEPS, 3))])
    factors = np.array([-2.0, 0.5])  # of b and a
    derived, varied = (Inputs(manifest).derive(raw * [1, times[1], 1, times[0]]).x for times in (np.ones(2), factors))
    own = own_columns(manifest)
    assert own.sum() == 1 + 2 + 1
    assert own[-1]
    np.testing.assert_allclose(varied, derived * np.where(own, factors[:, None], 1.0), atol=1e-12)


def recipe_of(**training: Any) -> Recipe:
    return make_recipe(
        {
            "name": "two",
            "features": [{"name": "a"}, {"name": "b"}],
            "inputs": {"channel_independent": True, "lags": [2], "ages": True, "feedback": True},
            "network": {"hidden_size": 8, "head": {"output": "change"}},
            "training": training,
        }
    )


def uncentred(recipe: Recipe, frame: pd.DataFrame) -> Manifest:
    """A manifest whose scaling takes no mean off, so that data times a factor are inputs times it."""
    fields = draft_manifest(recipe, load(recipe, frame))
    for feature in fields["features"]:
        feature["scaling"]["center"] = 0.0
    return checked(fields)


def pieces(manifest: Manifest, recipe: Recipe, frame: pd.DataFrame, network: Network, factors: Any) -> list[Piece]:
    """Two pieces of one stretch, with a gap across them."""
    examples = make_examples(manifest, load(recipe, frame), CPU)
    rollout = Rollout(manifest, examples, CPU)
    gap = np.zeros((20, 1), np.bool_)
    gap[6:14] = True
    batch, found = make_batch([Stretch(3, 20)], CPU, gap, factors), list[Piece]()
    memory, state = rollout.start(batch), None
    for steps in (slice(0, 10), slice(10, 20)):
        found.append(rollout.piece(network, batch.piece(steps), memory, state))
        _, state = network(found[-1].x, state)
    return found


@pytest.mark.parametrize("row", [0, 1])
def test_varied_is_as_if_the_data_were(row: int) -> None:
    """Inputs and goals, own predictions in a gap among them, are those of data that were multiplied before."""
    recipe = recipe_of()
    frame = pd.DataFrame(np.random.default_rng(1).normal(0, 1, (60, 2)), columns=["a", "b"])
    manifest = uncentred(recipe, frame)
    torch.manual_seed(0)
    network = new_network(recipe, manifest, CPU).eval()
    factors = FACTORS[row : row + 1]
    varied = pieces(manifest, recipe, frame, network, factors)
    wanted = pieces(manifest, recipe, frame * factors[0], network, None)
    for one, other in zip(varied, wanted, strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.goals, other.goals, rtol=1e-4, atol=1e-5)


def test_factors_are_drawn() -> None:
    """About the share is upside down, sizes spread as told; without either there are none, nor any random number."""
    random = np.random.default_rng(0)
    factors = random_factors(random, 4000, 2, Training(flip=0.25, amplitude=0.3))
    assert factors is not None
    assert factors.shape == (4000, 2)
    assert np.mean(factors < 0) == pytest.approx(0.25, abs=0.03)
    assert np.log(np.abs(factors)).std() == pytest.approx(0.3, abs=0.02)
    assert random_factors(np.random.default_rng(0), 4000, 2, Training()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": {"flip": 0.5}}, r"training\.flip and training\.amplitude: need inputs\.channel_independent"),
        ({"training": {"amplitude": 0.5}}, "need inputs.channel_independent"),
        (
            {
                "training": {"flip": 0.5},
                "inputs": {"channel_independent": True},
                "network": {"head": {"kind": "quantile"}},
            },
            "a low quantile upside down is a high one",
        ),
    ],
)
def test_where_they_have_no_meaning(options: dict[str, Any], message: str) -> None:
    """Refused, with what is missing."""
    with pytest.raises(ConfigError, match=message):
        make_recipe({"name": "m", "features": [{"name": "a"}]} | options)
