"""Rows that are gathered as they come: columns with room for more, which the C parts fill and read by address."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.queues.block import Addresses, AliasTable, Block, Scope
from tidegate.native import address

BATCHES_MIN = 8  # rows that room is made for at once: there may be as many batches as there are rows, of a row each

_SHARED = ("request", "row", "step", "time", "values", "reset", "deadline", "arrived")
_GATHERED = (*_SHARED, "aliases")


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
