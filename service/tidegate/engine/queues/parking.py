"""Rows that wait for their sessions, which are not in memory: until the store has said where they are.

A session's rows are kept in the order in which they came, and go on together, so that its steps stay in order; those of
other sessions do not wait for them. Whoever asks the store takes the names that are `wanted`, and answers each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.checkpoints import Key
from tidegate.engine.queues.block import Block
from tidegate.errors import Reason


@dataclass
class _Parked:
    """A block of which rows wait, and how many still do."""

    block: Block
    rows: int


class Parking:
    """All rows that wait. `wanted` are the sessions that nobody was asked for yet, in order."""

    def __init__(self, rows_max: int) -> None:
        self.rows = 0
        self.wanted: dict[Key, None] = {}
        self.rows_max = rows_max  # while so many wait, no more are read; what has been read already may wait too
        self._blocks: dict[int, _Parked] = {}
        self._numbers = 0
        self._places: dict[Key, list[tuple[int, int]]] = {}  # block and row, in order

    def park(self, block: Block, rows: NDArray[np.int64]) -> None:
        """Has these rows wait."""
        self._numbers += 1
        self._blocks[self._numbers] = _Parked(block, len(rows))
        self.rows += len(rows)
        scope = block.scope
        for row in rows.tolist():
            key = Key(scope.tenant, scope.model, block.ids[row])
            places = self._places.get(key)
            if places is None:
                places = self._places[key] = []
                self.wanted[key] = None
            places.append((self._numbers, row))

    def leave(self, outcomes: Mapping[Key, Reason]) -> list[tuple[Block, NDArray[np.uint8]]]:
        """The rows of sessions that were found, or not (OK: go on with them as they are now; else why not): blocks in
        the order in which they came, each with the outcomes of its rows."""
        found: dict[int, list[tuple[int, Reason]]] = {}
        for key, outcome in outcomes.items():
            for number, row in self._places.pop(key, ()):
                found.setdefault(number, []).append((row, outcome))
        return [self._part(number, sorted(found[number])) for number in sorted(found)]

    def waits(self, key: Key) -> bool:
        """Whether rows wait for that session."""
        return key in self._places

    def expire(self, stream: int, shift: int) -> None:
        """Marks the rows of a stream that went away, so that they are dropped unstepped."""
        for parked in self._blocks.values():
            parked.block.deadline[parked.block.request >> shift == stream] = -np.inf

    def _part(self, number: int, rows: list[tuple[int, Reason]]) -> tuple[Block, NDArray[np.uint8]]:
        parked = self._blocks[number]
        parked.rows -= len(rows)
        self.rows -= len(rows)
        if not parked.rows:
            del self._blocks[number]
        places = np.array([row for row, _ in rows], np.int64)
        return parked.block.take(places), np.array([outcome for _, outcome in rows], np.uint8)
