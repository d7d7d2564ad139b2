"""Unrolling: a group of scenarios of one version, stepped ahead together on copies of their sessions' columns.

Every step is a launch like any other, predictions fed back as observations, so that a forecast's bits are its own; the
sessions are only read. It is a generator that yields after each launch, and between portions of what else takes long,
so that live steps come in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.forecasts.request import Forecast, ForecastRequest, Sampling, Scenario
from tidegate.engine.forecasts.sampling import Distribution, quantiles
from tidegate.engine.memory.slots import Slots
from tidegate.engine.queues.lane import Lane
from tidegate.engine.step.stepper import StepBatch
from tidegate.errors import Reason
from tidegate.model.ages import older

LAUNCH_ROWS_MAX, LAUNCH_SECONDS = 4096, 5e-3  # of one launch: live rows wait no longer for it
Rows = NDArray[np.float64]


class Unrolling:
    """Scenarios and the slots of their sessions, in the same order. `steps` runs it; then `forecasts` are the answers.

    Rows are ordered by scenario: first its point forecast, then its paths.
    """

    def __init__(self, lane: Lane, request: ForecastRequest, scenarios: Sequence[Scenario], slots: Slots) -> None:
        self._lane, self._request, self._scenarios = lane, request, scenarios
        self._feedback = lane.imputation.feedback
        self._distribution = Distribution(lane.package.manifest)
        self._sampling = request.sampling or Sampling(paths=0)
        stop = self._sampling.stop
        self._stop = lane.package.manifest.targets.index(stop) if stop else None
        self._owner = np.repeat(np.arange(len(scenarios)), request.rows)
        self._is_path = np.tile(np.arange(request.rows) > 0, len(scenarios))
        self._horizon = np.array([scenario.horizon for scenario in scenarios])[self._owner]
        self._slots = slots
        self._alive = np.ones(len(self._owner), bool)  # rows that go on
        self._finite = np.ones(len(self._owner), bool)
        self.forecasts: list[Forecast] = []

    def steps(self) -> Iterator[None]:
        """Does the work."""
        self._begin()
        yield from self._draw()
        for step in range(int(self._horizon.max())):
            if step:
                yield from self._advance(step)
            self._emit(step)
        rows = self._request.rows
        for place in range(len(self._scenarios)):
            yield from self._answer(place, slice(place * rows, (place + 1) * rows))

    def _begin(self) -> None:
        """Copies what the sessions remember; makes room for what comes."""
        slab, manifest, steps = self._lane.slab, self._lane.package.manifest, int(self._horizon.max())
        slots = self._slots[self._owner]
        self._memory = slab.copies(slots)
        host = slab.host
        self._step = host["step"][self._slots]
        self._outputs, self._last = host["reply"][slots], host["last_input"][slots]
        self._seen, self._time = host["steps_seen"][slots], host["event_time"][slots]
        self._identity = host["identity"][slots] if "identity" in host else np.zeros(len(slots), np.int32)
        self._ages = host["missing_run"][slots][:, self._feedback.targets]
        self._values = np.empty((len(slots), steps, len(manifest.targets)))
        self._times = np.empty((len(self._scenarios), steps), np.int64)
        self._first = self._outputs.copy()
        future = [scenario.future for scenario in self._scenarios]
        self._future = np.full((len(future), steps, len(manifest.future)), np.nan)
        for place, rows in enumerate(future):
            self._future[place, 1 : 1 + len(rows)] = rows

    def _draw(self) -> Iterator[None]:
        """All random numbers: of each scenario as many as its own horizon takes, whatever the others' are."""
        paths, wide = self._sampling.paths, self._distribution.numbers_a_step
        self._numbers = np.empty((len(self._scenarios) * paths, int(self._horizon.max()), wide))
        for place, scenario in enumerate(self._scenarios if paths else ()):
            numbers = np.empty((paths, scenario.horizon, wide))
            yield from self._distribution.fill(numbers, scenario.seed)
            self._numbers[place * paths : (place + 1) * paths, : scenario.horizon] = numbers

    def _emit(self, step: int) -> None:
        """From the last outputs to the values of a step, and what is fed back."""
        going = np.flatnonzero(self._alive & (self._horizon > step))
        points, paths = going[~self._is_path[going]], going[self._is_path[going]]
        self._stand_ins = self._feedback.stand_ins(self._outputs)
        self._values[:, step] = np.nan  # of paths that are over
        self._values[points, step] = self._outputs[points][:, self._feedback.points]
        if len(paths):
            numbers = self._numbers[self._number_of(paths), step]
            drawn = self._distribution.draw(self._outputs[paths], numbers, self._units(paths), self._sampling)
            self._values[paths, step] = self._stand_ins[paths] = drawn
            if self._stop is not None:
                self._alive[paths[drawn[:, self._stop] > 0]] = False
        self._times[:, step] = self._time[:: self._request.rows]
        self._times[:, step] = self._lane.package.frequency.add(self._times[:, step])

    def _number_of(self, paths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of paths among the random numbers, which points have none of."""
        return paths - self._owner[paths] - 1

    def _units(self, rows: NDArray[np.int64]) -> Rows:
        """Training units of the rows' targets; only a regression head's draws need them."""
        if self._distribution.head.kind != "regression":
            return np.ones((1, 1))
        return self._lane.stepper.units(self._memory, rows + 1)

    def _advance(self, step: int) -> Iterator[None]:
        """One step of every row that goes on."""
        going = np.flatnonzero(self._alive & (self._horizon > step))
        observed = self._feedback.observations(self._last[going], self._stand_ins[going])
        manifest = self._lane.package.manifest
        if len(manifest.future):
            known = self._future[self._owner[going], step]
            observed[:, manifest.future] = np.where(np.isnan(known), observed[:, manifest.future], known)
        self._last[going] = observed
        self._time = self._lane.package.frequency.add(self._time)
        batch = StepBatch(
            slots=going + 1,
            inputs=observed,
            fresh=np.zeros(len(going), bool),
            seen=self._seen[going],
            time=self._time[going],
            identity=self._identity[going],
            ages=older(self._ages[going], step),
        )
        rows_max = self._launch_rows()
        for low in range(0, len(going), rows_max):
            rows = slice(low, low + rows_max)
            result = self._lane.stepper.launch(batch.take(rows), self._memory).collect()
            self._outputs[going[rows]], self._finite[going[rows]] = result.values, result.finite
            yield
        self._seen[going] += 1
        self._alive &= self._finite

    def _launch_rows(self) -> int:
        rows = LAUNCH_ROWS_MAX
        while rows > 32 and self._lane.stepper.expected_seconds(rows) > LAUNCH_SECONDS:
            rows //= 2
        return rows

    def _answer(self, place: int, rows: slice) -> Iterator[None]:
        """The next of `forecasts`. It shares no memory with the group, which is larger by the paths."""
        if not self._finite[rows].all():
            self.forecasts.append(Forecast(Reason.FORECAST_DIVERGED))
            return
        horizon, levels = self._scenarios[place].horizon, self._request.levels
        values, paths = self._values[rows.start, :horizon], self._values[rows.start + 1 : rows.stop, :horizon]
        forecast = Forecast(Reason.OK, self._lane.version, int(self._step[place]), values.copy())
        forecast.times = self._times[place, :horizon].copy()
        if self._feedback.categorical:
            forecast.tokens = [_tokens(path) for path in paths]
        elif len(paths):
            if levels:
                forecast.quantiles = np.empty((len(levels), *values.shape))
                yield from quantiles(paths, levels, forecast.quantiles)
                self._own_levels(forecast.quantiles, rows.start)
            if self._sampling.answered:
                forecast.paths = paths.copy()
        self.forecasts.append(forecast)
        yield

    def _own_levels(self, found: Rows, row: int) -> None:
        """The first step's quantiles are the head's own, where it has them, in order as a prediction's are."""
        head = self._lane.package.manifest.head
        (ordered,) = head.in_order(self._first[row : row + 1])
        for place, level in enumerate(self._request.levels):
            if level in head.levels:
                found[place, 0] = ordered[:, head.levels.index(level)]


def _tokens(path: Rows) -> list[int]:
    """Places of the ones, as long as there are any."""
    length = len(path) if not np.isnan(path[:, 0]).any() else int(np.isnan(path[:, 0]).argmax())
    tokens: list[int] = path[:length].argmax(axis=1).tolist()
    return tokens
