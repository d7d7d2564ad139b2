"""How long steps take: learned as they run; bounds a turn and chooses where a step runs, never which kernel."""

from __future__ import annotations

from ctypes import addressof, c_double

SIZES = 64  # by bit length of the row count


class Pace:
    """What steps take, learned by size: sizes between two powers of two share a running mean of their seconds a row.
    At `where` the C parts learn too, from quick turns (native/turn.c)."""

    def __init__(self) -> None:
        self._row_seconds = (c_double * SIZES)()  # 0 where none was seen
        self.where = addressof(self._row_seconds)

    def measured(self, rows: int, seconds: float) -> None:
        """Learns from a step."""
        size = rows.bit_length()
        before = self._row_seconds[size] or seconds / rows
        self._row_seconds[size] = before + 0.1 * (min(seconds / rows, 2 * before) - before)

    def expected(self, rows: int) -> float:
        """Seconds; from the nearest size that was seen, at that size's cost a row."""
        size = rows.bit_length()
        seen = self._row_seconds[size]
        if seen:
            return seen * rows
        sizes = [other for other, seconds in enumerate(self._row_seconds) if seconds]
        if not sizes:
            return 0.0
        return self._row_seconds[min(sizes, key=lambda other: (abs(other - size), -other))] * rows
