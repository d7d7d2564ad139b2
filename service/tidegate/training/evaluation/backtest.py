"""The rolling backtest: streams go through a running server as a client's would, and its predictions are collected.

Every step's prediction is kept. Where forecasts of several steps are wanted, the session is forked at each origin; the
forks are forecast many at a time, and closed. The stream itself goes on as if nobody had asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tidegate.client import Batches, Client
from tidegate.errors import TidegateError
from tidegate.model.package import Package
from tidegate.training.evaluation.forecasts import Forecasting
from tidegate.training.evaluation.streams import Stream

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Advance = Callable[[int], None]
ROWS_PER_MESSAGE = 1_024


@dataclass(frozen=True)
class Plan:
    """Forecasts of `horizon` steps from every `every`-th step before the scored ones; with horizon 1 there are none
    but the predictions of every step."""

    horizon: int = 1
    every: int = 1


@dataclass(frozen=True, eq=False)
class Track:
    """What was predicted for one stream.

    predicted [steps, targets]: what the step before predicted for each row; NaN where nothing did. forecasts [origins,
    horizon, targets]: what was forecast after each of the rows `origins`, the first step being the prediction.
    """

    stream: Stream
    predicted: Array
    origins: Rows
    forecasts: Array


def origins_of(stream: Stream, plan: Plan) -> Rows:
    """Rows after which a forecast is made: from the last before the scored part on."""
    if plan.horizon < 2:
        return np.empty(0, np.int64)
    return np.arange(max(stream.start - 1, 0), stream.end - 1, plan.every, dtype=np.int64)


def backtest(
    client: Client, package: Package, streams: Sequence[Stream], plan: Plan, advance: Advance | None = None
) -> list[Track]:
    """Streams them all, side by side, and closes their sessions; raises TidegateError, which names stream and step.

    `advance` is called with the number of rows that were just taken. The sessions are named after the streams, and
    must not exist.
    """
    run = _Run(client, package, streams, plan, advance or (lambda rows: None))
    try:
        return run.tracks()
    finally:
        client.close_sessions(package.manifest.name, [stream.id for stream in streams])


class _Run:
    """One backtest in progress."""

    def __init__(
        self, client: Client, package: Package, streams: Sequence[Stream], plan: Plan, advance: Advance
    ) -> None:
        self._client, self._manifest = client, package.manifest
        self._streams, self._advance = streams, advance
        targets = len(self._manifest.targets)
        self._predicted = [np.full((len(stream.values), targets), np.nan) for stream in streams]
        self._origins = [origins_of(stream, plan) for stream in streams]
        self._forecasting = Forecasting(client, self._manifest, plan.horizon)

    def tracks(self) -> list[Track]:
        """Runs it."""
        with self._client.batches(self._manifest.name, version=self._manifest.version, dtype="float64") as batches:
            for first, last in self._spans():
                self._step(batches, first, last)
                self._fork(last - 1)
        forecasts = self._forecasting.finish()
        empty = np.empty((0, 1, len(self._manifest.targets)))
        return [
            Track(stream, self._predicted[index], self._origins[index], forecasts.get(index, empty))
            for index, stream in enumerate(self._streams)
        ]

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Steps that go together: no more than a message holds, and none behind an origin."""
        steps = max((stream.end for stream in self._streams), default=0)
        size = max(1, ROWS_PER_MESSAGE // max(1, len(self._streams)))
        cuts = {0, steps, *range(0, steps, size)}
        for origins in self._origins:
            cuts.update((origins + 1).tolist())
        return pairwise(sorted(cuts))

    def _step(self, batches: Batches, first: int, last: int) -> None:
        """One message: the steps of each stream, one stream after the other."""
        parts = [
            (index, first, min(last, stream.end)) for index, stream in enumerate(self._streams) if first < stream.end
        ]
        ids = [self._streams[index].id for index, begin, end in parts for _ in range(begin, end)]
        values = np.concatenate([self._streams[index].values[begin:end] for index, begin, end in parts])
        future = values[:, self._manifest.future] if len(self._manifest.future) else None
        predictions = batches.step(ids, values[:, self._manifest.sent], times=self._times(parts), future=future)
        for error in predictions.errors[:1]:
            raise TidegateError(error.reason, f"stream {error.id}, about step {first + 1}: {error.message}")
        at = 0
        for index, begin, end in parts:
            rows = predictions.values[at : at + end - begin]
            at += end - begin
            behind = min(end + 1, len(self._predicted[index]))
            self._predicted[index][begin + 1 : behind] = rows[: behind - begin - 1]
        self._advance(len(ids))

    def _times(self, parts: list[tuple[int, int, int]]) -> NDArray[np.datetime64] | None:
        """Their times; where a stream has none, none is sent."""
        columns = [
            np.full(end - begin, "NaT", "datetime64[ns]") if times is None else times[begin:end].view("datetime64[ns]")
            for times, begin, end in ((self._streams[index].times, begin, end) for index, begin, end in parts)
        ]
        return np.concatenate(columns)

    def _fork(self, row: int) -> None:
        """Forks the streams that have an origin at this row."""
        for index, origins in enumerate(self._origins):
            place = int(np.searchsorted(origins, row))
            if place < len(origins) and origins[place] == row:
                self._forecasting.fork(index, self._streams[index], row)
