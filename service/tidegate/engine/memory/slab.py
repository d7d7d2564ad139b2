"""State slabs: the columns of all resident sessions of one state shape, host columns in NumPy, device columns in torch.

On CPU every column has its address space reserved for the slab's capacity and takes memory by the chunk; on CUDA the
device columns are allocated once, up front. Either way their addresses never move (CUDA graphs rely on that).
A list of chunks was rejected: every gather would have to be split by chunk.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tidegate.engine.memory.columns import Column, Schema
from tidegate.engine.memory.kept import forget
from tidegate.engine.memory.pages import Reserved, reserve
from tidegate.engine.memory.slots import Refs, Slots, SlotTable

CHUNK_ROWS = 16_384
HostColumns = dict[str, NDArray[Any]]


class Slab:
    """Rows for up to `capacity` - 1 sessions of one schema (slot 0 is spare). Only the engine writes to it."""

    def __init__(self, number: int, schema: Schema, capacity: int, device: str) -> None:
        self.schema = schema
        self.number = number
        self.slots = SlotTable(number, capacity, CHUNK_ROWS, new=reserve)
        self.ids: list[bytes | None] = [None]
        self.next_turn: NDArray[np.int64] = reserve(capacity, "int64")  # see engine/queues/choice.py
        self.unsaved: NDArray[np.bool_] = reserve(capacity, "bool")  # sessions that moved since their checkpoint
        self.epoch: NDArray[np.int64] = reserve(capacity, "int64")  # of the claim in the store; 0: not kept there
        self.leaving: NDArray[np.bool_] = reserve(capacity, "bool")  # forgotten by name; queued rows are still stepped
        self.asked_at: NDArray[np.float64] = reserve(capacity, "float64")  # last come, or looked at: makes no room then
        self._reserved: list[Reserved] = []
        self.host: HostColumns = {column.name: self._reserve(column, capacity) for column in schema.host}
        self.device: dict[str, torch.Tensor] = {
            column.name: self._on_device(column, capacity, device) for column in schema.device
        }

    @property
    def row_bytes(self) -> int:
        return self.schema.row_bytes

    def open(
        self, ids: list[bytes], lane: int, tenant: int, now: float, identity: NDArray[np.int32] | None = None
    ) -> Refs:
        """New sessions, every column at its initial value; raises IndexError when there are too few slots."""
        slots = self.slots.take(len(ids))
        self._initialise(slots, self.schema.columns)
        self.host["version"][slots] = lane
        self.host["tenant"][slots] = tenant
        self.host["active_at"][slots] = self.asked_at[slots] = now
        if identity is not None:
            self.host["identity"][slots] = identity
        self.unsaved[slots] = True
        self.next_turn[slots] = 0
        self._name(slots, ids)
        return self.slots.refs(slots)

    def reset(self, slots: Slots) -> None:
        """Sets to zero all that a reset clears."""
        self.unsaved[slots] = True
        self._initialise(slots, tuple(column for column in self.schema.columns if column.cleared))

    def fork(self, slot: int, new_id: bytes, now: float) -> Refs:
        """A copy of a session in a slot of its own."""
        (copy,) = slots = self.slots.take(1)
        for values in self.host.values():
            values[copy] = values[slot]
        for tensor in self.device.values():
            tensor[int(copy)] = tensor[slot]
        self.host["active_at"][copy] = self.asked_at[copy] = now
        self.unsaved[copy] = True
        self.next_turn[copy] = 0
        self._name(slots, [new_id])
        return self.slots.refs(slots)

    def copy(self, slots: Slots, source: Slab, from_slots: Slots, names: Collection[str]) -> None:
        """Takes columns of those names over from rows of another slab, whose columns are of the same shapes."""
        index = torch.from_numpy(from_slots)
        to, row = (int(slots[0]), int(from_slots[0])) if len(slots) == 1 else (slots, from_slots)  # a tenth of the cost
        for name in names:
            if name in self.host:
                self.host[name][to] = source.host[name][row]
            else:
                column, target = source.device[name], torch.from_numpy(slots).to(self.device[name].device)
                self.device[name][target] = column[index.to(column.device)]

    def read(self, slot: int) -> dict[str, NDArray[Any]]:
        """A session's columns by name, but for those that mean something in this process alone."""
        row = {}
        for column in self.schema.columns:
            if not column.local:
                on_host = column.name in self.host
                row[column.name] = (
                    np.array(self.host[column.name][slot])
                    if on_host
                    else self.device[column.name][slot].cpu().numpy().copy()
                )
        return row

    def write(self, slot: int, row: Mapping[str, NDArray[Any]]) -> None:
        """Sets the columns that `row` has; they must be of the schema's shapes."""
        for name, value in row.items():
            self._set(name, np.array([slot]), np.array(value)[None])
        self.unsaved[slot] = True

    def pack(self, slots: Slots) -> NDArray[np.uint8]:
        """The rows as bytes, [n, bytes]: the columns of `schema.travelling` after each other, little-endian."""
        index = torch.from_numpy(slots)
        parts = []
        for column in self.schema.travelling:
            if column.name in self.host:
                values = self.host[column.name][slots]
            else:
                values = self.device[column.name][index.to(self.device[column.name].device)].cpu().numpy()
            flat = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            parts.append(flat.view(np.uint8).reshape(len(slots), column.row_bytes))
        return np.concatenate(parts, axis=1)

    def unpack(self, slots: Slots, layout: bytes, rows: NDArray[np.uint8]) -> None:
        """The reverse, for rows of an earlier server too: a column that the schema has not is left out, one that the
        layout has not keeps its value. Raises ValueError where a column has another shape or type."""
        shapes = {column.name: (column.dtype, column.shape) for column in self.schema.travelling}
        start = 0
        for name, dtype, shape in json.loads(layout):
            kind = np.dtype(dtype).newbyteorder("<")
            size = kind.itemsize * prod(shape)
            if name in shapes:
                if shapes[name] != (dtype, tuple(shape)):
                    raise ValueError(f"column {name} is {dtype} {shape}, not {shapes[name]}")
                values = np.ascontiguousarray(rows[:, start : start + size]).view(kind).reshape(len(slots), *shape)
                self._set(name, slots, values.astype(dtype))
            start += size
        if start != rows.shape[1]:
            raise ValueError(f"a row has {rows.shape[1]} bytes, its layout {start}")

    def _set(self, name: str, slots: Slots, values: NDArray[Any]) -> None:
        if name in self.host:
            self.host[name][slots] = values
        else:
            column = self.device[name]
            column[torch.from_numpy(slots).to(column.device)] = torch.from_numpy(values).to(column.device)

    def copies(self, slots: Slots) -> dict[str, torch.Tensor]:
        """Device columns of the given rows (a row may stand in several places), from row 1 on; row 0 is spare."""
        index = torch.from_numpy(slots)
        copies = {}
        past = {column.name for column in self.schema.past}
        for name, column in self.device.items():
            if name in past:
                continue
            copy = torch.zeros((len(slots) + 1, *column.shape[1:]), dtype=column.dtype, device=column.device)
            torch.index_select(column, 0, index.to(column.device), out=copy[1:])
            copies[name] = copy
        return copies

    def retain(self, slots: Slots) -> None:
        """Keeps what the rows hold now, before they are stepped. It counts when the step is taken: see `retained`."""
        count, length = self.host["retained"][slots], self.schema.past[0].shape[0]
        self.host["retained_from"][slots] = np.maximum(self.host["retained_from"][slots], count + 1 - length)
        places = count % length
        for column in self.schema.past:
            if column.name in self.host:
                self.host[column.name][slots, places] = self.host[column.past_of][slots]
            else:
                kept, now = self.device[column.name], self.device[column.past_of]
                rows, index = torch.from_numpy(slots).to(now.device), torch.from_numpy(places).to(now.device)
                kept[rows, index] = now[rows]

    def retained(self, slots: Slots) -> None:
        """Counts the steps that were kept of rows that moved on."""
        self.host["retained"][slots] += 1

    def retained_steps(self, slot: int) -> dict[int, int]:
        """Where the session can be taken back to: client's step to the number under which it is kept, oldest first.

        Of a step that was kept twice (before and after a reset) the later one counts.
        """
        if not self.schema.past:
            return {}
        length = self.schema.past[0].shape[0]
        numbers = range(int(self.host["retained_from"][slot]), int(self.host["retained"][slot]))
        return {int(self.host["step@"][slot, number % length]): number for number in numbers}

    def rewind(self, slot: int, number: int) -> None:
        """Takes a session back to what was kept under a number of `retained_steps`."""
        self.take_back(np.array([slot]), self.host["retained"][[slot]] - number)

    def take_back(self, slots: Slots, steps: NDArray[np.int64]) -> None:
        """Takes sessions back to what they were so many steps ago, all of which must be retained."""
        number = self.host["retained"][slots] - steps
        places = number % self.schema.past[0].shape[0]
        for column in self.schema.past:
            if column.name in self.host:
                self.host[column.past_of][slots] = self.host[column.name][slots, places]
            else:
                kept, now = self.device[column.name], self.device[column.past_of]
                rows, index = torch.from_numpy(slots).to(now.device), torch.from_numpy(places).to(now.device)
                now[rows] = kept[rows, index]
        self.host["retained"][slots] = number
        if self.schema.kept_steps:
            forget(self.host, slots, steps)
        self.unsaved[slots] = True

    def close(self, slots: Slots) -> None:
        """Frees the rows; chunks that hold nothing any more go back to the system."""
        for slot in slots.tolist():
            self.ids[slot] = None
        self.unsaved[slots] = False
        self.epoch[slots] = 0
        self.leaving[slots] = False
        for chunk in self.slots.give(slots).tolist():
            for reserved in self._reserved:
                reserved.give_back(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)
        if not self.slots.in_use:
            del self.ids[1:]

    def _name(self, slots: Slots, ids: list[bytes]) -> None:
        missing = int(slots.max(initial=0)) + 1 - len(self.ids)
        self.ids.extend([None] * missing)
        for slot, session_id in zip(slots.tolist(), ids, strict=True):
            self.ids[slot] = session_id

    def _initialise(self, slots: Slots, columns: tuple[Column, ...]) -> None:
        index = torch.from_numpy(slots)
        for column in columns:
            if column.name in self.host:
                self.host[column.name][slots] = column.initial
            else:
                tensor = self.device[column.name]
                tensor.index_fill_(0, index.to(tensor.device), column.initial)

    def _reserve(self, column: Column, capacity: int) -> NDArray[Any]:
        reserved = Reserved(capacity, column.dtype, column.shape)
        self._reserved.append(reserved)
        return reserved.array

    def _on_device(self, column: Column, capacity: int, device: str) -> torch.Tensor:
        if device == "cpu":
            return torch.from_numpy(self._reserve(column, capacity))
        dtype = getattr(torch, column.dtype)
        return torch.zeros((capacity, *column.shape), dtype=dtype, device=device)
