"""Which kept observations a server must be sent again. Pure: rounds of rows go out, what failed comes back.

The first round asks: the last kept row of each session in doubt. A server that has it answers it as a duplicate; one
that lacks just this one takes it; one that lost more says STEP_GAP and from which step on, or that it has no such
session, and the next round is the whole stretch. (A last row that resets its session is taken at once: what came before
it does not matter any more.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidegate.client.failures import AGAIN, LOST_STEPS, RowError
from tidegate.client.streams.columns import Place
from tidegate.errors import Reason

ROUNDS_MAX = 16  # for one session


@dataclass(slots=True)
class Stretch:
    """A session's kept rows, in order, and what goes out in this round: those from `start`."""

    rows: list[Place]
    start: int
    rounds: int = 0

    @property
    def sent(self) -> list[Place]:
        return self.rows[self.start :]

    def step(self, row: int) -> int:
        """The number of a kept row."""
        columns, place = self.rows[row]
        return int(columns.steps[place])


class Recovery:
    """One pass over sessions in doubt. In the end each is in `settled` (the server has it all), in `waiting` (to be
    asked for again later) or in `lost` (it cannot be brought back, or is another's by now)."""

    def __init__(self, kept: Mapping[str, list[Place]]) -> None:
        self.settled: set[str] = set()
        self.waiting: set[str] = set()
        self.lost: set[str] = {name for name, rows in kept.items() if not rows}
        self._open = {name: Stretch(rows, len(rows) - 1) for name, rows in kept.items() if rows}

    def round(self) -> list[Place]:
        """The rows to send now, session after session; empty when the pass is over."""
        return [row for stretch in self._open.values() for row in stretch.sent]

    def learn(self, errors: Iterable[RowError]) -> None:
        """Takes the failures of a round (`row`: its place in the round); all other rows were taken."""
        failed = {error.row: error for error in errors}
        at = 0
        for name, stretch in list(self._open.items()):
            count = len(stretch.sent)
            first = next((row for row in range(count) if at + row in failed), None) if failed else None
            if first is None:
                self._close(name, self.settled)
            else:
                self._mend(name, stretch, stretch.start + first, failed[at + first])
            at += count

    def _mend(self, name: str, stretch: Stretch, row: int, error: RowError) -> None:
        """What follows from a session's first failure."""
        stretch.rounds += 1
        expected = error.expected_step or 1
        if error.reason in AGAIN:
            self._close(name, self.waiting)
        elif stretch.rounds > ROUNDS_MAX:
            self._close(name, self.lost)
        elif error.reason is Reason.TARGETS_DIFFER:  # from the rows beside it: they are fewer in the next round
            stretch.start = row
        elif error.reason in LOST_STEPS and stretch.step(0) <= expected < stretch.step(row):
            stretch.start = next(place for place in range(row + 1) if stretch.step(place) >= expected)
        elif error.reason is Reason.STEP_TOO_OLD and expected == stretch.step(-1) + 1:
            self._close(name, self.settled)
        else:
            self._close(name, self.lost)

    def _close(self, name: str, where: set[str]) -> None:
        where.add(name)
        del self._open[name]
