from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_READY: _ClassVar[VersionState]
    VERSION_STATE_RETIRED: _ClassVar[VersionState]
    VERSION_STATE_REFUSED: _ClassVar[VersionState]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_NONE: _ClassVar[Durability]
    DURABILITY_INTERVAL: _ClassVar[Durability]
    DURABILITY_STEP: _ClassVar[Durability]
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_READY: VersionState
VERSION_STATE_RETIRED: VersionState
VERSION_STATE_REFUSED: VersionState
DURABILITY_UNSPECIFIED: Durability
DURABILITY_NONE: Durability
DURABILITY_INTERVAL: Durability
DURABILITY_STEP: Durability

class ModelVersion(_message.Message):
    __slots__ = ("version", "state", "fingerprint", "sessions", "problem")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    version: str
    state: VersionState
    fingerprint: str
    sessions: int
    problem: str
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[VersionState, str]] = ..., fingerprint: _Optional[str] = ..., sessions: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "versions", "aliases", "default_version")
    class AliasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    aliases: _containers.ScalarMap[str, str]
    default_version: str
    def __init__(self, name: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., aliases: _Optional[_Mapping[str, str]] = ..., default_version: _Optional[str] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("name", "unit", "role", "categories", "derived_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    DERIVED_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    role: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    derived_only: bool
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., role: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., derived_only: bool = ...) -> None: ...

class ModelDescription(_message.Message):
    __slots__ = ("version", "description", "features", "targets", "frequency", "cell", "layers", "hidden_size", "state_bytes", "head", "levels", "coverages", "sample_paths", "calendar", "time_zone", "lag_steps_max", "known_ids", "channel_independent", "rewind_steps", "durability", "lateness_steps", "replay_steps")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    COVERAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_PATHS_FIELD_NUMBER: _ClassVar[int]
    CALENDAR_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    LAG_STEPS_MAX_FIELD_NUMBER: _ClassVar[int]
    KNOWN_IDS_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_INDEPENDENT_FIELD_NUMBER: _ClassVar[int]
    REWIND_STEPS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    LATENESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    REPLAY_STEPS_FIELD_NUMBER: _ClassVar[int]
    version: str
    description: str
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    targets: _containers.RepeatedScalarFieldContainer[str]
    frequency: str
    cell: str
    layers: int
    hidden_size: int
    state_bytes: int
    head: str
    levels: _containers.RepeatedScalarFieldContainer[float]
    coverages: _containers.RepeatedScalarFieldContainer[float]
    sample_paths: bool
    calendar: _containers.RepeatedScalarFieldContainer[str]
    time_zone: str
    lag_steps_max: int
    known_ids: int
    channel_independent: bool
    rewind_steps: int
    durability: Durability
    lateness_steps: int
    replay_steps: int
    def __init__(self, version: _Optional[str] = ..., description: _Optional[str] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., targets: _Optional[_Iterable[str]] = ..., frequency: _Optional[str] = ..., cell: _Optional[str] = ..., layers: _Optional[int] = ..., hidden_size: _Optional[int] = ..., state_bytes: _Optional[int] = ..., head: _Optional[str] = ..., levels: _Optional[_Iterable[float]] = ..., coverages: _Optional[_Iterable[float]] = ..., sample_paths: bool = ..., calendar: _Optional[_Iterable[str]] = ..., time_zone: _Optional[str] = ..., lag_steps_max: _Optional[int] = ..., known_ids: _Optional[int] = ..., channel_independent: bool = ..., rewind_steps: _Optional[int] = ..., durability: _Optional[_Union[Durability, str]] = ..., lateness_steps: _Optional[int] = ..., replay_steps: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "description")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    model: Model
    description: ModelDescription
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., description: _Optional[_Union[ModelDescription, _Mapping]] = ...) -> None: ...

class ReloadModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadModelsResponse(_message.Message):
    __slots__ = ("added", "removed", "refused")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[str]] = ...) -> None: ...
