"""Many resident sessions: what they take in memory, and how fast they are opened and stepped, through batches."""

from __future__ import annotations

import time
from dataclasses import dataclass

import grpc
import numpy as np

from tests.benchmarks.gload import BenchmarkError
from tests.benchmarks.messages import passes_over
from tests.benchmarks.ours import METHOD, MODEL, Ours
from tests.benchmarks.report import Budget, Finding
from tidegate.wire.stubs import prediction_pb2

MESSAGE_ROWS = 16_384
WARM_SESSIONS = 4 * MESSAGE_ROWS
PASSES = 3  # the first opens, the others step by alias
BYTES_MAX = 400
MEMORY_MAX_GIB = 24


@dataclass
class Passes:
    """Seconds of each pass over all sessions, and the server's memory (bytes) before the first and after the last."""

    seconds: list[float]
    before: int
    after: int


def resident(ours: Ours, sessions: int) -> Finding:
    """Bytes a session above its raw state (h and c)."""
    seen = step_all(ours, sessions)
    grown = (seen.after - seen.before) / sessions
    return Finding(
        f"memory-{sessions}",
        f"memory of {sessions:,} resident sessions above their raw state of {ours.state_bytes} bytes",
        [grown - ours.state_bytes],
        unit="bytes a session",
        budget=Budget(BYTES_MAX, at_most=True),
        raw={
            "growth, bytes a session": [grown],
            "server's memory before, MiB": [seen.before / 2**20],
            "server's memory after, MiB": [seen.after / 2**20],
            **rates(seen, sessions),
        },
    )


def million(ours: Ours) -> list[Finding]:
    """The same for a million, and whether it fits."""
    sessions = 1_000_000
    bytes_each = resident(ours, sessions)
    raw, bytes_each.raw = bytes_each.raw, {}
    held = Finding(
        "million",
        f"memory of a server that holds and serves {sessions:,} sessions",
        [ours.resident_bytes / 2**30],
        unit="GiB",
        budget=Budget(MEMORY_MAX_GIB, at_most=True),
        raw=raw,
    )
    return [held, bytes_each]


def rates(seen: Passes, sessions: int) -> dict[str, list[float]]:
    """Seconds and predictions a second of each pass."""
    names = ["opening", *(f"pass {turn}" for turn in range(2, PASSES + 1))]
    raw = {}
    for name, seconds in zip(names, seen.seconds, strict=True):
        raw[f"{name}, s"] = [seconds]
        raw[f"{name}, predictions a second"] = [sessions / seconds]
    return raw


def step_all(ours: Ours, sessions: int) -> Passes:
    """Opens and steps the sessions, after others have brought up all that is made once: buffers, lazy imports."""
    try:
        with grpc.insecure_channel(ours.grpc) as channel:
            stream_passes(channel, WARM_SESSIONS, PASSES, "warm")
            before = ours.resident_bytes
            seconds = stream_passes(channel, sessions, PASSES, "feed")
            after = ours.resident_bytes
    except grpc.RpcError as error:
        raise BenchmarkError(f"our server ended the stream: {error}") from None
    ours.check()
    return Passes(seconds, before, after)


def stream_passes(channel: grpc.Channel, sessions: int, passes: int, name: str) -> list[float]:
    """Sends each pass's messages as fast as they are taken; returns the seconds of each pass."""
    stream = channel.stream_stream(METHOD)(passes_over(sessions, passes, MESSAGE_ROWS, MODEL, name))
    seconds, answered, began = [], 0, time.perf_counter()
    for reply in stream:
        answered += answered_rows(reply)
        if answered == sessions:
            seconds.append(time.perf_counter() - began)
            answered, began = 0, time.perf_counter()
    if len(seconds) != passes:
        raise BenchmarkError(f"{len(seconds)} of {passes} passes over {sessions:,} sessions were answered")
    return seconds


def answered_rows(reply: bytes) -> int:
    """The rows of a reply; raises BenchmarkError when one of them is no prediction."""
    batch = prediction_pb2.StreamPredictResponse.FromString(reply).batch
    if batch.errors or not np.isfinite(np.frombuffer(batch.values, "<f4")).all():
        raise BenchmarkError(f"{len(batch.errors)} of {batch.rows} rows failed: {batch.errors[:1]}")
    return int(batch.rows)
