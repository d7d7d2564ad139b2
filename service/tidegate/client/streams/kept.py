"""Answered observations that a crash of the server could still lose: kept until a checkpoint covers them. Pure.

Blocks of rows wait in the order in which they were answered, each stamped with the sequence of a message of the open
stream; a Checkpoint of that sequence or a later one lets them go. Only the same server process can say so. So when the
stream breaks, everything kept is *in doubt*, without a stamp, until its sessions have been asked for on the next stream
(`recovery`); and so are sessions that a Checkpoint names as lost to another replica.

Rejected: a list of observations for each session. It made a batch of thousands of rows cost several times more, for the
sake of a look-up that only a crash needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from tidegate.client.streams.columns import Columns, Place

IN_DOUBT = 2**64  # above every sequence


class Rows(Protocol):
    """Rows answered together, in whatever form they were asked."""

    @property
    def ids(self) -> Sequence[str]:
        """Their sessions."""
        ...

    @property
    def bytes(self) -> int:
        """About what they take in memory."""
        ...

    def columns(self) -> Columns:
        """The rows themselves."""
        ...


@dataclass(slots=True)
class Block:
    """Rows and their stamp; `number` counts blocks."""

    rows: Rows
    sequence: int
    number: int


class Kept:
    """What one stream's sessions did and could lose. `changed` is told of rows and bytes that came or went."""

    def __init__(self, changed: Callable[[int, int], None] = lambda rows, size: None) -> None:
        self.doubted: set[str] = set()
        self.rows = 0
        self._doubted_since: set[str] = set()  # the sessions in doubt were last asked for
        self._changed = changed
        self._blocks: deque[Block] = deque()
        self._durable = 0
        self._count = 0
        self._forgotten: dict[str, int] = {}  # up to which block a session's rows count for nothing
        self._latest: dict[str, int] = {}  # the last block of each session, of those looked at
        self._looked_at = 0  # blocks up to this number

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def add(self, rows: Rows, sequence: int) -> None:
        """Keeps what message `sequence` had answered."""
        if sequence > self._durable and len(rows.ids):
            self._count += 1
            self._blocks.append(Block(rows, sequence, self._count))
            self._weigh(rows, 1)

    def checkpoint(self, durable: int, lagging: Collection[str] = ()) -> None:
        """All up to message `durable` is safe, but for the sessions that lag."""
        self._durable = max(self._durable, durable)
        self.doubt({name for name in lagging if self.holds(name)})
        while self._blocks and self._blocks[0].sequence <= durable:
            self._weigh(self._blocks.popleft().rows, -1)
        if len(self._forgotten) + len(self._latest) > 2 * self.rows:
            self._tidy()

    def broken(self) -> None:
        """The stream is over: whether the next server has any of it is not known."""
        self.doubt({name for block in self._blocks for name in block.rows.ids if self._counts(block, name)})

    def doubt(self, names: Collection[str]) -> None:
        """The server may have lost what is kept of these sessions."""
        self.doubted.update(names)
        self._doubted_since.update(names)
        for block in self._blocks if names else ():
            if not self.doubted.isdisjoint(block.rows.ids):
                block.sequence = IN_DOUBT

    def ask(self) -> set[str]:
        """The sessions in doubt, to be asked for now; the answers settle none that is doubted again meanwhile."""
        self._doubted_since.clear()
        return set(self.doubted)

    def settle(self, names: Collection[str], sequence: int) -> None:
        """The server has all of these sessions, by message `sequence` at the latest."""
        self.doubted -= set(names) - self._doubted_since
        for block in self._blocks:
            if block.sequence == IN_DOUBT and self.doubted.isdisjoint(block.rows.ids):
                block.sequence = sequence
        self.checkpoint(self._durable)  # that of this message may have come before

    def forget(self, name: str) -> None:
        """What was kept of a session is of no use any more."""
        self.doubted.discard(name)
        if self._blocks:
            self._forgotten[name] = self._count

    def clear(self) -> None:
        """All of it is of no use."""
        self.doubted.clear()
        for block in self._blocks:
            block.sequence = 0
        self.checkpoint(self._durable)

    def holds(self, name: str) -> bool:
        """Whether something of the session is kept."""
        if not self._blocks:
            return False
        new = list(takewhile(lambda block: block.number > self._looked_at, reversed(self._blocks)))
        for block in reversed(new):
            self._latest.update(dict.fromkeys(block.rows.ids, block.number))
        self._looked_at = self._count
        return self._latest.get(name, 0) >= max(self._blocks[0].number, self._forgotten.get(name, 0) + 1)

    def rows_of(self, names: Collection[str]) -> dict[str, list[Place]]:
        """Where the rows of these sessions are, in the order of their steps; one that was answered twice once."""
        found: dict[str, dict[int, Place]] = {name: {} for name in names}
        for block in self._blocks:
            if not found.keys().isdisjoint(block.rows.ids):
                columns = block.rows.columns()
                for row, name in enumerate(columns.ids):
                    if name in found and self._counts(block, name):
                        found[name][int(columns.steps[row])] = columns, row
        return {name: [places[step] for step in sorted(places)] for name, places in found.items()}

    def step_at(self, name: str, time: int) -> int:
        """The number of a session's kept observation of that time; 0 where none is kept."""
        places = self.rows_of((name,))[name]
        steps = (int(rows.steps[row]) for rows, row in places if rows.times is not None and rows.times[row] == time)
        return next(steps, 0)

    def _tidy(self) -> None:
        """Drops what is noted of blocks that are gone."""
        first = self._blocks[0].number if self._blocks else self._count + 1
        self._forgotten = {name: number for name, number in self._forgotten.items() if number >= first}
        self._latest = {name: number for name, number in self._latest.items() if number >= first}

    def _counts(self, block: Block, name: str) -> bool:
        return block.number > self._forgotten.get(name, 0)

    def _weigh(self, rows: Rows, sign: int) -> None:
        count = len(rows.ids)
        self.rows += sign * count
        self._changed(sign * count, sign * rows.bytes)
