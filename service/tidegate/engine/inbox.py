"""The inbox: what front-ends put in, as columns. Bounded by rows; a full one stops the reading of streams.

Single observations that arrive between two iterations are gathered for each scope, so that sixty-four streams cost one
block and not sixty-four; so are batches by alias of several streams that arrive after each other. Any other batch is a
block of its own. Order within a stream is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from ctypes import Structure, c_size_t
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.native import address

SINGLES_MIN = 64  # rows that room is made for at once
BATCHES_MIN = 8  # the same of batches: there may be as many as there are rows, of a row each
TOGETHER_MAX = 4096  # rows of batches that are stepped together, unless said otherwise
SPARES_MAX = 8  # columns of batches that are kept for the next ones


@dataclass(frozen=True)
class Scope:
    """What a stream's rows are about. Equal configs give equal scopes."""

    tenant: str
    model: str
    version: str = ""  # asked for new sessions: a version, an alias, or "" for the default
    features: tuple[str, ...] = ()  # the order in which values come; () is the package's
    units: tuple[str, ...] = ()  # the units in which values come; () is the package's
    must_exist: bool = False  # an unknown session is refused, whatever its step
    strict_steps: bool = False  # a step above the next is refused, also where the model imputes gaps
    targets: tuple[str, ...] = ()  # what answers hold, in order; () is what each row's version predicts

    def __hash__(self) -> int:  # asked for with every message
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.tenant, self.model, self.version, self.features, self.units, self.must_exist))


class AliasTable:
    """A stream's numbers for its sessions: id and last known reference of each, by alias. `at` is where the C parts
    learn where the references lie, and how many there are."""

    def __init__(self) -> None:
        self.ids: list[bytes | None] = []
        self._lies = np.zeros(2, np.int64)
        self.at = address(self._lies)
        self._keep(np.zeros(0, np.int64))

    def _keep(self, refs: NDArray[np.int64]) -> None:
        self.refs = refs
        self._lies[:] = address(refs), len(refs)

    def bind(self, aliases: NDArray[np.int64], ids: Sequence[bytes]) -> None:
        """Names sessions; a reference is found when the alias is first used."""
        size = int(aliases.max(initial=-1)) + 1
        self.ids.extend([None] * (size - len(self.ids)))
        if size > len(self.refs):
            grown = np.zeros(max(size, 2 * len(self.refs)), np.int64)
            grown[: len(self.refs)] = self.refs
            self._keep(grown)
        for alias, session_id in zip(aliases.tolist(), ids, strict=True):
            self.ids[alias] = session_id
        self.refs[aliases] = 0

    def known(self, aliases: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The references of such sessions, 0 where one was not looked up yet; None if there is no such alias."""
        try:
            found: NDArray[np.int64] = self.refs[aliases]
        except IndexError:
            return None
        return found


class Addresses(Structure):
    """Where columns of a block lie, for the C parts: known where they were made together, else looked up; 0 where there
    are none. See `Rows` in columns.h."""

    _fields_ = tuple(
        (name, c_size_t)
        for name in (
            *("step", "time", "values", "deadline", "reset", "arrived"),
            *("sequence", "id_bytes", "refs", "aliases", "tables", "parts"),
        )
    )
    step: int
    values: int
    arrived: int
    sequence: int
    id_bytes: int
    refs: int


@dataclass
class Block:
    """Rows as columns: all [n], values [n, width] in the scope's order and units; future [n, future covariates] in the
    package's, without columns where none were sent.

    Sessions are named by `ids`, or by `aliases` of the table, or by both (which binds them).
    """

    scope: Scope
    request: NDArray[np.int64]
    row: NDArray[np.int32]
    ids: Sequence[bytes]
    step: NDArray[np.int64]
    time: NDArray[np.int64]
    values: NDArray[np.float64]
    reset: NDArray[np.bool_]
    deadline: NDArray[np.float64]
    arrived: NDArray[np.float64]
    future: NDArray[np.float64] | None = None
    aliases: NDArray[np.int64] | None = None
    table: AliasTable | None = None
    sequence: NDArray[np.int64] | None = None  # of single observations: their messages' numbers on their streams
    messages: tuple[int, ...] = ()  # of batches that it holds whole, one after the other: how many rows each has
    lies: Addresses | None = None

    def __len__(self) -> int:
        return len(self.request)

    @property
    def at(self) -> Addresses:
        """Where its columns lie."""
        if self.lies is None:
            columns = (self.step, self.time, self.values, self.deadline, self.reset, self.arrived)
            self.lies = Addresses(*map(address, columns))
        return self.lies

    @property
    def gathers(self) -> bool:
        """Whether it is a whole batch by alias alone, with past values alone."""
        return bool(self.messages) and self.table is not None and not len(self.ids) and self.future is None

    def take(self, rows: NDArray[np.int64]) -> Block:
        """Some of the rows, named by their ids."""
        return Block(
            scope=self.scope,
            request=self.request[rows],
            row=self.row[rows],
            ids=[self.ids[row] for row in rows.tolist()],
            step=self.step[rows],
            time=self.time[rows],
            values=self.values[rows],
            reset=self.reset[rows],
            deadline=self.deadline[rows],
            arrived=self.arrived[rows],
            future=None if self.future is None else self.future[rows],
            table=self.table,
        )


class Singles:
    """Single observations of one scope and shape, gathered as columns until the engine takes them.

    There is room for `capacity` rows, of which `rows` are taken. Whoever writes a row itself calls `room`, fills every
    column but `future` at place `rows`, and calls `took`.
    """

    def __init__(self, scope: Scope, shape: tuple[int, int], capacity: int) -> None:
        self.scope, self.shape = scope, shape  # of how many values and future covariates
        self.width = shape[0]
        self.rows, self.capacity = 0, 0
        self.sealed = False  # the engine has it; nothing more may be added
        self.ids: list[bytes] = []
        self.description: object = None  # of the columns as they lie now, for who writes rows by address
        self.described = 0  # its address
        self._grow(capacity)

    def __len__(self) -> int:
        return self.rows

    def room(self) -> int:
        """Makes sure that there is place for one more row; returns it."""
        if self.rows == self.capacity:
            self._grow(2 * self.capacity)
        return self.rows

    def took(self, session_id: bytes) -> None:
        """The next row is filled."""
        self.ids.append(session_id)
        self.rows += 1

    def clear(self) -> None:
        """All rows are answered; their places are free."""
        self.rows, self.ids = 0, []

    def block(self) -> Block:
        rows = self.rows
        return Block(
            scope=self.scope,
            request=self.request[:rows],
            row=np.zeros(rows, np.int32),
            ids=self.ids,
            step=self.step[:rows],
            time=self.time[:rows],
            values=self.values[:rows],
            reset=self.reset[:rows],
            deadline=self.deadline[:rows],
            arrived=self.arrived[:rows],
            future=self.future[:rows] if self.shape[1] else None,
            sequence=self.sequence[:rows],
            lies=self.at,
        )

    def _grow(self, capacity: int) -> None:
        width, future = self.shape
        before = self.block() if self.rows else None
        integers, floats = np.empty((6, capacity), np.int64), np.empty(capacity * (2 + width))
        self.request, self.sequence, self.step, self.time, self.id_bytes = integers[:5]
        self.reset = integers[5].view(np.bool_)[:capacity]
        self.deadline, self.arrived = floats[:capacity], floats[capacity : 2 * capacity]
        self.values = floats[2 * capacity :].reshape(capacity, width)
        self.future = np.empty((capacity, future))
        lie, stride, floating = address(integers), 8 * capacity, address(floats)
        self.at = Addresses(
            step=lie + 2 * stride,
            time=lie + 3 * stride,
            values=floating + 2 * stride,
            deadline=floating,
            reset=lie + 5 * stride,
            arrived=floating + stride,
            sequence=lie + stride,
            id_bytes=lie + 4 * stride,
        )
        if before is not None:
            for name in ("request", "sequence", "step", "time", "deadline", "arrived", "values", "reset"):
                getattr(self, name)[: self.rows] = getattr(before, name)
            self.id_bytes[: self.rows] = [*map(len, self.ids)]
            if before.future is not None:
                self.future[: self.rows] = before.future
        self.capacity, self.described = capacity, 0


class Batches:
    """Whole batches by alias, each of another stream, of one scope and width: gathered as columns until the engine
    takes them.

    There is room for `capacity` rows, of which `rows` are taken. Whoever writes rows itself calls `room`, fills every
    column but `refs` from place `rows` on, and those of the messages at the next place there, and calls the inbox's
    `added`. `refs` are found when the rows are looked at.
    """

    def __init__(self, scope: Scope, width: int, together_max: int, capacity: int = BATCHES_MIN) -> None:
        """At most `together_max` rows go together, or one batch."""
        self.scope, self.width, self.together_max = scope, width, together_max
        self.rows, self.capacity = 0, 0
        self.parts: dict[AliasTable, int] = {}  # rows of each, by its stream, in order
        self.description: object = None  # of the columns as they lie now, for who writes rows by address
        self.described = 0  # its address
        self._grow(capacity)

    def __len__(self) -> int:
        return self.rows

    def has_room(self, rows: int, width: int) -> bool:
        """Whether so many rows, of so many values, may go here."""
        return width == self.width and (not self.rows or self.rows + rows <= self.together_max)

    def room(self, rows: int) -> None:
        """Makes sure that there is place for so many more."""
        if self.rows + rows > self.capacity:
            self._grow(max(2 * self.capacity, self.rows + rows))

    def put(self, block: Block) -> None:
        """Fills the next rows, with a block that `gathers`."""
        assert block.aliases is not None
        assert block.table is not None
        rows = len(block)
        self.room(rows)
        start, stop = self.rows, self.rows + rows
        for name in _GATHERED:
            getattr(self, name)[start:stop] = getattr(block, name)
        self._tables[len(self.parts)], self._parts[len(self.parts)] = block.table.at, rows

    def gather(self, rows: int) -> None:
        """From now on at most so many rows go together here, or one batch."""
        if rows != self.together_max:
            self.together_max, self.described = rows, 0

    def clear(self) -> None:
        """All rows are answered; their places are free."""
        self.rows, self.parts = 0, {}

    @property
    def messages(self) -> tuple[int, ...]:
        """Rows of each."""
        return tuple(self.parts.values())

    @property
    def first_ref(self) -> int:
        """The reference to the first row's session; 0 where it is not known."""
        alias, table = int(self.aliases[0]), next(iter(self.parts))
        return int(table.refs[alias]) if alias < len(table.refs) else 0

    def known(self) -> NDArray[np.int64] | None:
        """References to the rows' sessions if all aliases are bound; 0 where one was not looked up yet."""
        start, refs = 0, self.refs[: self.rows]
        for table, rows in self.parts.items():
            stop = start + rows
            found = table.known(self.aliases[start:stop])
            if found is None:
                return None
            refs[start:stop] = found
            start = stop
        return refs

    def block(self) -> Block:
        """All of them, without names. The columns are not copied."""
        rows = slice(0, self.rows)
        return Block(ids=(), messages=self.messages, lies=self.at, **self._columns(rows))

    def blocks(self) -> list[Block]:
        """Each for itself."""
        found, start = [], 0
        for table, rows in self.parts.items():
            part = slice(start, start + rows)
            columns = self._columns(part)
            found.append(Block(ids=(), aliases=self.aliases[part], table=table, messages=(rows,), **columns))
            start += rows
        return found

    def _columns(self, rows: slice) -> dict[str, Any]:
        return {"scope": self.scope} | {name: getattr(self, name)[rows] for name in _SHARED}

    def _grow(self, capacity: int) -> None:
        before = {name: getattr(self, name)[: self.rows] for name in _GATHERED} if self.rows else {}
        integers, floats = np.empty((8, capacity), np.int64), np.empty(capacity * (2 + self.width))
        self.request, self.step, self.time, self.aliases = integers[:4]
        self.refs: NDArray[np.int64] = integers[4]
        narrow, tables, parts = integers[5:]
        tables[: len(self.parts)], parts[: len(self.parts)] = [table.at for table in self.parts], self.messages
        self._tables, self._parts = tables, parts  # of each message, for the C parts
        self.row, self.reset = narrow.view(np.int32)[:capacity], narrow.view(np.bool_)[4 * capacity : 5 * capacity]
        self.deadline, self.arrived = floats[:capacity], floats[capacity : 2 * capacity]
        self.values = floats[2 * capacity :].reshape(capacity, self.width)
        lie, stride, floating = address(integers), 8 * capacity, address(floats)
        self.at = Addresses(
            step=lie + stride,
            time=lie + 2 * stride,
            values=floating + 2 * stride,
            deadline=floating,
            reset=lie + 5 * stride + 4 * capacity,
            arrived=floating + stride,
            refs=lie + 4 * stride,
            aliases=lie + 3 * stride,
            tables=lie + 6 * stride,
            parts=lie + 7 * stride,
        )
        for name, column in before.items():
            getattr(self, name)[: self.rows] = column
        self.capacity, self.described = capacity, 0


_SHARED = ("request", "row", "step", "time", "values", "reset", "deadline", "arrived")
_GATHERED = (*_SHARED, "aliases")


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
