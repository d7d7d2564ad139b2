"""Variations of what is trained on: a target and its past turned upside down, or made larger and smaller.

What a network learns of a channel then does not hang on which way up it was, nor on how lively it was (flipping and
scaling of Um et al. 2017, doi:10.1145/3136755.3136817). A factor holds for a whole stretch, and for all that is the
channel's own among its inputs; covariates stay as they are. Of channel-independent models: the others see several
targets at once, and how these hang together would be lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.model.manifest import Manifest
from tidegate.training.recipe import Training


def random_factors(
    random: np.random.Generator, stretches: int, channels: int, settings: Training
) -> NDArray[np.float32] | None:
    """[stretches, channels]: by what a channel is multiplied, in training units; None where nothing is varied."""
    if not settings.flip and not settings.amplitude:
        return None
    shape = stretches, channels
    signs = np.where(random.random(shape) < settings.flip, -1.0, 1.0)
    return (signs * np.exp(settings.amplitude * random.standard_normal(shape))).astype(np.float32)


def own_columns(manifest: Manifest) -> NDArray[np.bool_]:
    """[input width]: which inputs of a channel are its own: value, lag differences, feedback. See `model/inputs.py`."""
    values = [(feature.name in manifest.targets, feature.width) for feature in manifest.features]
    lags = [(entry.feature in manifest.targets, len(entry.steps)) for entry in manifest.lags]
    marks = [*_once(values), *_once(lags)]
    feedback = manifest.head.width if manifest.feedback else 0
    others = manifest.input_width - len(marks) - feedback
    return np.array(marks + [False] * others + [True] * feedback)


def _once(parts: list[tuple[bool, int]]) -> list[bool]:
    """A mark a column; of the targets' parts, only the first has a place."""
    marks, placed = list[bool](), False
    for own, width in parts:
        if not (own and placed):
            marks += [own] * width
        placed = placed or own
    return marks
