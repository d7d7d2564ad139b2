"""HTTP for people and probes: /metrics, /livez, /readyz.

Connections are few and short, so that gRPC is never short of descriptors: above the limit the oldest is closed, since
a page is written in one go, and who still has an old connection is silent or does not read. Rejected: turning the new
one away. A few silent peers would then keep probes out, and a probe that fails ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from tidegate.config import Limits
from tidegate.errors import ConfigError

CLOSE_SECONDS = 0.5  # for pages that are being written when the server stops; then what is left is cancelled

log = logging.getLogger(__name__)


class HttpServer:
    """Serves the registry's metrics and whether the server is ready."""

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool], limits: Limits) -> None:
        self._registry = registry
        self._ready = ready
        self._connections_max = limits.http_connections_max
        self._listener: asyncio.Server | None = None
        app = web.Application(client_max_size=1024)
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
            ]
        )
        log.addFilter(_is_of_ours)
        self._runner = web.AppRunner(
            app,
            logger=log,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=limits.http_idle_seconds_max,
            lingering_time=0.0,  # no page reads a body, so none is waited for
            shutdown_timeout=CLOSE_SECONDS,
        )

    async def start(self, host: str, port: int) -> int:
        """Binds and listens; returns the port. Raises ConfigError when the port is taken."""
        await self._runner.setup()
        create = asyncio.get_running_loop().create_server
        try:
            self._listener = await create(self._accepted, host, port, backlog=self._connections_max)
        except OSError as error:
            raise ConfigError(f"http_port: cannot listen on {host}:{port} ({error.strerror})") from None
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes the listener and every connection."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    def _accepted(self) -> asyncio.Protocol:
        """What serves a new connection, which takes its place a moment later."""
        server = self._runner.server
        assert server is not None
        newest = server()
        asyncio.get_running_loop().call_soon(self._make_room, server, newest)
        return newest

    def _make_room(self, server: web.Server, newest: asyncio.Protocol) -> None:
        """Keeps as many others as may be beside the newest. What they did not read of an answer is not waited for."""
        others = [connection for connection in server.connections if connection is not newest]
        for connection in others[: max(0, len(others) + 1 - self._connections_max)]:
            if connection.transport is not None:
                connection.transport.abort()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self._ready() else web.Response(status=503, text="not ready\n")


def _is_of_ours(record: logging.LogRecord) -> bool:
    """Not what is said of peers that do not speak HTTP: a gRPC client at the wrong port tries for ever."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
