"""The inbox: what front-ends put in, as columns. Bounded by rows; a full one stops the reading of streams.

Single observations that arrive between two iterations are gathered for each scope, so that sixty-four streams cost one
block and not sixty-four; so are batches by alias of several streams that arrive after each other. Any other batch is a
block of its own. Order within a stream is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from tidegate.engine.queues.block import AliasTable, Block, Scope
from tidegate.engine.queues.gathered import Batches, Singles

SINGLES_MIN = 64  # rows that room is made for at once
TOGETHER_MAX = 4096  # rows of batches that are stepped together, unless said otherwise
SPARES_MAX = 8  # columns of batches that are kept for the next ones


class Inbox:
    """Blocks on their way to the engine. `rows` counts those here and those that wait in the engine's queues."""

    def __init__(self, rows_max: int, together_max: int = TOGETHER_MAX) -> None:
        """At most `together_max` rows of batches are gathered, or one batch."""
        self.rows_max = rows_max
        self.together_max = together_max
        self.rows = 0
        self._blocks: deque[Block | Batches] = deque()
        self._spares: list[Batches] = []
        self._singles: dict[Scope, Singles] = {}
        self._expected = SINGLES_MIN  # about as many as came together last

    def __bool__(self) -> bool:
        if self._blocks:
            return True
        for singles in self._singles.values():  # noqa: SIM110 (a generator costs as much again)
            if singles.rows:
                return True
        return False

    def add_row(
        self,
        scope: Scope,
        request: int,
        session_id: bytes,
        step: int,
        time: int,
        values: Sequence[float],
        reset: bool,
        deadline: float,
        arrived: float,
        future: Sequence[float] = (),
        sequence: int = 0,
    ) -> None:
        """One observation, whose message has the given number on its stream."""
        singles = self.singles(scope, (len(values), len(future)))
        place = singles.room()
        singles.request[place] = request
        singles.sequence[place] = sequence - (sequence >> 63 << 64)  # the same bits, and the C parts read them unsigned
        singles.id_bytes[place] = len(session_id)
        singles.step[place], singles.time[place], singles.reset[place] = step, time, reset
        singles.deadline[place], singles.arrived[place] = deadline, arrived
        singles.values[place] = values
        singles.future[place] = future
        singles.took(session_id)
        self.rows += 1

    def singles(self, scope: Scope, shape: tuple[int, int]) -> Singles:
        """Where the scope's next observation goes. Who fills it in counts it in `rows`."""
        singles = self._singles.get(scope)
        if singles is not None and singles.shape != shape:
            self._seal()
            singles = None
        if singles is None:
            singles = self._singles[scope] = Singles(scope, shape, self._expected)
        return singles

    def add_block(self, block: Block) -> None:
        """A batch message; observations that came before it stay before it."""
        if block.gathers:
            assert block.table is not None
            rows, width = block.values.shape
            batches = self.batches(block.scope, block.table)
            if not batches.has_room(rows, width):
                batches = self.more_batches(block.scope, width)
            batches.put(block)
            self.added(batches, rows, block.table)
            return
        self._seal()
        self._blocks.append(block)
        self.rows += len(block)

    def batches(self, scope: Scope, table: AliasTable) -> Batches:
        """Where a stream's next batch by alias goes, if it has room for it; else it goes to `more_batches`. Who fills
        it in says so to `added`."""
        for singles in self._singles.values():
            if singles.rows:  # they came before it
                self._seal()
                break
        last = self._blocks[-1] if self._blocks else None
        if isinstance(last, Batches) and last.scope is scope and table not in last.parts:
            return last
        for spare in reversed(self._spares):  # the last one is in the caches
            if spare.scope is scope:
                return spare
        return self.more_batches(scope, 0)

    def more_batches(self, scope: Scope, width: int) -> Batches:
        """Where nothing is yet."""
        for spare in reversed(self._spares):
            if spare.scope is scope and spare.width == width:
                return spare
        return Batches(scope, width, self.together_max)

    def gather(self, rows: int) -> None:
        """From now on at most so many rows of batches go together, or one batch."""
        self.together_max = rows
        for spare in self._spares:
            spare.gather(rows)

    def added(self, batches: Batches, rows: int, table: AliasTable) -> None:
        """The next rows there are filled, by a batch of that stream."""
        if not batches.rows:
            self._blocks.append(batches)
            if batches in self._spares:
                self._spares.remove(batches)
        batches.rows += rows
        batches.parts[table] = rows
        self.rows += rows

    def quick(self, rows_max: int) -> Singles | Batches | None:
        """What a quick turn may take: the oldest of what waits if that is batches that go together; or all of it, if it
        is nothing but a few plain single observations of one scope."""
        if self._blocks:
            block = self._blocks[0]
            return block if isinstance(block, Batches) else None
        found: Singles | None = None
        for singles in self._singles.values():
            if singles.rows:
                if found is not None:
                    return None
                found = singles
        return found if found is not None and found.rows <= rows_max and not found.shape[1] else None

    def oldest(self) -> Block | Batches | None:
        """What has waited longest: batches that go together, any other message, or single observations."""
        if not self._blocks:
            self._seal()
        return self._blocks[0] if self._blocks else None

    def take_oldest(self) -> None:
        """Takes what `oldest` gives. The rows stay counted until `done`."""
        self._blocks.popleft()

    def took(self, waiting: Singles | Batches) -> None:
        """Somebody has these already, of `quick`. Their rows stay counted until `done`."""
        if isinstance(waiting, Singles):
            self._seal()
        self._blocks.popleft()

    def answered(self, waiting: Singles | Batches) -> None:
        """These, of `quick`, are answered: they wait no more, and their columns are free."""
        self.rows -= waiting.rows
        if isinstance(waiting, Batches):
            self._blocks.popleft()
            waiting.gather(self.together_max)
            self._spares.append(waiting)
            del self._spares[:-SPARES_MAX]
        waiting.clear()

    def spread(self) -> None:
        """The next batches become a block each, in order."""
        batches = self._blocks.popleft()
        assert isinstance(batches, Batches)
        self._blocks.extendleft(reversed(batches.blocks()))

    def take(self, but: Collection[str] = ()) -> list[Block]:
        """All that is here, in order, but for what is about these models. The rows stay counted until `done`."""
        self._seal(but)
        kept: deque[Block | Batches] = deque()
        taken: list[Block] = []
        for block in self._blocks:
            if block.scope.model in but:
                kept.append(block)
            else:
                taken += block.blocks() if isinstance(block, Batches) else (block,)
        self._blocks = kept
        return taken

    def expire(self, stream: int, shift: int) -> None:
        """Marks the rows of a stream that went away, so that they are dropped unstepped."""
        self._seal()
        for block in self._blocks:
            rows = len(block)
            block.deadline[:rows][block.request[:rows] >> shift == stream] = -np.inf

    def done(self, rows: int) -> None:
        """So many rows have been answered."""
        self.rows -= rows

    def _seal(self, but: Collection[str] = ()) -> None:
        for singles in self._singles.values():
            if singles.scope.model in but:
                continue
            singles.sealed = True
            if singles.rows:
                self._blocks.append(singles.block())
                self._expected = max(SINGLES_MIN, singles.rows + singles.rows // 4)
        self._singles = {scope: singles for scope, singles in self._singles.items() if not singles.sealed}
