"""A store in memory: nothing outlives the process. For tests, and as the plainest form of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.protocol import PAGE_ROWS


class MemoryStore:
    """A dictionary."""

    damaged = 0

    def __init__(self) -> None:
        self._rows: dict[Key, Checkpoint] = {}

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def save(self, rows: Sequence[Checkpoint]) -> None:
        self._rows.update((row.key, row) for row in rows)

    async def load(self, keys: Sequence[Key]) -> list[Checkpoint | None]:
        return [self._rows.get(key) for key in keys]

    async def delete(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self._rows.pop(key, None)

    async def scan(self) -> AsyncIterator[list[Checkpoint]]:
        rows = list(self._rows.values())
        for start in range(0, len(rows), PAGE_ROWS):
            yield rows[start : start + PAGE_ROWS]
