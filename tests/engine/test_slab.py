"""Slabs: every column of a session is initialised, reset, copied and freed, and freed memory goes back."""

from __future__ import annotations

import ctypes
import gc
import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.harness import DEVICES
from tests.packages import unwritten
from tidegate.engine.memory.columns import Place, session_schema
from tidegate.engine.memory.pages import Reserved, machine_bytes
from tidegate.engine.memory.slab import CHUNK_ROWS, Slab

PLAIN = session_schema(unwritten(hidden_size=32))
SCHEMA = session_schema(  # every kind of column
    unwritten(
        features=[{"name": "a"}, {"name": "b", "scaling": {"by": "running"}}, {"name": "c", "role": "past"}],
        lags=[{"feature": "a", "steps": [1, 3], "scales": [1.0, 1.0]}],
        ids=["one"],
        feedback=True,
    )
)
WIDTH = 64


def resident_bytes() -> int:
    """Memory of this process that lies in RAM and is its own: what it has of files comes and goes with others' need."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * mmap.PAGESIZE


def read(slab: Slab, slot: int) -> dict[str, NDArray[np.generic]]:
    """All columns of a row."""
    host = {name: np.array(values[slot]) for name, values in slab.host.items()}
    return host | {name: tensor[slot].cpu().numpy().copy() for name, tensor in slab.device.items()}


def scribble(slab: Slab, slot: int, seed: int) -> None:
    """Random content in every column of a row."""
    random = np.random.default_rng(seed)
    for column in SCHEMA.columns:
        content = random.integers(1, 2 if column.dtype == "bool" else 100, column.shape or None)
        if column.place is Place.HOST:
            slab.host[column.name][slot] = content
        else:
            slab.device[column.name][slot] = float(seed + 1)


def assert_equal(one: dict[str, NDArray[np.generic]], other: dict[str, NDArray[np.generic]], *but: str) -> None:
    assert one.keys() == other.keys()
    for name in one.keys() - set(but):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


class TestColumns:
    """What happens to each column that the schema declares."""

    @pytest.fixture(params=DEVICES)
    def slab(self, request: pytest.FixtureRequest) -> Slab:
        return Slab(0, SCHEMA, 100, request.param)

    def test_open_sets_every_column(self, slab: Slab) -> None:
        """A slot that was used before begins again with every column at its initial value."""
        before = slab.slots.take(1)
        scribble(slab, int(before[0]), seed=1)
        slab.ids.extend([None, b"old"])
        slab.close(before)
        slab.open([b"new"], lane=3, tenant=2, now=17.0)
        row = read(slab, int(before[0]))
        assert [row.pop(name).item() for name in ("version", "tenant", "active_at")] == [3, 2, 17.0]
        for column in SCHEMA.columns:
            if column.name in row:
                np.testing.assert_array_equal(row[column.name], np.full(column.shape, column.initial, column.dtype))
        assert slab.ids[int(before[0])] == b"new"

    def test_reset_clears_what_is_marked(self, slab: Slab) -> None:
        """Reset sets the columns marked `cleared` to their initial value and leaves the others and the neighbours."""
        slab.open([b"a", b"b", b"c"], 0, 0, 0.0)
        for slot in (1, 2, 3):
            scribble(slab, slot, seed=slot)
        before = {slot: read(slab, slot) for slot in (1, 2, 3)}
        slab.reset(np.array([2]))
        after = read(slab, 2)
        for column in SCHEMA.columns:
            wanted = np.full(column.shape, column.initial, column.dtype) if column.cleared else before[2][column.name]
            np.testing.assert_array_equal(after[column.name], wanted, err_msg=column.name)
        assert not after["state"].any()
        for slot in (1, 3):
            assert_equal(read(slab, slot), before[slot])

    def test_fork_copies_every_column(self, slab: Slab) -> None:
        """A fork equals its session in every column but the time of its making, and lives on by itself."""
        slab.open([b"a"], 0, 0, 0.0)
        scribble(slab, 1, seed=4)
        (ref,) = slab.fork(1, b"copy", now=9.0).tolist()
        assert slab.slots.alive(np.array([ref])).all()
        assert_equal(read(slab, 2), read(slab, 1), "active_at")
        assert slab.host["active_at"][2] == 9.0
        assert slab.ids[2] == b"copy"
        before = read(slab, 2)
        scribble(slab, 1, seed=5)
        assert_equal(read(slab, 2), before)

    def test_close_forgets(self, slab: Slab) -> None:
        """Closed rows are not named any more, and their references are dead."""
        refs = slab.open([b"a", b"b"], 0, 0, 0.0)
        slab.close(np.array([1]))
        assert slab.slots.alive(refs).tolist() == [False, True]
        assert slab.ids[1] is None
        slab.close(np.array([2]))
        assert not slab.slots.in_use
        assert slab.open([b"c"], 0, 0, 0.0)[0] not in refs.tolist()


def test_row_bytes_count_every_column() -> None:
    """A row's bytes are those of its columns; without state, a small model's session takes little."""
    assert PLAIN.row_bytes - 4 * WIDTH < 200
    ring, scale, feedback, identity = 8 * 3, 8 * 2, 4 * 2, 4
    assert SCHEMA.row_bytes == PLAIN.row_bytes + ring + scale + feedback + identity


def test_memory_comes_with_use_and_goes_again() -> None:
    """Room for a million sessions costs nothing; opened ones cost their rows; closing them all gives it back."""
    gc.collect()  # what earlier tests have left goes now, and not in between
    start = resident_bytes()
    slab = Slab(0, SCHEMA, 1_000_000, "cpu")
    assert resident_bytes() - start < 2**22
    count = 4 * CHUNK_ROWS
    refs = slab.open([b"%d" % number for number in range(count)], 0, 0, 0.0)
    slab.device["state"][1 : count + 1] = 1.0
    full = resident_bytes() - start
    assert full > 0.9 * count * SCHEMA.row_bytes
    keep = int(refs[-1]) & (CHUNK_ROWS * 8 - 1)
    slots = np.arange(1, count + 1)
    slab.close(slots[slots != keep])
    left = resident_bytes() - start
    assert left < 0.5 * full
    assert slab.device["state"][keep].all()
    assert not slab.device["state"][1 : 3 * CHUNK_ROWS].any()


@given(
    rows=st.integers(1, 5000),
    width=st.integers(1, 40),
    bounds=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
)
def test_given_back_rows_alone(rows: int, width: int, bounds: tuple[int, int]) -> None:
    """Giving rows back zeroes whole pages within them and touches no row beside them."""
    start, stop = sorted(min(bound, rows) for bound in bounds)
    reserved = Reserved(rows, "float32", (width,))
    reserved.array[:] = 1.0
    reserved.give_back(start, stop)
    assert (reserved.array[:start] == 1.0).all()
    assert (reserved.array[stop:] == 1.0).all()
    zeros = int((reserved.array[start:stop] == 0.0).sum()) * 4
    assert zeros > (stop - start) * width * 4 - 2 * mmap.PAGESIZE


def test_addresses_never_move() -> None:
    """Growing does not move a column (CUDA graphs will rely on that)."""
    slab = Slab(0, SCHEMA, 3 * CHUNK_ROWS, "cpu")
    addresses = [slab.device["state"].data_ptr(), *(column.ctypes.data for column in slab.host.values())]
    slab.open([b"%d" % number for number in range(2 * CHUNK_ROWS)], 0, 0, 0.0)
    assert addresses == [slab.device["state"].data_ptr(), *(column.ctypes.data for column in slab.host.values())]
    assert ctypes.sizeof(ctypes.c_void_p) == 8  # address space for a slab's limit is there


def test_machine_bytes_is_plausible() -> None:
    """What sessions may share is what this machine or container has."""
    assert 2**28 < machine_bytes() < 2**48
