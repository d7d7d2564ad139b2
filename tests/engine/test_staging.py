"""How batches are cut into sizes and laid out in buffers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.step.staging import ALIGNMENT, BUCKETS, Field, buffer_bytes, columns, fill, pieces, places

FIELDS = [
    Field("slots", "int64", padding=7),
    Field("inputs", "float64", (3,)),
    Field("fresh", "bool"),
    Field("ring", "float32", (2, 5), padding=-1),
]


@given(rows=st.integers(1, 5 * BUCKETS[-1]))
def test_pieces_hold_every_row_once(rows: int) -> None:
    """Pieces follow each other from the first row to the last; all but the last are full and of the largest size, the
    last has the smallest size that holds it."""
    cut = pieces(rows)
    assert [cut[0].start, cut[-1].stop] == [0, rows]
    assert all(before.stop == after.start for before, after in pairwise(cut))
    assert all(piece.stop - piece.start == piece.bucket == BUCKETS[-1] for piece in cut[:-1])
    last = cut[-1].stop - cut[-1].start
    assert 0 < last <= cut[-1].bucket
    assert all(bucket < last for bucket in BUCKETS if bucket < cut[-1].bucket)


def test_sizes_of_some_batches() -> None:
    """Examples: one row, a full bucket, one more, and more than the largest."""
    assert [pieces(rows)[-1].bucket for rows in (1, 32, 33, 4096, 4097)] == [32, 32, 64, 4096, 8192]
    assert [(p.start, p.stop, p.bucket) for p in pieces(70, (32,))] == [(0, 32, 32), (32, 64, 32), (64, 70, 32)]


@given(rows=st.integers(0, 64), seed=st.integers(0, 99))
def test_columns_come_back_and_are_padded(rows: int, seed: int) -> None:
    """What is written into a buffer is read from it bit for bit, and the other rows hold each column's padding."""
    random = np.random.default_rng(seed)
    values = {field.name: random.uniform(-9, 9, (rows, *field.shape)).astype(field.dtype) for field in FIELDS}
    buffer = np.full(buffer_bytes(FIELDS, 64), 0xFF, np.uint8)
    fill(FIELDS, 64, buffer, dict(values))
    found = columns(FIELDS, 64, buffer)
    for field in FIELDS:
        assert found[field.name].dtype == field.dtype
        assert found[field.name].shape == (64, *field.shape)
        np.testing.assert_array_equal(found[field.name][:rows], values[field.name])
        assert (found[field.name][rows:] == np.array(field.padding, field.dtype)).all()


def test_places_are_aligned_and_apart() -> None:
    """Every column begins at a multiple of the alignment, behind the one before, inside the buffer."""
    for bucket in BUCKETS:
        end = 0
        for (start, stop), field in zip(places(FIELDS, bucket).values(), FIELDS, strict=True):
            assert start % ALIGNMENT == 0
            assert end <= start < start + bucket * field.row_bytes == stop
            end = stop
        assert end <= buffer_bytes(FIELDS, bucket)
