"""A network's own predictions, a step at a time, by the server's C parts: several times sooner than by torch.

What the cell saw is derived afterwards, for all steps at once, from what was remembered before each of them.
"""

from __future__ import annotations

from ctypes import CDLL
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tidegate.model.device_inputs import Clock, DeviceInputs, Memory, Observed
from tidegate.model.manifest import Manifest
from tidegate.model.native_lstm import NativeLstm, Workspace
from tidegate.model.package import Package
from tidegate.native import address, library
from tidegate.training.network import Network, State

SESSIONS_AT_ONCE = 256  # rooms of the C parts: about what stays in a core's cache


def library_for(package: Package, device: torch.device) -> CDLL | None:
    """The C parts, if they can step networks like this one, and sooner: torch takes several threads for large ones."""
    takes = device.type == "cpu" and package.manifest.cell == "lstm"
    return library() if takes and NativeLstm(package).small else None


class Stepper:
    """One network's steps of so many sessions, from a state (None: zeros) and the columns that they remember, which are
    changed in place."""

    def __init__(
        self, native: CDLL, manifest: Manifest, network: Network, sessions: int, state: State, columns: Memory
    ) -> None:
        package = Package(manifest, network.weights(), "")
        cell = self._cell = NativeLstm(package)  # whose weights the workspace points at
        self._native, self._outputs, self._sessions = native, manifest.outputs, sessions
        self._space = Workspace(cell, min(sessions, max(1, SESSIONS_AT_ONCE // manifest.channels)))
        self._memory = {**columns, "state": torch.zeros(sessions, manifest.channels * package.row_width)}
        if state is not None:
            self._memory["state"][:] = torch.stack(state).permute(2, 1, 0, 3).reshape(sessions, -1)  # h | c by layer
        self._slots, self._finite = np.arange(sessions), np.ones(sessions, np.bool_)

    def step(self, raw: Tensor, clock: Clock) -> Tensor | None:
        """The predictions, raw float64 [sessions, outputs], after observations raw float64 [sessions, features]
        (complete); None if one is not finite, and then that session is as it was."""
        values = torch.empty(self._sessions, self._outputs, dtype=torch.float64)
        now = self._space.described
        self._space.point(self._memory, address(self._slots), raw.data_ptr(), values.data_ptr(), address(self._finite))
        identity = None if clock.identity is None else clock.identity.int()
        now.seen = clock.seen.data_ptr()
        for name, column in (("id", identity), ("calendar", clock.calendar), ("ages", clock.ages)):
            setattr(now, name, None if column is None else column.data_ptr())
        return None if self._native.tidegate_step(self._space.where, self._sessions) else values


class Taken(NamedTuple):
    """A step that was taken: raw observations, when, what was remembered before it, and raw predictions."""

    raw: Tensor
    clock: Clock
    memory: dict[str, Tensor]
    predicted: Tensor


class Recorded(DeviceInputs):
    """Derives the inputs of steps that were taken already. In their memory, `ring` is what each looked back at."""

    def before(self, clock: Clock, memory: Memory) -> dict[str, Tensor]:
        """What is to be known of the memory, one row a session, before a step."""
        kept = {name: memory[name].clone() for name in self.remembered if name != "ring"}
        if "ring" in self.remembered:
            slots = torch.arange(len(clock.seen), device=clock.seen.device)
            kept["ring"] = super()._past(memory["ring"], clock, memory["ring"], slots)
        return kept

    def again(self, taken: list[Taken]) -> tuple[Observed, Tensor]:
        """What the cell saw in all steps, one after another, and its outputs in training units, float64."""
        clock = Clock.joined([step.clock for step in taken])
        memory = {name: torch.cat([step.memory[name] for step in taken]) for name in taken[0].memory}
        slots = torch.arange(len(clock.seen), device=clock.seen.device)
        seen = self.observe(torch.cat([step.raw for step in taken]), clock, memory, slots)
        predicted = torch.cat([step.predicted for step in taken])
        return seen, self.in_training_units(predicted, seen.base, seen.unit)

    def _past(self, lagged: Tensor, clock: Clock, ring: Tensor, slots: Tensor) -> Tensor:
        del lagged, clock, slots
        return ring
