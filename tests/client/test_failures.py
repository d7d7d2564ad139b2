"""Whatever went wrong becomes one exception with a code, a reason and what to do."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tidegate.client.failures import every_row, from_call, from_status, is_lost_connection, unreachable
from tidegate.errors import MEANINGS, Code, Reason, TidegateError


class Ended(grpc.RpcError):  # type: ignore[misc]
    """A call's end, as gRPC gives it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._end = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._end[0]

    def details(self) -> str:
        return self._end[1]

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._end[2]


def status_of(error: TidegateError, reason: str | None = None) -> status_pb2.Status:
    """The status that a server would send."""
    status = status_pb2.Status(code=error.code, message=error.message)
    name = reason or error.reason.name
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain="tidegate", reason=name, metadata=error.variables))
    return status


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_every_reason_survives_the_wire(reason: Reason) -> None:
    """What a server raises is what the client raises: reason, code, text and variables."""
    error = TidegateError(reason, "this is wrong", expected_step=7)
    received = from_status(status_of(error))
    assert (received.reason, received.code, str(received)) == (reason, MEANINGS[reason].code, str(error))
    assert received.variables == {"expected_step": "7"}


def test_a_newer_servers_reason_keeps_its_name() -> None:
    """A reason that this client does not know is INTERNAL, and its name stands in the text."""
    received = from_status(status_of(TidegateError(Reason.BAD_CONFIG, "odd"), "FROM_THE_FUTURE"))
    assert received.reason is Reason.INTERNAL
    assert "FROM_THE_FUTURE: odd" in str(received)


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", Reason.UNREACHABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Reason.DEADLINE_EXCEEDED),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", Reason.UNIMPLEMENTED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", Reason.MESSAGE_TOO_LARGE),
        (grpc.StatusCode.CANCELLED, "Locally cancelled", Reason.CANCELLED),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", Reason.UNREACHABLE),
        (grpc.StatusCode.UNKNOWN, "Stream removed", Reason.UNREACHABLE),
        (grpc.StatusCode.UNKNOWN, "a proxy's words", Reason.INTERNAL),
        (grpc.StatusCode.DATA_LOSS, "a code of its own", Reason.INTERNAL),
    ],
)
def test_bare_statuses(code: grpc.StatusCode, text: str, reason: Reason) -> None:
    """Without the server's own word, the code and gRPC's text tell the reason, and the text is kept."""
    received = from_call(Ended(code, text))
    assert received.reason is reason
    assert text in str(received)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
def test_what_proxies_make_of_a_killed_server_is_a_lost_connection(code: grpc.StatusCode) -> None:
    """Without the server's own word it is worth connecting anew, and is UNREACHABLE to whoever gives up."""
    received = from_call(Ended(code, "gone"))
    assert is_lost_connection(received)
    assert (unreachable(received).reason, unreachable(received).problem) == (Reason.UNREACHABLE, "gone")


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_the_servers_own_word_is_final(reason: Reason) -> None:
    """Of what a server says, only that it is going away is a lost connection; INTERNAL and the rest are not."""
    received = from_status(status_of(TidegateError(reason)))
    lost = reason in (Reason.DRAINING, Reason.UNREACHABLE, Reason.CANCELLED)
    assert is_lost_connection(received) == lost


def test_a_whole_messages_failure_is_each_rows() -> None:
    """Every row gets its place, its id, the reason and the step expected."""
    errors = every_row(TidegateError(Reason.STEP_GAP, expected_step=4), ["a", "b"])
    assert [(e.row, e.id, e.reason, e.expected_step) for e in errors] == [
        (0, "a", Reason.STEP_GAP, 4),
        (1, "b", Reason.STEP_GAP, 4),
    ]
    assert every_row(TidegateError(Reason.BAD_BATCH), ["a"])[0].expected_step is None


def test_details_of_a_call_are_read() -> None:
    """The details in a call's trailing metadata win; what is no status is passed over."""
    told = status_of(TidegateError(Reason.DRAINING)).SerializeToString()
    ended = Ended(grpc.StatusCode.UNAVAILABLE, "bye", (("grpc-status-details-bin", told),))
    assert from_call(ended).reason is Reason.DRAINING
    broken = Ended(grpc.StatusCode.UNAVAILABLE, "bye", (("grpc-status-details-bin", b"\xff\xff"),))
    assert from_call(broken).reason is Reason.UNREACHABLE


def test_codes_are_grpcs() -> None:
    """The codes of errors.py have gRPC's numbers."""
    assert all(grpc.StatusCode[code.name].value[0] == code for code in Code)
