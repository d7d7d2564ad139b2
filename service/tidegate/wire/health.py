"""Health as grpc.health.v1 has it. Not grpc_health's own servicer: that forgets all watchers of a service when one of
them leaves, and while one takes no bytes it keeps everybody waiting. Here a watcher waits for nobody, and nobody for
it: each writes, when it can, what the status is then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2 as pb

from tidegate.wire.guard import Context, Handlers
from tidegate.wire.transport import GONE

SERVICE = pb.DESCRIPTOR.services_by_name["Health"].full_name
SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Check and Watch. The service "" is the server as a whole."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()  # of the next change; each has its own

    def handlers(self) -> Handlers:
        """By method name, for grpc's generic handler."""
        kinds = pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, *kinds),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, *kinds),
        }

    def tell(self, services: Iterable[str], status: int) -> None:
        """Sets the status of services, and has watchers look."""
        self._statuses.update(dict.fromkeys(services, status))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        """The status of a service; NOT_FOUND for one that is not known."""
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return pb.HealthCheckResponse(status=self._statuses[request.service])

    async def watch(self, request: pb.HealthCheckRequest, context: Context) -> None:
        """The status of a service, SERVICE_UNKNOWN while it is not known; again when it is another one. A watcher that
        is slow misses what was between."""
        told = None
        with contextlib.suppress(*GONE):
            while True:
                status = self._statuses.get(request.service, UNKNOWN)
                if status == told:
                    await self._changed.wait()
                else:
                    await context.write(pb.HealthCheckResponse(status=status))
                    told = status
