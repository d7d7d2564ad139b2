"""Forecasts from many origins: forks of sessions, forecast many at a time, then closed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.client import Client
from tidegate.errors import Reason, TidegateError
from tidegate.model.manifest import Manifest
from tidegate.training.evaluation.streams import Stream

Array = NDArray[np.float64]


class Forecasting:
    """Collects forks and their forecasts."""

    def __init__(self, client: Client, manifest: Manifest, horizon: int) -> None:
        self._client, self._manifest, self._horizon = client, manifest, horizon

    def fork(self, index: int, stream: Stream, row: int) -> None:
        """Forks a stream's session as it stands after this row."""
        raise TidegateError(Reason.INTERNAL, "this server has no forecasts of several steps; ask for horizon 1")

    def finish(self) -> dict[int, Array]:
        """The forecasts of each stream that has some, [origins, horizon, targets]."""
        return {}
