"""Forecasts that anybody can make, to hold a model against: persistence, seasonal naive, ridge on lags. NumPy alone.

Each is a function of one stream and of origins (rows after which the forecast is made) to [origins, horizon, targets];
what was not observed at an origin is taken from before it, never from behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tidegate.model.frequency import Frequency

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
PENALTY = 1.0  # of ridge, on standardised lags
LAGS_MAX = 168
STANDARD_VALUES_MIN = 2  # of a training part that tells a stream's mean and spread
LAGS = 24  # where there is no season
_DAY = 86_400_000_000_000


def season_of(frequency: Frequency) -> int | None:
    """Steps of the season that data of this frequency most likely has: a day, a week of days, a year of months."""
    if frequency.months:
        return 12 // frequency.months if frequency.months < 12 and 12 % frequency.months == 0 else None
    if not frequency.nanoseconds:
        return None
    if frequency.nanoseconds < _DAY:
        return _DAY // frequency.nanoseconds if _DAY % frequency.nanoseconds == 0 else None
    return {1: 7, 7: 52}.get(frequency.nanoseconds // _DAY)


def lags_of(season: int | None, training_steps: int) -> int:
    """How many lags ridge sees: seven seasons, within limits and a quarter of the training part."""
    wanted = 7 * season if season else LAGS
    return max(1, min(wanted, LAGS_MAX, training_steps // 4))


def filled(values: Array, season: int = 1) -> Array:
    """NaN replaced by what was a season ago, else by the last value; NaN stays where nothing was before."""
    by_season = values.copy()
    if season > 1:
        for start in range(season, len(values), season):
            block = by_season[start : start + season]
            before = by_season[start - season : start - season + len(block)]
            np.copyto(block, before, where=np.isnan(block))
    rows = np.where(np.isnan(by_season), -1, np.arange(len(values))[:, None])
    last = np.maximum.accumulate(rows, axis=0)
    held = np.take_along_axis(by_season, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, held, np.nan)


def persistence(values: Array, origins: Rows, horizon: int) -> Array:
    """The last value goes on. values [steps, targets]."""
    return np.repeat(filled(values)[origins][:, None], horizon, axis=1)


def seasonal_naive(values: Array, origins: Rows, horizon: int, season: int) -> Array:
    """As it was a season ago, the latest season at or before the origin. values [steps, targets]."""
    steps = np.arange(1, horizon + 1)
    back = season * ((steps + season - 1) // season) - steps  # from the origin
    rows = origins[:, None] - back
    forecasts = filled(values, season)[np.maximum(rows, 0)]
    forecasts[rows < 0] = np.nan
    return forecasts


@dataclass(frozen=True, eq=False)
class Ridge:
    """A linear model of the next value from `lags` past ones: of the same target, or (`across`) of all columns.

    weights [targets, 1 + inputs], the constant first, in units standardised by each stream's own training part, or by
    `center` and `spread` [columns] of all training parts where that has too few values.
    """

    lags: int
    across: bool
    weights: Array
    center: Array
    spread: Array

    def forecast(self, values: Array, origins: Rows, horizon: int, fit: int) -> Array:
        """values [steps, columns], of which the first are the targets. Beyond the first step, predictions are fed
        back (columns that are no targets stay as they were last)."""
        center, scale = self._standard_of(values[:fit])
        series = np.nan_to_num((filled(values) - center) / scale)
        padded = np.concatenate([np.zeros((self.lags, series.shape[1])), series])
        windows = sliding_window_view(padded, self.lags, axis=0)[origins + 1].copy()  # [origins, columns, lags]
        targets = len(self.weights)
        forecasts = np.empty((len(origins), horizon, targets))
        for step in range(horizon):
            forecasts[:, step] = self._next(windows)
            after = windows[:, :, -1].copy()
            after[:, :targets] = forecasts[:, step]
            windows = np.concatenate([windows[:, :, 1:], after[:, :, None]], axis=2)
        raw: Array = forecasts * scale[:targets] + center[:targets]
        return raw

    def _standard_of(self, part: Array) -> tuple[Array, Array]:
        """What the columns of a stream with this training part are standardised by."""
        few = np.isfinite(part).sum(axis=0) < STANDARD_VALUES_MIN
        center, spread = _standard(part)
        return np.where(few, self.center, center), np.where(few, self.spread, spread)

    def _next(self, windows: Array) -> Array:
        constant, weights = self.weights[:, 0], self.weights[:, 1:]
        if self.across:
            next_values: Array = windows.reshape(len(windows), -1) @ weights.T
        else:
            next_values = np.einsum("ntl,tl->nt", windows[:, : len(weights)], weights)
        return next_values + constant


def fit_ridge(
    parts: Sequence[Array], targets: int, lags: int, across: bool = False, penalty: float = PENALTY
) -> Ridge | None:
    """Fitted on the training parts of all streams [steps, columns] at once, by the normal equations in float64; None
    when there is nothing to fit on. Lags that are missing are filled in, targets that are missing left out."""
    usable = [part for part in parts if len(part) > lags]
    weights = []
    for target in range(targets):
        columns = slice(None) if across else slice(target, target + 1)
        systems = [_system(part, columns, target, lags) for part in usable]
        rows = sum(len(goals) for _, goals in systems)
        if not rows:
            return None
        weights.append(_solve(systems, penalty))
    return Ridge(lags, across, np.stack(weights), *_standard(np.concatenate(parts)))


def _system(part: Array, columns: slice, target: int, lags: int) -> tuple[Array, Array]:
    """Lags and what follows them, where that was observed."""
    center, scale = _standard(part)
    series = np.nan_to_num((filled(part) - center) / scale)[:, columns]
    goals = ((part - center) / scale)[lags:, target]
    windows = sliding_window_view(series, lags, axis=0)[:-1].reshape(len(goals), -1)
    known = np.isfinite(goals)
    return windows[known], goals[known]


def _solve(systems: Sequence[tuple[Array, Array]], penalty: float) -> Array:
    """The weights, the constant first and not penalised."""
    size = systems[0][0].shape[1] + 1
    gram, moment = np.zeros((size, size)), np.zeros(size)
    for windows, goals in systems:
        rows = np.concatenate([np.ones((len(goals), 1)), windows], axis=1)
        gram += rows.T @ rows
        moment += rows.T @ goals
    gram[np.arange(1, size), np.arange(1, size)] += penalty
    solved: Array = np.linalg.lstsq(gram, moment)[0]
    return solved


def _standard(part: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each column, 0 and 1 where there is none."""
    known = np.isfinite(part)
    counts = np.maximum(known.sum(axis=0), 1)
    center = np.where(known, part, 0.0).sum(axis=0) / counts
    spread = np.sqrt(np.where(known, (part - center) ** 2, 0.0).sum(axis=0) / counts)
    return center, np.where(spread > 0, spread, 1.0)
