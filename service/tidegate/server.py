"""The composition root: builds the server from its settings, starts it, drains it, stops it.

`serve` is what the command line calls. Everything is made here and handed down; nothing is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Coroutine
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tidegate import logs, observability
from tidegate.config import Settings, unknown_variables
from tidegate.durability import Durability
from tidegate.engine.engine import Engine
from tidegate.engine.loop import EngineHost
from tidegate.engine.queues.inbox import Inbox
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog, Changes
from tidegate.engine.step.device import (
    allow_tf32,
    check_kernel,
    choose_device,
    cores,
    memory_bytes,
    use_one_thread,
)
from tidegate.errors import ConfigError, TidegateError
from tidegate.metrics import Metrics
from tidegate.model import repository
from tidegate.signals import answered
from tidegate.store.choice import open_store
from tidegate.store.protocol import StoreError, Terms
from tidegate.web.http import HttpServer
from tidegate.wire.frontend import FrontEnd
from tidegate.wire.server import GrpcServer

CLOSE_SECONDS = 0.5  # for what is still open after the drain, such as watches of health, which never end by themselves
END_SECONDS_MAX = 15.0  # beyond the drain; then the process says where each thread is and ends with exit code 1
LAZY_MODULES = ("numpy.ma",)  # imported by np.unique when it is first called: then no file descriptor may be left
GC_THRESHOLDS = (20_000, 20, 50)  # messages leave next to no cycles; ten times Python's own
HEALTH_SECONDS = 0.5  # between two looks at whether checkpoints lag too far

log = logging.getLogger(__name__)


class Server:
    """One server process. Construct, then `run` on an event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        limits = settings.limits
        use_one_thread()
        allow_tf32(settings.tf32)
        device = choose_device(settings.device)
        check_kernel(settings.kernel, device)
        state_bytes_max = limits.state_bytes_max or memory_bytes(device) // 2
        self.metrics = Metrics()
        threads = settings.threads or cores()
        self.catalog = Catalog(
            limits, state_bytes_max, device, threads, settings.durability_of, settings.kernel, settings.tf32
        )
        self.sessions = Sessions(self.catalog, limits)
        inbox = Inbox(limits.inbox_rows_max, limits.batch_rows_max)
        engine = Engine(self.catalog, self.sessions, inbox, self.metrics, clock=time.monotonic)
        self.host = EngineHost(engine, limits.sweep_seconds)
        self.front = FrontEnd(self.host, limits)
        self.durability = _durability(self.host, self.front, settings)
        self._ready = False
        self._stopping = asyncio.Event()
        self._http = HttpServer(self.metrics.registry, lambda: self._healthy, limits)
        self._reloading = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        observability.register(
            self.metrics, version("tidegate"), device, self.catalog, self.sessions, self.host, self.front
        )
        if self.durability is not None:
            observability.register_durability(self.metrics, self.durability)

    async def run(self) -> int:
        """Serves until `stop`, then drains. Returns the exit code: 0, also when it was stopped before it served, or 1
        when not all was saved at the end. Raises ConfigError when it cannot begin."""
        settings = self.settings
        for module in LAZY_MODULES:
            import_module(module)
        grpc_server = GrpcServer(self.front, self.metrics, settings.limits, self.reload)
        changes = await self.reload()
        if not any(entry.lanes for entry in self.catalog.models.values()):
            raise ConfigError(f"models: nothing in {settings.models} can be served: {'; '.join(changes.refused)}")
        self.host.start()
        try:
            http_port = await self._http.start(settings.host, settings.http_port)  # alive, and not ready
            if not await self._restored():
                await self._end_unserved(grpc_server)
                return 0
            grpc_port = await grpc_server.start(settings.host, settings.port)
        except ConfigError:
            await self._end_unserved(grpc_server)
            raise
        self._ready = True
        gc.collect()
        gc.freeze()  # what lives from here on is not looked at again by every collection
        gc.set_threshold(*GC_THRESHOLDS)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        addresses = {"grpc": f"{host}:{grpc_port}", "http": f"{host}:{http_port}"}
        print(json.dumps(addresses), flush=True)  # noqa: T201  # the ready line is the interface
        log.info("ready, grpc on %s, http on %s", addresses["grpc"], addresses["http"])
        if self.durability is not None:
            self.background(self._watch_health(grpc_server))
        await self._stopping.wait()
        await self._drain(grpc_server)
        return 1 if self.durability is not None and self.durability.lag_seconds else 0

    @property
    def _healthy(self) -> bool:
        """Ready, and checkpoints are not too late, nor is the store away for too long."""
        return self._ready and not (self.durability is not None and self.durability.lagging)

    async def _watch_health(self, grpc_server: GrpcServer) -> None:
        """Has gRPC's health say the same as /readyz while the server is ready."""
        told = True
        while self._ready:
            await asyncio.sleep(HEALTH_SECONDS)
            if self._healthy is not told and not self._stopping.is_set():
                told = self._healthy
                level = logging.INFO if told else logging.ERROR
                log.log(level, "healthy: %s; see the store and the lag of checkpoints", told)
                grpc_server.tell(told)

    async def _restored(self) -> bool:
        """Sessions of the store, before anyone may ask for them; False when `stop` comes first, which a large store
        must not hold up. Raises ConfigError."""
        restoring = asyncio.create_task(self._restore())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((restoring, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopped = stopping.done()
        stopping.cancel()
        restoring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await restoring
        return not stopped

    async def _restore(self) -> None:
        if self.durability is not None:
            try:
                await self.durability.start()
            except StoreError as error:
                raise ConfigError(f"store: {error}") from None

    async def _end_unserved(self, grpc_server: GrpcServer) -> None:
        """Closes what a start that came to nothing has opened."""
        await grpc_server.stop(0)
        await self._http.stop()
        if self.durability is not None:
            await _until(time.monotonic() + CLOSE_SECONDS, self.durability.stop())
        await self.host.stop()

    def stop(self) -> None:
        """Begins the drain. Safe to call again."""
        self._stopping.set()

    @property
    def ready(self) -> bool:
        """Whether it serves; not from the drain on."""
        return self._ready

    async def reload(self) -> Changes:
        """Reads the model repository again. Broken packages are logged and named; the rest is served. Raises
        ConfigError, and changes nothing, where there is no rest: a folder that was emptied, a volume that is away."""
        try:
            changes = await self._read_models()
        except Exception:
            self.metrics.reloads_failed += 1
            raise
        for refused in changes.refused:
            log.warning("refused %s", refused)
        for name in self.settings.models_named():
            if name not in self.catalog.models:
                log.warning("durability: names %s, which is not loaded", name)
        for kind, entries in (("serving", changes.added), ("retired", changes.removed)):
            if entries:
                log.info("%s %s", kind, ", ".join(entries))
        return changes

    async def _read_models(self) -> Changes:
        async with self._reloading:
            known = self.catalog.known()
            snapshot = await asyncio.to_thread(repository.scan, self.settings.models, known)
            _check_served(snapshot, self.settings.models)
            steppers = await asyncio.to_thread(self.catalog.prepare, snapshot, set(known.values()))
            changes = await self.host.call(lambda: self.catalog.install(snapshot, steppers))
        assert isinstance(changes, Changes)
        return changes

    def begin_reload(self) -> None:
        """SIGHUP: reload beside everything else."""

        async def reload() -> None:
            try:
                await self.reload()
            except (ConfigError, TidegateError) as error:
                log.error("reload failed: %s", error)

        self.background(reload())

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Runs beside everything else; kept from the garbage collector until it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _drain(self, grpc_server: GrpcServer) -> None:
        """Not ready first; then no new calls, queued rows are stepped and answered, streams end; then the listener."""
        deadline = time.monotonic() + self.settings.limits.drain_seconds_max
        log.info("draining")
        self._ready = False
        grpc_server.tell(healthy=False)
        self.front.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.limits.drain_seconds_max / 2):
                await self.front.ended()
                await self.host.quiet()
        if self.durability is not None:  # before the listener closes: other replicas go on with the sessions
            await _until(deadline, self.durability.stop())
        grace = min(CLOSE_SECONDS, max(0.0, (deadline - time.monotonic()) / 2))
        await _until(deadline + CLOSE_SECONDS, grpc_server.stop(grace))
        await _until(deadline, self.host.stop())
        await _until(deadline, self._http.stop())
        log.info("drained")


async def _until(deadline: float, work: Coroutine[Any, Any, None]) -> None:
    """Gives the work up at the deadline, which leaves a moment to each when it has passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
            await work


def _check_served(snapshot: repository.Snapshot, folder: Path) -> None:
    """Raises ConfigError where a repository holds nothing that can be served."""
    models = snapshot.models.values()
    if not any(model.versions or model.kept for model in models):
        problems = [f"{model.name}/{version}: {why}" for model in models for version, why in model.refused.items()]
        problems += [f"{model.name}/{problem}" for model in models for problem in model.problems]
        raise ConfigError(f"models: nothing in {folder} can be served: {'; '.join(problems) or 'it holds no package'}")


def _durability(host: EngineHost, front: FrontEnd, settings: Settings) -> Durability | None:
    """What keeps checkpoints, if anything does; raises ConfigError."""
    if settings.store == "memory":
        return None
    limits = settings.limits
    terms = Terms(
        f"{socket.gethostname()}-{secrets.token_hex(8)}",
        limits.lease_seconds,
        limits.stored_seconds_max,
        limits.idle_seconds_max,
    )
    try:
        store = open_store(settings.store, terms)
    except StoreError as error:
        raise ConfigError(f"store: {error}") from None
    return Durability(host, store, limits, front.mark)


def serve(settings: Settings) -> int:
    """Runs a server in this process until SIGTERM or SIGINT; returns the exit code. Raises ConfigError."""
    logs.configure(settings.log_format, settings.log_level)
    for name in unknown_variables(os.environ):
        log.warning("%s is no setting; tidegate serve --help names them", name)
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:  # not on every platform
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner:
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    server = Server(settings)

    def end() -> None:
        drains = server.ready  # at once; else models that are being read are read first
        server.stop()
        if drains:
            seconds = settings.limits.drain_seconds_max + END_SECONDS_MAX
            faulthandler.dump_traceback_later(seconds, exit=True)  # if this process is still there

    with answered({signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: server.begin_reload}):
        return await server.run()
