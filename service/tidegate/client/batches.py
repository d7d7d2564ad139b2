"""One step for many sessions at a time, as columns, on a stream of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate.client.bulk import open_many
from tidegate.client.catalog import Catalog
from tidegate.client.connection import Connection, new_routing_key
from tidegate.client.failures import RowError, from_status, told
from tidegate.client.patience import Patience
from tidegate.client.streams.columns import Columns, split, to_message
from tidegate.client.streams.conversation import Request, Response
from tidegate.client.streams.outcome import Outcome, Rows
from tidegate.client.streams.roster import Aliases, Roster, occurrences, waves
from tidegate.client.streams.stream import PredictionStream
from tidegate.client.values.messages import built, checked_ids
from tidegate.client.values.observations import Time, to_matrix, to_reset_column, to_time_column
from tidegate.client.values.predictions import Predictions, RowFlag
from tidegate.client.values.records import Description
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import prediction_pb2, types_pb2

DTYPES = {"float32": types_pb2.DTYPE_FLOAT32, "float64": types_pb2.DTYPE_FLOAT64}


@dataclass(frozen=True, slots=True)
class Part:
    """One message of a call: some of its rows."""

    roster: Roster
    rows: Columns
    aliases: Aliases
    keeps: bool

    def request(self, epoch: int) -> Request:
        """With ids where an alias is not bound on that call of the stream."""
        return Request(batch=to_message(self.rows, self.aliases, self.roster.naming(self.aliases, epoch)))

    def answered(self, response: Response) -> Columns | None:
        """The rows that were taken."""
        if response.HasField("error"):
            return None
        self.roster.bound[self.aliases] = True
        if not self.keeps:
            return None
        return self.rows.taken(np.array(response.batch.steps, np.uint64))


class AsyncBatches:
    """Steps many sessions a message: `async with client.batches("weather") as batches`.

    Numbers are kept as by a Session: asked for on first use (which opens sessions that do not live), going up only
    when a call succeeded, so that a call that raised may be made again as it was and each row is taken once. Lost
    connections and crashed servers are seen to as by a Session. Calls run one after another; for more at once, open
    more batches. Step a session here or by a Session, not by both.
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
        self._dtype, self._levels = dtype, len(levels)
        config = built(prediction_pb2.StreamConfig, model=model, version=version, levels=levels, dtype=DTYPES[dtype])
        self._stream = PredictionStream(connection, config, self._routing_key)
        self._roster = Roster()
        self._about: Description | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> AsyncBatches:
        """Asks what the model takes; raises MODEL_NOT_FOUND, UNREACHABLE."""
        self._follow(await self._catalog.fresh(self._model, self._version))
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

        Rows of one session go out together where the model's sessions do not outlive a crash anyway, one after another
        where they do: of several steps in flight at once, a server could answer no more than the last one again.
        """
        ids = checked_ids(ids)
        values = to_matrix(matrix, len(ids), self.about.sent)
        known = None
        if future is not None:
            known = to_matrix(future, len(ids), self.about.known_ahead).astype(values.dtype)
        time_column, reset_column = to_time_column(times, len(ids)), to_reset_column(reset, len(ids))
        async with self._lock:
            aliases = self._roster.aliases(ids)
            await self._number(ids, aliases)
            turns = occurrences(aliases)
            steps = self._roster.next_steps(aliases, turns)
            columns = Columns(ids, steps, values, time_column, reset_column, known)
            async with self._connection.patience() as patience:
                outcome = await self._step(columns, aliases, turns, patience)
            began = self._roster.advance(aliases, outcome.steps)
            outcome.flags[began] |= np.uint8(RowFlag.CREATED)
            return outcome.predictions()

    async def resync(self, ids: Sequence[str]) -> None:
        """Has the next step of these sessions go on from where the server is; one that is gone begins anew."""
        async with self._lock:
            self._roster.forget(ids)
            self._connection.forget(self._model, ids)

    def _follow(self, about: Description) -> None:
        self._about = about
        self._stream.name_columns(about.version, about.names)

    async def _goes_on(self, patience: Patience) -> bool:
        """The version whose names the columns have is gone, from this server or the next: whether another has come in
        its place that takes and predicts the same."""
        about = await self._catalog.fresh(self._model, self._version, patience)
        names = [(one.names, one.future_names, one.targets) for one in (self.about, about)]
        if about.version == self.about.version or names[0] != names[1]:
            return False
        self._follow(about)
        return True

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

    async def _step(self, columns: Columns, aliases: Aliases, turns: NDArray[np.uint64], patience: Patience) -> Outcome:
        """Sends rows until each is answered for good."""
        durability = (await self._catalog.describe(self._model, self._version, patience)).durability
        outcome = Outcome(columns.ids, self.about.targets, self._levels, self._dtype)
        together = durability == "none"
        for rows in [np.arange(len(columns))] if together else waves(turns):
            while len(rows):
                if durability == "interval":
                    await self._connection.allowance.room(patience)
                again = await self._ask(columns, aliases, rows, durability == "interval", outcome, patience)
                rows = np.array([error.row for error in again], np.intp)  # noqa: PLW2901 (what is left of the wave)
                if again:
                    await patience.pause(told(again[0].reason.name, again[0].message, {}))
        return outcome

    async def _ask(
        self, columns: Columns, aliases: Aliases, rows: Rows, keeps: bool, outcome: Outcome, patience: Patience
    ) -> list[RowError]:
        """Sends some rows, as many messages as it takes; returns the failures that another attempt may mend."""
        chosen = columns if len(rows) == len(columns) else columns.take(rows)
        parts = list(split(chosen))
        messages = [Part(self._roster, chosen.take(part), aliases[rows[part]], keeps) for part in parts]
        failed: list[RowError] = []
        try:
            responses = await self._stream.ask(patience, *messages)
        except TidegateError as refused:
            if refused.reason is not Reason.VERSION_NOT_FOUND or not await self._goes_on(patience):
                raise
            responses = await self._stream.ask(patience, *messages)
        for part, response in zip(parts, responses, strict=True):
            if response.HasField("error"):
                raise from_status(response.error)
            failed += outcome.take(rows[part], chosen.steps[part], response.batch)
        again = [error for error in failed if self._stream.again(error.reason, error.id)]
        mended = {error.row for error in again}
        for error in failed:
            if error.row not in mended:
                outcome.fail(error)
        return again
