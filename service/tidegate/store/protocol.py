"""What a store does. A checkpoint is a row keyed by tenant, model and session id; a later one replaces it.

A row belongs to one replica at a time, its *owner*, which claimed it and holds it until it releases it or until its
lease runs out. Each claim gives the row a new *epoch*; a save names the epoch of its claim and is refused when the row
has another one meanwhile, so that a replica that was frozen can never overwrite what its successor wrote (a fencing
token: Kleppmann, "How to do distributed locking", 2016).

Stores know nothing of columns: `content` is opaque, and guarded by a checksum that the store's reader checks, so that a
row that went bad is found when it is read and touches no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegate.checkpoints import Checkpoint, Key

PAGE_ROWS = 4096  # of one page of a scan
_DIGEST_BYTES = 16
_ACTIVE_MAX = 2**37  # seconds since 1970, some thousand years from now


class StoreError(Exception):
    """The store cannot be reached, is full, or does not answer: nothing of the call is taken to be done."""


@dataclass(frozen=True)
class Terms:
    """On what terms a replica uses a store. `replica` is a name that no other process ever had."""

    replica: str
    lease_seconds: float = 3.0  # a replica that was not heard of for so long has lost its rows to whoever claims them
    stored_seconds_max: float = 30 * 86_400.0  # a row that nobody holds is forgotten so long after its release
    held_seconds_max: float = 7 * 86_400.0  # a row may be held for so long between two saves


@dataclass(frozen=True)
class Claim:
    """What became of a claim. `epoch` above 0: the row is this replica's from now on, with its checkpoint, or None
    where there was no row (the name is taken then). Epoch 0: another replica, `owner`, holds it and was told that it is
    wanted. `damaged`: there was a checkpoint, but its checksum is wrong; the row is this replica's."""

    epoch: int
    checkpoint: Checkpoint | None = None
    owner: str = ""
    damaged: bool = False


@dataclass(frozen=True)
class Renewal:
    """What a replica hears when it renews its lease: which of its rows others want (each is told once a claim), and
    whether the store lost what it held (it was emptied, or came back empty): then all that lives is to be saved
    anew."""

    wanted: Sequence[Key] = ()
    lost: bool = False


class Store(Protocol):
    """A place for checkpoints, as one replica uses it. Every method may raise StoreError."""

    @property
    def shared(self) -> bool:
        """Whether other replicas may use it at the same time; if not, every claim succeeds."""
        ...

    @property
    def damaged(self) -> int:
        """Rows met so far whose checksum was wrong."""
        ...

    async def start(self) -> None:
        """Opens it, and begins the lease of a shared one."""
        ...

    async def stop(self) -> None:
        """Closes it; what was saved stays."""
        ...

    async def renew(self) -> Renewal:
        """Renews the lease for `lease_seconds` from now. To be called several times in that time."""
        ...

    async def claim(self, keys: Sequence[Key]) -> list[Claim]:
        """One an entry (keys are distinct). A row is given to who asks if it is free or if its owner's lease ran out;
        a row that this replica holds already keeps its epoch."""
        ...

    async def save(self, rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        """Saves all rows but those that this replica does not hold with that epoch any more, whose keys it returns.
        Durable when it returns. A row that is not there at all (the store was emptied) is made, held by this replica
        with that epoch."""
        ...

    async def lost(self, keys: Sequence[Key], epochs: Sequence[int]) -> list[Key]:
        """Those of the rows that this replica does not hold with that epoch any more; changes nothing. A row that is
        not there at all is not among them. For a replica that may have been frozen, before it goes on."""
        ...

    async def release(self, keys: Sequence[Key], epochs: Sequence[int]) -> None:
        """Gives rows back, for whoever claims them next; a name that was taken and never saved is forgotten. Those that
        this replica does not hold with that epoch are left as they are."""
        ...

    async def delete(self, keys: Sequence[Key]) -> list[Key]:
        """Forgets rows that this replica holds. Returns those that stay, for another replica holds them or has saved
        them; those that are not there are no error."""
        ...

    async def expire(self) -> int:
        """Forgets rows past their time (see Terms) if the store does not do so by itself; returns how many."""
        ...

    def scan(self) -> AsyncIterator[list[Checkpoint]]:
        """All rows that are whole, whoever holds them, by pages of at most PAGE_ROWS."""
        ...


def sealed(checkpoint: Checkpoint) -> bytes:
    """The content with its checksum, as it is stored: over the key and the step too."""
    return checkpoint.content + _digest(checkpoint)


def opened(
    key: Key, version: str, fingerprint: str, step: int, layout: bytes, stored: bytes, active_at: object = 0
) -> Checkpoint | None:
    """The checkpoint of what was stored, or None where it is not what was sealed. The seal leaves out `active_at`: one
    that cannot be is not known."""
    active = active_at if isinstance(active_at, int) and 0 < active_at < _ACTIVE_MAX else 0
    checkpoint = Checkpoint(key, version, fingerprint, step, layout, stored[:-_DIGEST_BYTES], active)
    return checkpoint if _digest(checkpoint) == stored[-_DIGEST_BYTES:] else None


def _digest(checkpoint: Checkpoint) -> bytes:
    """BLAKE2b (RFC 7693) of everything that predictions depend on."""
    key = checkpoint.key
    head = f"{key.tenant}\n{key.model}\n{checkpoint.version}\n{checkpoint.fingerprint}\n{checkpoint.step}\n".encode()
    digest = hashlib.blake2b(head, digest_size=_DIGEST_BYTES)
    digest.update(key.session_id)
    digest.update(checkpoint.layout)
    digest.update(checkpoint.content)
    return digest.digest()
