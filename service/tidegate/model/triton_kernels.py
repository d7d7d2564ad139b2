"""Triton kernels of a step: a layer of an LSTM with its gather, a product with its bias, and the commit.

Rules: new states go to rows of scratch, never to the slab, since programs of other hidden units still read the old h;
the commit, a launch of its own, copies them to their slots. Tiles are constants and every sum runs in one order, so
that a row's bits depend on the row alone, whatever is in the batch. Rejected: a second h that takes turns with the
first by parity (the slab's rows would have two meanings); tuning by batch size (bits would change with it).
This module needs Triton; `model/triton_lstm.py` imports it when it is asked for. Names in capitals are constants of
the compiled kernel. Float32 throughout; `PRECISION` is that of products: "ieee" or "tf32".
"""

# mypy: ignore-errors
# (What a kernel's arguments are is said beside them; Triton's language has no types that mypy knows.)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    return 2.0 * _sigmoid(2.0 * x) - 1.0


@triton.jit
def lstm_layer(
    x,  # [M, inputs], rows x_stride apart
    x_stride,
    state,  # the slab [slots, …], rows state_stride apart
    state_stride,
    slots,  # int64 [M / CHANNELS]
    fresh,  # uint8 [M / CHANNELS]: the state counts as zero
    weight,  # [padded inputs + padded hidden, 4 x padded hidden]: gates i, f, g, o beside each other
    bias,  # [4 x padded hidden]
    after,  # scratch [M, ROW_WIDTH]
    INPUTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROW_WIDTH: tl.constexpr,  # of the state of one channel
    H_AT: tl.constexpr,  # where in it this layer's h begins; c follows
    TANH: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """ROWS rows by UNITS hidden units of one layer's step; see `cells._Lstm` for the equations."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    session = rows // CHANNELS
    known = tl.load(fresh + session) == 0
    own = state + tl.load(slots + session) * state_stride + (rows % CHANNELS) * ROW_WIDTH + H_AT
    padded: tl.constexpr = (HIDDEN + UNITS - 1) // UNITS * UNITS
    depth = tl.arange(0, DEPTH)
    w = weight + depth[:, None] * (4 * padded) + units[None, :]
    i = tl.zeros((ROWS, UNITS), tl.float32)
    f = tl.zeros((ROWS, UNITS), tl.float32)
    g = tl.zeros((ROWS, UNITS), tl.float32)
    o = tl.zeros((ROWS, UNITS), tl.float32)
    for start in range(0, INPUTS, DEPTH):
        inside = start + depth < INPUTS
        seen = tl.load(x + rows[:, None] * x_stride + (start + depth)[None, :], mask=inside[None, :], other=0.0)
        i = tl.dot(seen, tl.load(w), i, input_precision=PRECISION)
        f = tl.dot(seen, tl.load(w + padded), f, input_precision=PRECISION)
        g = tl.dot(seen, tl.load(w + 2 * padded), g, input_precision=PRECISION)
        o = tl.dot(seen, tl.load(w + 3 * padded), o, input_precision=PRECISION)
        w += DEPTH * 4 * padded
    for start in range(0, HIDDEN, DEPTH):
        inside = known[:, None] & (start + depth < HIDDEN)[None, :]
        h = tl.load(own[:, None] + (start + depth)[None, :], mask=inside, other=0.0)
        i = tl.dot(h, tl.load(w), i, input_precision=PRECISION)
        f = tl.dot(h, tl.load(w + padded), f, input_precision=PRECISION)
        g = tl.dot(h, tl.load(w + 2 * padded), g, input_precision=PRECISION)
        o = tl.dot(h, tl.load(w + 3 * padded), o, input_precision=PRECISION)
        w += DEPTH * 4 * padded
    real = (units < HIDDEN)[None, :]
    i = _sigmoid(i + tl.load(bias + units)[None, :])
    f = _sigmoid(f + tl.load(bias + padded + units)[None, :])
    g = _tanh(g + tl.load(bias + 2 * padded + units)[None, :])
    o = _sigmoid(o + tl.load(bias + 3 * padded + units)[None, :])
    c = tl.load(own[:, None] + HIDDEN + units[None, :], mask=known[:, None] & real, other=0.0)
    c = f * c + i * g
    into = after + rows[:, None] * ROW_WIDTH + H_AT + units[None, :]
    tl.store(into, o * _tanh(c) if TANH else o * c, mask=real)
    tl.store(into + HIDDEN, c, mask=real)


@triton.jit
def affine(
    x,  # [M, WIDTH], rows x_stride apart
    x_stride,
    weight,  # [padded width, columns]
    bias,  # [columns]
    y,  # [M, columns]
    columns,  # a multiple of UNITS
    WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr,  # "", "relu" or "tanh"
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """y = activation(x W + b), ROWS by UNITS of it: the head, in the same tiles as the layers."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    depth = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, UNITS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        inside = (start + depth < WIDTH)[None, :]
        part = tl.load(x + rows[:, None] * x_stride + (start + depth)[None, :], mask=inside, other=0.0)
        w = tl.load(weight + (start + depth)[:, None] * columns + units[None, :])
        total = tl.dot(part, w, total, input_precision=PRECISION)
    total += tl.load(bias + units)[None, :]
    if ACTIVATION == "relu":
        total = tl.where(total < 0.0, 0.0, total)  # a NaN stays one
    if ACTIVATION == "tanh":
        total = _tanh(total)
    tl.store(y + rows[:, None] * columns + units[None, :], total)


@triton.jit
def commit(
    after,  # scratch [sessions, WIDTH]
    state,  # the slab, rows state_stride apart
    state_stride,
    slots,  # int64 [sessions]
    finite,  # uint8 [sessions]: whether all else is; becomes whether the new state is too
    WIDTH: tl.constexpr,
    SPARE: tl.constexpr,  # the slot of padding rows, which is not written
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Copies the scratch rows that are finite to their slots."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, COLUMNS)
    good = tl.load(finite + rows).to(tl.int32)
    for start in range(0, WIDTH, COLUMNS):
        columns = (start + place)[None, :]
        new = tl.load(after + rows[:, None] * WIDTH + columns, mask=columns < WIDTH, other=0.0)
        good = tl.minimum(good, tl.min((tl.abs(new) < float("inf")).to(tl.int32), axis=1))
    tl.store(finite + rows, good.to(tl.uint8))
    slot = tl.load(slots + rows)
    taken = (good == 1) & (slot != SPARE)
    for start in range(0, WIDTH, COLUMNS):
        columns = (start + place)[None, :]
        inside = taken[:, None] & (columns < WIDTH)
        new = tl.load(after + rows[:, None] * WIDTH + columns, mask=inside, other=0.0)
        tl.store(state + slot[:, None] * state_stride + columns, new, mask=inside)
