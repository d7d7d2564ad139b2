import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]
    DTYPE_FLOAT64: _ClassVar[DType]
DTYPE_UNSPECIFIED: DType
DTYPE_FLOAT32: DType
DTYPE_FLOAT64: DType

class Observation(_message.Message):
    __slots__ = ("session_id", "step", "event_time", "values", "future_covariates", "reset")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FUTURE_COVARIATES_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    step: int
    event_time: _timestamp_pb2.Timestamp
    values: _containers.RepeatedScalarFieldContainer[float]
    future_covariates: _containers.RepeatedScalarFieldContainer[float]
    reset: bool
    def __init__(self, session_id: _Optional[str] = ..., step: _Optional[int] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., values: _Optional[_Iterable[float]] = ..., future_covariates: _Optional[_Iterable[float]] = ..., reset: bool = ...) -> None: ...

class ObservationBatch(_message.Message):
    __slots__ = ("rows", "session_ids", "aliases", "steps", "event_times_unix_ns", "dtype", "values", "future_covariates", "reset")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMES_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FUTURE_COVARIATES_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    rows: int
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    aliases: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    event_times_unix_ns: _containers.RepeatedScalarFieldContainer[int]
    dtype: DType
    values: bytes
    future_covariates: bytes
    reset: bytes
    def __init__(self, rows: _Optional[int] = ..., session_ids: _Optional[_Iterable[str]] = ..., aliases: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., event_times_unix_ns: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[DType, str]] = ..., values: _Optional[bytes] = ..., future_covariates: _Optional[bytes] = ..., reset: _Optional[bytes] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("session_id", "first_step", "steps", "event_times_unix_ns", "dtype", "values", "future_covariates", "reset", "exact")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMES_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FUTURE_COVARIATES_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    first_step: int
    steps: int
    event_times_unix_ns: _containers.RepeatedScalarFieldContainer[int]
    dtype: DType
    values: bytes
    future_covariates: bytes
    reset: bool
    exact: bool
    def __init__(self, session_id: _Optional[str] = ..., first_step: _Optional[int] = ..., steps: _Optional[int] = ..., event_times_unix_ns: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[DType, str]] = ..., values: _Optional[bytes] = ..., future_covariates: _Optional[bytes] = ..., reset: bool = ..., exact: bool = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("session_id", "step", "values", "valid_time", "steps_seen", "created", "duplicate", "imputed_features", "imputed_steps", "stale", "lower", "upper", "revised")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    VALID_TIME_FIELD_NUMBER: _ClassVar[int]
    STEPS_SEEN_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    IMPUTED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    IMPUTED_STEPS_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    REVISED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    step: int
    values: _containers.RepeatedScalarFieldContainer[float]
    valid_time: _timestamp_pb2.Timestamp
    steps_seen: int
    created: bool
    duplicate: bool
    imputed_features: _containers.RepeatedScalarFieldContainer[int]
    imputed_steps: int
    stale: bool
    lower: _containers.RepeatedScalarFieldContainer[float]
    upper: _containers.RepeatedScalarFieldContainer[float]
    revised: bool
    def __init__(self, session_id: _Optional[str] = ..., step: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ..., valid_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., steps_seen: _Optional[int] = ..., created: bool = ..., duplicate: bool = ..., imputed_features: _Optional[_Iterable[int]] = ..., imputed_steps: _Optional[int] = ..., stale: bool = ..., lower: _Optional[_Iterable[float]] = ..., upper: _Optional[_Iterable[float]] = ..., revised: bool = ...) -> None: ...

class PredictionBatch(_message.Message):
    __slots__ = ("rows", "dtype", "values", "lower", "upper", "steps", "flags", "errors")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    dtype: DType
    values: bytes
    lower: bytes
    upper: bytes
    steps: _containers.RepeatedScalarFieldContainer[int]
    flags: bytes
    errors: _containers.RepeatedCompositeFieldContainer[RowError]
    def __init__(self, rows: _Optional[int] = ..., dtype: _Optional[_Union[DType, str]] = ..., values: _Optional[bytes] = ..., lower: _Optional[bytes] = ..., upper: _Optional[bytes] = ..., steps: _Optional[_Iterable[int]] = ..., flags: _Optional[bytes] = ..., errors: _Optional[_Iterable[_Union[RowError, _Mapping]]] = ...) -> None: ...

class RowError(_message.Message):
    __slots__ = ("row", "code", "reason", "message", "expected_step")
    ROW_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STEP_FIELD_NUMBER: _ClassVar[int]
    row: int
    code: int
    reason: str
    message: str
    expected_step: int
    def __init__(self, row: _Optional[int] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., expected_step: _Optional[int] = ...) -> None: ...
