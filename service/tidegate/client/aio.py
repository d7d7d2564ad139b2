"""The asynchronous client. All of the client's logic is on this side; the other one only waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from tidegate.client import bulk
from tidegate.client.batches import AsyncBatches
from tidegate.client.catalog import Catalog
from tidegate.client.connection import Connection
from tidegate.client.forecasts import Forecast, Generation, Scenario, forecast
from tidegate.client.session import AsyncSession
from tidegate.client.streams.feed import Feed
from tidegate.client.values.messages import built, checked_ids
from tidegate.client.values.records import Done, Migrated, Model, Opened, Reloaded, SessionInfo, read_session
from tidegate.wire.stubs import session_pb2

PAGE_SIZE = 1000


class AsyncClient:
    """A client of one server, for one event loop: `async with AsyncClient("127.0.0.1:8001") as client`.

    `timeout_seconds` bounds each call and each step. Nothing is connected before the first call. Every method raises
    TidegateError, whose `code`, `reason` and `hint` say what went wrong and what to do next.
    """

    def __init__(self, address: str = "127.0.0.1:8001", *, timeout_seconds: float = 30.0) -> None:
        self._connection = Connection(address, timeout_seconds)
        self._catalog = Catalog(self._connection)
        self._feeds: dict[tuple[str, str, tuple[float, ...]], Feed] = {}

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends streams and calls; the sessions live on in the server."""
        try:
            await asyncio.gather(*(feed.close() for feed in list(self._feeds.values())))
        finally:
            await self._connection.close()

    def session(
        self,
        model: str,
        id: str,  # noqa: A002
        *,
        version: str = "",
        levels: Sequence[float] = (),
    ) -> AsyncSession:
        """A session to step. Asks nothing yet: the server is asked for its last step on first use.

        All sessions of a model share a few streams. `version` (or alias) counts only where the session is opened here.
        `levels`: coverages of the intervals that predictions come with, such as 0.8; of a quantile head alone.
        """
        (id,) = checked_ids([id])  # noqa: A001
        key = model, version, tuple(levels)
        if key not in self._feeds:
            self._feeds[key] = Feed(self._connection, self._catalog, *key)
        feed = self._feeds[key]
        return AsyncSession(feed, feed.cursor(id))

    def batches(
        self, model: str, *, version: str = "", levels: Sequence[float] = (), dtype: str = "float32"
    ) -> AsyncBatches:
        """Steps for many sessions a message, on a stream of their own; a context manager.

        `levels`: as for a session. `dtype` "float64": predictions of targets whose differences are small beside their
        size, such as a counter.
        """
        return AsyncBatches(self._connection, self._catalog, model, version, levels, dtype)

    async def forecast(
        self,
        model: str,
        scenarios: Sequence[str | Scenario],
        horizon: int = 0,
        *,
        levels: Sequence[float] = (),
        samples: int = 0,
        generation: Generation | None = None,
    ) -> list[Forecast]:
        """What comes next for many sessions (or scenarios; a session may stand in several), none of which is stepped.

        `levels`: quantiles wanted; `samples`: sample paths of each scenario. What is wrong with one is its `error`.
        """
        return await forecast(self._connection, self._catalog, model, scenarios, horizon, levels, samples, generation)

    async def models(self) -> list[Model]:
        """All models with their versions, by name."""
        return await self._catalog.models()

    async def model(self, name: str, *, version: str = "") -> Model:
        """One model, with the description of a version (or alias; default: the one that new sessions get)."""
        return await self._catalog.model(name, version)

    async def reload_models(self) -> Reloaded:
        """Has the server read its model repository again; sessions that live are not touched."""
        return await self._catalog.reload()

    async def import_session(self, content: bytes, *, id: str = "", version: str = "") -> SessionInfo:  # noqa: A002
        """Makes a session of what `session.export()` gave: by default under its own id, by the very package that
        stepped it; `version` names another one with the same state shape. Raises BAD_EXPORT, PACKAGE_MISMATCH, …"""
        request = built(session_pb2.ImportSessionRequest, content=content, session_id=id, version=version)
        response = await self._connection.call(self._connection.sessions.ImportSession, request, repeatable=False)
        return read_session(response.session)

    async def sessions(self, *, model: str = "", filter: str = "") -> AsyncIterator[SessionInfo]:  # noqa: A002
        """Every session, page by page. `filter`: `id=PREFIX*`, `version=V`, `state=QUARANTINED`, joined by AND."""
        async for page in self.session_pages(model=model, filter=filter):
            for session in page:
                yield session

    async def session_pages(
        self,
        *,
        model: str = "",
        filter: str = "",  # noqa: A002
    ) -> AsyncIterator[list[SessionInfo]]:
        """The same by pages of up to 1000."""
        request = built(session_pb2.ListSessionsRequest, model=model, page_size=PAGE_SIZE, filter=filter)
        while True:
            response = await self._connection.call(self._connection.sessions.ListSessions, request, about_sessions=True)
            yield [read_session(session) for session in response.sessions]
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def open_sessions(self, model: str, ids: Sequence[str], *, version: str = "") -> Opened:
        """Finds or opens many sessions; which were created, where each stands, which failed."""
        return await bulk.open_many(self._connection, model, version, ids)

    async def reset_sessions(self, model: str, ids: Sequence[str]) -> Done:
        """Sets the states of many sessions to zero; their numbering goes on."""
        return await bulk.reset_many(self._connection, model, ids)

    async def migrate_sessions(self, model: str, ids: Sequence[str], *, version: str = "") -> Migrated:
        """Moves sessions to another version (or alias; default: the one that new sessions get), where they go on under
        the same numbers: with their state where both versions remember alike, else by the last observations, if the
        old one keeps them. Those that cannot move stay; safe to call again."""
        return await bulk.migrate_many(self._connection, model, ids, version)

    async def close_sessions(self, model: str, ids: Sequence[str]) -> Done:
        """Ends many sessions and frees their memory. A Session that stepped one needs `resync()` to begin it anew."""
        return await bulk.close_many(self._connection, model, ids)
