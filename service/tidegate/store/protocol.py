"""What a store does. A checkpoint is a row keyed by tenant, model and session id; a later one replaces it.

Stores know nothing of columns: `content` is opaque, and guarded by a checksum that the store's reader checks, so that a
row that went bad is found when it is read and touches no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from tidegate.checkpoints import Checkpoint, Key

PAGE_ROWS = 4096  # of one page of a scan
_DIGEST_BYTES = 16


class StoreError(Exception):
    """The store cannot be reached, is full, or does not answer: nothing of the call is taken to be saved."""


class Store(Protocol):
    """A place for checkpoints. Every method may raise StoreError."""

    async def start(self) -> None:
        """Opens it."""
        ...

    async def stop(self) -> None:
        """Closes it; what was saved stays."""
        ...

    async def save(self, rows: Sequence[Checkpoint]) -> None:
        """Saves all rows or none; durable when it returns."""
        ...

    async def load(self, keys: Sequence[Key]) -> list[Checkpoint | None]:
        """One an entry, None where there is none that is whole."""
        ...

    async def delete(self, keys: Sequence[Key]) -> None:
        """Forgets rows; those that are not there are no error."""
        ...

    def scan(self) -> AsyncIterator[list[Checkpoint]]:
        """All rows that are whole, by pages of at most PAGE_ROWS."""
        ...

    @property
    def damaged(self) -> int:
        """Rows met so far whose checksum was wrong."""
        ...


def sealed(checkpoint: Checkpoint) -> bytes:
    """The content with its checksum, as it is stored: over the key and the step too."""
    return checkpoint.content + _digest(checkpoint)


def opened(key: Key, version: str, fingerprint: str, step: int, layout: bytes, stored: bytes) -> Checkpoint | None:
    """The checkpoint of what was stored, or None where it is not what was sealed."""
    checkpoint = Checkpoint(key, version, fingerprint, step, layout, stored[:-_DIGEST_BYTES])
    return checkpoint if _digest(checkpoint) == stored[-_DIGEST_BYTES:] else None


def _digest(checkpoint: Checkpoint) -> bytes:
    """BLAKE2b (RFC 7693) of everything."""
    key = checkpoint.key
    head = f"{key.tenant}\n{key.model}\n{checkpoint.version}\n{checkpoint.fingerprint}\n{checkpoint.step}\n".encode()
    digest = hashlib.blake2b(head, digest_size=_DIGEST_BYTES)
    digest.update(key.session_id)
    digest.update(checkpoint.layout)
    digest.update(checkpoint.content)
    return digest.digest()
