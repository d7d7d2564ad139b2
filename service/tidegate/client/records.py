"""What the server says of its models and sessions, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tidegate.client.failures import RowError
from tidegate.client.observations import to_datetime
from tidegate.wire.stubs import model_pb2, session_pb2


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the server has it. `step` is its last observation's number, 0 before the first."""

    model: str
    version: str
    id: str
    step: int
    steps_seen: int
    last_event_time: datetime | None
    last_active_time: datetime | None
    quarantined: bool


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version: `state` is ready, retired or refused; `problem` says why it was refused."""

    version: str
    state: str
    fingerprint: str
    sessions: int
    problem: str


@dataclass(frozen=True, slots=True)
class Feature:
    """One input: `role` is target (predicted too) or past."""

    name: str
    unit: str
    role: str


@dataclass(frozen=True, slots=True)
class Description:
    """What one version takes and predicts: values go in the order of `features`, come back in that of `targets`."""

    version: str
    text: str
    features: tuple[Feature, ...]
    targets: tuple[str, ...]
    frequency: str
    cell: str
    layers: int
    hidden_size: int
    state_bytes: int

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(feature.name for feature in self.features)


@dataclass(frozen=True, slots=True)
class Model:
    """A model with its versions, newest first. `description` is of one version, and only `client.model` fills it."""

    name: str
    versions: tuple[ModelVersion, ...]
    aliases: dict[str, str]
    default_version: str
    description: Description | None = None


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed: `model/version`; a refused one is followed by what is wrong with which field."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """How the opening of many went: created bool [ids], steps uint64 [ids] (0: new or failed), and the failures."""

    created: NDArray[np.bool_]
    steps: NDArray[np.uint64]
    errors: list[RowError]


@dataclass(frozen=True, slots=True)
class Done:
    """How many sessions were reset or closed, and which failed."""

    done: int
    errors: list[RowError]


def read_session(message: session_pb2.Session) -> SessionInfo:
    """A session from its message."""
    return SessionInfo(
        model=message.model,
        version=message.version,
        id=message.session_id,
        step=message.step,
        steps_seen=message.steps_seen,
        last_event_time=to_datetime(message.last_event_time) if message.HasField("last_event_time") else None,
        last_active_time=to_datetime(message.last_active_time) if message.HasField("last_active_time") else None,
        quarantined=message.state == session_pb2.SESSION_STATE_QUARANTINED,
    )


def read_model(message: model_pb2.Model, description: model_pb2.ModelDescription | None = None) -> Model:
    """A model from its message."""
    return Model(
        name=message.name,
        versions=tuple(read_version(version) for version in message.versions),
        aliases=dict(message.aliases),
        default_version=message.default_version,
        description=None if description is None else read_description(description),
    )


def read_version(message: model_pb2.ModelVersion) -> ModelVersion:
    """A version from its message."""
    state = model_pb2.VersionState.Name(message.state).removeprefix("VERSION_STATE_").lower()
    return ModelVersion(message.version, state, message.fingerprint, message.sessions, message.problem)


def read_description(message: model_pb2.ModelDescription) -> Description:
    """A description from its message."""
    return Description(
        version=message.version,
        text=message.description,
        features=tuple(Feature(feature.name, feature.unit, feature.role) for feature in message.features),
        targets=tuple(message.targets),
        frequency=message.frequency,
        cell=message.cell,
        layers=message.layers,
        hidden_size=message.hidden_size,
        state_bytes=message.state_bytes,
    )
