"""Which server takes up the calls: ours, or grpc.aio's."""

from __future__ import annotations

import logging
import os
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
    """Ours; grpc.aio's where that is asked for, or where grpc lacks an inner part that ours is made of."""
    missing = [part for part in PARTS if not hasattr(cygrpc, part)]
    if missing:
        log.warning(
            "grpc %s has no %s: calls are taken up by grpc.aio, at three times the cost", grpc.__version__, missing
        )
    ours = not missing and os.environ.get(VARIABLE) != "aio"
    log.debug("calls are taken up by %s", "Tidegate's loop" if ours else "grpc.aio")
    return CoreServer(options) if ours else grpc.aio.server(options=options)


def stream_of(context: Any) -> Stream:
    """The short ways of a call, whoever took it up."""
    return context if isinstance(context, Rpc) else AioStream(context)
