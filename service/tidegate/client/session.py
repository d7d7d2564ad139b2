"""One session stepped in lock-step: its number, its lock, its names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from numpy.typing import ArrayLike

from tidegate.client.failures import advised
from tidegate.client.forecasts import Forecast, Generation, Scenario, forecast, raised
from tidegate.client.patience import Patience
from tidegate.client.streams.feed import Cursor, Feed, Single
from tidegate.client.streams.histories import Past, begun, in_the_whole, parts_of, past_rows
from tidegate.client.values.messages import built
from tidegate.client.values.observations import (
    NO_TIME,
    Time,
    Times,
    Values,
    bad,
    one_hot,
    to_datetime,
    to_nanoseconds,
    to_row,
    to_timestamp,
)
from tidegate.client.values.predictions import Prediction, read_prediction
from tidegate.client.values.records import Description, SessionInfo, read_session
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import session_pb2, types_pb2

EXPLAIN_SECONDS_MAX = 1.0  # that an error waits for what it could say besides


class AsyncSession:
    """One feed's memory in the server, stepped one observation at a time.

    Steps are numbered from the server's last one, which is asked for once, on first use; the number goes up only when
    a step succeeded. A lost connection and a server that crashed are seen to here, for as long as a call may take:
    the step, and what the server lost of the session, is sent again and taken once. A step that failed in an unknown
    way all the same (a timeout, nobody there) may be sent again with the same values. When the server disagrees about
    the number (another client stepped the session, or it was closed), the error says so and nothing is renumbered:
    `resync()` goes on from where the server is.
    """

    def __init__(self, feed: Feed, cursor: Cursor) -> None:
        self._feed = feed
        self._cursor = cursor

    @property
    def id(self) -> str:
        """The session's id."""
        return self._cursor.id

    @property
    def model(self) -> str:
        """The model's name."""
        return self._feed.model

    async def step(
        self,
        values: Values,
        *,
        time: Time | None = None,
        reset: bool = False,
        future: Values | None = None,
        late: bool = False,
    ) -> Prediction:
        """Takes one observation and predicts the next.

        `values`: feature name -> value, or one value a feature in the model's order; None and NaN are missing values,
        and a feature with categories takes a word or its number; a model that knows nothing but words takes one of
        them as it is. `time`: an aware datetime, or a datetime64 in UTC. `reset` sets the state to zero first, as one
        atom with the step. `future`: what is known of the predicted step, by name or in the order of the model's
        future covariates; without it they hold their last values. `late`: it corrects the observation of that `time`,
        one of the model's last `lateness_steps`; the prediction is then `revised`, and the numbering stays. Should the
        server crash within the next second, a correction of what was durable before is not sent again. Raises
        TidegateError: BAD_OBSERVATION, STEP_CONFLICT, SESSION_DIVERGED, UNREACHABLE, ...
        """
        cursor, feed = self._cursor, self._feed
        async with feed.connection.patience() as patience, cursor.lock:
            last = cursor.step if cursor.step is not None else await self._open(patience)
            about = await feed.catalog.describe(feed.model, cursor.version, patience)
            observation = self._observation(about, 0 if late else last + 1, values, reset, future)
            nanoseconds = NO_TIME if time is None else to_nanoseconds(time)
            if nanoseconds != NO_TIME:
                observation.event_time.CopyFrom(to_timestamp(nanoseconds))
            corrects = self._corrected(about, nanoseconds) if late else 0
            single = Single(observation, nanoseconds, about.durability == "interval", cursor, corrects)
            try:
                prediction = self._read(await feed.ask(self.id, single, patience), about)
            except TidegateError as error:
                raise await self._explained(error, observation, about, patience) from None
            cursor.begun = None
            return prediction

    async def _explained(
        self, error: TidegateError, sent: types_pb2.Observation, about: Description, patience: Patience
    ) -> TidegateError:
        """The error of a step, with the way out of it; that of a gap between times names them, if the server says in
        time what the last one was."""
        expected = error.variables.get("expected_step")
        by_time = sent.HasField("event_time") and (not sent.step or expected == str(sent.step))
        if error.reason is not Reason.STEP_GAP or not by_time:
            return advised(error)
        seconds = min(EXPLAIN_SECONDS_MAX, patience.remaining / 2)
        with suppress(TidegateError, TimeoutError):
            async with asyncio.timeout(seconds):
                last = read_session(await self._get()).last_event_time
            problem = f"from {last} to {to_datetime(sent.event_time)} are more intervals than one ({about.frequency})"
            return TidegateError(error.reason, f"{problem}, and than this model bridges", **error.variables)
        return error

    def _corrected(self, about: Description, nanoseconds: int) -> int:
        """The number of the kept observation of that time, 0 if it is not kept; raises BAD_OBSERVATION for what could
        only be taken as the next one."""
        if not about.lateness_steps:
            raise bad(f"{self.model} takes nothing late: its package says no lateness_steps")
        if nanoseconds == NO_TIME:
            raise bad("a late observation needs its time, which says where it belongs")
        return self._feed.stream(self.id).kept.step_at(self.id, nanoseconds)

    async def warm_up(
        self,
        values: ArrayLike,
        *,
        times: Times | None = None,
        first_step: int = 0,
        reset: bool = False,
        exact: bool = False,
        future: ArrayLike | None = None,
    ) -> Prediction:
        """Takes past steps in one message, many times faster than one by one, and predicts what comes after the last.

        `values`: [steps, features] in the model's order, NaN where a value is missing; float32 is sent as it is, all
        else as float64. `times`: as of batches. `first_step`: the number of the first row, in case that the session
        has some of them, which are then passed over; 0: they are the next ones. `reset` sets the state to zero first.
        `exact`: the session is afterwards as single steps would have left it to the bit, and not within rounding; that
        takes about as long as they do. `future`: [steps, future covariates].

        Taken as a whole or not at all: raises TidegateError (BAD_HISTORY, HISTORY_DIVERGED, STEP_CONFLICT, ...), and
        the session is as it was. A history of more than 16,384 steps, or 4 MB, goes out in parts of which this holds:
        the same call again, with the row mended that was wrong, goes on behind those that were taken.
        """
        cursor, feed = self._cursor, self._feed
        async with feed.connection.patience() as patience, cursor.lock:
            last = cursor.step if cursor.step is not None else await self._open(patience)
            about = await feed.catalog.describe(feed.model, cursor.version, patience)
            rows = past_rows(self.id, about, first_step or last + 1, values, times, reset, future)
            if cursor.begun is not None and not first_step:
                rows = cursor.begun.numbered(rows, last)
            try:
                for part in parts_of(rows, last):
                    past = Past(rows.take(part), exact, about.durability == "interval", cursor)
                    prediction = self._read(await feed.ask(self.id, past, patience), about)
            except BaseException as error:
                if (cursor.step or 0) > last:
                    cursor.begun = begun(rows, cursor.step or 0)
                if not isinstance(error, TidegateError):
                    raise
                if error.reason is Reason.STEP_CONFLICT:  # the session is not where this history left it
                    cursor.begun = None
                placed = in_the_whole(error, part.start)
                raise placed if first_step else advised(placed) from None
            cursor.begun = None
            return prediction

    def _read(self, answer: types_pb2.Prediction, about: Description) -> Prediction:
        """An answer; the number goes up."""
        cursor = self._cursor
        opened, cursor.step, cursor.opened = cursor.opened, answer.step, False
        return read_prediction(answer, about.all_names, about.targets, opened)

    def _observation(
        self, about: Description, step: int, values: Values, reset: bool, future: Values | None
    ) -> types_pb2.Observation:
        """Raises BAD_OBSERVATION."""
        if isinstance(values, str) and about.head == "categorical" and about.names == about.targets:
            values = one_hot(values, about.targets, self.model)
        row = to_row(values, about.names, self.model, about.words)
        known = [] if future is None else to_row(future, about.future_names, f"the future of {self.model}", about.words)
        return types_pb2.Observation(session_id=self.id, step=step, values=row, reset=reset, future_covariates=known)

    async def forecast(
        self,
        horizon: int,
        *,
        future: ArrayLike | None = None,
        levels: Sequence[float] = (),
        samples: int = 0,
        seed: int = 0,
        generation: Generation | None = None,
    ) -> Forecast:
        """The next steps; the session stays where it is. Raises SESSION_NOT_FOUND, NO_PREDICTION, NO_DISTRIBUTION, ...

        `levels`: quantiles wanted. `samples`: how many sample paths. `future` and `seed`: see Scenario. `generation`:
        how a categorical model's paths are drawn.
        """
        feed = self._feed
        scenario = Scenario(self.id, horizon, future, seed)
        found = await forecast(
            feed.connection, feed.catalog, self.model, [scenario], horizon, levels, samples, generation
        )
        return raised(found[0])

    async def _open(self, patience: Patience) -> int:
        """Finds or opens the session; returns the number of its last step."""
        feed, cursor = self._feed, self._cursor
        request = built(session_pb2.OpenSessionRequest, model=feed.model, version=feed.version, session_id=cursor.id)
        attempts = patience.attempts
        response = await feed.call(feed.connection.sessions.OpenSession, request, patience=patience)
        again = patience.attempts > attempts  # one whose answer was lost opened it, if it has no step
        cursor.follow(response.session, response.created or (again and response.session.step == 0))
        return int(response.session.step)

    async def reset(self) -> SessionInfo:
        """Sets the state to zero and lifts a quarantine; the numbering goes on."""
        async with self._cursor.lock:
            request = built(session_pb2.ResetSessionRequest, model=self.model, session_id=self.id)
            response = await self._feed.call(self._feed.connection.sessions.ResetSession, request)
            return self._moved(response.session)

    async def close(self) -> SessionInfo:
        """Ends the session in the server and frees its memory; another step would begin a new one."""
        async with self._cursor.lock:
            request = built(session_pb2.CloseSessionRequest, model=self.model, session_id=self.id)
            response = await self._feed.call(self._feed.connection.sessions.CloseSession, request, repeatable=False)
            self._forget()
            return read_session(response.session)

    async def fork(self, new_id: str, *, step: int | None = None) -> AsyncSession:
        """Copies state and numbering to a new session, as they are or as they were at a retained step; raises
        SESSION_EXISTS when the id is taken, STEP_NOT_RETAINED."""
        async with self._cursor.lock:
            request = built(
                session_pb2.ForkSessionRequest, model=self.model, session_id=self.id, new_session_id=new_id, step=step
            )
            response = await self._feed.call(self._feed.connection.sessions.ForkSession, request, repeatable=False)
        cursor = self._feed.cursor(new_id)
        cursor.follow(response.session)
        return AsyncSession(self._feed, cursor)

    async def rewind(self, step: int) -> SessionInfo:
        """Takes the session back to a retained step, and the numbering with it; raises STEP_NOT_RETAINED."""
        async with self._cursor.lock:
            request = built(session_pb2.RewindSessionRequest, model=self.model, session_id=self.id, step=step)
            response = await self._feed.call(self._feed.connection.sessions.RewindSession, request, repeatable=False)
            return self._moved(response.session)

    async def export(self) -> bytes:
        """All that the server remembers of it, for `client.import_session`, here or on another server."""
        async with self._cursor.lock:
            request = built(session_pb2.ExportSessionRequest, model=self.model, session_id=self.id)
            response = await self._feed.call(self._feed.connection.sessions.ExportSession, request)
            content: bytes = response.content
            return content

    async def info(self) -> SessionInfo:
        """The session as the server has it; raises SESSION_NOT_FOUND when there is none."""
        return read_session(await self._get())

    async def resync(self) -> SessionInfo | None:
        """Goes on from the server's number; None when it has no such session, and the next step begins one."""
        async with self._cursor.lock:
            self._forget()
            self._cursor.begun = None
            try:
                session = await self._get()
            except TidegateError as error:
                if error.reason is not Reason.SESSION_NOT_FOUND:
                    raise
                return None
            self._cursor.follow(session)
            return read_session(session)

    def _forget(self) -> None:
        """What this client knows of the session is over."""
        self._cursor.step = None
        self._feed.connection.forget(self.model, [self.id])

    def _moved(self, session: session_pb2.Session) -> SessionInfo:
        """Goes on from what a command made of it, which the server made durable before it answered."""
        self._forget()
        self._cursor.begun = None
        self._cursor.follow(session)
        return read_session(session)

    async def _get(self) -> session_pb2.Session:
        """GetSession."""
        request = built(session_pb2.GetSessionRequest, model=self.model, session_id=self.id)
        response = await self._feed.call(self._feed.connection.sessions.GetSession, request)
        session: session_pb2.Session = response.session
        return session
