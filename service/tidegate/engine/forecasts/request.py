"""What is asked for and answered by a forecast: columns and plain numbers, as commands and replies are.

A forecast starts from what a session remembers at one moment and leaves it there. Its first step is the session's last
prediction; each further step feeds the one before back in as an observation. Pure: NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import Reason


def _nothing() -> NDArray[np.float64]:
    return np.zeros((0, 0))


@dataclass(frozen=True)
class Scenario:
    """One question: a session (it may stand in several), how many steps ahead, and what is known of them.

    future float64 [steps, future covariates]: values for the second step on (those of the first came with the last
    observation), at most `horizon` - 1 rows; missing rows and NaN hold the last value. `seed` names the random numbers.
    """

    session_id: bytes
    horizon: int
    future: NDArray[np.float64]
    seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """How sample paths are drawn, and whether they are `answered`, or only their quantiles. The rest is for categorical
    heads: probabilities are raised to 1/temperature, only the `top_k` likeliest (0: all) that have at least `min_p` of
    the likeliest's probability are kept, and a path ends with the target `stop` ("": at the horizon)."""

    paths: int
    temperature: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: str = ""
    answered: bool = True


@dataclass(frozen=True)
class ForecastRequest:
    """Scenarios of sessions of one model. `levels` are quantiles asked for: of a quantile head's outputs at the first
    step, and of the sample paths after it; without `sampling` only point forecasts are made."""

    tenant: str
    model: str
    scenarios: tuple[Scenario, ...]
    levels: tuple[float, ...] = ()
    sampling: Sampling | None = None

    @property
    def rows(self) -> int:
        """Rows that one scenario takes: its point forecast and its paths."""
        return 1 + (self.sampling.paths if self.sampling else 0)


@dataclass
class Forecast:
    """The answer to one scenario; `reason` not OK: there is none, `problem` may say more than the reason does, and the
    rest is empty.

    values float64 [horizon, targets] raw units (point forecasts; a categorical head's probabilities); quantiles float64
    [levels, horizon, targets]; paths float64 [paths, horizon, targets] (empty for a categorical head, and where nobody
    asked for them); tokens: one list a path, indices of targets, up to and with the stop; step: the session's last one;
    times int64 [horizon] (ns since 1970 UTC, NO_TIME where there is none).
    """

    reason: Reason
    version: str = ""
    step: int = 0
    values: NDArray[np.float64] = field(default_factory=_nothing)
    quantiles: NDArray[np.float64] = field(default_factory=_nothing)
    paths: NDArray[np.float64] = field(default_factory=_nothing)
    tokens: list[list[int]] = field(default_factory=list)
    times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    problem: str = ""
