"""Messages for the load generator: StreamPredictRequests made once, sent again and again.

They ask for "the next step" (step 0), so that a message can be repeated. A stream's first message carries the config.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.wire.stubs import prediction_pb2, types_pb2

FEATURES = 5


def write_observations(prefix: Path, model: str, streams: int) -> None:
    """One session a stream, one observation a message."""
    values = np.random.default_rng(0).standard_normal((streams, FEATURES))
    for stream in range(streams):
        observation = types_pb2.Observation(session_id=f"feed-{stream:06}", values=values[stream])
        again = prediction_pb2.StreamPredictRequest(observation=observation)
        _write(prefix, stream, again, again, model)


def write_batches(prefix: Path, model: str, streams: int, rows: int) -> None:
    """`rows` sessions a stream, all of them in every message: named and bound to aliases first, by alias afterwards."""
    for stream in range(streams):
        ids = [f"feed-{stream}-{row:06}" for row in range(rows)]
        first, again = batch(ids, 0, bind=True), batch(ids, 0, bind=False)
        _write(
            prefix,
            stream,
            prediction_pb2.StreamPredictRequest(batch=first),
            prediction_pb2.StreamPredictRequest(batch=again),
            model,
        )


def batch(ids: list[str], first_alias: int, bind: bool) -> types_pb2.ObservationBatch:
    """A step of each session, by aliases counted from `first_alias`; `bind` names the sessions too."""
    values = np.random.default_rng(first_alias).standard_normal((len(ids), FEATURES)).astype("<f4")
    return types_pb2.ObservationBatch(
        rows=len(ids),
        session_ids=ids if bind else (),
        aliases=range(first_alias, first_alias + len(ids)),
        dtype=types_pb2.DTYPE_FLOAT32,
        values=values.tobytes(),
    )


def write_history(prefix: Path, model: str, steps: int, exact: bool) -> None:
    """One session: so many steps in a message, from zero state each time. Needs stubs that have History."""
    values = np.random.default_rng(0).standard_normal((steps, FEATURES)).astype("<f4")
    history = {"session_id": "past", "steps": steps, "dtype": types_pb2.DTYPE_FLOAT32, "values": values.tobytes()}
    payload: dict[str, Any] = {"history": history | {"reset": True, "exact": exact}}
    again = prediction_pb2.StreamPredictRequest(**payload)
    _write(prefix, 0, again, again, model)


def passes_over(sessions: int, passes: int, rows: int, model: str, name: str) -> Iterator[bytes]:
    """One stream's messages: each pass steps every session once, the first one opens them."""
    config = prediction_pb2.StreamConfig(model=model)
    for turn in range(passes):
        for start in range(0, sessions, rows):
            ids = [f"{name}-{number:08}" for number in range(start, min(start + rows, sessions))]
            message = prediction_pb2.StreamPredictRequest(batch=batch(ids, start, bind=turn == 0))
            if turn == start == 0:
                message.config.CopyFrom(config)
            yield message.SerializeToString()


def _write(
    prefix: Path,
    stream: int,
    first: prediction_pb2.StreamPredictRequest,
    again: prediction_pb2.StreamPredictRequest,
    model: str,
) -> None:
    start = prediction_pb2.StreamPredictRequest(config=prediction_pb2.StreamConfig(model=model))
    start.MergeFrom(first)
    Path(f"{prefix}.start.{stream}").write_bytes(start.SerializeToString())
    Path(f"{prefix}.{stream}").write_bytes(again.SerializeToString())
