"""StreamPredictRequests as bytes, right and wrong: written by hand, so that any field can stand anywhere, any number of
times, in any length that the format allows, or does not.
"""

from __future__ import annotations

import struct

from hypothesis import strategies as st

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
WORD = 1 << 64


def varint(value: int, size: int = 0) -> bytes:
    """A varint of at least `size` bytes: longer than need be where that is more."""
    value %= WORD
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < size:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def put(field: int, value: int | bytes, sizes: tuple[int, int] = (0, 0)) -> bytes:
    """A field that is a varint, or bytes; `sizes` of its tag, and of the number or the length, at least."""
    tag, length = sizes
    if isinstance(value, bytes):
        return varint(field << 3 | BYTES, tag) + varint(len(value), length) + value
    return varint(field << 3 | VARINT, tag) + varint(value, length)


def doubles(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


# Now and then a number is written longer than need be: at most ten bytes are a varint, and five a tag or a length.
SIZES = st.sampled_from([(0, 0)] * 12 + [(2, 0), (5, 0), (6, 0), (10, 0), (0, 2), (0, 5), (0, 6), (0, 10), (0, 11)])
EDGES = [0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32 + 5, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1]
NUMBERS = st.sampled_from(EDGES) | st.integers(0, WORD - 1) | st.integers(0, 300)
IDS = (
    st.text(st.characters(max_codepoint=127), min_size=1, max_size=12).map(str.encode)
    | st.sampled_from([b"", b"a", b"\0", b"\x7f" * 256, b"i" * 257, "é".encode(), "日".encode() * 86, b"\xff", b"\xc3"])
    | st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=6)
)
SECONDS = (
    st.sampled_from([0, 1, -1, 9223372035, 9223372036, 9223372037, -9223372035, -9223372036, -9223372037, -9223372038])
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(10**10), 10**10)
)
NANOS = st.sampled_from([0, 1, 999_999_999, 10**9, -1, 2**31 - 1, 2**32, 854_775_807, 854_775_808]) | NUMBERS
FLOATS = st.floats(width=64)


def fields(*choices: st.SearchStrategy[bytes], most: int = 6) -> st.SearchStrategy[bytes]:
    """Some fields, in any order."""
    return st.lists(st.one_of(*choices), max_size=most).map(b"".join)


def field(number: int, values: st.SearchStrategy[int] | st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(put, st.just(number), values, SIZES)


ODD = st.one_of(
    field(9, NUMBERS),
    field(15, st.binary(max_size=4)),
    field(31, NUMBERS),
    field(200, NUMBERS),
    field(2**29 - 1, NUMBERS),
    st.binary(max_size=6),
    st.sampled_from([b"\x0b\x0c", b"\x21" + bytes(8), b"\x25" + bytes(4), b"\x00", b"\x80\x80\x80\x80\x10\x00"]),
)
TIMES = fields(field(1, SECONDS), field(2, NANOS), most=3) | st.tuples(field(1, SECONDS), field(2, NANOS)).map(b"".join)


def observations(width: int) -> st.SearchStrategy[bytes]:
    """Observations of about so many values: most are plain, some are odd, some are none."""
    values = st.lists(FLOATS, min_size=width, max_size=width).map(doubles)
    others = st.lists(FLOATS, max_size=width + 2).map(doubles) | st.binary(max_size=20)
    identity, step, reset = field(1, IDS), field(2, NUMBERS), field(6, NUMBERS)
    time, given_values = field(3, TIMES), field(4, values)
    plain = st.tuples(identity, given_values, step | st.just(b""), time | st.just(b""), reset | st.just(b"")).flatmap(
        lambda parts: st.permutations(parts).map(b"".join)
    )
    odd = fields(identity, step, time, given_values, field(4, others), field(5, others), reset, ODD)
    unpacked = st.tuples(plain, FLOATS).map(lambda pair: pair[0] + b"\x21" + struct.pack("<d", pair[1]))
    return plain | plain | st.tuples(plain, odd).map(b"".join) | odd | unpacked


def batches(rows: int, width: int) -> st.SearchStrategy[bytes]:
    """ObservationBatches of about so many rows and values, by alias below eight or so."""
    small = st.integers(0, 7).map(varint)
    aliases = st.lists(small, min_size=rows, max_size=rows).map(b"".join)
    some = st.lists(small | st.builds(varint, NUMBERS, st.integers(0, 11)), max_size=rows + 1).map(b"".join)
    words = st.lists(NUMBERS.map(lambda number: number.to_bytes(8, "little")), min_size=rows, max_size=rows).map(
        b"".join
    )
    low = st.lists(st.integers(0, 2**62).map(lambda n: n.to_bytes(8, "little")), min_size=rows, max_size=rows).map(
        b"".join
    )
    of_size = {1: st.binary(min_size=4 * rows * width, max_size=4 * rows * width)}
    of_size[2] = st.binary(min_size=8 * rows * width, max_size=8 * rows * width)
    marks = st.binary(min_size=rows, max_size=rows)
    nothing = st.just(b"")
    plain = st.sampled_from([(0, 1), (1, 1), (2, 2)]).flatmap(
        lambda kind: st.tuples(
            st.just(put(1, rows)),
            field(3, aliases),
            field(4, low) | nothing,
            field(5, words) | nothing,
            st.just(put(6, kind[0])) | (nothing if kind[0] == 0 else st.just(put(6, kind[0]))),
            field(7, of_size[kind[1]]),
            field(9, marks) | nothing,
        )
    )
    plain_bytes = plain.flatmap(lambda parts: st.permutations(parts).map(b"".join))
    odd = fields(
        field(1, NUMBERS | st.just(rows)),
        field(2, IDS),
        field(3, aliases | some),
        field(4, words | st.binary(max_size=20)),
        field(5, words | st.binary(max_size=20)),
        field(6, NUMBERS),
        field(7, st.binary(max_size=8 * rows * width)),
        field(8, st.binary(max_size=8 * rows)),
        field(9, marks | st.binary(max_size=5)),
        ODD,
    )
    return plain_bytes | plain_bytes | st.tuples(plain_bytes, odd).map(b"".join) | odd


def requests(payload: int, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Requests with such a payload, and a number: whole, cut, with a byte changed, with what does not belong there."""
    payloads = field(payload, content)
    numbers = field(2, NUMBERS)
    plain = st.tuples(numbers | st.just(b""), payloads).flatmap(lambda parts: st.permutations(parts).map(b"".join))
    config = field(1, st.sampled_from([b"", put(1, b"random")]))
    odd = st.tuples(plain, fields(numbers, payloads, config, ODD, field(3, content), most=2)).map(b"".join)
    cut = st.tuples(plain, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    changed = st.tuples(plain, st.integers(0, 400), st.integers(0, 255)).map(_changed)
    return plain | plain | odd | cut | changed | st.binary(max_size=64)


def _changed(parts: tuple[bytes, int, int]) -> bytes:
    message, place, byte = parts
    if not message:
        return message
    place %= len(message)
    return message[:place] + bytes([byte]) + message[place + 1 :]
