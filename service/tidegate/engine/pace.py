"""How long steps take: learned as they run; bounds a turn and chooses where a step runs, never which kernel."""

from __future__ import annotations


class Pace:
    """What steps take, learned by size: sizes between two powers of two share a running mean of their seconds a row."""

    def __init__(self) -> None:
        self._row_seconds: dict[int, float] = {}  # by bit length of the row count

    def measured(self, rows: int, seconds: float) -> None:
        """Learns from a step."""
        size = rows.bit_length()
        before = self._row_seconds.get(size, seconds / rows)
        self._row_seconds[size] = before + 0.1 * (min(seconds / rows, 2 * before) - before)

    def expected(self, rows: int) -> float:
        """Seconds; from the nearest size that was seen, at that size's cost a row."""
        size = rows.bit_length()
        seen = self._row_seconds.get(size)
        if seen is not None:
            return seen * rows
        if not self._row_seconds:
            return 0.0
        nearest = min(self._row_seconds, key=lambda seen: (abs(seen - size), -seen))
        return self._row_seconds[nearest] * rows
