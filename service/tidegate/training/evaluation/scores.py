"""From tracks and baselines to scores: by target and horizon, over all targets, and by stream.

A case is one forecast of one step; it is scored where the step was observed and everybody has a forecast for it, so
that all are measured on the same cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.training.evaluation import metrics
from tidegate.training.evaluation.backtest import Track
from tidegate.training.evaluation.rivals import PERSISTENCE, Rivals

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
MODEL = "model"
STREAMS_MAX = 1_000  # that are scored one by one


@dataclass(frozen=True)
class Against:
    """A baseline's errors of one target at one horizon, and the model's skill: 1 - its MAE / the baseline's."""

    mae: float
    rmse: float
    skill: float


@dataclass(frozen=True)
class Score:
    """The model's errors of one target, so many steps ahead, in the target's unit. `mase` divides the MAE by that of
    the seasonal naive one-step forecast within the training part."""

    target: str
    horizon: int
    count: int
    mae: float
    rmse: float
    mase: float
    bias: float
    against: dict[str, Against]


@dataclass(frozen=True)
class Overall:
    """Errors over all targets, standardised by the training part, by who made them: `mse` and `mae` of just the step
    at the horizon, `path_mse` and `path_mae` of all steps up to it, over the origins whose whole path lies in the
    scored part."""

    horizon: int
    mse: dict[str, float]
    mae: dict[str, float]
    path_mse: dict[str, float]
    path_mae: dict[str, float]


@dataclass(frozen=True)
class StreamScore:
    """One stream's one-step MAE of one target, the model's and persistence's."""

    stream: str
    target: str
    count: int
    mae: float
    persistence_mae: float
    skill: float


@dataclass(frozen=True, eq=False)
class Cases:
    """Errors [cases, steps, targets] by who made them, NaN where not scored; MASE's scales [cases, targets]; how many
    steps of each case lie in the scored part [cases]."""

    errors: dict[str, Array]
    scales: Array
    inside: Rows


def one_step_cases(tracks: Sequence[Track], rivals: Rivals) -> Cases:
    """Every scored step, as the step before it predicted it: [cases, 1, targets]."""
    parts = []
    for track in tracks:
        origins = np.arange(max(track.stream.start - 1, 0), track.stream.end - 1, dtype=np.int64)
        parts.append(_cases(track, rivals, origins, track.predicted[origins + 1][:, None]))
    return _joined(parts)


def path_cases(tracks: Sequence[Track], rivals: Rivals) -> Cases:
    """Every forecast of several steps."""
    return _joined([_cases(track, rivals, track.origins, track.forecasts) for track in tracks])


def score_target(cases: Cases, step: int, target: int, name: str) -> Score:
    """The scores of one target at one step of the cases, from 1."""
    own, scales = cases.errors[MODEL][:, step - 1, [target]], cases.scales[:, [target]]
    mae = metrics.mae(own)
    against = {}
    for rival, errors in cases.errors.items():
        if rival != MODEL:
            theirs = errors[:, step - 1, [target]]
            skill = metrics.skill(mae, metrics.mae(theirs))
            against[rival] = Against(_number(metrics.mae(theirs)), _number(metrics.rmse(theirs)), _number(skill))
    return Score(
        target=name,
        horizon=step,
        count=int(metrics.count(own)[0]),
        mae=_number(mae),
        rmse=_number(metrics.rmse(own)),
        mase=_number(metrics.mase(own, scales)),
        bias=_number(metrics.bias(own)),
        against=against,
    )


def score_overall(cases: Cases, step: int, spread: Array) -> Overall:
    """All targets at one step of the cases, and on the way to it."""
    at = {who: errors[:, step - 1] / spread for who, errors in cases.errors.items()}
    whole = cases.inside >= step
    path = {who: errors[whole, :step] / spread for who, errors in cases.errors.items()}
    return Overall(
        horizon=step,
        mse={who: _mean(errors**2) for who, errors in at.items()},
        mae={who: _mean(np.abs(errors)) for who, errors in at.items()},
        path_mse={who: _mean(errors**2) for who, errors in path.items()},
        path_mae={who: _mean(np.abs(errors)) for who, errors in path.items()},
    )


def score_streams(tracks: Sequence[Track], rivals: Rivals, targets: Sequence[str]) -> list[StreamScore]:
    """One step ahead, stream by stream; of the first STREAMS_MAX."""
    scores = []
    for track in tracks[:STREAMS_MAX]:
        errors = one_step_cases([track], rivals).errors
        own, theirs = (metrics.mae(errors[who][:, 0]) for who in (MODEL, PERSISTENCE))
        columns = zip(targets, metrics.count(errors[MODEL][:, 0]), own, theirs, metrics.skill(own, theirs), strict=True)
        scores += [
            StreamScore(track.stream.id, name, int(count), float(mae), float(last), float(skill))
            for name, count, mae, last, skill in columns
        ]
    return scores


def score_accuracy(tracks: Sequence[Track], rivals: Rivals) -> float:
    """Of the likeliest category at every scored step that was observed, over all streams alike."""
    parts = []
    for track in tracks:
        rows = slice(max(track.stream.start, 1), track.stream.end)
        parts.append((track.predicted[rows], track.stream.values[rows][:, rivals.targets]))
    predicted, observed = (np.concatenate(part) for part in zip(*parts, strict=True))
    return metrics.accuracy(predicted, observed)


def _cases(track: Track, rivals: Rivals, origins: Rows, forecasts: Array) -> Cases:
    """Errors of everybody from these origins; the model's forecasts are [origins, steps, targets]."""
    stream, steps = track.stream, forecasts.shape[1]
    rows = origins[:, None] + np.arange(1, steps + 1)
    observed = stream.values[np.minimum(rows, len(stream.values) - 1)][:, :, rivals.targets]
    observed[(rows >= stream.end) | (rows < stream.start)] = np.nan
    made = {MODEL: forecasts, **rivals.forecasts(stream, origins, steps)}
    errors = {who: theirs - observed for who, theirs in made.items()}
    scored = np.logical_and.reduce([np.isfinite(theirs) for theirs in errors.values()])
    for theirs in errors.values():
        theirs[~scored] = np.nan
    scales = np.broadcast_to(rivals.scales[stream.id], (len(origins), observed.shape[2]))
    return Cases(errors, scales, np.minimum(stream.end - 1 - origins, steps))


def _joined(parts: Sequence[Cases]) -> Cases:
    errors = {who: np.concatenate([part.errors[who] for part in parts]) for who in parts[0].errors}
    scales, inside = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scales", "inside"))
    return Cases(errors, scales, inside)


def _mean(values: Array) -> float:
    return float(metrics.mean(values.reshape(-1, 1))[0])


def _number(values: Array) -> float:
    return float(values[0])
