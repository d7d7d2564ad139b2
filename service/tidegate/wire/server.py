"""The gRPC server: options, services, health and reflection. Made here, started and stopped by server.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from tidegate.config import Limits
from tidegate.engine.sessions.catalog import Changes
from tidegate.errors import ConfigError, Reason, TidegateError
from tidegate.metrics import Metrics
from tidegate.wire.frontend import FrontEnd
from tidegate.wire.guard import Context, Guard
from tidegate.wire.health import NOT_SERVING, SERVING, Health
from tidegate.wire.health import SERVICE as HEALTH
from tidegate.wire.models import ModelService
from tidegate.wire.prediction import PredictionService
from tidegate.wire.sessions import SessionService
from tidegate.wire.transport import make_server, unread_bytes

PACKAGE = "tidegate.v1"
SERVICES = tuple(f"{PACKAGE}.{name}" for name in ("PredictionService", "SessionService", "ModelService"))


class GrpcServer:
    """The listener and what is behind it."""

    def __init__(
        self, front: FrontEnd, metrics: Metrics, limits: Limits, reload: Callable[[], Awaitable[Changes]]
    ) -> None:
        self._health = Health()
        self._server = make_server(_options(limits))
        front.count_unread = lambda: unread_bytes(self._server)
        guard = Guard(metrics, front.admit)
        services = (
            PredictionService(front, guard).handlers(),
            SessionService(front, guard).handlers(),
            ModelService(front, guard, reload).handlers(),
            self._health.handlers(),
        )
        for name, handlers in zip((*SERVICES, HEALTH), services, strict=True):
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        names = (*SERVICES, HEALTH, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names), self._server
        )
        self._server.add_generic_rpc_handlers((_Unknown(guard),))  # asked last

    async def start(self, host: str, port: int) -> int:
        """Binds and listens; returns the port. Raises ConfigError when the port is taken."""
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(target)
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(f"port: cannot listen on {host}:{port}; is another server there?")
        await self._server.start()
        self.tell(healthy=True)
        return int(bound)

    def tell(self, healthy: bool) -> None:
        """What health says. Calls are taken either way."""
        self._health.tell(("", *SERVICES), SERVING if healthy else NOT_SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Closes the listener; calls that are not over within the grace are cancelled."""
        await self._server.stop(grace_seconds)


class _Unknown(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """What nobody else knows is refused in our words."""

    def __init__(self, guard: Guard) -> None:
        self._handler = grpc.stream_stream_rpc_method_handler(guard.stream(self._refuse))

    def service(self, _: object) -> grpc.RpcMethodHandler:
        """Of any method."""
        return self._handler

    async def _refuse(self, _: Context) -> None:
        raise TidegateError(Reason.UNIMPLEMENTED)


def _options(limits: Limits) -> list[tuple[str, int]]:
    keepalive = int(limits.keepalive_seconds * 1000)
    patience = int(limits.keepalive_timeout_seconds * 1000)
    return [
        ("grpc.so_reuseport", 0),  # else two servers share a port silently
        ("grpc.max_receive_message_length", limits.message_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.streams_max + limits.unary_calls_max),
        # Calls that wait to be taken up; above grpc's own 1000 a burst would be cancelled without a reason.
        ("grpc.server.max_pending_requests", limits.streams_max + limits.unary_calls_max),
        ("grpc.server.max_pending_requests_hard_limit", 2 * (limits.streams_max + limits.unary_calls_max)),
        ("grpc.keepalive_time_ms", keepalive),
        ("grpc.keepalive_timeout_ms", patience),
        ("grpc.http2.ping_timeout_ms", patience),  # without it a frozen peer is noticed after a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ]
