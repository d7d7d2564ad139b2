"""Which alias each session of a batch stream has, and where it stands. Pure: arrays indexed by alias.

Aliases count up from 0 in the order in which ids are first seen and are kept when a call of the stream breaks; only
their binding on the server is gone then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import Reason, TidegateError

ALIASES_MAX = 2_097_152  # what a server takes by default
Aliases = NDArray[np.uint32]


class Roster:
    """Aliases, last steps and bindings of the sessions that one batch stream has named."""

    def __init__(self) -> None:
        self._alias_of: dict[str, int] = {}
        self.last = np.zeros(0, np.uint64)  # number of the last observation taken
        self.numbered = np.zeros(0, bool)  # the server was asked for it
        self.created = np.zeros(0, bool)  # by asking; the first step's reply says so
        self.bound = np.zeros(0, bool)  # the server knows the alias on this stream
        self._epoch = 0
        self._seen: tuple[list[str], Aliases] = ([], np.zeros(0, np.uint32))

    def aliases(self, ids: Sequence[str]) -> Aliases:
        """uint32 [rows]; ids never seen get the next numbers. Raises BAD_BATCH when there are too many sessions."""
        rows = list(ids)
        if rows == self._seen[0]:  # feeds mostly come in the same order, and this comparison costs little
            return self._seen[1]
        known = self._alias_of
        if len(known) + len(rows) > ALIASES_MAX and len(known.keys() | set(rows)) > ALIASES_MAX:
            raise TidegateError(
                Reason.BAD_BATCH, f"one batch stream names at most {ALIASES_MAX} sessions; open another"
            )
        aliases = np.fromiter((known.setdefault(name, len(known)) for name in rows), np.uint32, len(rows))
        self._grow(len(known))
        self._seen = (rows, aliases)
        return aliases

    def _grow(self, count: int) -> None:
        """Room for `count` aliases, at least doubled so that growing costs little in all."""
        if count > len(self.last):
            extra = max(count, 2 * len(self.last), 1024) - len(self.last)
            self.last = np.append(self.last, np.zeros(extra, np.uint64))
            self.numbered, self.created, self.bound = (
                np.append(column, np.zeros(extra, bool)) for column in (self.numbered, self.created, self.bound)
            )

    def unnumbered(self, aliases: Aliases) -> NDArray[np.intp]:
        """The first row of each session whose last step is not known."""
        first = np.unique(aliases, return_index=True)[1]
        return np.sort(first[~self.numbered[aliases[first]]])

    def number(self, aliases: Aliases, last: NDArray[np.uint64], created: NDArray[np.bool_]) -> None:
        """Takes over what the server said of these sessions."""
        self.last[aliases], self.created[aliases], self.numbered[aliases] = last, created, True

    def next_steps(self, aliases: Aliases, turns: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """uint64 [rows]: the next number of each row's session; a session in several rows (`turns`: how often it stood
        before each) counts on in row order."""
        return self.last[aliases] + np.uint64(1) + turns

    def advance(self, aliases: Aliases, steps: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Takes over the steps taken (0: failed); returns bool [rows], true where one began a session."""
        np.maximum.at(self.last, aliases, steps)
        taken = np.flatnonzero(steps)
        sessions, first = np.unique(aliases[taken], return_index=True)
        began = np.zeros(len(aliases), bool)
        began[taken[first]] = self.created[sessions]
        self.created[sessions] = False
        return began

    def naming(self, aliases: Aliases, epoch: int) -> bool:
        """Whether ids must go along, on the stream's call number `epoch`: no alias is bound when it begins."""
        if epoch != self._epoch:
            self._epoch = epoch
            self.bound[:] = False
        return not self.bound[aliases].all()

    def forget(self, ids: Sequence[str]) -> None:
        """The server is asked for the last step of these sessions when they come again."""
        known = [self._alias_of[name] for name in ids if name in self._alias_of]
        self.numbered[known] = False


def occurrences(aliases: NDArray[Any]) -> NDArray[np.uint64]:
    """uint64 [rows]: how often the row's alias stood in the rows before it."""
    order = np.argsort(aliases, kind="stable")
    ordered = aliases[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.empty(len(aliases), np.uint64)
    counts[order] = np.arange(len(aliases)) - np.repeat(starts, np.diff(np.append(starts, len(aliases))))
    return counts


def waves(turns: NDArray[np.uint64]) -> Iterator[NDArray[np.intp]]:
    """The rows, each session once a wave, in row order; `turns`: how often its session stood before each row."""
    if not turns.any():
        yield np.arange(len(turns))
        return
    order = np.argsort(turns, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(turns[order])) + 1)
