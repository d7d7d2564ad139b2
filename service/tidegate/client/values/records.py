"""What the server says of its models and sessions, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tidegate.client.failures import RowError
from tidegate.client.values.observations import Features, Words, to_datetime
from tidegate.wire.stubs import model_pb2, session_pb2

DURABILITIES = {model_pb2.DURABILITY_INTERVAL: "interval", model_pb2.DURABILITY_STEP: "step"}


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
    """One input or output: `role` is target (predicted too), past, static, future (known ahead, sent beside the values)
    or output (never sent). With `categories`, its value is one of these words, or the word's number, from 0."""

    name: str
    unit: str
    role: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What one version takes and predicts: values go in the order of `names`, future covariates in that of
    `future_names`, predictions come back in that of `targets`. `head` is regression, quantile or categorical; `levels`
    are a quantile head's, `coverages` those of the intervals that may be asked for. `durability` is what outlives a
    crash of the server: none, interval (all but the last second or so, which this client sends again) or step."""

    version: str
    text: str
    features: tuple[Feature, ...]
    targets: tuple[str, ...]
    frequency: str
    cell: str
    layers: int
    hidden_size: int
    state_bytes: int
    head: str = "regression"
    levels: tuple[float, ...] = ()
    coverages: tuple[float, ...] = ()
    sample_paths: bool = False
    calendar: tuple[str, ...] = ()
    time_zone: str = "UTC"
    lag_steps_max: int = 0
    rewind_steps: int = 0
    lateness_steps: int = 0
    replay_steps: int = 0
    durability: str = "none"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is sent as values, in order."""
        return tuple(feature.name for feature in self.features if feature.role not in ("future", "output"))

    @property
    def future_names(self) -> tuple[str, ...]:
        """The names of the future covariates, in order."""
        return tuple(feature.name for feature in self.features if feature.role == "future")

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every feature's name, in the package's order."""
        return tuple(feature.name for feature in self.features)

    @property
    def sent(self) -> Features:
        """What is sent as values, as a table's columns."""
        return Features(self.names, self.words, "the model")

    @property
    def known_ahead(self) -> Features:
        """The future covariates, as a table's columns."""
        return Features(self.future_names, self.words, "the model's future")

    @property
    def words(self) -> Words:
        """The categories of the features that have some, by their names."""
        return {feature.name: feature.categories for feature in self.features if feature.categories}


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


@dataclass(frozen=True, slots=True, eq=False)
class Migrated:
    """How each session came to another version, in the order of the ids: `ways` are "already there", "state" (with its
    state), "replay" (by its last observations, `replayed` int64 [ids] of them) or "failed"; and the failures."""

    ways: tuple[str, ...]
    replayed: NDArray[np.int64]
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
        features=tuple(Feature(f.name, f.unit, f.role, tuple(f.categories)) for f in message.features),
        targets=tuple(message.targets),
        frequency=message.frequency,
        cell=message.cell,
        layers=message.layers,
        hidden_size=message.hidden_size,
        state_bytes=message.state_bytes,
        head=message.head,
        levels=tuple(message.levels),
        coverages=tuple(message.coverages),
        sample_paths=message.sample_paths,
        calendar=tuple(message.calendar),
        time_zone=message.time_zone,
        lag_steps_max=message.lag_steps_max,
        rewind_steps=message.rewind_steps,
        lateness_steps=message.lateness_steps,
        replay_steps=message.replay_steps,
        durability=DURABILITIES.get(message.durability, "none"),
    )
