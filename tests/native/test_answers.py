"""Answers by the C parts, and by hand, against the same messages made by the Protocol Buffers library."""

from __future__ import annotations

from ctypes import CDLL
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.flights.quick import Turn
from tidegate.engine.replies import Replies, Singles
from tidegate.model.frequency import NO_TIME
from tidegate.model.manifest import Head
from tidegate.native import address, library
from tidegate.wire import codec
from tidegate.wire.plain import Plain
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

HEADS = {"points": Head(), "quantiles": Head(kind="quantile", levels=(0.1, 0.5, 0.9))}
SECOND = 1_000_000_000
STEPS = st.sampled_from([1, 127, 128, 2**31, 2**62]) | st.integers(1, 2**62)
TIMES = (
    st.sampled_from([NO_TIME, NO_TIME + 1, -1, 0, 1, SECOND, -SECOND, SECOND - 1, -SECOND - 1, 2**63 - 1])
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**33), 2**33).map(lambda seconds: seconds * SECOND)
)
IDS = st.text(min_size=1, max_size=64).map(str.encode).filter(lambda key: len(key) <= 256) | st.just(b"i" * 256)
VALUES = st.floats(width=32, allow_nan=False) | st.floats(allow_nan=False)


@st.composite
def answered(draw: st.DrawFn, head: Head) -> Replies:
    """Plain predictions of some rows, of one to five targets."""
    rows, targets = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    outputs = targets * head.width

    def column(elements: st.SearchStrategy[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(draw(st.lists(elements, min_size=rows, max_size=rows)), np.int64)

    ids = draw(st.lists(IDS, min_size=rows, max_size=rows))
    values = draw(st.lists(VALUES, min_size=rows * outputs, max_size=rows * outputs))
    nothing = np.zeros(rows, np.int64)
    replies = Replies(
        request=nothing,
        row=nothing.astype(np.int32),
        outcome=nothing.astype(np.uint8),
        values=np.array(values).reshape(rows, outputs),
        step=column(STEPS),
        expected=nothing,
        steps_seen=column(STEPS),
        flags=nothing.astype(np.uint8),
        imputed=np.zeros((rows, 1), np.uint8),
        gap=nothing.astype(np.uint16),
        valid_time=column(TIMES),
        head=head,
        plainly=True,
    )
    lengths, sequence = np.array([*map(len, ids)]), column(st.just(0) | st.integers(-(2**63), 2**63 - 1))
    replies.column_of_lengths, replies.sequence = lengths, sequence  # type: ignore[attr-defined]  # they live as long
    columns = (lengths, sequence, replies.step, replies.steps_seen, replies.valid_time, replies.values)
    replies.singles = Singles(ids, *map(address, columns))
    return replies


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@given(st.data())
def test_predictions(head: Head, data: st.DataObject) -> None:
    """Each answer is the message that the library would have made: any id, numbers, times and values; the median of a
    quantile head."""
    replies = data.draw(answered(head))
    loaded, singles = library(), replies.singles
    assert loaded is not None
    assert singles is not None
    for row, answer in enumerate(Plain(loaded).predictions(replies)):
        sequence = int(replies.sequence[row]) % 2**64  # type: ignore[attr-defined]
        with np.errstate(over="ignore"):
            wanted = codec.single(sequence, replies, row, singles.ids[row], codec.View())
        assert pb.StreamPredictResponse.FromString(answer) == wanted


def test_room_grows(native: CDLL) -> None:
    """One codec writes few answers, then many, then few again."""
    plain = Plain(native)
    for rows in (1, 300, 2, 4096, 1):
        ids, numbers = [b"s%d" % row for row in range(rows)], np.arange(1, rows + 1)
        lengths, values = np.array([*map(len, ids)]), np.arange(2.0 * rows).reshape(rows, 2)
        nothing, no_time = np.zeros(rows, np.int64), np.full(rows, NO_TIME)
        replies = Replies(
            *(nothing, nothing.astype(np.int32), nothing.astype(np.uint8), values, numbers, nothing, numbers),
            *(nothing.astype(np.uint8), np.zeros((rows, 1), np.uint8), nothing.astype(np.uint16), no_time, Head()),
        )
        replies.singles = Singles(ids, *map(address, (lengths, numbers, numbers, numbers, no_time, values)))
        answers = plain.predictions(replies)
        assert len(answers) == rows
        for row in (0, rows // 2, rows - 1):
            wanted = codec.single(row + 1, replies, row, ids[row], codec.View())
            assert pb.StreamPredictResponse.FromString(answers[row]) == wanted


@given(
    st.sampled_from([0, 1, 127, 128, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1),
    st.sampled_from([1, 2, 127, 128, 300]),
    st.integers(1, 4),
    st.sampled_from([types.DTYPE_FLOAT32, types.DTYPE_FLOAT64]),
    st.integers(0, 2**32 - 1),
)
def test_batches(sequence: int, rows: int, targets: int, dtype: types.DType, seed: int) -> None:
    """A plain batch is the message that the library would have made, whether its rows came at once or apart."""
    random = np.random.default_rng(seed)
    order, nothing = random.permutation(rows), np.zeros(rows, np.int64)
    replies = Replies(
        request=nothing,
        row=np.arange(rows, dtype=np.int32),
        outcome=nothing.astype(np.uint8),
        values=random.standard_normal((rows, targets)) * 10.0 ** random.integers(-30, 30),
        step=random.integers(1, 2**62, rows),
        expected=nothing,
        steps_seen=random.integers(1, 2**62, rows),
        flags=nothing.astype(np.uint8),
        imputed=np.zeros((rows, 1), np.uint8),
        gap=nothing.astype(np.uint16),
        valid_time=np.full(rows, NO_TIME),
        head=Head(),
    )
    view = codec.View(targets, (), dtype)
    reply = codec.BatchReply(rows, view)
    assert reply.add(replies, slice(0, rows))
    wanted = pb.StreamPredictResponse(sequence=sequence, batch=reply.message())
    assert pb.StreamPredictResponse.FromString(reply.answer(sequence)) == wanted
    whole = codec.BatchReply(rows, view).whole(sequence, replies, slice(0, rows))
    assert pb.StreamPredictResponse.FromString(whole) == wanted
    assert pb.StreamPredictResponse.FromString(turned(replies, sequence, dtype)) == wanted
    for name in ("row", "values", "step"):
        setattr(replies, name, getattr(replies, name)[order])
    apart, half = codec.BatchReply(rows, view), rows // 2
    replies.__dict__.pop("points", None)
    if half:
        assert not apart.add(replies, slice(0, half))
    assert apart.add(replies, slice(half, rows))
    assert pb.StreamPredictResponse.FromString(apart.answer(sequence)) == wanted


def turned(replies: Replies, sequence: int, dtype: types.DType) -> bytes:
    """The answer to a batch of which a quick turn was made."""
    native = library()
    assert native is not None
    lies = Singles((), 0, 0, address(replies.step), 0, 0, address(replies.values))
    rows, lane = len(replies), SimpleNamespace(head=replies.head, outputs=replies.outputs)
    turn = Turn(replies.request, lies, (rows,), cast(Any, lane))
    plain = Plain(native)
    plain.batch_answers(turn)
    return plain.batch_answer(sequence, 0, rows, dtype)
