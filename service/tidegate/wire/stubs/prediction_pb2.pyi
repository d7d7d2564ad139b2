from google.rpc import status_pb2 as _status_pb2
from tidegate.wire.stubs import forecast_pb2 as _forecast_pb2
from tidegate.wire.stubs import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OnMissing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_MISSING_UNSPECIFIED: _ClassVar[OnMissing]
    ON_MISSING_OPEN: _ClassVar[OnMissing]
    ON_MISSING_FAIL: _ClassVar[OnMissing]
ON_MISSING_UNSPECIFIED: OnMissing
ON_MISSING_OPEN: OnMissing
ON_MISSING_FAIL: OnMissing

class StreamConfig(_message.Message):
    __slots__ = ("model", "version", "features", "units", "on_missing", "levels", "dtype", "checkpoints", "strict_steps")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    ON_MISSING_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    STRICT_STEPS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    features: _containers.RepeatedScalarFieldContainer[str]
    units: _containers.RepeatedScalarFieldContainer[str]
    on_missing: OnMissing
    levels: _containers.RepeatedScalarFieldContainer[float]
    dtype: _types_pb2.DType
    checkpoints: bool
    strict_steps: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., units: _Optional[_Iterable[str]] = ..., on_missing: _Optional[_Union[OnMissing, str]] = ..., levels: _Optional[_Iterable[float]] = ..., dtype: _Optional[_Union[_types_pb2.DType, str]] = ..., checkpoints: bool = ..., strict_steps: bool = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("config", "observation", "batch", "history")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    config: StreamConfig
    observation: _types_pb2.Observation
    batch: _types_pb2.ObservationBatch
    history: _types_pb2.History
    def __init__(self, config: _Optional[_Union[StreamConfig, _Mapping]] = ..., observation: _Optional[_Union[_types_pb2.Observation, _Mapping]] = ..., batch: _Optional[_Union[_types_pb2.ObservationBatch, _Mapping]] = ..., history: _Optional[_Union[_types_pb2.History, _Mapping]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("prediction", "batch")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    prediction: _types_pb2.Prediction
    batch: _types_pb2.PredictionBatch
    def __init__(self, prediction: _Optional[_Union[_types_pb2.Prediction, _Mapping]] = ..., batch: _Optional[_Union[_types_pb2.PredictionBatch, _Mapping]] = ...) -> None: ...

class StreamPredictRequest(_message.Message):
    __slots__ = ("config", "sequence", "observation", "batch", "history")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    config: StreamConfig
    sequence: int
    observation: _types_pb2.Observation
    batch: _types_pb2.ObservationBatch
    history: _types_pb2.History
    def __init__(self, config: _Optional[_Union[StreamConfig, _Mapping]] = ..., sequence: _Optional[int] = ..., observation: _Optional[_Union[_types_pb2.Observation, _Mapping]] = ..., batch: _Optional[_Union[_types_pb2.ObservationBatch, _Mapping]] = ..., history: _Optional[_Union[_types_pb2.History, _Mapping]] = ...) -> None: ...

class StreamPredictResponse(_message.Message):
    __slots__ = ("sequence", "prediction", "batch", "error", "checkpoint")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    prediction: _types_pb2.Prediction
    batch: _types_pb2.PredictionBatch
    error: _status_pb2.Status
    checkpoint: Checkpoint
    def __init__(self, sequence: _Optional[int] = ..., prediction: _Optional[_Union[_types_pb2.Prediction, _Mapping]] = ..., batch: _Optional[_Union[_types_pb2.PredictionBatch, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("durable_sequence", "lagging")
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAGGING_FIELD_NUMBER: _ClassVar[int]
    durable_sequence: int
    lagging: _containers.RepeatedCompositeFieldContainer[SessionLag]
    def __init__(self, durable_sequence: _Optional[int] = ..., lagging: _Optional[_Iterable[_Union[SessionLag, _Mapping]]] = ...) -> None: ...

class SessionLag(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...
