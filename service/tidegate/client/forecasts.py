"""Forecasts: several steps ahead of where sessions stand, many scenarios a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate.client.catalog import Catalog
from tidegate.client.connection import Connection
from tidegate.client.failures import RowError, read_row_error, told
from tidegate.client.values.labels import column_names
from tidegate.client.values.messages import built
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import forecast_pb2

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question: a session, how many steps ahead (0: as the call says), and what is known ahead.

    `future`: [steps, future covariates] in the model's order and units, the first row for the second step (what is
    known of the first came with the last observation); NaN, and what is left out, holds the last value. The same
    `seed` from the same state gives the same sample paths.
    """

    session_id: str
    horizon: int = 0
    future: ArrayLike | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """How a categorical model's next category is drawn: probabilities to the power of 1/temperature, from the `top_k`
    likeliest (0: all) that have at least `min_p` of the likeliest's; a path ends with the target `stop`."""

    temperature: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What one scenario comes to. The first step is the session's last prediction.

    values float32 [horizon, targets] (a categorical model's probabilities); quantiles float32 [levels, horizon,
    targets]; paths float32 [samples, horizon, targets]; tokens: a categorical model's sample paths, indices of targets
    (`words` names them); valid_times datetime64[ns] [horizon], None where the session has no times; step: the number of
    the session's last observation. `error` says why there is no forecast; then the arrays are empty.
    """

    session_id: str
    targets: tuple[str, ...]
    step: int
    version: str
    values: Floats
    quantiles: Floats
    paths: Floats
    tokens: list[list[int]]
    valid_times: NDArray[np.datetime64] | None
    error: RowError | None = None

    @property
    def words(self) -> list[list[str]]:
        """The sample paths of a categorical model by name."""
        return [[self.targets[token] for token in path] for path in self.tokens]


async def forecast(
    connection: Connection,
    catalog: Catalog,
    model: str,
    scenarios: Sequence[str | Scenario],
    horizon: int,
    levels: Sequence[float],
    samples: int,
    generation: Generation | None,
) -> list[Forecast]:
    """One forecast a scenario, in order, by the names of the version that made it; raises TidegateError for what is
    wrong with the call as a whole."""
    if isinstance(scenarios, str):
        raise TidegateError(Reason.BAD_SESSION_ID, f"the scenarios are the text {scenarios!r}; give a list of them")
    asked = [Scenario(scenario) if isinstance(scenario, str) else scenario for scenario in scenarios]
    request = built(
        forecast_pb2.ForecastRequest,
        model=model,
        scenarios=[_message(scenario) for scenario in asked],
        horizon=horizon,
        levels=levels,
        samples=samples,
    )
    if generation is not None:
        request.generation.CopyFrom(
            built(
                forecast_pb2.Generation,
                temperature=generation.temperature,
                top_k=generation.top_k,
                min_p=generation.min_p,
                stop=generation.stop,
            )
        )
    response = await connection.call(connection.predictions.Forecast, request, about_sessions=True)
    versions = {message.version for message in response.forecasts}  # "" where there is no forecast
    targets = {version: (await catalog.describe(model, version)).targets for version in versions}
    errors = {error.row: read_row_error(error, asked[error.row].session_id, error.row) for error in response.errors}
    return [
        read_forecast(message, scenario.session_id, targets[message.version], errors.get(row))
        for row, (message, scenario) in enumerate(zip(response.forecasts, asked, strict=True))
    ]


def read_forecast(
    message: forecast_pb2.ScenarioForecast, session_id: str, targets: tuple[str, ...], error: RowError | None
) -> Forecast:
    """A forecast from its message."""
    shape = message.horizon, len(targets)
    times = np.array(message.valid_times_unix_ns, np.int64).astype("datetime64[ns]")
    return Forecast(
        session_id=session_id,
        targets=targets,
        step=message.step,
        version=message.version,
        values=np.frombuffer(message.values, "<f4").reshape(shape),
        quantiles=_matrices(message.quantiles, shape),
        paths=_matrices(message.paths, shape),
        tokens=[list(path.tokens) for path in message.token_paths],
        valid_times=times if len(times) else None,
        error=error,
    )


def raised(found: Forecast) -> Forecast:
    """The forecast, unless there is none: then its error as an exception."""
    if (error := found.error) is not None:
        expected = {} if error.expected_step is None else {"expected_step": str(error.expected_step)}
        raise told(error.reason.name, error.message, expected)
    return found


def _matrices(content: bytes, shape: tuple[int, int]) -> Floats:
    values = np.frombuffer(content, "<f4")
    return values.reshape(-1, *shape) if values.size else np.zeros((0, *shape), np.float32)


def _message(scenario: Scenario) -> forecast_pb2.Scenario:
    columns = column_names(scenario.future)
    if columns is not None and len(columns) > 1:
        raise TidegateError(
            Reason.BAD_FORECAST,
            "the future names its columns, which go by the order of the session's version here; give "
            "frame[names].to_numpy() with the future_names of its description",
        )
    try:
        known = [] if scenario.future is None else np.asarray(scenario.future, np.float64).ravel().tolist()
    except (TypeError, ValueError) as error:
        raise TidegateError(Reason.BAD_FORECAST, f"the future does not hold numbers: {error}") from None
    return built(
        forecast_pb2.Scenario,
        session_id=scenario.session_id,
        horizon=scenario.horizon,
        future_covariates=known,
        seed=scenario.seed,
    )
