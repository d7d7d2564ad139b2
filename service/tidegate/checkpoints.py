"""What a session is outside of the engine: a key and a checkpoint. Known to the engine and to stores, which do not know
each other."""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """Whose checkpoint it is."""

    tenant: str
    model: str
    session_id: bytes


class Checkpoint(NamedTuple):
    """All that is remembered of a session at a step: the columns that `layout` names (`engine/memory/columns.py`), one
    after another, in `content`. The package that stepped it is `version`, by its `fingerprint`."""

    key: Key
    version: str
    fingerprint: str
    step: int
    layout: bytes
    content: bytes
