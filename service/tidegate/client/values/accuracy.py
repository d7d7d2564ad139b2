"""How far predictions are from what came, beside persistence (the last value goes on). Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """Mean absolute errors of one target over `count` observations, in its own unit."""

    target: str
    model: float
    persistence: float
    count: int

    @property
    def below_percent(self) -> float:
        """By how much the model's error is below persistence's; negative when it is above."""
        return 100.0 * (1.0 - self.model / self.persistence) if self.persistence else float("nan")


class Accuracy:
    """Compares each session's observations with what was predicted for them.

    `observe` takes the observations of a session in their order, `predicted` what was predicted after each.
    """

    def __init__(self, targets: tuple[str, ...]) -> None:
        self._targets = targets
        self._errors = np.zeros((2, len(targets)))
        self._count = np.zeros(len(targets), np.int64)
        self._predictions: dict[str, Vector] = {}
        self._last: dict[str, Vector] = {}

    def observe(self, session: str, observed: Vector, bridged: bool = False) -> Vector:
        """Scores one observation [targets]; returns what was predicted for it (NaN: nothing was).

        `bridged` says that steps were missing before it, so that the last prediction was for another time.
        """
        nothing = np.full(len(self._targets), np.nan)
        predicted = nothing if bridged else self._predictions.get(session, nothing)
        last = self._last.get(session, nothing)
        errors = np.abs(np.stack([predicted, last]) - observed)
        known = np.isfinite(errors).all(axis=0)
        self._errors[:, known] += errors[:, known]
        self._count += known
        self._last[session] = np.where(np.isnan(observed), last, observed)
        return predicted

    def predicted(self, session: str, values: NDArray[np.float32]) -> None:
        """Remembers what is expected of the session's next observation."""
        self._predictions[session] = np.asarray(values, np.float64)

    def scores(self) -> list[Score]:
        """One a target."""
        means = self._errors / np.maximum(self._count, 1)
        columns = zip(self._targets, means[0], means[1], self._count, strict=True)
        return [Score(name, float(model), float(last), int(count)) for name, model, last, count in columns]


def score_rows(scores: list[Score]) -> list[tuple[str, str, str, str]]:
    """Cells for a table: target, MAE, persistence's MAE, percent below; a dash for what there is no figure of."""
    return [
        (score.target, f"{score.model:.3f}", f"{score.persistence:.3f}", _percent(score.below_percent))
        if score.count
        else (score.target, "–", "–", "no rows")
        for score in scores
    ]


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}%"
