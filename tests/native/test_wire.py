"""Messages by the C parts against the Protocol Buffers library: what is taken as plain becomes the same columns, and
answers are the same messages."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.harness import InProcess
from tests.native import messages
from tests.native.messages import doubles, put
from tests.packages import random_package
from tidegate.config import Limits
from tidegate.engine.loop import EngineHost
from tidegate.engine.queues.block import Block
from tidegate.native import address
from tidegate.wire import codec
from tidegate.wire.frontend import Call, FrontEnd
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

WIDTH, ROWS, BOUND = 3, 3, 8
DIFFERENT = {"request", "arrived", "scope", "table", "lies"}  # of the call, not of the message


@lru_cache
def engines() -> tuple[InProcess, InProcess]:
    with TemporaryDirectory() as folder:
        random_package(Path(folder), features=WIDTH, targets=2, hidden=8)
        return InProcess(Path(folder)), InProcess(Path(folder))


class Stream:
    """A stream whose first messages, a binding batch and an observation, say what the next ones are like."""

    def __init__(self, engine: InProcess, batches: bool) -> None:
        front = FrontEnd(EngineHost(engine.engine, 60.0), Limits())
        assert front.plain is not None
        self.inbox, self.call = engine.inbox, front.open()
        self.call.configure(pb.StreamConfig(model="random"))
        binding = pb.StreamPredictRequest().batch
        binding.rows, binding.dtype = BOUND, types.DTYPE_FLOAT64
        binding.session_ids.extend(f"s{number}" for number in range(BOUND))
        binding.aliases.extend(range(BOUND))
        binding.values = bytes(8 * WIDTH * BOUND)
        if batches:
            self.call.observe_batch(0, binding)
        else:
            self.call.observe(0, types.Observation(session_id="s", values=[0.0] * WIDTH))
        self.taken()

    def taken(self) -> list[Block]:
        """What waits, taken away before the engine comes to it."""
        blocks = self.inbox.take()
        self.inbox.done(self.inbox.rows)
        return blocks

    def expected(self) -> list[tuple[int, int, bytes]]:
        """What the stream waits for."""
        return [(waiting.sequence, waiting.rows, waiting.session_id) for waiting in self.call._waiting.values()]


def generally(call: Call, message: bytes) -> None:
    """As wire/prediction.py does what is not plain. Raises TidegateError."""
    request = codec.parse(pb.StreamPredictRequest, message)
    assert not request.HasField("config")
    if request.HasField("observation"):
        call.observe(request.sequence, request.observation)
    else:
        assert request.HasField("batch")
        call.observe_batch(request.sequence, request.batch)


async def compare(sent: list[bytes], batches: bool) -> list[bool]:
    """Sends the messages both ways; returns which were taken as plain ones."""
    plain, general = (Stream(engine, batches) for engine in engines())
    plainly = []
    for message in sent:
        waited, rows = plain.expected(), plain.inbox.rows
        plainly.append(plain.call.take(message))
        if plainly[-1]:
            generally(general.call, message)  # an error here: the library has another word
        else:
            assert plain.expected() == waited
            assert plain.inbox.rows == rows
    assert plain.expected() == general.expected()
    assert plain.inbox.rows == general.inbox.rows
    same_blocks(plain.taken(), general.taken())
    return plainly


def same_blocks(found: list[Block], wanted: list[Block]) -> None:
    assert len(found) == len(wanted)
    for block, other in zip(found, wanted, strict=True):
        for name in {field.name for field in fields(Block)} - DIFFERENT:
            one, two = getattr(block, name), getattr(other, name)
            if isinstance(two, np.ndarray):
                assert (one.dtype, one.shape) == (two.dtype, two.shape), name
                assert one.tobytes() == two.tobytes(), name
            else:
                assert list(one or ()) == list(two or ()), name
        assert (block.request - block.request[0]).tolist() == (other.request - other.request[0]).tolist()
        for name in ("step", "time", "values", "deadline", "reset", "arrived"):
            assert getattr(block.at, name) == address(getattr(block, name)), name


Drawn = list[tuple[bytes, int, tuple[int, int] | None, list[float], bool, int]]


@given(st.lists(messages.requests(3, messages.observations(WIDTH)), min_size=1, max_size=4))
def test_observations(sent: list[bytes]) -> None:
    """Any bytes: left to the library, and then nothing has happened; or the same columns, of the same request."""
    asyncio.run(compare(sent, batches=False))


@given(st.lists(messages.requests(4, messages.batches(ROWS, WIDTH)), min_size=1, max_size=3))
def test_batches(sent: list[bytes]) -> None:
    """The same of batches."""
    asyncio.run(compare(sent, batches=True))


IDS = st.text(st.characters(max_codepoint=127), min_size=1, max_size=256).map(str.encode)


@given(
    st.lists(
        st.tuples(
            IDS,
            st.integers(0, 2**62),
            st.none() | st.tuples(st.integers(-(10**9), 9 * 10**9), st.integers(0, 10**9 - 1)),
            st.lists(messages.FLOATS, min_size=WIDTH, max_size=WIDTH),
            st.booleans(),
            st.integers(0, 2**63 - 1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_plain_observations_are_taken(
    drawn: list[tuple[bytes, int, tuple[int, int] | None, list[float], bool, int]],
) -> None:
    """What the library writes of an ASCII id, any values and a time from 1938 to 2255 is a plain observation."""
    sent = []
    for session_id, step, time, values, reset, sequence in drawn:
        request = pb.StreamPredictRequest(sequence=sequence)
        observation = request.observation
        observation.session_id, observation.step, observation.reset = session_id.decode(), step, reset
        observation.values.extend(values)
        if time is not None:
            observation.event_time.seconds, observation.event_time.nanos = time
        sent.append(request.SerializeToString())
    assert asyncio.run(compare(sent, batches=False)) == [True] * len(sent)


@pytest.mark.parametrize("dtype", types.DType.values())
@pytest.mark.parametrize("columns", ["none", "steps", "times", "resets", "all"])
def test_plain_batches_are_taken(dtype: types.DType, columns: str) -> None:
    """So is a batch by alias, of either type, with or without its other columns."""
    random = np.random.default_rng(0)
    sent = []
    for rows in (1, 3, 300):
        request = pb.StreamPredictRequest(sequence=rows)
        batch = request.batch
        batch.rows, batch.dtype = rows, dtype
        batch.aliases.extend(random.integers(0, 4096, rows).tolist())
        batch.values = random.standard_normal((rows, WIDTH)).astype("<f8" if dtype == 2 else "<f4").tobytes()
        if columns in ("steps", "all"):
            batch.steps.extend(random.integers(0, 2**62, rows).tolist())
        if columns in ("times", "all"):
            batch.event_times_unix_ns.extend(random.integers(-(2**63), 2**63 - 1, rows).tolist())
        if columns in ("resets", "all"):
            batch.reset = random.integers(0, 256, rows).astype(np.uint8).tobytes()
        sent.append(request.SerializeToString())
    assert asyncio.run(compare(sent, batches=True)) == [True] * len(sent)


def test_more_than_there_was_room_for() -> None:
    """Hundreds of observations between two iterations, by both ways in turn: columns grow under those there are."""
    sent = []
    for number in range(500):
        request = pb.StreamPredictRequest(sequence=number)
        request.observation.session_id = f"s{number}" if number % 7 else "sé"
        request.observation.values.extend([float(number), -1.0, 0.5])
        sent.append(request.SerializeToString())

    async def both() -> None:
        plain, general = (Stream(engine, False) for engine in engines())
        for message in sent:
            generally(general.call, message)
            if not plain.call.take(message):
                generally(plain.call, message)
        assert plain.expected() == general.expected()
        same_blocks(plain.taken(), general.taken())

    asyncio.run(both())


@pytest.mark.parametrize("size", [2, 5, 6, 10])
@pytest.mark.parametrize("part", [0, 1])
def test_long_tags_and_lengths(part: int, size: int) -> None:
    """A tag or a length that is written longer than the library allows is no message, here too."""
    sizes = (size, 0) if part == 0 else (0, size)
    observation = put(1, b"s") + put(4, doubles([0.0] * WIDTH), sizes)
    sent = [put(3, observation), put(3, put(1, b"s") + put(4, doubles([0.0] * WIDTH)), sizes)]
    asyncio.run(compare(sent, batches=False))
    batch = put(1, 1) + put(3, b"\0", sizes) + put(7, bytes(4 * WIDTH))
    asyncio.run(compare([put(4, batch), put(4, put(1, 1) + put(3, b"\0") + put(7, bytes(4 * WIDTH)), sizes)], True))


@pytest.mark.parametrize("sequence", [2**63 - 1, 2**63, 2**64 - 1])
def test_large_sequences(sequence: int) -> None:
    """Any number of a message that the format holds is echoed by its answer."""

    async def ask() -> None:
        engine = engines()[0]
        call = FrontEnd(EngineHost(engine.engine, 60.0), Limits()).open()
        call.configure(pb.StreamConfig(model="random"))
        for _ in range(2):  # opens the session; is plain
            call.observe(sequence, types.Observation(session_id="s", values=[0.0] * WIDTH))
            answer, _ = await asyncio.wait_for(call.next_answer(), 10)
            response = pb.StreamPredictResponse.FromString(answer)
            assert response.sequence == sequence
            assert response.HasField("prediction")

    asyncio.run(ask())


def test_nothing_outside_of_a_message_is_read() -> None:
    """Whole, cut, changed and random messages beside pages that may not be touched: none of these is; and who touches
    one is ended."""
    command = [sys.executable, "-m", "tests.native.guarded"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(int(taken) >= 20 for taken in done.stdout.split())
    outside = subprocess.run([*command, "--outside"], capture_output=True, check=False)
    assert outside.returncode == -signal.SIGSEGV
