"""From what gRPC says went wrong to the one exception of Tidegate.

The server's own word (google.rpc.ErrorInfo, domain "tidegate") wins. Without it the failure came from gRPC itself or
from a proxy, and its status code, or its text, tells the reason. What is worth another attempt is said here and
nowhere else. A proxy reports a backend that was killed as UNAVAILABLE, as INTERNAL (RST_STREAM) or as CANCELLED: where
it is not the server's own word, each of them is a lost connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    Code.INTERNAL: Reason.UNREACHABLE,  # a stream that a peer or a proxy reset; a server says more
}
STREAM_REMOVED = "Stream removed"  # how some versions of gRPC say the same, as UNKNOWN

LOST_CONNECTION = frozenset((Reason.UNREACHABLE, Reason.DRAINING, Reason.CANCELLED))
# The server could not do it yet, and has done nothing.
AGAIN = frozenset((Reason.SESSION_MOVED, Reason.STORE_UNAVAILABLE))
# The server has less of a session than it has answered, if it is not another client's doing.
LOST_STEPS = frozenset((Reason.STEP_GAP, Reason.SESSION_NOT_FOUND))


# The client and the server disagree about where a session is.
APART = frozenset((Reason.STEP_CONFLICT, Reason.STEP_GAP, Reason.STEP_TOO_OLD, Reason.SESSION_NOT_FOUND))
RESYNC = "call resync() to go on from where the server is"


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


def with_texts(messages: Iterable[types_pb2.RowError]) -> Iterator[types_pb2.RowError]:
    """The errors of a batch's rows, each with its text: that stands at the first row of its reason."""
    texts: dict[str, str] = {}
    for message in messages:
        message.message = texts[message.reason] = message.message or texts.get(message.reason, "")
        yield message


def advised(error: TidegateError) -> TidegateError:
    """What a session's error says, and how this client gets out of it."""
    if error.reason not in APART:
        return error
    return TidegateError(error.reason, f"{error.problem}; {RESYNC}", **error.variables)


def every_row(error: TidegateError, ids: Sequence[str]) -> list[RowError]:
    """The failure of a whole message as that of each of its rows."""
    step = int(error.variables.get("expected_step", "0")) or None
    return [RowError(row, name, error.code, error.reason, error.message, step) for row, name in enumerate(ids)]


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
    if STREAM_REMOVED in status.message:
        return TidegateError(Reason.UNREACHABLE, status.message)
    code = CODES.get(status.code, Code.UNKNOWN)
    return TidegateError(BARE.get(code, Reason.INTERNAL), status.message)


def is_lost_connection(error: TidegateError) -> bool:
    """Whether to connect anew and go on. (A client that was closed gives up before it asks.)"""
    return error.reason in LOST_CONNECTION


def unreachable(error: TidegateError) -> TidegateError:
    """A lost connection as a caller is told of it, who cancelled nothing; any other error as it is."""
    return copied(error, Reason.UNREACHABLE if error.reason is Reason.CANCELLED else error.reason)


def copied(error: TidegateError, reason: Reason | None = None) -> TidegateError:
    """One for each who waits: a shared exception would gather the tracebacks of all."""
    return TidegateError(error.reason if reason is None else reason, error.problem, **error.variables)


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
