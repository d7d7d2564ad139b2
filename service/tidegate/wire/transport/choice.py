"""Which server takes up the calls: ours, or grpc.aio's."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc

from tidegate.wire.transport.aio import AioStream
from tidegate.wire.transport.rpc import Rpc
from tidegate.wire.transport.server import CoreServer
from tidegate.wire.transport.stream import Stream

log = logging.getLogger(__name__)
VARIABLE = "TIDEGATE_GRPC"  # `aio` takes grpc.aio's server
OLDEST = (1, 80)  # grpc beside which ours was seen to work; 1.75's own clients in the same process do not always end
PARTS = (
    "CompletionQueue",
    "CompletionType",
    "ReceiveCloseOnServerOperation",
    "ReceiveMessageOperation",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
    "SendStatusFromServerOperation",
    "Server",
)


def make_server(options: Sequence[tuple[str, int]]) -> Any:
    """Ours; grpc.aio's where that is asked for, or grpc is old or lacks an inner part that ours is made of."""
    missing = _missing()
    if missing:
        log.warning(
            "grpc %s lacks %s: calls are taken up by grpc.aio, at three times the cost",
            grpc.__version__,
            ", ".join(missing),
        )
    ours = takes_up()
    log.log(
        logging.DEBUG if ours else logging.INFO, "calls are taken up by %s", "Tidegate's loop" if ours else "grpc.aio"
    )
    return CoreServer(options) if ours else grpc.aio.server(options=options)


def takes_up() -> bool:
    """Whether it is ours that takes up the calls."""
    return not _missing() and os.environ.get(VARIABLE) != "aio"


def _missing() -> list[str]:
    """What ours would need of grpc, and this one does not have."""
    missing = [part for part in PARTS if not hasattr(cygrpc, part)]
    return missing if _version() >= OLDEST else [*missing, "what it has since {}.{}".format(*OLDEST)]


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", grpc.__version__)[:2])


def unread_bytes(server: Any) -> int:
    """Bytes of answers to unary calls that their clients have not taken. grpc.aio's server does not say when they have:
    there it is 0, and what they come to is bounded by nothing."""
    return server.unread_bytes if isinstance(server, CoreServer) else 0


def stream_of(context: Any) -> Stream:
    """The short ways of a call, whoever took it up."""
    return context if isinstance(context, Rpc) else AioStream(context)
