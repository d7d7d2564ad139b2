"""The client for threads that wait: each method is the asynchronous one, run to its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from numpy.typing import ArrayLike, NDArray

from tidegate.client.aio import AsyncClient
from tidegate.client.background import BackgroundLoop
from tidegate.client.batches import AsyncBatches
from tidegate.client.forecasts import Forecast, Generation, Scenario
from tidegate.client.session import AsyncSession
from tidegate.client.values.observations import Time, Times, Values
from tidegate.client.values.predictions import Prediction, Predictions
from tidegate.client.values.records import Description, Done, Migrated, Model, Opened, Reloaded, SessionInfo


class Session:
    """One feed's memory in the server; see AsyncSession. May be used from several threads, which then take turns."""

    def __init__(self, loop: BackgroundLoop, session: AsyncSession) -> None:
        self._loop = loop
        self._session = session

    @property
    def id(self) -> str:
        """The session's id."""
        return self._session.id

    @property
    def model(self) -> str:
        """The model's name."""
        return self._session.model

    def step(
        self,
        values: Values,
        *,
        time: Time | None = None,
        reset: bool = False,
        future: Values | None = None,
        late: bool = False,
    ) -> Prediction:
        """Takes one observation and predicts the next; see AsyncSession.step."""
        return self._loop.run(self._session.step(values, time=time, reset=reset, future=future, late=late))

    def warm_up(
        self,
        values: ArrayLike,
        *,
        times: Times | None = None,
        first_step: int = 0,
        reset: bool = False,
        exact: bool = False,
        future: ArrayLike | None = None,
    ) -> Prediction:
        """Takes past steps in one message and predicts what comes after the last; see AsyncSession.warm_up."""
        return self._loop.run(
            self._session.warm_up(values, times=times, first_step=first_step, reset=reset, exact=exact, future=future)
        )

    def forecast(
        self,
        horizon: int,
        *,
        future: ArrayLike | None = None,
        levels: Sequence[float] = (),
        samples: int = 0,
        seed: int = 0,
        generation: Generation | None = None,
    ) -> Forecast:
        """The next steps; the session stays where it is. See AsyncSession.forecast."""
        return self._loop.run(
            self._session.forecast(
                horizon, future=future, levels=levels, samples=samples, seed=seed, generation=generation
            )
        )

    def reset(self) -> SessionInfo:
        """Sets the state to zero and lifts a quarantine; the numbering goes on."""
        return self._loop.run(self._session.reset())

    def close(self) -> SessionInfo:
        """Ends the session in the server and frees its memory; another step would begin a new one."""
        return self._loop.run(self._session.close())

    def fork(self, new_id: str, *, step: int | None = None) -> Session:
        """Copies state and numbering to a new session; see AsyncSession.fork."""
        return Session(self._loop, self._loop.run(self._session.fork(new_id, step=step)))

    def rewind(self, step: int) -> SessionInfo:
        """Takes the session back to a retained step; see AsyncSession.rewind."""
        return self._loop.run(self._session.rewind(step))

    def export(self) -> bytes:
        """All that the server remembers of it; see AsyncSession.export."""
        return self._loop.run(self._session.export())

    def info(self) -> SessionInfo:
        """The session as the server has it; raises SESSION_NOT_FOUND when there is none."""
        return self._loop.run(self._session.info())

    def resync(self) -> SessionInfo | None:
        """Goes on from the server's number; None when it has no such session, and the next step begins one."""
        return self._loop.run(self._session.resync())


class Batches:
    """One step for many sessions at a time; see AsyncBatches."""

    def __init__(self, loop: BackgroundLoop, batches: AsyncBatches) -> None:
        self._loop = loop
        self._batches = batches

    def __enter__(self) -> Batches:
        """Asks what the model takes; raises MODEL_NOT_FOUND, UNREACHABLE."""
        self._loop.run(self._batches.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream; the sessions live on."""
        self._loop.run(self._batches.close())

    @property
    def about(self) -> Description:
        """What the model takes and predicts: columns of the matrix and of the predictions, in order."""
        return self._batches.about

    def step(
        self,
        ids: Sequence[str],
        matrix: ArrayLike,
        *,
        times: Iterable[Time | None] | NDArray[Any] | None = None,
        reset: ArrayLike | None = None,
        future: ArrayLike | None = None,
    ) -> Predictions:
        """Takes one observation a row and predicts the next of each row's session; see AsyncBatches.step."""
        return self._loop.run(self._batches.step(ids, matrix, times=times, reset=reset, future=future))

    def resync(self, ids: Sequence[str]) -> None:
        """Has the next step of these sessions go on from where the server is; one that is gone begins anew."""
        self._loop.run(self._batches.resync(ids))


class Client:
    """A client of one server, for any number of threads: `with Client("127.0.0.1:8001") as client`.

    `timeout_seconds` bounds each call and each step. Nothing is connected, and no thread runs, before the first call.
    Every method raises TidegateError, whose `code`, `reason` and `hint` say what went wrong and what to do next.
    """

    def __init__(self, address: str = "127.0.0.1:8001", *, timeout_seconds: float = 30.0) -> None:
        self._client = AsyncClient(address, timeout_seconds=timeout_seconds)
        self._loop = BackgroundLoop(self._client.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends streams, calls and the thread; the sessions live on in the server."""
        self._loop.close()

    def session(
        self,
        model: str,
        id: str,  # noqa: A002
        *,
        version: str = "",
        levels: Sequence[float] = (),
    ) -> Session:
        """A session to step; see AsyncClient.session."""

        async def made() -> AsyncSession:
            """In the loop's thread, which alone touches what the sessions share."""
            return self._client.session(model, id, version=version, levels=levels)

        return Session(self._loop, self._loop.run(made()))

    def batches(
        self, model: str, *, version: str = "", levels: Sequence[float] = (), dtype: str = "float32"
    ) -> Batches:
        """Steps for many sessions a message; a context manager. See AsyncClient.batches."""
        return Batches(self._loop, self._client.batches(model, version=version, levels=levels, dtype=dtype))

    def forecast(
        self,
        model: str,
        scenarios: Sequence[str | Scenario],
        horizon: int = 0,
        *,
        levels: Sequence[float] = (),
        samples: int = 0,
        generation: Generation | None = None,
    ) -> list[Forecast]:
        """What comes next for many sessions, none of which is stepped; see AsyncClient.forecast."""
        return self._loop.run(
            self._client.forecast(model, scenarios, horizon, levels=levels, samples=samples, generation=generation)
        )

    def models(self) -> list[Model]:
        """All models with their versions, by name."""
        return self._loop.run(self._client.models())

    def model(self, name: str, *, version: str = "") -> Model:
        """One model, with the description of a version (or alias; default: the one that new sessions get)."""
        return self._loop.run(self._client.model(name, version=version))

    def reload_models(self) -> Reloaded:
        """Has the server read its model repository again; sessions that live are not touched."""
        return self._loop.run(self._client.reload_models())

    def import_session(self, content: bytes, *, id: str = "", version: str = "") -> SessionInfo:  # noqa: A002
        """Makes a session of an export; see AsyncClient.import_session."""
        return self._loop.run(self._client.import_session(content, id=id, version=version))

    def sessions(self, *, model: str = "", filter: str = "") -> Iterator[SessionInfo]:  # noqa: A002
        """Every session, page by page; see AsyncClient.sessions."""
        pages = self._client.session_pages(model=model, filter=filter)
        while page := self._loop.run(next_page(pages)):
            yield from page

    def open_sessions(self, model: str, ids: Sequence[str], *, version: str = "") -> Opened:
        """Finds or opens many sessions; which were created, where each stands, which failed."""
        return self._loop.run(self._client.open_sessions(model, ids, version=version))

    def reset_sessions(self, model: str, ids: Sequence[str]) -> Done:
        """Sets the states of many sessions to zero; their numbering goes on."""
        return self._loop.run(self._client.reset_sessions(model, ids))

    def migrate_sessions(self, model: str, ids: Sequence[str], *, version: str = "") -> Migrated:
        """Moves sessions to another version; see AsyncClient.migrate_sessions."""
        return self._loop.run(self._client.migrate_sessions(model, ids, version=version))

    def close_sessions(self, model: str, ids: Sequence[str]) -> Done:
        """Ends many sessions and frees their memory; see AsyncClient.close_sessions."""
        return self._loop.run(self._client.close_sessions(model, ids))


async def next_page(pages: Any) -> list[SessionInfo] | None:
    """The next page that has sessions, None after the last."""
    page: list[SessionInfo]
    async for page in pages:
        if page:
            return page
    return None
