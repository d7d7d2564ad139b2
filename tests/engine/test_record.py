"""A session as bytes: what goes in comes out, and nothing else is taken for a session."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.memory import record
from tidegate.engine.memory.record import pack, unpack
from tidegate.errors import Reason, TidegateError

ROW = {
    "step": np.array(7, np.int64),
    "diverged": np.array(True),
    "state": np.arange(6, dtype=np.float32),
    "ring": np.array([[1.5, np.nan], [np.inf, -0.0]]),
    "nothing": np.zeros((0,), np.uint8),
}
CONTENT = pack("weather", "3", "f" * 64, "stätion", ROW)


def test_round_trip() -> None:
    """Every column comes back with its bits, type and shape, and the heading as it was."""
    heading, row = unpack(CONTENT)
    assert (heading.model, heading.version, heading.fingerprint) == ("weather", "3", "f" * 64)
    assert heading.session_id == "stätion"
    assert row.keys() == ROW.keys()
    for name, value in ROW.items():
        assert row[name].dtype == value.dtype
        assert row[name].shape == value.shape
        assert row[name].tobytes() == value.tobytes()


@given(place=st.integers(0, len(CONTENT) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_is_seen(place: int, bit: int) -> None:
    """No change of a bit, wherever, passes."""
    changed = bytearray(CONTENT)
    changed[place] ^= 1 << bit
    with pytest.raises(TidegateError) as caught:
        unpack(bytes(changed))
    assert caught.value.reason is Reason.BAD_EXPORT


@given(length=st.integers(0, len(CONTENT) - 1))
def test_any_cut_is_seen(length: int) -> None:
    """No beginning of an export is one."""
    with pytest.raises(TidegateError):
        unpack(CONTENT[:length])


@given(st.binary(max_size=200))
def test_nonsense_is_refused(content: bytes) -> None:
    """Arbitrary bytes are refused with the reason, also when their checksum is right."""
    whole = record._START.pack(record._MAGIC, 1, len(content)) + content
    for given_bytes in (content, whole, whole + record._digest(whole)):
        with pytest.raises(TidegateError) as caught:
            unpack(given_bytes)
        assert caught.value.reason is Reason.BAD_EXPORT


def heading(shape: str = "[1]", **fields: str) -> bytes:
    """With one column of that shape."""
    texts = {"model": "", "version": "", "fingerprint": "", "session_id": ""} | fields
    return json.dumps({"columns": [["a", "float64", "SHAPE"]], **texts}).replace('"SHAPE"', shape).encode()


@pytest.mark.parametrize(
    "heading",
    [
        b"0",
        b"[]",
        b"{}",
        b'{"columns": [["a", "O", [1]]], "model": "", "version": "", "fingerprint": "", "session_id": ""}',
        b'{"columns": [["a", "uint8", [-1]]], "model": "", "version": "", "fingerprint": "", "session_id": ""}',
        b'{"columns": [], "model": "", "version": "", "fingerprint": "", "session_id": "", "more": 1}',
        b"[" * 100_000,
        heading("[Infinity]"),
        heading(f"[0, {2**70}]"),
        heading(f"[0, {2**40}, {2**40}]"),
        heading(str(9 * [0])),
        *(heading("[0]", **{name: "\ud800"}) for name in ("model", "version", "fingerprint", "session_id")),
    ],
)
def test_a_strange_heading_is_refused(heading: bytes) -> None:
    """Whoever can compute a checksum can write anything: what is no heading is refused, not run into."""
    whole = record._START.pack(record._MAGIC, 1, len(heading)) + heading
    with pytest.raises(TidegateError) as caught:
        unpack(whole + record._digest(whole))
    assert caught.value.reason is Reason.BAD_EXPORT


def test_a_later_format_is_named() -> None:
    """Bytes of a later server say so."""
    later = CONTENT[:4] + (2).to_bytes(2, "little") + CONTENT[6:]
    with pytest.raises(TidegateError, match="format 2"):
        unpack(later)
