"""Threads that step large batches of models that are all C: see native/crew.c.

They begin and end a step without Python, whose lock a thread may wait for for five milliseconds while the event loop is
at work: as long as many a step takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from ctypes import CDLL, byref, c_double, c_void_p

from tidegate.model.native_lstm import Workspace

NO_BELL = -1


def crew_of(native: CDLL, spaces: Sequence[Workspace]) -> Crew | None:
    """A thread for each workspace; None where the system has none to give."""
    crew: int = native.tidegate_crew(len(spaces))
    return Crew(native, crew, spaces) if crew else None


class Crew:
    """Steps one batch at a time."""

    def __init__(self, native: CDLL, crew: int, spaces: Sequence[Workspace]) -> None:
        self.spaces = spaces
        self._native, self._crew = native, crew
        self._passes = (c_void_p * len(spaces))(*(space.where for space in spaces))
        weakref.finalize(self, native.tidegate_crew_end, crew)

    def post(self, rows: int, share: int, bell: int) -> None:
        """Begins a step of the rows that the workspaces describe, a share at a time; the eventfd `bell` is written to
        when it is done. `wait` comes before the next."""
        self._native.tidegate_crew_post(self._crew, self._passes, rows, share, bell)

    def wait(self) -> tuple[int, float]:
        """When the step is done: how many rows are not finite, and the seconds it took."""
        seconds = c_double()
        lost: int = self._native.tidegate_crew_wait(self._crew, byref(seconds))
        return lost, seconds.value
