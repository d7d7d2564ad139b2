"""Forecast: a message to the engine's request, and its answers to a message."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tidegate.config import Limits
from tidegate.engine.forecasts.request import Forecast, ForecastRequest, Sampling, Scenario
from tidegate.engine.queues.block import Scope
from tidegate.engine.sessions.catalog import Catalog
from tidegate.errors import Reason, TidegateError
from tidegate.model.frequency import NO_TIME
from tidegate.model.manifest import LEVELS_MAX, Manifest
from tidegate.wire import codec
from tidegate.wire.stubs import forecast_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

PATHS_FOR_QUANTILES = 100  # drawn when quantiles are asked for without paths
# Of an answer that are put into bytes at once, in about a millisecond: the event loop has others to see to.
PORTION_SCENARIOS, PORTION_NUMBERS = 64, 32_768
TEMPERATURE_MIN, TEMPERATURE_MAX = 0.01, 100.0


def request_of(message: pb.ForecastRequest, catalog: Catalog, limits: Limits) -> ForecastRequest:
    """What the engine is asked; raises BAD_FORECAST, FORECAST_LIMIT, MODEL_NOT_FOUND, VERSION_NOT_FOUND."""
    manifest = catalog.about(Scope("", message.model)).package.manifest
    levels = _levels(message, manifest)
    if message.generation.stop:
        lanes = catalog.models[message.model].lanes.values()
        _check_stop(message.generation.stop, [lane.package.manifest for lane in lanes])
    sampling = _sampling(message, manifest, levels)
    if len(message.scenarios) > limits.forecast_scenarios_max:
        raise _limit("scenarios", len(message.scenarios), limits.forecast_scenarios_max)
    scenarios = tuple(_scenario(scenario, message.horizon, manifest) for scenario in message.scenarios)
    request = ForecastRequest("", message.model, scenarios, levels, sampling)
    returned = 1 + len(levels) + message.samples
    values = sum(scenario.horizon for scenario in scenarios) * returned * len(manifest.targets)
    if values > limits.forecast_values_max:
        raise _limit("numbers in the answer", values, limits.forecast_values_max)
    return request


def portions_of(answers: list[Forecast]) -> Iterator[bytes]:
    """The ForecastResponse in portions: bytes of messages that follow each other are those of all their fields."""
    start = numbers = 0
    for stop, answer in enumerate(answers, 1):
        numbers += answer.values.size + answer.quantiles.size + answer.paths.size + sum(map(len, answer.tokens))
        if stop - start >= PORTION_SCENARIOS or numbers >= PORTION_NUMBERS or stop == len(answers):
            yield response_of(answers[start:stop], start).SerializeToString()
            start, numbers = stop, 0


def response_of(answers: list[Forecast], first: int = 0) -> pb.ForecastResponse:
    """The answers, in order, the first of which is to that scenario."""
    response = pb.ForecastResponse()
    for row, answer in enumerate(answers, first):
        if answer.reason is Reason.OK:
            response.forecasts.append(_message(answer))
            continue
        response.forecasts.add()
        error = TidegateError(answer.reason, answer.problem)
        response.errors.append(
            types.RowError(row=row, code=int(error.code), reason=answer.reason.name, message=error.message)
        )
    return response


def _scenario(message: pb.Scenario, horizon: int, manifest: Manifest) -> Scenario:
    width = len(manifest.future)
    known = np.array(message.future_covariates, np.float64)
    if np.isinf(known).any() or (len(known) and (not width or len(known) % width)):
        raise _bad(f"future_covariates must be whole rows of {width} finite numbers (or NaN)")
    future = known.reshape(-1, width) if width else np.zeros((0, 0))
    return Scenario(codec.session_key(message.session_id), message.horizon or horizon, future, message.seed)


def _levels(message: pb.ForecastRequest, manifest: Manifest) -> tuple[float, ...]:
    levels = tuple(message.levels)
    if len(levels) > LEVELS_MAX or not all(low < high for low, high in pairwise((0.0, *levels, 1.0))):
        raise _bad(f"levels must increase between 0 and 1, at most {LEVELS_MAX}")
    if levels and manifest.head.kind == "categorical":
        raise _bad("levels: probabilities have no quantiles; ask for samples")
    return levels


def _check_stop(stop: str, versions: Sequence[Manifest]) -> None:
    """Raises BAD_FORECAST for what is a word of no version; of which version a session is, the engine knows."""
    if not any(stop in version.targets for version in versions):
        raise _bad(f"stop: {stop!r} is none of the targets ({', '.join(versions[-1].targets[:20])})")


def _sampling(message: pb.ForecastRequest, manifest: Manifest, levels: tuple[float, ...]) -> Sampling | None:
    generating = message.HasField("generation")
    if generating and manifest.head.kind != "categorical":
        raise _bad("generation: is for models that predict categories")
    paths = message.samples or (1 if generating else PATHS_FOR_QUANTILES if levels else 0)
    if not paths:
        return None
    asked = message.generation
    temperature = asked.temperature if asked.HasField("temperature") else 1.0
    if not TEMPERATURE_MIN <= temperature <= TEMPERATURE_MAX:
        raise _bad(f"temperature must be from {TEMPERATURE_MIN} to {TEMPERATURE_MAX}")
    if not 0 <= asked.min_p <= 1 or math.isnan(asked.min_p):
        raise _bad("min_p must be from 0 to 1")
    return Sampling(paths, temperature, asked.top_k, asked.min_p, asked.stop, answered=message.samples > 0)


def _message(answer: Forecast) -> pb.ScenarioForecast:
    message = pb.ScenarioForecast(
        step=answer.step,
        version=answer.version,
        horizon=len(answer.values),
        values=_floats(answer.values),
        quantiles=_floats(answer.quantiles),
        paths=_floats(answer.paths),
        token_paths=[pb.TokenPath(tokens=tokens) for tokens in answer.tokens],
    )
    if (answer.times != NO_TIME).all():
        message.valid_times_unix_ns.extend(answer.times.tolist())
    return message


def _floats(values: NDArray[np.float64]) -> bytes:
    with np.errstate(over="ignore"):
        return values.astype("<f4").tobytes()


def _bad(problem: str) -> TidegateError:
    return TidegateError(Reason.BAD_FORECAST, problem)


def _limit(what: str, size: int, most: int) -> TidegateError:
    return TidegateError(Reason.FORECAST_LIMIT, f"{size} {what}; at most {most}", limit=most)
