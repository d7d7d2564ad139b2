from tidegate.wire.stubs import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ForecastRequest(_message.Message):
    __slots__ = ("model", "scenarios", "horizon", "levels", "samples", "generation")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCENARIOS_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    model: str
    scenarios: _containers.RepeatedCompositeFieldContainer[Scenario]
    horizon: int
    levels: _containers.RepeatedScalarFieldContainer[float]
    samples: int
    generation: Generation
    def __init__(self, model: _Optional[str] = ..., scenarios: _Optional[_Iterable[_Union[Scenario, _Mapping]]] = ..., horizon: _Optional[int] = ..., levels: _Optional[_Iterable[float]] = ..., samples: _Optional[int] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class Scenario(_message.Message):
    __slots__ = ("session_id", "horizon", "future_covariates", "seed")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    FUTURE_COVARIATES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    horizon: int
    future_covariates: _containers.RepeatedScalarFieldContainer[float]
    seed: int
    def __init__(self, session_id: _Optional[str] = ..., horizon: _Optional[int] = ..., future_covariates: _Optional[_Iterable[float]] = ..., seed: _Optional[int] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("temperature", "top_k", "min_p", "stop")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    min_p: float
    stop: str
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., stop: _Optional[str] = ...) -> None: ...

class ForecastResponse(_message.Message):
    __slots__ = ("forecasts", "errors")
    FORECASTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    forecasts: _containers.RepeatedCompositeFieldContainer[ScenarioForecast]
    errors: _containers.RepeatedCompositeFieldContainer[_types_pb2.RowError]
    def __init__(self, forecasts: _Optional[_Iterable[_Union[ScenarioForecast, _Mapping]]] = ..., errors: _Optional[_Iterable[_Union[_types_pb2.RowError, _Mapping]]] = ...) -> None: ...

class ScenarioForecast(_message.Message):
    __slots__ = ("step", "version", "horizon", "values", "quantiles", "paths", "token_paths", "valid_times_unix_ns")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_PATHS_FIELD_NUMBER: _ClassVar[int]
    VALID_TIMES_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: str
    horizon: int
    values: bytes
    quantiles: bytes
    paths: bytes
    token_paths: _containers.RepeatedCompositeFieldContainer[TokenPath]
    valid_times_unix_ns: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, step: _Optional[int] = ..., version: _Optional[str] = ..., horizon: _Optional[int] = ..., values: _Optional[bytes] = ..., quantiles: _Optional[bytes] = ..., paths: _Optional[bytes] = ..., token_paths: _Optional[_Iterable[_Union[TokenPath, _Mapping]]] = ..., valid_times_unix_ns: _Optional[_Iterable[int]] = ...) -> None: ...

class TokenPath(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ...) -> None: ...
