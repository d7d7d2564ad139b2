"""How much of what is answered a client keeps at most, in all its streams; above it, sending waits.

Rejected: dropping the oldest. A crash would then lose observations that the client was told to be answered; slower is
better than wrong, and a server whose checkpoints lag so far needs the pause.
"""

from __future__ import annotations

import asyncio

from tidegate.client.patience import Patience
from tidegate.errors import Reason, TidegateError

KEPT_ROWS_MAX = 1_048_576
KEPT_BYTES_MAX = 256 * 1024 * 1024


class Allowance:
    """Rows and bytes that are kept; one message may go above the limits."""

    def __init__(self, rows_max: int = KEPT_ROWS_MAX, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self.rows = self.bytes = 0
        self._rows_max, self._bytes_max = rows_max, bytes_max
        self._room = asyncio.Event()
        self._room.set()

    def change(self, rows: int, size: int) -> None:
        """Rows came or went."""
        self.rows += rows
        self.bytes += size
        if self.rows < self._rows_max and self.bytes < self._bytes_max:
            self._room.set()
        else:
            self._room.clear()

    async def room(self, patience: Patience) -> None:
        """Returns when there is room. A call whose time runs out here fails with CHECKPOINT_LAG."""
        if not self._room.is_set():
            problem = f"{self.rows} answered observations wait for the server's checkpoints, and no more may"
            patience.blame(TidegateError(Reason.CHECKPOINT_LAG, problem))
            await self._room.wait()
            patience.blame(None)
