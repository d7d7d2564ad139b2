"""From what gRPC says went wrong to the one exception of Tidegate.

The server's own word (google.rpc.ErrorInfo, domain "tidegate") wins. Without it the failure came from gRPC itself or
from a proxy, and its status code, once its text, tells the reason.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tidegate.errors import DOMAIN, MEANINGS, Code, Reason, TidegateError
from tidegate.wire.stubs import types_pb2

DETAILS_KEY = "grpc-status-details-bin"
TOO_LARGE = "message larger than max"

CODES = {code.value: code for code in Code}

# What a bare status code means when nobody said more.
BARE = {
    Code.CANCELLED: Reason.CANCELLED,
    Code.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    Code.UNIMPLEMENTED: Reason.UNIMPLEMENTED,
    Code.UNAVAILABLE: Reason.UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class RowError:
    """Why one row failed: its place, the session, the code and reason, what to do next.

    `expected_step` is the step that the server expects next from the session, None where it knows none.
    """

    row: int
    id: str
    code: Code
    reason: Reason
    message: str
    expected_step: int | None


def read_row_error(message: types_pb2.RowError, id: str, row: int) -> RowError:  # noqa: A002
    """The error of one row, at its place in what the caller sent."""
    reason = reason_named(message.reason)
    code = CODES.get(message.code, Code.UNKNOWN)
    return RowError(row, id, code, reason, message.message, message.expected_step or None)


def from_call(error: grpc.RpcError) -> TidegateError:
    """The exception for a call that ended badly (sync and aio calls alike)."""
    call: Any = error
    details = dict(call.trailing_metadata() or ()).get(DETAILS_KEY)
    status = status_pb2.Status(code=call.code().value[0], message=call.details() or "")
    if details is not None:
        with suppress(DecodeError):  # a proxy's own details: the bare status has to do
            status = status_pb2.Status.FromString(details)
    return from_status(status)


def from_status(status: status_pb2.Status) -> TidegateError:
    """The exception for a google.rpc.Status, as a stream carries it for one observation."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            return told(info.reason, status.message, dict(info.metadata))
    if TOO_LARGE in status.message:
        return TidegateError(Reason.MESSAGE_TOO_LARGE, status.message)
    code = CODES.get(status.code, Code.UNKNOWN)
    return TidegateError(BARE.get(code, Reason.INTERNAL), status.message)


def told(name: str, message: str, variables: dict[str, str]) -> TidegateError:
    """The exception for a reason that the server gave."""
    reason = reason_named(name)
    if reason.name != name:
        message = f"{name}: {message}"
    # The message ends with the hint, which the exception adds by itself.
    problem = message.removesuffix(MEANINGS[reason].hint).rstrip().removesuffix(".")
    return TidegateError(reason, problem, **variables)


def reason_named(name: str) -> Reason:
    """The reason of that name; INTERNAL for one that only a newer server knows."""
    return Reason[name] if name in Reason.__members__ else Reason.INTERNAL
