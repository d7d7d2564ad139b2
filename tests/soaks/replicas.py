"""Several replicas on one Redis behind a proxy that knows nothing of owners: one is killed, one frozen for longer than
its lease, one drained, a fourth added. Every client sees every prediction once, in order, all bytes as if nothing had
been. A dashboard asks for forecasts on any replica meanwhile, so that sessions of one batch have several owners."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np

from tests.services import RunningRedis
from tests.soaks.crash import patiently
from tests.soaks.fleet import MODEL, Fleet, make_model
from tests.soaks.servers import Place, Proxy
from tidegate import AsyncClient, TidegateError

LEASE_SECONDS = 3.0
CLIENTS = 6  # connections
CALM_SECONDS = 3.0
DASHBOARD_SECONDS = 0.25
DASHBOARD_SESSIONS = 5
NOTICED_SECONDS_MAX = 20.0
NOTICED_SECONDS = 0.5  # until a proxy's health check notices a backend that hangs


class Run:
    """The fleet, its replicas, and what has been measured."""

    def __init__(self, models: Path, redis: RunningRedis, sessions: int, calm: float) -> None:
        self.lines: list[str] = []
        self.calm, self.frozen = calm, LEASE_SECONDS + calm
        self.models, self.redis, self.sessions = models, redis, sessions
        self.forecasts = 0

    def place(self) -> Place:
        return Place(self.models, "--store", self.redis.url, LIMITS__LEASE_SECONDS=str(LEASE_SECONDS))

    async def go(self, replicas: int) -> None:
        """All of it."""
        async with AsyncExitStack() as stack:
            places = [self.place() for _ in range(replicas)]
            await asyncio.gather(*(stack.enter_async_context(place) for place in places))
            proxy = await stack.enter_async_context(Proxy(places, CLIENTS))
            self.fleet = Fleet(proxy.addresses, self.sessions)
            self.run = asyncio.create_task(self.fleet.run())
            dashboard = asyncio.create_task(self._dashboard(proxy))
            while len(self.fleet.told.answers) < self.sessions:  # until each has begun
                await patiently(self.run, 0.02)
            await patiently(self.run, self.calm)
            await self._kill(places[0])
            await self._freeze(places, proxy)
            await self._drain(places[0])
            fourth = self.place()
            await stack.enter_async_context(fourth)
            proxy.backends.append(fourth)
            await self._until_all_go_on("a replica added, half of the connections moved", lambda: proxy.cut(0.5))
            moved = sum([await place.metric(_EVICTED % "moved") for place in proxy.backends])
            self.lines.append(f"handed over on request since the last starts: {moved:.0f} sessions")
            self.fleet.ending.set()
            await self.run
            dashboard.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dashboard

    async def _kill(self, place: Place) -> None:
        await place.kill()
        await self._until_all_go_on("killed")
        await place.start()
        await patiently(self.run, self.calm)

    async def _freeze(self, places: list[Place], proxy: Proxy) -> None:
        """Of the replicas, the one that has most sessions."""
        resident = [int(await place.metric(_RESIDENT)) for place in places]
        place, has = places[int(np.argmax(resident))], max(resident)
        place.signal(signal.SIGSTOP)
        await asyncio.sleep(NOTICED_SECONDS)
        proxy.eject(place)
        await self._until_all_go_on("frozen, and given up by the proxy")
        await patiently(self.run, self.frozen)
        place.signal(signal.SIGCONT)
        await patiently(self.run, self.calm)
        began = time.monotonic()
        while not (lost := await place.metric("tidegate_sessions_lost_total")):
            assert time.monotonic() - began < NOTICED_SECONDS_MAX, f"of {resident} it knows of none lost"
            await patiently(self.run, 0.1)
        self.lines.append(
            f"frozen for {self.frozen + NOTICED_SECONDS:.1f} s and longer: of its {has} sessions, {lost:.0f} lost"
        )
        proxy.admit(place)

    async def _drain(self, place: Place) -> None:
        ending = asyncio.create_task(place.end())
        await self._until_all_go_on("drained")
        await ending
        await place.start()
        await patiently(self.run, self.calm)

    async def _until_all_go_on(self, what: str, act: object = None) -> None:
        """Measures the time from now until every session has had another prediction."""
        began, before = time.monotonic(), self.fleet.told.standing()
        if callable(act):
            act()
        seconds: dict[str, float] = {}
        while len(seconds) < len(before):
            now = self.fleet.told.standing()
            for session, count in before.items():
                if now[session] > count and session not in seconds:
                    seconds[session] = time.monotonic() - began
            await patiently(self.run, 0.02)
        took = sorted(seconds.values())
        self.lines.append(
            f"{what}: next prediction of a session after {took[len(took) // 2]:.2f} s (median), "
            f"{took[-1]:.2f} s (last); lease {LEASE_SECONDS:g} s"
        )

    async def _dashboard(self, proxy: Proxy) -> None:
        """Asks any replica for forecasts of any sessions; what fails is asked again another time."""
        names = [*self.fleet.singles, *self.fleet.batched]
        while True:
            await asyncio.sleep(DASHBOARD_SECONDS)
            place = random.choice(proxy.backends)
            async with AsyncClient(place.address, timeout_seconds=2.0) as client:
                with contextlib.suppress(TidegateError):
                    wanted = random.sample(names, DASHBOARD_SESSIONS)
                    found = await client.forecast(MODEL, wanted, 3)
                    self.forecasts += sum(forecast.error is None for forecast in found)


_RESIDENT = f'tidegate_sessions_resident{{model="{MODEL}",version="1"}}'
_EVICTED = f'tidegate_sessions_evicted_total{{model="{MODEL}",reason="%s"}}'


async def shared(
    folder: Path, redis: RunningRedis, sessions: int, replicas: int, calm: float = CALM_SECONDS
) -> list[str]:
    """Runs it, with so many seconds between what happens; returns what was measured, and raises AssertionError where a
    promise was broken."""
    models = folder / "models"
    make_model(models)
    run = Run(models, redis, sessions, calm)
    await run.go(replicas)
    faults = run.fleet.told.faults(models)
    assert not faults, faults[:5]
    total = (
        f"{replicas} replicas, {sessions} sessions: {run.fleet.told.steps} predictions, each once, in order, same bytes"
    )
    return [f"{total}; {run.forecasts} forecasts on any replica", *run.lines]


def main(sessions: int = 400) -> list[str]:
    """With two and with three replicas."""
    lines = []
    for replicas in (2, 3):
        with (
            tempfile.TemporaryDirectory() as name,
            tempfile.TemporaryDirectory() as data,
            RunningRedis(Path(data)) as redis,
        ):
            lines += asyncio.run(shared(Path(name), redis, sessions, replicas))
    return lines
