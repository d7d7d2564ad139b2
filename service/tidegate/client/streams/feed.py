"""What the sessions of one model share in one client: streams, and a place for each session in use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from weakref import WeakValueDictionary
from zlib import crc32

import numpy as np

from tidegate.client.catalog import Catalog
from tidegate.client.connection import Connection
from tidegate.client.failures import from_status
from tidegate.client.patience import Patience
from tidegate.client.streams.asked import Message
from tidegate.client.streams.columns import OBJECT_BYTES, Columns
from tidegate.client.streams.conversation import Request, Response
from tidegate.client.streams.histories import Begun
from tidegate.client.streams.stream import PredictionStream
from tidegate.client.values.messages import built
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
    begun: Begun | None = None  # a history some parts of which were taken, and not all
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def follow(self, info: session_pb2.Session, opened: bool = False) -> None:
        """Goes on from where the server is."""
        self.step, self.version, self.opened = info.step, info.version, opened


@dataclass(frozen=True, slots=True)
class Single:
    """One observation of one session; kept as it is where the server makes it durable only after a while.

    It holds its cursor, which must not be forgotten, and the server be asked anew, while the server may lose the step.
    One without a number comes late: kept in place of the one that it `corrects` (0: that is not kept), or, where the
    server took it for the next one, as that.
    """

    observation: types_pb2.Observation
    time: int
    keeps: bool
    cursor: Cursor
    corrects: int = 0

    def request(self, epoch: int) -> Request:
        """The same on every call of the stream."""
        del epoch
        return Request(observation=self.observation)

    def answered(self, response: Response) -> Single | None:
        """Itself, if it was taken."""
        if not (self.keeps and response.HasField("prediction")):
            return None
        if self.observation.step:
            return self
        last = response.prediction.step
        number = last if last > (self.cursor.step or 0) else self.corrects
        return self._numbered(number) if number else None

    def _numbered(self, step: int) -> Single:
        observation = types_pb2.Observation()
        observation.CopyFrom(self.observation)
        observation.step = step
        return replace(self, observation=observation)

    @property
    def ids(self) -> tuple[str]:
        """Its session, of which it is the one row."""
        return (self.cursor.id,)

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        return OBJECT_BYTES + 8 * (len(self.observation.values) + len(self.observation.future_covariates))

    def columns(self) -> Columns:
        """Itself as a row."""
        seen = self.observation
        return Columns(
            ids=self.ids,
            steps=np.array([seen.step], np.uint64),
            values=np.array([seen.values]),
            times=np.array([self.time], np.int64),
            reset=np.array([seen.reset], np.uint8),
            future=np.array([seen.future_covariates]) if seen.future_covariates else None,
        )


class OfOneSession(Message, Protocol):
    """A message about one session, answered by one prediction."""

    @property
    def keeps(self) -> bool:
        """Whether it is kept until the server has made it durable."""
        ...


class Feed:
    """What the sessions of one model share in one client: the streams, and one cursor for each session in use."""

    def __init__(
        self, connection: Connection, catalog: Catalog, model: str, version: str, levels: tuple[float, ...] = ()
    ) -> None:
        self.connection = connection
        self.catalog = catalog
        self.model = model
        self.version = version
        config = built(prediction_pb2.StreamConfig, model=model, version=version, levels=levels)
        self.streams = [PredictionStream(connection, config, connection.routing_key) for _ in range(STREAMS_MAX)]
        self.room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._cursors: WeakValueDictionary[str, Cursor] = WeakValueDictionary()

    def stream(self, id: str) -> PredictionStream:  # noqa: A002
        """The stream of a session: always the same."""
        return self.streams[crc32(id.encode()) % STREAMS_MAX]

    async def ask(self, name: str, message: OfOneSession, patience: Patience) -> types_pb2.Prediction:
        """Has what a message holds of a session taken; tries again where that helps."""
        stream = self.stream(name)
        if message.keeps:
            await self.connection.allowance.room(patience)
        while True:
            async with self.room:
                (response,) = await stream.ask(patience, message)
            if not response.HasField("error"):
                return response.prediction
            error = from_status(response.error)
            if not stream.again(error.reason, name):
                raise error
            await patience.pause(error)

    async def call(
        self, method: Any, request: Any, *, repeatable: bool = True, patience: Patience | None = None
    ) -> Any:
        """A unary call about a session."""
        return await self.connection.call(
            method, request, patience=patience, repeatable=repeatable, about_sessions=True
        )

    async def close(self) -> None:
        """Ends the streams."""
        await asyncio.gather(*(stream.close() for stream in self.streams))

    def cursor(self, id: str) -> Cursor:  # noqa: A002
        """Where this client stands in a session; two objects for one id share it."""
        cursor = self._cursors.get(id)
        if cursor is None:
            cursor = self._cursors[id] = Cursor(id)
        return cursor
