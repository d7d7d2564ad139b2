"""A block: rows as columns, on their way from a front-end to the engine; and what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, c_size_t
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tidegate.native import address


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
