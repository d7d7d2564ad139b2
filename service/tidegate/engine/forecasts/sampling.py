"""Draws from a prediction: one sample of what comes next, for every path of a forecast.

A quantile head's outputs are a quantile function, linear between its levels and going on straight beyond the outermost
ones; a regression head's are the centre of a normal distribution of its one-step errors; a categorical head's are
probabilities. Random numbers are Philox's, by scenario: the same seed gives the same paths, whatever else is forecast.
Pure: NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.forecasts.request import Sampling
from tidegate.model.manifest import Head, Manifest

VALUES_AT_ONCE = 65_536  # drawn, or ordered for quantiles: a millisecond or a few
Rows = NDArray[np.float64]


class Distribution:
    """How one package's outputs are drawn from, if its head is `drawable`."""

    def __init__(self, manifest: Manifest) -> None:
        head = manifest.head
        self.head = head
        self._residual_std = np.array(head.residual_std or 0.0)
        scalings = {feature.name: feature.scaling for feature in manifest.features}
        self._log1p = np.array([scalings[target].transform == "log1p" for target in manifest.targets])

    @property
    def numbers_a_step(self) -> int:
        """Random numbers that a draw takes: one a target, of a categorical head one in all."""
        return 1 if self.head.kind == "categorical" else len(self._log1p)

    def fill(self, numbers: Rows, seed: int) -> Iterator[None]:
        """The random numbers of one scenario, [paths, steps, numbers a step]: normal for a regression head, else
        uniform. Yields between portions."""
        generator = np.random.Generator(np.random.Philox(key=seed))
        drawn = generator.standard_normal if self.head.kind == "regression" else generator.random
        flat = numbers.reshape(-1)
        for low in range(0, flat.size, VALUES_AT_ONCE):
            drawn(out=flat[low : low + VALUES_AT_ONCE])
            yield

    def draw(self, outputs: Rows, numbers: Rows, units: Rows, sampling: Sampling) -> Rows:
        """Raw outputs [n, outputs] and numbers [n, targets] to raw values [n, targets]: of a vocabulary, one-hot.

        `units` [n or 1, targets] say how large a training unit is (of the transformed value).
        """
        if self.head.kind == "categorical":
            return np.eye(outputs.shape[1])[draw_categories(outputs, numbers[:, 0], sampling)]
        if self.head.kind == "quantile":
            return draw_quantiles(outputs, numbers, self.head)
        with np.errstate(all="ignore"):
            level = np.where(self._log1p, np.copysign(np.log1p(np.abs(outputs)), outputs), outputs)
            drawn = level + numbers * self._residual_std * units
            raw: Rows = np.where(self._log1p, np.copysign(np.expm1(np.abs(drawn)), drawn), drawn)
        return raw


def draw_quantiles(outputs: Rows, uniform: Rows, head: Head) -> Rows:
    """The quantile function of each target at `uniform` [n, targets]; outputs [n, targets x levels]."""
    levels, values = np.array(head.levels), head.in_order(outputs)
    if len(levels) == 1:
        return values[:, :, 0]
    low = np.clip(np.searchsorted(levels, uniform, side="right") - 1, 0, len(levels) - 2)
    share = (uniform - levels[low]) / (levels[low + 1] - levels[low])
    below, above = (np.take_along_axis(values, place[:, :, None], 2)[:, :, 0] for place in (low, low + 1))
    drawn: Rows = below + share * (above - below)
    return drawn


def draw_categories(probabilities: Rows, uniform: NDArray[np.float64], sampling: Sampling) -> NDArray[np.int64]:
    """Categories [n] drawn at `uniform` [n] from probabilities [n, categories], of those that the sampling leaves."""
    kept = probabilities
    if sampling.temperature != 1.0:
        relative = probabilities / probabilities.max(axis=1, keepdims=True)
        kept = relative ** (1 / sampling.temperature)
    if sampling.min_p > 0:
        kept = np.where(kept >= sampling.min_p * kept.max(axis=1, keepdims=True), kept, 0.0)
    if 0 < sampling.top_k < kept.shape[1]:
        order = np.argsort(-kept, axis=1, kind="stable")
        kept = kept.copy()
        np.put_along_axis(kept, order[:, sampling.top_k :], 0.0, axis=1)
    cumulated = kept.cumsum(axis=1)
    last = kept.shape[1] - 1 - (kept[:, ::-1] > 0).argmax(axis=1)  # rounding must not fall off the end
    drawn: NDArray[np.int64] = (cumulated <= (uniform * cumulated[:, -1])[:, None]).sum(axis=1)
    return np.asarray(np.minimum(drawn, last), np.int64)


def quantiles(paths: Rows, levels: tuple[float, ...], found: Rows) -> Iterator[None]:
    """Of sample paths [paths, steps, targets], into `found` [levels, steps, targets]. Yields between portions."""
    count, steps, targets = paths.shape
    portion = max(1, VALUES_AT_ONCE // (count * targets))
    for low in range(0, steps, portion):
        found[:, low : low + portion] = np.quantile(paths[:, low : low + portion], levels, axis=0)
        yield
