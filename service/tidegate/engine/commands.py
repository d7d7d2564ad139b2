"""Everything that is asked of the engine beside steps: small messages, carried out between iterations.

Each command names its answer. `Engine.execute` raises a TidegateError to refuse; bulk commands report rows instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import Reason


@dataclass(frozen=True)
class SessionInfo:
    """A session as people see it. `event_time` is in ns since 1970 UTC (NO_TIME: none)."""

    model: str
    version: str
    session_id: bytes
    step: int
    steps_seen: int
    event_time: int
    idle_seconds: float
    diverged: bool


@dataclass
class BulkResult:
    """One entry an id: its session's last step, whether it was done (created, reset, closed), and who failed why."""

    done: NDArray[np.bool_]
    steps: NDArray[np.int64]
    errors: list[tuple[int, Reason]] = field(default_factory=list)


class Way(IntEnum):
    """How a session came to another version; the number is what travels."""

    FAILED = 0
    ALREADY_THERE = 1
    STATE = 2
    REPLAY = 3


@dataclass
class Migrated(BulkResult):
    """And for each id its Way [ids], and how many observations were taken again [ids]."""

    ways: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    replayed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class OpenSessions:
    """-> BulkResult; `done` marks those created."""

    tenant: str
    model: str
    version: str
    ids: Sequence[bytes]


@dataclass(frozen=True)
class ResetSessions:
    """-> BulkResult"""

    tenant: str
    model: str
    ids: Sequence[bytes]


@dataclass(frozen=True)
class CloseSessions:
    """-> BulkResult"""

    tenant: str
    model: str
    ids: Sequence[bytes]


@dataclass(frozen=True)
class MigrateSessions:
    """-> Migrated. To a version or an alias; empty: the one that new sessions get. Many of them take long."""

    tenant: str
    model: str
    version: str
    ids: Sequence[bytes]


@dataclass(frozen=True)
class GetSession:
    """-> SessionInfo"""

    tenant: str
    model: str
    session_id: bytes


@dataclass(frozen=True)
class ForkSession:
    """-> SessionInfo of the copy, which begins at `step` if that is given: one that is retained."""

    tenant: str
    model: str
    session_id: bytes
    new_id: bytes
    step: int | None = None


@dataclass(frozen=True)
class RewindSession:
    """-> SessionInfo. Back to `step`, one that is retained."""

    tenant: str
    model: str
    session_id: bytes
    step: int


@dataclass(frozen=True)
class ExportSession:
    """-> Export"""

    tenant: str
    model: str
    session_id: bytes


@dataclass(frozen=True)
class Export:
    """A session as bytes (`engine/memory/record.py`), and what it is."""

    content: bytes
    info: SessionInfo


@dataclass(frozen=True)
class ImportSession:
    """-> SessionInfo. `new_id` empty: the id that it had; `version` empty: the package that stepped it."""

    tenant: str
    content: bytes
    new_id: bytes
    version: str


@dataclass(frozen=True)
class SessionFilter:
    """Which sessions a listing wants; empty fields match all. `id_prefix` matches ids that start so."""

    model: str = ""
    version: str = ""
    session_id: bytes = b""
    id_prefix: bytes = b""
    diverged: bool | None = None


@dataclass(frozen=True)
class ListSessions:
    """-> Page. `cursor` is (slab, slot) to go on from."""

    tenant: str
    filter: SessionFilter
    cursor: tuple[int, int]
    size: int


@dataclass(frozen=True)
class Page:
    """Sessions, and where to go on; None: that was all."""

    sessions: list[SessionInfo]
    cursor: tuple[int, int] | None


@dataclass(frozen=True)
class CancelStream:
    """-> None. Rows of that stream that are still queued are not stepped."""

    stream: int


@dataclass(frozen=True)
class Sweep:
    """-> int: how many sessions were closed because they were idle too long."""


Command = (
    OpenSessions
    | ResetSessions
    | CloseSessions
    | MigrateSessions
    | GetSession
    | ForkSession
    | RewindSession
    | ExportSession
    | ImportSession
    | ListSessions
    | CancelStream
    | Sweep
)
