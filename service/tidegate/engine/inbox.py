"""The inbox: what front-ends put in, as columns. Bounded by rows; a full one stops the reading of streams.

A batch message is a block of its own. Single observations that arrive between two iterations are gathered into one
block for each scope, so that sixty-four streams cost one block and not sixty-four. Order within a stream is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


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


@dataclass
class AliasTable:
    """A stream's numbers for its sessions: id and last known reference of each, by alias."""

    ids: list[bytes | None] = field(default_factory=list)
    refs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def bind(self, aliases: NDArray[np.int64], ids: Sequence[bytes]) -> None:
        """Names sessions; a reference is found when the alias is first used."""
        size = int(aliases.max(initial=-1)) + 1
        self.ids.extend([None] * (size - len(self.ids)))
        if size > len(self.refs):
            grown = np.zeros(max(size, 2 * len(self.refs)), np.int64)
            grown[: len(self.refs)] = self.refs
            self.refs = grown
        for alias, session_id in zip(aliases.tolist(), ids, strict=True):
            self.ids[alias] = session_id
        self.refs[aliases] = 0


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

    def __len__(self) -> int:
        return len(self.request)

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


class _Singles:
    """Single observations of one scope and shape, gathered as lists until the engine takes them."""

    def __init__(self, scope: Scope, shape: tuple[int, int]) -> None:
        self.scope, self.shape = scope, shape  # of how many values and future covariates
        self.request: list[int] = []
        self.ids: list[bytes] = []
        self.step: list[int] = []
        self.time: list[int] = []
        self.values: list[Sequence[float]] = []
        self.future: list[Sequence[float]] = []
        self.reset: list[bool] = []
        self.deadline: list[float] = []
        self.arrived: list[float] = []

    def block(self) -> Block:
        rows, (width, future) = len(self.request), self.shape
        return Block(
            scope=self.scope,
            request=np.array(self.request, np.int64),
            row=np.zeros(rows, np.int32),
            ids=self.ids,
            step=np.array(self.step, np.int64),
            time=np.array(self.time, np.int64),
            values=np.array(self.values, np.float64).reshape(rows, width),
            reset=np.array(self.reset, np.bool_),
            deadline=np.array(self.deadline, np.float64),
            arrived=np.array(self.arrived, np.float64),
            future=np.array(self.future, np.float64).reshape(rows, future) if future else None,
        )


class Inbox:
    """Blocks on their way to the engine. `rows` counts those here and those that wait in the engine's queues."""

    def __init__(self, rows_max: int) -> None:
        self.rows_max = rows_max
        self.rows = 0
        self._blocks: deque[Block] = deque()
        self._singles: dict[Scope, _Singles] = {}

    @property
    def full(self) -> bool:
        return self.rows >= self.rows_max

    def __bool__(self) -> bool:
        return bool(self._blocks or self._singles)

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
    ) -> None:
        """One observation."""
        shape = len(values), len(future)
        singles = self._singles.get(scope)
        if singles is not None and singles.shape != shape:
            self._seal()
            singles = None
        if singles is None:
            singles = self._singles[scope] = _Singles(scope, shape)
        singles.request.append(request)
        singles.ids.append(session_id)
        singles.step.append(step)
        singles.time.append(time)
        singles.values.append(values)
        singles.future.append(future)
        singles.reset.append(reset)
        singles.deadline.append(deadline)
        singles.arrived.append(arrived)
        self.rows += 1

    def add_block(self, block: Block) -> None:
        """A batch message; observations that came before it stay before it."""
        self._seal()
        self._blocks.append(block)
        self.rows += len(block)

    def take(self) -> list[Block]:
        """All that is here, in order. The rows stay counted until `done`."""
        self._seal()
        blocks = list(self._blocks)
        self._blocks.clear()
        return blocks

    def expire(self, stream: int, shift: int) -> None:
        """Marks the rows of a stream that went away, so that they are dropped unstepped."""
        self._seal()
        for block in self._blocks:
            block.deadline[block.request >> shift == stream] = -np.inf

    def done(self, rows: int) -> None:
        """So many rows have been answered."""
        self.rows -= rows

    def _seal(self) -> None:
        for singles in self._singles.values():
            self._blocks.append(singles.block())
        self._singles.clear()
