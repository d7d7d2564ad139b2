"""The baselines of one evaluation, fitted once and asked by stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.model.frequency import Frequency
from tidegate.training.evaluation import baselines, metrics
from tidegate.training.evaluation.baselines import Ridge
from tidegate.training.evaluation.streams import Stream

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
PERSISTENCE, SEASONAL, RIDGE = "persistence", "seasonal naive", "ridge on lags"


@dataclass(frozen=True, eq=False)
class Rivals:
    """What a model is held against. `targets` are columns of the streams' values; `season` in steps, None: there is
    none; `ridge` None: there was nothing to fit it on. `scales` of MASE by stream [streams, targets], and `center` and
    `spread` [targets] over the training parts of all streams, which standardise errors."""

    targets: NDArray[np.intp]
    season: int | None
    ridge: Ridge | None
    scales: dict[str, Array]
    center: Array
    spread: Array

    def forecasts(self, stream: Stream, origins: Rows, horizon: int) -> dict[str, Array]:
        """Each rival's forecasts [origins, horizon, targets], by its name."""
        values = stream.values[:, self.targets]
        made = {PERSISTENCE: baselines.persistence(values, origins, horizon)}
        if self.season:
            made[SEASONAL] = baselines.seasonal_naive(values, origins, horizon, self.season)
        if self.ridge:
            made[RIDGE] = self.ridge.forecast(values, origins, horizon, stream.fit)
        return made


def fit_rivals(
    streams: Sequence[Stream], targets: NDArray[np.intp], frequency: Frequency, season: int | None = None
) -> Rivals:
    """Fits on the training parts; a season that is not given is the frequency's."""
    season = season or baselines.season_of(frequency)
    parts = [stream.values[: stream.fit, targets] for stream in streams]
    longest = max(map(len, parts), default=0)
    if season and longest < 2 * season:
        season = None
    lags = baselines.lags_of(season, longest)
    ridge = baselines.fit_ridge(parts, len(targets), lags) if longest > 2 * lags else None
    scales = {stream.id: metrics.naive_scale(part, season or 1) for stream, part in zip(streams, parts, strict=True)}
    known = np.concatenate(parts) if longest > 1 else np.concatenate([stream.values[:, targets] for stream in streams])
    center = metrics.mean(known)
    spread = np.sqrt(metrics.mean((known - center) ** 2))
    return Rivals(targets, season, ridge, scales, center, np.where(spread > 0, spread, 1.0))
