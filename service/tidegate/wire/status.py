"""TidegateError to google.rpc.Status, with one ErrorInfo in the details. Nothing else of an error reaches a client."""

from __future__ import annotations

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tidegate.errors import DOMAIN, MEANINGS, Reason, TidegateError

_CODES = {code.value[0]: code for code in grpc.StatusCode}
DETAILS_KEY = "grpc-status-details-bin"
STEP_REASONS = frozenset(
    (
        Reason.STEP_CONFLICT,
        Reason.STEP_TOO_OLD,
        Reason.STEP_GAP,
        Reason.TIME_NOT_INCREASING,
        Reason.TIME_OFF_GRID,
        Reason.SESSION_DIVERGED,
        Reason.BAD_OBSERVATION,
        Reason.HISTORY_DIVERGED,
    )
)


def status_of(error: TidegateError) -> Status:
    """The status with its one detail."""
    status = Status(code=int(error.code), message=error.message)
    status.details.add().Pack(ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=error.variables))
    return status


def ending(status: Status) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """What a call is aborted with: code, text and trailing metadata."""
    return _CODES[status.code], status.message, ((DETAILS_KEY, status.SerializeToString()),)


def reason_of(status: Status) -> str:
    """The reason in a status made by `status_of`."""
    info = ErrorInfo()
    status.details[0].Unpack(info)
    return str(info.reason)


def row_error(reason: Reason, expected: int) -> TidegateError:
    """The error of one row; says which step is expected where that is of use."""
    if expected and reason in STEP_REASONS:
        problem = f"{MEANINGS[reason].problem}; the step expected is {expected}"
        return TidegateError(reason, problem, expected_step=expected)
    return TidegateError(reason)
