"""Past steps of one session as messages: each is taken as a whole or not at all. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate.client.streams.columns import Columns, split
from tidegate.client.streams.conversation import Request, Response
from tidegate.client.values.observations import Times, to_steps, to_time_column
from tidegate.client.values.records import Description
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import types_pb2


@dataclass(frozen=True, slots=True)
class Past:
    """Rows of one session, one after another; kept where the server makes them durable only after a while.

    `cursor` is not looked at, but must not be forgotten while the server may lose the rows; see `feed.Single`.
    """

    rows: Columns
    exact: bool
    keeps: bool = False
    cursor: object = None

    def request(self, epoch: int) -> Request:
        """The same on every call of the stream."""
        del epoch
        return Request(history=to_history(self.rows, self.exact))

    def answered(self, response: Response) -> Past | None:
        """Itself, if it was taken."""
        return self if self.keeps and response.HasField("prediction") else None

    @property
    def ids(self) -> Sequence[str]:
        """Its session, once a row."""
        return self.rows.ids

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        return self.rows.bytes

    def columns(self) -> Columns:
        """The rows themselves."""
        return self.rows


@dataclass(frozen=True, slots=True)
class Begun:
    """Of a history that went out in parts the rows that were taken before one failed: their first step, how many, and
    what they are."""

    first: int
    rows: int
    digest: bytes

    def numbered(self, rows: Columns, last: int) -> Columns:
        """The rows of another call, for a session that stands at step `last`: under the numbers of the first call if
        they begin with what was taken then, else as they are."""
        stands = self.rows <= last - self.first + 1 <= len(rows)
        if not stands or digest(rows.take(slice(self.rows))) != self.digest:
            return rows
        return replace(rows, steps=np.uint64(self.first) + np.arange(len(rows), dtype=np.uint64))


def begun(rows: Columns, last: int) -> Begun:
    """What is remembered of a history that has been taken up to step `last`."""
    first = int(rows.steps[0])
    taken = last - first + 1
    return Begun(first, taken, digest(rows.take(slice(taken))))


def digest(rows: Columns) -> bytes:
    """Of all that is sent but the numbers."""
    columns = (rows.values, rows.times, rows.reset, rows.future)
    return blake2b(b"".join(b"" if column is None else column.tobytes() for column in columns)).digest()


def parts_of(rows: Columns, last: int) -> Iterator[slice]:
    """The messages that a history goes out in, for a session that stands at step `last`: without those that end below
    it, which were taken; the one that holds it says whether they were the same. The last one is the answer."""
    for part in split(rows):
        if rows.steps[part.stop - 1] >= last or part.stop == len(rows):
            yield part


def in_the_whole(error: TidegateError, start: int) -> TidegateError:
    """An error about a row of a part, which begins at row `start` of its history, as one of the history."""
    if "row" not in error.variables:
        if not start:
            return error
        problem = f"from row {start} of the history on (what was before it is taken): {error.problem}"
        return TidegateError(error.reason, problem, **error.variables)
    row = int(error.variables["row"])
    problem = error.problem.replace(f"row {row} ", f"row {start + row} ", 1)
    return TidegateError(error.reason, problem, **error.variables | {"row": start + row})


def to_history(rows: Columns, exact: bool) -> types_pb2.History:
    """One message; of the rows only the first may reset the session."""
    return types_pb2.History(
        session_id=rows.ids[0],
        first_step=int(rows.steps[0]),
        steps=len(rows),
        event_times_unix_ns=() if rows.times is None else rows.times.tolist(),
        dtype=types_pb2.DTYPE_FLOAT32 if rows.values.itemsize == 4 else types_pb2.DTYPE_FLOAT64,
        values=rows.values.tobytes(),
        future_covariates=b"" if rows.future is None else rows.future.tobytes(),
        reset=rows.reset is not None and bool(rows.reset[0]),
        exact=exact,
    )


def past_rows(
    name: str,
    about: Description,
    first_step: int,
    values: ArrayLike,
    times: Times | None,
    reset: bool,
    future: ArrayLike | None,
) -> Columns:
    """What a caller holds as columns; raises BAD_HISTORY."""
    if not 0 <= first_step < 2**64:
        raise TidegateError(Reason.BAD_HISTORY, f"first_step is {first_step}; give the number of a step, or 0")
    matrix = to_steps("values", values, None, about.sent)
    steps = len(matrix)
    known = None if future is None else to_steps("future", future, steps, about.known_ahead)
    if known is not None and known.dtype != matrix.dtype:  # a message has one type
        known, matrix = known.astype("<f8"), matrix.astype("<f8")
    return Columns(
        ids=[name] * steps,
        steps=first_step + np.arange(steps, dtype=np.uint64),
        values=matrix,
        times=to_time_column(times, steps),
        reset=(np.arange(steps) == 0).astype(np.uint8) if reset else None,
        future=known,
    )


def runs(rows: Columns) -> Iterator[slice]:
    """Where rows follow each other as those of a history do: of one session, one step apart, a reset only first."""
    ids = np.array(rows.ids, object)
    breaks: NDArray[np.bool_] = (ids[1:] != ids[:-1]) | (rows.steps[1:] != rows.steps[:-1] + np.uint64(1))
    if rows.reset is not None:
        breaks |= rows.reset[1:] != 0
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(rows)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)
