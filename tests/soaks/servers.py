"""Servers that come back on the same port, and a proxy that knows nothing of owners."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
from pathlib import Path

from tests.ports import free_port
from tests.servers import RunningServer


class Place:
    """A server's place: its port and its settings stay when the process dies and another one starts."""

    def __init__(self, models: Path, *flags: str, **environment: str) -> None:
        self.models, self.flags = models, flags
        self.environment = {f"TIDEGATE_{name}": value for name, value in environment.items()}
        self.port = free_port()
        self.server: RunningServer | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts a process; returns when it is ready."""
        make = lambda: RunningServer(  # noqa: E731
            self.models, *self.flags, "--port", str(self.port), environment=self.environment
        )
        self.server = await asyncio.to_thread(make)

    async def kill(self) -> None:
        """SIGKILL."""
        await self.end(signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM) -> None:
        """Ends the process and waits for it."""
        server, self.server = self.server, None
        if server is not None:
            await asyncio.to_thread(server.stop, number)

    def signal(self, number: int) -> None:
        """Sends a signal."""
        assert self.server is not None
        os.kill(self.server.process.pid, number)

    async def metric(self, series: str) -> float:
        assert self.server is not None
        return await asyncio.to_thread(self.server.metric, series)

    async def __aenter__(self) -> Place:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.server is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
        await self.end()


class Proxy:
    """TCP: each connection goes to the next backend that takes it. `cut` breaks connections, as networks do; `eject` is
    what a proxy's health check does to a backend that does not answer. It has several `doors`: channels of one process
    to one address share one connection."""

    def __init__(self, backends: list[Place], doors: int = 1) -> None:
        self.backends = backends
        self._doors = doors
        self._turn = itertools.count()
        self._open: dict[asyncio.Task[None], Place | None] = {}
        self._ejected: set[Place] = set()
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Proxy:
        self._servers = [await asyncio.start_server(self._serve, "127.0.0.1", 0) for _ in range(self._doors)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        self.cut(1.0)

    @property
    def addresses(self) -> list[str]:
        """One a door."""
        return [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in self._servers]

    def cut(self, share: float) -> None:
        """Breaks a share of the connections; clients come again, and are sent elsewhere."""
        for task in random.sample(list(self._open), round(share * len(self._open))):
            task.cancel()

    def eject(self, place: Place) -> None:
        """Breaks the connections to a backend and makes no more."""
        self._ejected.add(place)
        for task, backend in self._open.items():
            if backend is place:
                task.cancel()

    def admit(self, place: Place) -> None:
        """It answers again."""
        self._ejected.discard(place)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = None
        try:
            upstream = await self._connect(task)
            if upstream is None:
                return
            try:
                await asyncio.wait(
                    [
                        asyncio.ensure_future(_pump(reader, upstream[1])),
                        asyncio.ensure_future(_pump(upstream[0], writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                upstream[1].transport.abort()
        except asyncio.CancelledError:
            pass
        finally:
            del self._open[task]
            writer.transport.abort()

    async def _connect(self, task: asyncio.Task[None]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in range(len(self.backends)):
            place = self.backends[next(self._turn) % len(self.backends)]
            if place in self._ejected:
                continue
            with contextlib.suppress(OSError):
                connection = await asyncio.open_connection("127.0.0.1", place.port)
                self._open[task] = place
                return connection
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
