"""What picks the best epoch: the validation loss, with gaps in the same share of it as in the batches of training.

The gaps are drawn once, from the seed: every epoch is judged on the same ones, and so is a training that goes on.
"""

from __future__ import annotations

import numpy as np

from tidegate.errors import ConfigError
from tidegate.model.manifest import Manifest
from tidegate.training.examples import Examples, Stretch
from tidegate.training.fit import Judge
from tidegate.training.network import Network
from tidegate.training.recipe import Training
from tidegate.training.rollout import Rollout, random_gaps
from tidegate.training.scores import LANES_MAX, Scores

LONGEST_GAPS = 2  # a lane with gaps is scored for so many of the longest, after as long a warm-up


def validation_judge(manifest: Manifest, examples: Examples, rollout: Rollout, settings: Training) -> Judge:
    """Judges by the loss on the validation part, lower is better; raises ConfigError where no target is observed."""
    _check(examples, examples.lanes("validation", settings.stretch))
    share = settings.gap_batches if settings.gap_share else 0.0
    parts: list[tuple[float, Scores]] = []
    if share < 1:
        lanes = examples.lanes("validation", settings.stretch)
        parts.append((1 - share, Scores(manifest, examples, rollout, lanes)))
    if share > 0:
        lanes = gap_lanes(examples, settings)
        parts.append((share, Scores(manifest, examples, rollout, lanes, lane_gaps(lanes, settings))))

    def judge(network: Network) -> float:
        return sum(weight * scores.loss(network, settings) for weight, scores in parts)

    return judge


def _check(examples: Examples, lanes: list[Stretch]) -> None:
    goals = (examples.goal[lane.start + lane.skip : lane.start + lane.steps] for lane in lanes)
    if not any(bool(goal.isfinite().any()) for goal in goals):
        raise ConfigError(
            "data: no target has a value in the validation part, so that no epoch could be told from another; move "
            "data.validation or data.test"
        )


def gap_lanes(examples: Examples, settings: Training) -> list[Stretch]:
    """Short ones, because they are run a step at a time, and no more than are run side by side."""
    lanes = examples.lanes("validation", min(settings.stretch, LONGEST_GAPS * settings.gap_steps))
    places = np.linspace(0, len(lanes) - 1, min(len(lanes), LANES_MAX)).round().astype(int)
    return [lanes[place] for place in places]


def lane_gaps(lanes: list[Stretch], settings: Training) -> np.ndarray:
    """bool [steps, lanes], True where an observation is taken away; warm-up has gaps too."""
    random = np.random.default_rng((settings.seed, 0))  # those of training begin at epoch 1
    steps = max((lane.steps for lane in lanes), default=0)
    return random_gaps(random, steps, len(lanes), settings.gap_share, settings.gap_steps)
