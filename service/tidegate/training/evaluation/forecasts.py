"""Forecasts from many origins: forks of sessions, forecast many at a time, then closed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.client import Client, Scenario
from tidegate.errors import TidegateError
from tidegate.model.manifest import Manifest
from tidegate.training.evaluation.streams import Stream

Array = NDArray[np.float64]
FORKS_MAX = 2_048  # alive at once
VALUES_MAX = 4_000_000  # of one answer, half of what a server gives


class Forecasting:
    """Collects forks, and their forecasts by the number of the stream."""

    def __init__(self, client: Client, manifest: Manifest, horizon: int) -> None:
        self._client, self._manifest, self._horizon = client, manifest, horizon
        self._size = max(1, min(FORKS_MAX, VALUES_MAX // (horizon * len(manifest.targets))))
        self._waiting: list[tuple[int, Scenario]] = []
        self._found: dict[int, list[Array]] = {}

    def fork(self, index: int, stream: Stream, row: int) -> None:
        """Forks a stream's session as it stands after this row; its origins come in order."""
        fork = f"{stream.id} after {row}"
        self._client.session(self._manifest.name, stream.id).fork(fork)
        future = None
        if len(self._manifest.future):  # a row holds what is known of the step after it
            future = stream.values[row + 1 : row + self._horizon, self._manifest.future]
        self._waiting.append((index, Scenario(fork, future=future)))
        if len(self._waiting) >= self._size:
            self._ask()

    def finish(self) -> dict[int, Array]:
        """The forecasts of each stream that has some, [origins, horizon, targets]."""
        self._ask()
        return {index: np.stack(forecasts) for index, forecasts in self._found.items()}

    def _ask(self) -> None:
        """Forecasts what waits, and closes it."""
        if not self._waiting:
            return
        name, scenarios = self._manifest.name, [scenario for _, scenario in self._waiting]
        forecasts = self._client.forecast(name, scenarios, self._horizon)
        for (index, scenario), forecast in zip(self._waiting, forecasts, strict=True):
            if forecast.error is not None:
                raise TidegateError(forecast.error.reason, f"{scenario.session_id}: {forecast.error.message}")
            self._found.setdefault(index, []).append(forecast.values.astype(np.float64))
        self._client.close_sessions(name, [scenario.session_id for scenario in scenarios])
        self._waiting.clear()
