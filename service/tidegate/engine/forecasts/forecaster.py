"""The forecaster: requests that wait, and the work on them in short stretches below live steps.

A request is worked off in groups of scenarios that one version steps; requests take turns by group. What a group's
sessions remember is copied when its turn comes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from tidegate.config import Limits
from tidegate.engine.forecasts.request import Forecast, ForecastRequest
from tidegate.engine.forecasts.unroll import Unrolling
from tidegate.engine.memory.slots import SPARE_SLOT
from tidegate.engine.queues.lane import Lane
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog
from tidegate.errors import Reason, TidegateError

STRETCH_SECONDS = 1e-2  # of one stretch of work, but for the length of one launch, or of another portion
WAIT_SECONDS_MAX = 0.1  # without a stretch; then live rows wait for one
GROUP_ROWS_MAX, GROUP_VALUES_MAX = 4096, 8_388_608  # of a group of several scenarios: rows, and rows x steps x targets
VALUE_BYTES = 16  # of a row's step and target: the value and the random number

log = logging.getLogger(__name__)


class Stretch:
    """Some work on a group of scenarios, as `Flight` is of live rows."""

    expected_seconds = STRETCH_SECONDS

    def __init__(self, job: _Job) -> None:
        self.job = job

    def run(self) -> None:
        """Launches steps until the time is up or the group is done. Changes nothing but its own copies."""
        end = time.monotonic() + STRETCH_SECONDS
        job = self.job
        try:
            assert job.steps is not None
            for _ in job.steps:
                if time.monotonic() > end:
                    return
            job.collect()
        except Exception:  # no memory for the copies, say: this group fails, the server goes on
            log.exception("a forecast of %s failed", job.request.model)
            job.fail(Reason.INTERNAL)


class _Job:
    """One request and how far it is. A scenario's answer stays None until its group is done."""

    def __init__(self, number: int, request: ForecastRequest) -> None:
        self.number, self.request = number, request
        self.answers: list[Forecast | None] = [None] * len(request.scenarios)
        self.next = 0  # the first scenario that is in no group yet
        self.steps: Iterator[None] | None = None  # of the group in work
        self._unrolling: Unrolling | None = None
        self._places: list[int] = []

    def begin(self, unrolling: Unrolling, places: list[int]) -> None:
        self._unrolling, self._places = unrolling, places
        self.steps = unrolling.steps()

    def collect(self) -> None:
        """The group is done."""
        assert self._unrolling is not None
        for place, forecast in zip(self._places, self._unrolling.forecasts, strict=True):
            self.answers[place] = forecast
        self.steps = self._unrolling = None

    def fail(self, reason: Reason) -> None:
        for place in self._places:
            self.answers[place] = Forecast(reason)
        self.steps = self._unrolling = None


class Forecaster:
    """All forecasts in progress. `done` holds answers by the requests' numbers until the host takes them."""

    def __init__(self, catalog: Catalog, sessions: Sessions, limits: Limits, clock: Callable[[], float]) -> None:
        self.done: list[tuple[int, list[Forecast]]] = []
        self.steps = 0  # scenarios' steps forecast so far, paths included
        self._catalog, self._sessions, self._limits, self._clock = catalog, sessions, limits, clock
        self.jobs: deque[_Job] = deque()
        self._last = 0.0

    def __len__(self) -> int:
        return len(self.jobs)

    def add(self, number: int, request: ForecastRequest) -> None:
        """Queues a request; raises TidegateError BAD_FORECAST, FORECAST_LIMIT, INBOX_FULL or MODEL_NOT_FOUND."""
        limits = self._limits
        if len(self.jobs) >= limits.forecasts_waiting_max:
            raise TidegateError(Reason.INBOX_FULL)
        if request.model not in self._catalog.models:
            self._catalog.resolve(request.model)
        if not request.scenarios or min(scenario.horizon for scenario in request.scenarios) < 1:
            raise TidegateError(Reason.BAD_FORECAST, "a forecast needs scenarios, and each a horizon of at least 1")
        horizon = max(scenario.horizon for scenario in request.scenarios)
        for what, size, most in (
            ("scenarios", len(request.scenarios), limits.forecast_scenarios_max),
            ("steps ahead", horizon, limits.forecast_horizon_max),
            ("scenarios x paths", len(request.scenarios) * (request.rows - 1), limits.forecast_rows_max),
        ):
            if size > most:
                raise TidegateError(Reason.FORECAST_LIMIT, f"{size} {what}; at most {most}", limit=most)
        if not self.jobs:
            self._last = self._clock()
        self.jobs.append(_Job(number, request))

    def cancel(self, number: int) -> None:
        """Forgets a request that nobody waits for."""
        self.jobs = deque(job for job in self.jobs if job.number != number)

    @property
    def overdue(self) -> bool:
        """Whether live rows are to wait for a stretch."""
        return bool(self.jobs) and self._clock() - self._last > WAIT_SECONDS_MAX

    def take(self) -> Stretch | None:
        """The next stretch of work; None when there is none. Not while another is under way."""
        while self.jobs:
            job = self.jobs[0]
            if job.steps is None:
                self._group(job)
            if job.steps is not None:
                return Stretch(job)
            self._rest(job)
        return None

    def finish(self, stretch: Stretch) -> None:
        """After a stretch: its request goes behind the others when a group is done."""
        self._last = self._clock()
        if stretch.job.steps is None and stretch.job in self.jobs:
            self._rest(stretch.job)

    def _rest(self, job: _Job) -> None:
        """Ends a request, or has others take their turn."""
        self.jobs.remove(job)
        if job.next < len(job.answers):
            self.jobs.append(job)
            return
        answers = [answer or Forecast(Reason.INTERNAL) for answer in job.answers]
        self.steps += sum(len(answer.times) for answer in answers) * job.request.rows
        self.done.append((job.number, answers))

    def _group(self, job: _Job) -> None:
        """Takes scenarios of one version together, as many as may be; those that cannot be are answered."""
        request = job.request
        places: list[int] = []
        slots: list[int] = []
        group: Lane | None = None
        horizon = 0
        while job.next < len(request.scenarios):
            found = self._find(request, job.next)
            if isinstance(found, Forecast):
                job.answers[job.next] = found
            else:
                lane, slot = found
                if group is not None and lane is not group:
                    break
                horizon = max(horizon, request.scenarios[job.next].horizon)
                if places and len(places) >= self._group_size(lane, request.rows, horizon):
                    break
                group = lane
                places.append(job.next)
                slots.append(slot)
            job.next += 1
        if group is not None:
            scenarios = [request.scenarios[place] for place in places]
            job.begin(Unrolling(group, request, scenarios, np.array(slots, np.int64)), places)

    def _group_size(self, lane: Lane, rows: int, horizon: int) -> int:
        """Scenarios of so many rows that go together."""
        most = min(GROUP_ROWS_MAX, GROUP_VALUES_MAX // _row_values(lane, horizon), self._rows_max(lane, horizon))
        return max(1, most // rows)

    def _rows_max(self, lane: Lane, horizon: int) -> int:
        """Of a group: what it copies and draws is bounded."""
        row_bytes = lane.slab.row_bytes + VALUE_BYTES * _row_values(lane, horizon)
        return self._limits.forecast_bytes_max // row_bytes

    def _find(self, request: ForecastRequest, place: int) -> tuple[Lane, int] | Forecast:
        """The session of a scenario, or the answer that says why there is no forecast of it."""
        scenario = request.scenarios[place]
        ref = self._sessions.names(request.tenant, request.model).get(scenario.session_id)
        if ref is None:
            return Forecast(Reason.SESSION_NOT_FOUND)
        slab, slot = self._sessions.place(ref)
        lane = self._catalog.lanes[int(slab.host["version"][slot])]
        assert slot != SPARE_SLOT
        if slab.host["diverged"][slot]:
            return Forecast(Reason.SESSION_DIVERGED)
        if not slab.host["steps_seen"][slot]:
            return Forecast(Reason.NO_PREDICTION)
        return self._misfit(lane, request, place) or (lane, slot)

    def _misfit(self, lane: Lane, request: ForecastRequest, place: int) -> Forecast | None:
        """The answer that says why a version cannot make this forecast."""
        manifest, scenario, sampling = lane.package.manifest, request.scenarios[place], request.sampling
        future, horizon = scenario.future, scenario.horizon
        if future.size and future.shape[1] != len(manifest.future):
            problem = f"version {lane.version} has {len(manifest.future)} future covariates, not {future.shape[1]}"
            return Forecast(Reason.BAD_FORECAST, problem=problem)
        if future.size and len(future) >= horizon:
            problem = (
                f"{len(future)} rows of the future for {horizon} steps ahead; at most {horizon - 1}, the first of "
            )
            return Forecast(Reason.BAD_FORECAST, problem=problem + "which is for the second step")
        if sampling is not None and not manifest.head.drawable:
            return Forecast(Reason.NO_DISTRIBUTION)
        if sampling is not None and sampling.stop and sampling.stop not in manifest.targets:
            problem = f"stop: {sampling.stop!r} is none of the targets of version {lane.version}"
            return Forecast(Reason.BAD_FORECAST, problem=problem)
        if request.rows > (most := self._rows_max(lane, horizon)):
            room = f"{most - 1} paths" if most > 0 else "no forecast so far ahead"
            problem = f"{request.rows - 1} paths of {horizon} steps; limits.forecast_bytes_max has room for {room}"
            return Forecast(Reason.FORECAST_LIMIT, problem=problem)
        return None


def _row_values(lane: Lane, horizon: int) -> int:
    """What one row comes to: its steps' targets."""
    return horizon * len(lane.package.manifest.targets)
