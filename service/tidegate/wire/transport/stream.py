"""What a stream's handler needs of its call: messages as they come, and answers that leave at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Takes = Callable[[bytes], bool]
Wrote = Callable[[int], None]
GaveUp = Callable[[], None]


class Stream(Protocol):
    """One call, messages in and messages out."""

    def read_while(self, takes: Takes) -> Awaitable[Any]:
        """Gives messages to `takes` as they come, for as long as it says that it took them; the first one that it did
        not take, or grpc.aio.EOF. For one caller at a time. Raises what `takes` raises."""

    def tell(self, wrote: Wrote, gave_up: GaveUp) -> None:
        """From now on answers may be sent. `wrote` is called with the rows of each when it has left, `gave_up` when
        none will leave any more, because the peer is gone."""

    def send(self, answer: bytes, rows: int) -> None:
        """Sends an answer, after those before it."""

    async def close(self) -> None:
        """Forgets what has not left. For whoever has called `tell`, once."""
