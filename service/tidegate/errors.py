"""Every way in which Tidegate says no: one table of reasons, one exception.

A reason is machine-readable and fixed; its code is what gRPC calls carry; the hint says what to do next.
Codes are gRPC's numbers without gRPC, so that pure modules and the client can use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

DOMAIN = "tidegate"
PROBLEM_LENGTH_MAX = 400  # a status travels in HTTP/2 headers, and a peer takes no more than 8 KiB of them


class Code(IntEnum):
    """The gRPC status codes that Tidegate uses (google/rpc/code.proto)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15


class Meaning(NamedTuple):
    """What stands behind a reason: its code, what went wrong, what the caller does next."""

    code: Code
    problem: str
    hint: str


class Reason(IntEnum):
    """Machine-readable reasons; the name is what travels, the number is what columns hold. 0 is success."""

    OK = 0
    BAD_OBSERVATION = 1
    BAD_BATCH = 2
    BAD_SESSION_ID = 3
    BAD_CONFIG = 4
    UNIT_MISMATCH = 5
    UNDECODABLE_MESSAGE = 6
    UNKNOWN_ALIAS = 7
    BAD_FILTER = 8
    BAD_PAGE_TOKEN = 9
    SESSION_NOT_FOUND = 10
    MODEL_NOT_FOUND = 11
    VERSION_NOT_FOUND = 12
    SESSION_EXISTS = 13
    STEP_CONFLICT = 14
    STEP_TOO_OLD = 15
    STEP_GAP = 16
    TIME_NOT_INCREASING = 17
    TIME_OFF_GRID = 18
    SESSION_DIVERGED = 19
    TARGETS_DIFFER = 20
    SESSION_LIMIT = 21
    INBOX_FULL = 22
    STREAM_LIMIT = 23
    MESSAGE_TOO_LARGE = 24
    DEADLINE_EXCEEDED = 25
    CANCELLED = 26
    DRAINING = 27
    INTERNAL = 28
    UNREACHABLE = 29
    UNIMPLEMENTED = 30
    BAD_FORECAST = 31
    FORECAST_LIMIT = 32
    NO_PREDICTION = 33
    NO_DISTRIBUTION = 34
    FORECAST_DIVERGED = 35
    BAD_EXPORT = 36
    PACKAGE_MISMATCH = 37
    STEP_NOT_RETAINED = 38
    SESSION_MOVED = 39
    SESSION_DAMAGED = 40
    STORE_UNAVAILABLE = 41
    CHECKPOINT_LAG = 42
    BAD_HISTORY = 43
    HISTORY_DIVERGED = 44
    MODELS_UNREADABLE = 45


_BAD = Code.INVALID_ARGUMENT
_GONE = Code.NOT_FOUND
_FULL = Code.RESOURCE_EXHAUSTED

MEANINGS: Mapping[Reason, Meaning] = {
    Reason.OK: Meaning(Code.OK, "no error", ""),
    Reason.BAD_OBSERVATION: Meaning(
        _BAD,
        "an observation has a wrong width or an infinite value",
        "Send one finite number (or NaN) per feature, and a time of 1677 to 2262 or none.",
    ),
    Reason.BAD_BATCH: Meaning(
        _BAD, "a batch's columns do not fit its row count", "Give every column that is not empty one entry per row."
    ),
    Reason.BAD_SESSION_ID: Meaning(
        _BAD, "a session id is not 1 to 256 bytes of UTF-8", "Name the session by a shorter or a non-empty id."
    ),
    Reason.BAD_CONFIG: Meaning(
        _BAD,
        "the stream's config is missing or wrong",
        "Mend the StreamConfig, which goes with the first message only; GetModel names what the model has.",
    ),
    Reason.UNIT_MISMATCH: Meaning(
        _BAD, "a unit does not convert to the model's", "Send the model's own unit; GetModel names it."
    ),
    Reason.UNDECODABLE_MESSAGE: Meaning(
        _BAD, "a message is not what the proto says", "Build the client from the server's protos."
    ),
    Reason.UNKNOWN_ALIAS: Meaning(
        _BAD, "an alias was not bound on this stream", "Send session_ids and aliases together once, then aliases alone."
    ),
    Reason.BAD_FILTER: Meaning(_BAD, "the filter is not understood", "Use id=PREFIX*, version=V or state=QUARANTINED."),
    Reason.BAD_PAGE_TOKEN: Meaning(
        _BAD, "the page token is not of this server and query", "Start again without a token."
    ),
    Reason.SESSION_NOT_FOUND: Meaning(
        _GONE, "there is no such session", "Start it at step 1, or send a reset with the step."
    ),
    Reason.MODEL_NOT_FOUND: Meaning(_GONE, "there is no such model", "ListModels names what is served."),
    Reason.VERSION_NOT_FOUND: Meaning(
        _GONE, "the model has no such version or alias", "GetModel names the versions and aliases."
    ),
    Reason.SESSION_EXISTS: Meaning(
        Code.ALREADY_EXISTS, "a session of that id lives already", "Choose another id, or close that session first."
    ),
    Reason.STEP_CONFLICT: Meaning(
        Code.ABORTED,
        "the last step came again with another input",
        "Number each observation once; go on from the step expected.",
    ),
    Reason.STEP_TOO_OLD: Meaning(
        Code.ABORTED, "the step was taken long ago", "Go on from the step expected, or send step 0 for the next one."
    ),
    Reason.STEP_GAP: Meaning(
        Code.ABORTED,
        "steps, or intervals of time, are missing before this one",
        "Send what is missing first, from the step expected, as missing values where nothing was observed; or reset.",
    ),
    Reason.TIME_NOT_INCREASING: Meaning(
        Code.ABORTED, "the observation is not later than the last one", "Send observations in the order of their times."
    ),
    Reason.TIME_OFF_GRID: Meaning(
        Code.ABORTED,
        "the observation's time is further off the model's grid than its time_tolerance",
        "Align times to the model's frequency, or send none.",
    ),
    Reason.SESSION_DIVERGED: Meaning(
        Code.FAILED_PRECONDITION,
        "the step's result was not finite and was not taken; the session is quarantined",
        "Reset the session, by ResetSession or with reset on the next observation.",
    ),
    Reason.TARGETS_DIFFER: Meaning(
        Code.FAILED_PRECONDITION,
        "the session runs a version with other targets than the stream's (or, where it names no features, than the "
        "message's first row)",
        "Open a stream with the session's own version, which GetSession names (client.batches(model, version=...)).",
    ),
    Reason.SESSION_LIMIT: Meaning(
        _FULL,
        "the server holds as many sessions as it may",
        "Close sessions, add a replica, or raise limits.sessions_max.",
    ),
    Reason.INBOX_FULL: Meaning(_FULL, "the server has too much work queued", "Wait a moment and try again."),
    Reason.STREAM_LIMIT: Meaning(
        _FULL, "the server has as many streams as it may", "Put more sessions on each stream, or add a replica."
    ),
    Reason.MESSAGE_TOO_LARGE: Meaning(
        _FULL, "the message is larger than the server takes", "Send fewer rows a message."
    ),
    Reason.DEADLINE_EXCEEDED: Meaning(
        Code.DEADLINE_EXCEEDED, "the deadline passed before the step was taken", "Try again with the same step number."
    ),
    Reason.CANCELLED: Meaning(
        Code.CANCELLED, "the caller went away before the step was taken", "Ask again, by a new client if it is closed."
    ),
    Reason.DRAINING: Meaning(
        Code.UNAVAILABLE, "the server is shutting down", "Connect again (to another replica) and go on."
    ),
    Reason.INTERNAL: Meaning(
        Code.INTERNAL, "the server failed in a way that it did not foresee", "See the server's log; report it."
    ),
    Reason.UNREACHABLE: Meaning(
        Code.UNAVAILABLE, "the server cannot be reached", "Check the address and that the server runs."
    ),
    Reason.UNIMPLEMENTED: Meaning(
        Code.UNIMPLEMENTED, "the server does not know this call", "Use a client and a server of like versions."
    ),
    Reason.BAD_FORECAST: Meaning(
        _BAD,
        "the forecast that is asked for does not fit the model",
        "Ask as forecast.proto says; GetModel names more.",
    ),
    Reason.FORECAST_LIMIT: Meaning(
        _FULL,
        "the forecast is larger than the server makes at once",
        "Ask for fewer scenarios, samples or steps a call.",
    ),
    Reason.NO_PREDICTION: Meaning(
        Code.FAILED_PRECONDITION,
        "the session has taken no step since its state was last zero, so there is nothing to go on from",
        "Step it once first.",
    ),
    Reason.NO_DISTRIBUTION: Meaning(
        Code.FAILED_PRECONDITION,
        "the session's version predicts points without saying how sure it is",
        "Ask for point forecasts alone, or train a quantile head.",
    ),
    Reason.FORECAST_DIVERGED: Meaning(
        Code.FAILED_PRECONDITION,
        "the forecast did not stay finite; the session is as it was",
        "Ask for fewer steps ahead.",
    ),
    Reason.STEP_NOT_RETAINED: Meaning(
        Code.FAILED_PRECONDITION,
        "the session's memory of that step is gone, or was never kept",
        "Rewind to a step that is retained; a package's rewind_steps says how many are.",
    ),
    Reason.BAD_EXPORT: Meaning(_BAD, "the bytes are no whole export of a session", "Export the session again."),
    Reason.PACKAGE_MISMATCH: Meaning(
        Code.FAILED_PRECONDITION,
        "the session's memory is of a package that is not loaded here, or of another shape than the version asked for",
        "Load that package, or name a version with the same state shape; by its last observations a session goes only "
        "where features and targets are the same, and if its version keeps them (replay_steps).",
    ),
    Reason.SESSION_MOVED: Meaning(
        Code.ABORTED, "the session lives on another replica, which did not hand it over in time", "Try again shortly."
    ),
    Reason.SESSION_DAMAGED: Meaning(
        Code.DATA_LOSS,
        "the session's checkpoint cannot be read",
        "Restore it from a backup, or begin it anew with a reset on its next observation.",
    ),
    Reason.STORE_UNAVAILABLE: Meaning(
        Code.UNAVAILABLE,
        "the store of checkpoints does not answer, and the session is not in memory here",
        "Try again; the server goes on as soon as the store is back.",
    ),
    Reason.BAD_HISTORY: Meaning(
        _BAD, "a history's columns do not fit its steps", "Give every column that is not empty one entry per step."
    ),
    Reason.HISTORY_DIVERGED: Meaning(
        Code.FAILED_PRECONDITION,
        "a row's result was not finite; no row was taken, and the session is as it was",
        "Mend the row, or send the history in two, without it.",
    ),
    Reason.MODELS_UNREADABLE: Meaning(
        Code.FAILED_PRECONDITION,
        "the model repository cannot be read, or holds nothing that can be served; what is loaded serves on",
        "Mend the folder of models, of which the server's log says more, and reload again.",
    ),
    Reason.CHECKPOINT_LAG: Meaning(
        _FULL,
        "checkpoints lag behind too far for new sessions to be taken",
        "Use another replica, or try again when tidegate_checkpoint_lag_seconds has gone down.",
    ),
}


class TidegateError(Exception):
    """A refusal with its code, its reason and what to do next.

    `problem` says what is wrong in this case; without it, the reason's general text. `variables` are the details that
    a program may want (`expected_step`, `limit`, …); they travel as ErrorInfo metadata.
    """

    def __init__(self, reason: Reason, problem: str = "", **variables: object) -> None:
        meaning = MEANINGS[reason]
        self.reason = reason
        self.code = meaning.code
        self.hint = meaning.hint
        self.problem = _clipped(problem or meaning.problem)
        self.variables = {name: str(value) for name, value in variables.items()}
        super().__init__(f"{reason.name}: {self.problem}. {self.hint}".strip())

    @property
    def message(self) -> str:
        """The text that travels in the status: what is wrong and what to do next, without the reason."""
        return f"{self.problem}. {self.hint}".strip()


def _clipped(text: str) -> str:
    """Texts may quote what a client sent, which may be long."""
    return text if len(text) <= PROBLEM_LENGTH_MAX else f"{text[: PROBLEM_LENGTH_MAX - 2]} …"


class ConfigError(Exception):
    """A wrong setting, folder or port: one clear line for the person who started the server, and exit code 2."""


class PackageError(Exception):
    """A model package that cannot be served. `field` names what is wrong in it."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")
