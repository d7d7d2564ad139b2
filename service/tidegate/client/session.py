"""One session stepped in lock-step: its number, its lock, its names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary
from zlib import crc32

from numpy.typing import ArrayLike

from tidegate.client.catalog import Catalog
from tidegate.client.connection import Connection
from tidegate.client.forecasts import Forecast, Generation, Scenario, forecast, raised
from tidegate.client.observations import Time, Values, to_row, to_timestamp
from tidegate.client.predictions import Prediction, read_prediction
from tidegate.client.records import SessionInfo, read_session
from tidegate.client.stream import PredictionStream, Request
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import prediction_pb2, session_pb2, types_pb2

IN_FLIGHT_MAX = 4096  # observations of one model; more wait their turn

# Sessions of a model are spread on so many streams, by their ids. A server takes at most one message of a stream in a
# pass of its event loop, so that the streams bound the rows of a batch: on one stream, 64 sessions at once were
# answered as slowly as one after another, on eight, several times faster.
STREAMS_MAX = 8


@dataclass(slots=True, weakref_slot=True)
class Cursor:
    """Where this client stands in one session. `step` is None until the server was asked."""

    id: str
    step: int | None = None
    version: str = ""
    opened: bool = False  # by this client, and no step since
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def follow(self, info: session_pb2.Session, opened: bool = False) -> None:
        """Goes on from where the server is."""
        self.step, self.version, self.opened = info.step, info.version, opened


class Feed:
    """What the sessions of one model share in one client: the streams, and one cursor for each session in use."""

    def __init__(
        self, connection: Connection, catalog: Catalog, model: str, version: str, levels: tuple[float, ...] = ()
    ) -> None:
        self.connection = connection
        self.catalog = catalog
        self.model = model
        self.version = version
        config = prediction_pb2.StreamConfig(model=model, version=version, levels=levels)
        self.streams = [PredictionStream(connection, config, connection.routing_key) for _ in range(STREAMS_MAX)]
        self.room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._cursors: WeakValueDictionary[str, Cursor] = WeakValueDictionary()

    async def ask(self, observation: types_pb2.Observation) -> types_pb2.Prediction:
        """Has one observation taken, always on the same stream for a session."""
        stream = self.streams[crc32(observation.session_id.encode()) % STREAMS_MAX]
        async with self.room:
            return (await stream.ask(Request(observation=observation)))[0].prediction

    async def close(self) -> None:
        """Ends the streams."""
        await asyncio.gather(*(stream.close() for stream in self.streams))

    def cursor(self, id: str) -> Cursor:  # noqa: A002
        """Where this client stands in a session; two objects for one id share it."""
        cursor = self._cursors.get(id)
        if cursor is None:
            cursor = self._cursors[id] = Cursor(id)
        return cursor


class AsyncSession:
    """One feed's memory in the server, stepped one observation at a time.

    Steps are numbered from the server's last one, which is asked for once, on first use; the number goes up only when
    a step succeeded. So a step that failed in an unknown way (a timeout, a lost connection) may be sent again with
    the same values: it is taken once. When the server disagrees about the number (another client stepped the session,
    or it was closed), the error says so and nothing is renumbered: `resync()` goes on from where the server is.
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
        self, values: Values, *, time: Time | None = None, reset: bool = False, future: Values | None = None
    ) -> Prediction:
        """Takes one observation and predicts the next.

        `values`: feature name -> value, or one value a feature in the model's order; None and NaN are missing values.
        `time`: an aware datetime, or a datetime64 in UTC. `reset` sets the state to zero first, as one atom with the
        step. `future`: what is known of the predicted step, by name or in the order of the model's future covariates;
        without it they hold their last values. Raises TidegateError: BAD_OBSERVATION, STEP_CONFLICT, SESSION_DIVERGED,
        UNREACHABLE, ...
        """
        cursor, feed = self._cursor, self._feed
        async with feed.connection.deadline(), cursor.lock:
            last = cursor.step if cursor.step is not None else await self._open()
            about = await feed.catalog.describe(feed.model, cursor.version)
            row = to_row(values, about.names, feed.model)
            observation = types_pb2.Observation(session_id=cursor.id, step=last + 1, values=row, reset=reset)
            if future is not None:
                observation.future_covariates.extend(to_row(future, about.future_names, f"the future of {feed.model}"))
            if time is not None:
                observation.event_time.CopyFrom(to_timestamp(time))
            answer = await feed.ask(observation)
            opened, cursor.step, cursor.opened = cursor.opened, answer.step, False
            return read_prediction(answer, about.all_names, about.targets, opened)

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
        about = await feed.catalog.describe(feed.model, self._cursor.version or feed.version)
        scenario = Scenario(self.id, horizon, future, seed)
        found = await forecast(
            feed.connection, self.model, about.targets, [scenario], horizon, levels, samples, generation
        )
        return raised(found[0])

    async def _open(self) -> int:
        """Finds or opens the session; returns the number of its last step."""
        feed, cursor = self._feed, self._cursor
        request = session_pb2.OpenSessionRequest(model=feed.model, version=feed.version, session_id=cursor.id)
        response = await feed.connection.call(feed.connection.sessions.OpenSession, request)
        cursor.follow(response.session, response.created)
        return int(response.session.step)

    async def reset(self) -> SessionInfo:
        """Sets the state to zero and lifts a quarantine; the numbering goes on."""
        async with self._cursor.lock:
            request = session_pb2.ResetSessionRequest(model=self.model, session_id=self.id)
            response = await self._feed.connection.call(self._feed.connection.sessions.ResetSession, request)
            self._cursor.follow(response.session)
            return read_session(response.session)

    async def close(self) -> SessionInfo:
        """Ends the session in the server and frees its memory; another step would begin a new one."""
        async with self._cursor.lock:
            request = session_pb2.CloseSessionRequest(model=self.model, session_id=self.id)
            response = await self._feed.connection.call(self._feed.connection.sessions.CloseSession, request)
            self._cursor.step = None
            return read_session(response.session)

    async def fork(self, new_id: str, *, step: int | None = None) -> AsyncSession:
        """Copies state and numbering to a new session, as they are or as they were at a retained step; raises
        SESSION_EXISTS when the id is taken, STEP_NOT_RETAINED."""
        async with self._cursor.lock:
            request = session_pb2.ForkSessionRequest(
                model=self.model, session_id=self.id, new_session_id=new_id, step=step
            )
            response = await self._feed.connection.call(self._feed.connection.sessions.ForkSession, request)
        cursor = self._feed.cursor(new_id)
        cursor.follow(response.session)
        return AsyncSession(self._feed, cursor)

    async def rewind(self, step: int) -> SessionInfo:
        """Takes the session back to a retained step, and the numbering with it; raises STEP_NOT_RETAINED."""
        async with self._cursor.lock:
            request = session_pb2.RewindSessionRequest(model=self.model, session_id=self.id, step=step)
            response = await self._feed.connection.call(self._feed.connection.sessions.RewindSession, request)
            self._cursor.follow(response.session)
            return read_session(response.session)

    async def export(self) -> bytes:
        """All that the server remembers of it, for `client.import_session`, here or on another server."""
        async with self._cursor.lock:
            request = session_pb2.ExportSessionRequest(model=self.model, session_id=self.id)
            response = await self._feed.connection.call(self._feed.connection.sessions.ExportSession, request)
            content: bytes = response.content
            return content

    async def info(self) -> SessionInfo:
        """The session as the server has it; raises SESSION_NOT_FOUND when there is none."""
        return read_session(await self._get())

    async def resync(self) -> SessionInfo | None:
        """Goes on from the server's number; None when it has no such session, and the next step begins one."""
        async with self._cursor.lock:
            self._cursor.step = None
            try:
                session = await self._get()
            except TidegateError as error:
                if error.reason is not Reason.SESSION_NOT_FOUND:
                    raise
                return None
            self._cursor.follow(session)
            return read_session(session)

    async def _get(self) -> session_pb2.Session:
        """GetSession."""
        request = session_pb2.GetSessionRequest(model=self.model, session_id=self.id)
        response = await self._feed.connection.call(self._feed.connection.sessions.GetSession, request)
        session: session_pb2.Session = response.session
        return session
