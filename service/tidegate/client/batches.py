"""One step for many sessions at a time, as columns, on a stream of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate.client.bulk import BYTES_MAX, ROWS_MAX, open_many
from tidegate.client.catalog import Catalog
from tidegate.client.connection import Connection, new_routing_key
from tidegate.client.failures import RowError, read_row_error
from tidegate.client.observations import Time, to_matrix, to_reset_column, to_time_column
from tidegate.client.predictions import Predictions, RowFlag
from tidegate.client.records import Description
from tidegate.client.roster import Aliases, Roster
from tidegate.client.stream import PredictionStream, Request
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import prediction_pb2, types_pb2

DTYPES = {"float32": types_pb2.DTYPE_FLOAT32, "float64": types_pb2.DTYPE_FLOAT64}
ROW_BYTES = 8 + 8 + 5 + 1  # step, time, alias, reset: what a row takes beside its values and id


@dataclass(frozen=True, slots=True)
class Columns:
    """What one call steps, one entry a row."""

    ids: Sequence[str]
    aliases: Aliases
    steps: NDArray[np.uint64]
    values: NDArray[Any]
    times: NDArray[np.int64] | None
    reset: NDArray[np.uint8] | None
    future: NDArray[Any] | None


class AsyncBatches:
    """Steps many sessions a message: `async with client.batches("weather") as batches`.

    Numbers are kept as by a Session: asked for on first use (which opens sessions that do not live), going up only
    when a call succeeded, so that a call that raised may be made again as it was and each row is taken once. Calls run
    one after another; for more at once, open more batches. Step a session here or by a Session, not by both.
    """

    def __init__(
        self,
        connection: Connection,
        catalog: Catalog,
        model: str,
        version: str,
        levels: Sequence[float] = (),
        dtype: str = "float32",
    ) -> None:
        self._connection = connection
        self._catalog = catalog
        self._model = model
        self._version = version
        self._routing_key = new_routing_key()
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; it must be {' or '.join(DTYPES)}")
        config = prediction_pb2.StreamConfig(model=model, version=version, levels=levels, dtype=DTYPES[dtype])
        self._stream = PredictionStream(connection, config, self._routing_key)
        self._roster = Roster()
        self._epoch = 0
        self._about: Description | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> AsyncBatches:
        """Asks what the model takes; raises MODEL_NOT_FOUND, UNREACHABLE."""
        self._about = await self._catalog.fresh(self._model, self._version)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the stream; the sessions live on."""
        await self._stream.close()

    @property
    def about(self) -> Description:
        """What the model takes and predicts: columns of the matrix and of the predictions, in order."""
        if self._about is None:
            raise RuntimeError("open the batches first: `with client.batches(model) as batches`")
        return self._about

    async def step(
        self,
        ids: Sequence[str],
        matrix: ArrayLike,
        *,
        times: Iterable[Time | None] | NDArray[Any] | None = None,
        reset: ArrayLike | None = None,
        future: ArrayLike | None = None,
    ) -> Predictions:
        """Takes one observation a row and predicts the next of each row's session.

        `matrix`: [rows, features] in the order of `about.names`, NaN where a value is missing; float32 is sent as it
        is, all else as float64. `times`: aware datetimes or a datetime64 array (UTC). `reset`: bool [rows]. `future`:
        [rows, future covariates], what is known of the predicted step. A session may stand in several rows. A failed
        row is NaN and named in `errors`; what fails as a whole raises TidegateError.
        """
        values = to_matrix(matrix, len(ids), len(self.about.names))
        known = None
        if future is not None:
            known = to_matrix(np.asarray(future).astype(values.dtype), len(ids), len(self.about.future_names))
        time_column, reset_column = to_time_column(times, len(ids)), to_reset_column(reset, len(ids))
        async with self._lock:
            aliases = self._roster.aliases(ids)
            await self._number(ids, aliases)
            columns = Columns(ids, aliases, self._roster.next_steps(aliases), values, time_column, reset_column, known)
            parts, requests = self._requests(columns)
            async with self._connection.deadline():
                answers = await self._stream.ask(*requests)
            replies = [answer.batch for answer in answers]
            predictions = read_predictions(replies, parts, ids, self.about.targets)
            self._roster.bound[aliases] = True
            began = self._roster.advance(aliases, predictions.steps)
            predictions.flags[began] |= np.uint8(RowFlag.CREATED)
            return predictions

    async def resync(self, ids: Sequence[str]) -> None:
        """Has the next step of these sessions go on from where the server is; one that is gone begins anew."""
        async with self._lock:
            self._roster.forget(ids)

    async def _number(self, ids: Sequence[str], aliases: Aliases) -> None:
        """Asks for the last step of sessions seen for the first time; one that cannot open says why when stepped."""
        rows = self._roster.unnumbered(aliases)
        if not len(rows):
            return
        names = [ids[row] for row in rows]
        opened = await open_many(self._connection, self._model, self._version, names, self._routing_key)
        good = np.ones(len(rows), bool)
        good[[error.row for error in opened.errors]] = False
        self._roster.number(aliases[rows[good]], opened.steps[good], opened.created[good])

    def _requests(self, columns: Columns) -> tuple[list[slice], list[Request]]:
        """The messages, each below the server's limits, and the rows that each holds."""
        epoch = self._stream.connect()
        if epoch != self._epoch:
            self._epoch = epoch
            self._roster.bound[:] = False
        naming = not self._roster.bound[columns.aliases].all()
        parts = list(split(columns, naming))
        return parts, [Request(batch=to_message(columns, part, naming)) for part in parts]


def split(columns: Columns, naming: bool) -> Iterator[slice]:
    """Cuts the rows so that no message is above the rows or the bytes that a server takes."""
    width = columns.values.shape[1] + (0 if columns.future is None else columns.future.shape[1])
    row_bytes = ROW_BYTES + columns.values.itemsize * width
    if naming:
        row_bytes += 4 + 4 * max(map(len, columns.ids), default=0)  # UTF-8 takes up to 4 bytes a character
    rows = max(1, min(ROWS_MAX, BYTES_MAX // row_bytes))
    for start in range(0, len(columns.ids), rows):
        yield slice(start, min(start + rows, len(columns.ids)))


def to_message(columns: Columns, part: slice, naming: bool) -> types_pb2.ObservationBatch:
    """One message of some rows; ids go along when an alias among them is not bound."""
    return types_pb2.ObservationBatch(
        rows=part.stop - part.start,
        session_ids=columns.ids[part] if naming else (),
        aliases=columns.aliases[part].tolist(),
        steps=columns.steps[part].tolist(),
        event_times_unix_ns=() if columns.times is None else columns.times[part].tolist(),
        dtype=types_pb2.DTYPE_FLOAT32 if columns.values.itemsize == 4 else types_pb2.DTYPE_FLOAT64,
        values=columns.values[part].tobytes(),
        reset=b"" if columns.reset is None else columns.reset[part].tobytes(),
        future_covariates=b"" if columns.future is None else columns.future[part].tobytes(),
    )


def read_predictions(
    replies: list[types_pb2.PredictionBatch], parts: list[slice], ids: Sequence[str], targets: tuple[str, ...]
) -> Predictions:
    """The replies to one call's messages as one."""
    values: list[NDArray[Any]] = []
    lower: list[NDArray[Any]] = []
    upper: list[NDArray[Any]] = []
    errors: list[RowError] = []
    for reply, part in zip(replies, parts, strict=True):
        width = _numbers(reply, reply.values).size // reply.rows
        if width != len(targets):
            problem = f"these sessions predict {width} targets, the model now {len(targets)}"
            raise TidegateError(Reason.TARGETS_DIFFER, problem)
        for column, content in ((values, reply.values), (lower, reply.lower), (upper, reply.upper)):
            numbers = _numbers(reply, content)
            column.append(numbers.reshape(reply.rows, numbers.size // (reply.rows * width), width))
        errors += [read_row_error(error, ids[part.start + error.row], part.start + error.row) for error in reply.errors]
    steps = [np.array(reply.steps, np.uint64) for reply in replies]
    flags = [np.frombuffer(reply.flags, np.uint8) for reply in replies]
    if not replies:
        nothing = np.zeros((0, 0, len(targets)), np.float32)
        return Predictions(targets, nothing.reshape(0, len(targets)), nothing, nothing, *_NO_ROWS, errors)
    points, low, high = (np.concatenate(column) for column in (values, lower, upper))
    return Predictions(targets, points[:, 0], low, high, np.concatenate(steps), np.concatenate(flags), errors)


_NO_ROWS = np.zeros(0, np.uint64), np.zeros(0, np.uint8)


def _numbers(reply: types_pb2.PredictionBatch, content: bytes) -> NDArray[Any]:
    """A reply's bytes as numbers of its type."""
    return np.frombuffer(content, "<f8" if reply.dtype == types_pb2.DTYPE_FLOAT64 else "<f4")
