"""Settings of the server: every limit has a name, a default and a reason here, and nowhere else.

A setting comes from a flag, else the environment (`TIDEGATE_PORT=8001`; nested: `TIDEGATE_LIMITS__SESSIONS_MAX=1000`),
else the TOML file of `--config`, else the default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from tidegate.errors import ConfigError
from tidegate.store_setting import store_setting

PREFIX, NESTED = "TIDEGATE_", "__"  # of variables; between a group and its field
OTHER_VARIABLES = {"TIDEGATE_NATIVE": ("0", "1"), "TIDEGATE_GRPC": ("aio",)}  # read where there are no settings
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SECONDS_MAX = 100 * 365 * 86_400.0  # "for ever", and still a time that every clock and store can count
KEEPALIVE_SECONDS_MAX = 86_400.0
COUNT_MAX = 2**31 - 1  # more than there is memory for, and still a number that gRPC and sockets can be told
CALLS_MAX = 2**28  # gRPC is told twice the sum of both kinds
BYTES_MAX = 2**60

Count = Annotated[int, Field(ge=1, le=COUNT_MAX)]
Calls = Annotated[int, Field(ge=1, le=CALLS_MAX)]
Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX)]
RoundSeconds = Annotated[float, Field(ge=0.01, le=SECONDS_MAX)]  # of what is done again and again: below, a core is its
KeepaliveSeconds = Annotated[float, Field(ge=0.001, le=KEEPALIVE_SECONDS_MAX)]  # gRPC counts milliseconds


class Durability(StrEnum):
    """What of a model's sessions outlives a crash: nothing, all but what moved in the last interval, every answer."""

    NONE = "none"
    INTERVAL = "interval"
    STEP = "step"


class Limits(BaseModel):
    """Everything that is bounded. Units are in the names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Memory of sessions.
    sessions_max: int = Field(default=1_100_000, ge=1, le=100_000_000, description="sessions held at once")
    state_bytes_max: int = Field(
        default=0, ge=0, le=BYTES_MAX, description="bytes of session columns in all; 0: half of the memory"
    )
    idle_seconds_max: Seconds = Field(default=7 * 86_400.0, description="a session not stepped for so long is closed")
    sweep_seconds: RoundSeconds = Field(default=1.0, description="how often idle sessions are looked for")
    aliases_max: Count = Field(default=2_097_152, description="an alias must be below this")

    # Work in the queue.
    inbox_rows_max: Count = Field(default=131_072, description="rows queued in all; then streams are not read")
    batch_rows_max: Count = Field(default=4096, description="rows of one step of the model")
    batch_seconds_max: Seconds = Field(default=0.05, description="rows of one step when other models wait")

    # Messages and streams.
    message_bytes_max: Count = Field(default=4 * 1024 * 1024, ge=1024, description="a larger message ends its stream")
    batch_message_rows_max: Count = Field(default=16_384, description="rows of one message")
    history_steps_max: Count = Field(default=16_384, description="steps of one history")
    streams_max: Calls = Field(default=10_000, description="open streams; more are refused")
    unary_calls_max: Calls = Field(default=4096, description="unary predictions in progress; more are refused")
    unary_bytes_max: Count = Field(
        default=512 * 1024 * 1024, ge=1024, description="answers to unary calls not taken; then more are refused"
    )
    stream_messages_max: Count = Field(default=64, description="messages of a stream read but not answered")
    stream_rows_max: Count = Field(default=32_768, description="rows of a stream read but not answered")

    # Durability.
    checkpoint_seconds: RoundSeconds = Field(default=1.0, description="how often sessions that moved are saved")
    checkpoint_lag_seconds_max: Seconds = Field(
        default=30.0,
        validate_default=True,
        description="a longer lag of checkpoints: unhealthy, and no new sessions; at least two checkpoint_seconds",
    )
    lease_seconds: Seconds = Field(
        default=3.0, ge=0.5, description="a replica not heard of for so long has lost its sessions to those who ask"
    )
    handover_seconds_max: Seconds = Field(
        default=5.0, description="rows wait for a session that lives elsewhere; then SESSION_MOVED"
    )
    stored_seconds_max: Seconds = Field(
        default=30 * 86_400.0, description="a session in the store alone is forgotten after this"
    )
    parked_rows_max: Count = Field(default=65_536, description="rows that wait for the store; then reading stops")

    # Forecasts.
    forecast_horizon_max: int = Field(default=1000, ge=1, le=100_000, description="steps ahead of one forecast")
    forecast_scenarios_max: Count = Field(default=16_384, description="scenarios of one call")
    forecast_rows_max: Count = Field(default=65_536, description="scenarios x paths of one call")
    forecast_values_max: Count = Field(default=8_388_608, description="numbers of one answer")
    forecast_bytes_max: int = Field(
        default=512 * 1024 * 1024,
        ge=1024,
        le=BYTES_MAX,
        description="copies of states, and what is drawn, in use at once",
    )
    forecasts_waiting_max: Count = Field(default=256, description="calls in progress; more are refused")

    # Peers and life cycle.
    keepalive_seconds: KeepaliveSeconds = Field(default=5.0, description="a silent peer is pinged after this")
    keepalive_timeout_seconds: KeepaliveSeconds = Field(default=5.0, description="and given up after this")
    http_connections_max: Count = Field(default=64, description="open HTTP connections; then the oldest is closed")
    http_idle_seconds_max: Seconds = Field(
        default=5.0, description="an HTTP connection without a whole request is closed after this"
    )
    drain_seconds_max: Seconds = Field(default=30.0, description="from SIGTERM to the exit")

    @field_validator("checkpoint_lag_seconds_max")
    @classmethod
    def _lag_outlasts_the_interval(cls, value: float, info: ValidationInfo) -> float:
        """What is saved as often as it should be lags by up to an interval and the time of a pass."""
        interval = info.data.get("checkpoint_seconds", 0.0)
        if value < 2 * interval:
            raise ValueError(f"must be at least twice checkpoint_seconds, which is {interval:g}")
        return value


def _levels(text: str) -> dict[str, Durability]:
    """`interval,weather=step` by model, "" for all others, where it is said; raises ValueError."""
    levels: dict[str, Durability] = {}
    for term in text.split(","):
        model, _, level = term.strip().rpartition("=")
        model = model.rstrip()
        if level not in list(Durability):
            raise ValueError(f"{level!r} is none of {', '.join(Durability)}")
        if model in levels:
            raise ValueError(f"says twice what {model or 'all others'} have")
        levels[model] = Durability(level)
    return levels


def default_models() -> Path:
    """The repository that comes with Tidegate: `models/` of a checkout, else the copy in the wheel."""
    package = Path(__file__).parent
    checkout = package.parent.parent / "models"
    return checkout if checkout.is_dir() else package / "_models"


class Settings(BaseSettings):
    """What `tidegate serve` takes; every field is a flag, a key of the TOML file and an environment variable."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )
    toml_path: ClassVar[Path | None] = None

    models: Path = Field(default_factory=default_models, description="folder of the model repository")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8001, ge=0, le=65_535, description="gRPC port; 0 picks a free one")
    http_port: int = Field(default=8002, ge=0, le=65_535, description="port of /metrics /livez /readyz; 0 picks one")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where states live and steps run")
    kernel: Literal["auto", "torch", "triton"] = Field(
        default="auto", description="what steps LSTMs on CUDA: triton, torch, or triton where it is installed and right"
    )
    tf32: bool = Field(default=False, description="round products on CUDA to TF32: faster, and exact to 1e-3 only")
    threads: int = Field(default=0, ge=0, le=256, description="threads of one step on CPU; 0: the number of cores")
    store: str = Field(
        default="memory", description="where checkpoints are kept: memory (none), sqlite:PATH or redis://HOST:PORT/DB"
    )
    durability: str = Field(
        default="interval",
        validate_default=False,  # it is taken without a store too, and is none then; what was asked for is not
        description="what outlives a crash: none, interval (all but the last second) or step (every answer); "
        "by model where it differs: interval,weather=step,words=none",
    )
    insecure: bool = Field(default=False, description="listen beyond loopback without TLS and auth")
    log_format: Literal["plain", "json"] = Field(default="plain", description="how log lines look")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")
    limits: Limits = Limits()

    @field_validator("store")
    @classmethod
    def _store_is_known(cls, value: str) -> str:
        if value.strip() == "memory":
            return "memory"
        return store_setting(value, besides="memory, ")

    @field_validator("durability")
    @classmethod
    def _durability_can_be_had(cls, value: str, info: ValidationInfo) -> str:
        asked = any(level is not Durability.NONE for level in _levels(value).values())
        if asked and info.data.get("store") == "memory":
            raise ValueError("needs a store, such as --store sqlite:PATH")
        return value

    def durability_of(self, model: str) -> Durability:
        """The level of a model's sessions; none without a store."""
        levels = _levels(self.durability)
        return Durability.NONE if self.store == "memory" else levels.get(model, levels.get("", Durability.INTERVAL))

    def models_named(self) -> list[str]:
        """The models that `durability` names."""
        return sorted(_levels(self.durability).keys() - {""})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file."""
        file = (
            TomlConfigSettingsSource(settings_cls, cls.toml_path)
            if cls.toml_path
            else InitSettingsSource(settings_cls, {})
        )
        return (init_settings, env_settings, file)


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Those that look like settings and are none, such as TIDEGATE_PROT. Names with a group in them are refused: they
    are nobody else's, as TIDEGATE_PORT_80_TCP is Kubernetes' for the ports of a Service."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES.keys()
    ours = {name: name.upper() for name in names if name.upper().startswith(PREFIX)}
    return sorted(name for name, upper in ours.items() if upper.partition(NESTED)[0] not in known)


def without_settings(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server that is started for a task of its own: settings, such as the store, are meant for the
    server that somebody runs, whose sessions it must not touch."""
    return {
        name: value
        for name, value in variables.items()
        if not name.upper().startswith(PREFIX) or name.upper() in OTHER_VARIABLES
    }


def check_variables(variables: Mapping[str, str]) -> None:
    """Raises ConfigError for what would be passed over: a setting in a group that is none, such as TIDEGATE_STORE__URL,
    and another word than those that the other variables take."""
    groups = {name.upper() for name, field in Settings.model_fields.items() if isinstance(field.default, BaseModel)}
    for name in sorted(variables):
        group, nested, _ = name.upper().removeprefix(PREFIX).partition(NESTED)
        if name.upper().startswith(PREFIX) and nested and group not in groups:
            raise ConfigError(f"{name}: {group} is no group of settings; tidegate serve --help names them")
    for name, words in OTHER_VARIABLES.items():
        if variables.get(name, "") not in ("", *words):
            raise ConfigError(f"{name}: must be {' or '.join(words)} (got {variables[name]!r})")


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings from flags (None: not given), environment and file; raises ConfigError, one line that names the key."""
    if config is not None and not config.is_file():
        raise ConfigError(f"--config {config}: there is no such file")
    check_variables(os.environ)
    source = type("Settings", (Settings,), {"toml_path": config})
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings: Settings = source(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        told = "" if key == "store" or first["type"] == "extra_forbidden" else f" (got {first['input']!r})"
        raise ConfigError(f"{key}: {first['msg']}{told}") from None  # a store is told of without its password
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None
    except ValueError as error:
        raise ConfigError(f"--config {config}: {error}") from None
    if settings.host not in LOOPBACK and not settings.insecure:
        raise ConfigError(f"host: {settings.host} is not loopback; add --insecure to listen there without TLS and auth")
    return settings
