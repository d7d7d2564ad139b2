"""What a session is outside of the engine: a key and a checkpoint. Known to the engine and to stores, which do not know
each other."""

from __future__ import annotations

import time
from typing import NamedTuple


class Key(NamedTuple):
    """Whose checkpoint it is."""

    tenant: str
    model: str
    session_id: bytes


class Checkpoint(NamedTuple):
    """All that is remembered of a session at a step: the columns that `layout` names (`engine/memory/columns.py`), one
    after another, in `content`. The package that stepped it is `version`, by its `fingerprint`.
    `active_at`: when it was last stepped or opened, in Unix seconds; 0 where that is not known."""

    key: Key
    version: str
    fingerprint: str
    step: int
    layout: bytes
    content: bytes
    active_at: int = 0


def unix_seconds(monotonic: float) -> float:
    """The time of a moment by the monotonic clock, which counts from wherever a machine began."""
    return time.time() - time.monotonic() + monotonic
