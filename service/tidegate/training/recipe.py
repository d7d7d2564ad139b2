"""The recipe of a model: a TOML file that says which data, which inputs, which network and which training.

Every option has a name and a default here; a wrong one is refused with its path. `docs/recipes.md` explains them all.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from tidegate.errors import ConfigError
from tidegate.model import manifest
from tidegate.model.manifest import (
    CALENDAR_SIZES,
    HIDDEN_MAX,
    LAYERS_MAX,
    NAME_PATTERN,
    REPLAY_STEPS_MAX,
    REWIND_STEPS_MAX,
    CalendarInput,
)
from tidegate.training.data_options import Column, Data, Strict, sorted_steps

LEVELS = (0.1, 0.5, 0.9)


class Inputs(Strict):
    """What the cell sees besides the features themselves, and how targets are scaled."""

    lags: tuple[int, ...] = Field(
        default=(), description="of every target: its differences to its own values so many steps ago"
    )
    calendar: tuple[str, ...] = Field(
        default=(),
        max_length=8,
        description=f"of the predicted step: {', '.join(CALENDAR_SIZES)}; as sine and cosine, or with `:one_hot`",
    )
    ids: bool | tuple[str, ...] = Field(
        default=False, description="the cell knows the streams of the training part (or those named) by their ids"
    )
    ages: bool = Field(
        default=False,
        description="the cell sees whether each target is missing, and for how many steps by now: for models that "
        "bridge gaps or forecast far; train them with gaps (training.gap_share)",
    )
    feedback: bool = Field(default=False, description="the cell sees its own last prediction")
    channel_independent: bool = Field(
        default=False, description="one set of weights for all targets, each with a state of its own"
    )
    scaling: Literal["package", "running", "instance"] = Field(
        default="package",
        description="of targets: by the training part; or by each session's running root mean square, or running mean "
        "and standard deviation, for streams of very different size",
    )
    scaling_window: int = Field(
        default=1_000, ge=2, le=10_000_000, description="the memory of scaling by session, in steps"
    )

    @field_validator("lags")
    @classmethod
    def _lags_increase(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return sorted_steps(value)

    @field_validator("calendar")
    @classmethod
    def _calendar_is_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            field, _, encoding = entry.partition(":")
            if field not in CALENDAR_SIZES or encoding not in ("", "cyclic", "one_hot"):
                raise ValueError(f"{entry!r} is none of {', '.join(CALENDAR_SIZES)}, with :cyclic or :one_hot")
        return value

    def calendar_inputs(self) -> tuple[CalendarInput, ...]:
        """The manifest's entries."""
        entries = (entry.partition(":") for entry in self.calendar)
        return tuple(
            CalendarInput.model_validate({"field": field, "encoding": encoding or "cyclic"})
            for field, _, encoding in entries
        )


class Head(Strict):
    """From the hidden state to predictions: linear, or a small network."""

    kind: Literal["regression", "quantile", "categorical"] = Field(
        default="regression", description="values, their quantiles, or the probabilities of a vocabulary's words"
    )
    levels: tuple[float, ...] = Field(
        default=(), description="of a quantile head, 0.5 among them; 0.1, 0.5 and 0.9 when left out"
    )
    output: Literal["level", "change"] = Field(
        default="level", description="change: what is predicted is the difference to the last value"
    )
    hidden: tuple[int, ...] = Field(default=(), description="widths of hidden layers; linear when empty")
    activation: Literal["relu", "tanh"] = Field(default="relu", description="of the hidden layers")

    @model_validator(mode="after")
    def _fits_the_manifest(self) -> Head:
        manifest.Head.model_validate(self.manifest_fields())
        return self

    def manifest_fields(self) -> dict[str, Any]:
        """The manifest's head, without what is measured."""
        levels = self.levels or (LEVELS if self.kind == "quantile" else ())
        return self.model_dump() | {"levels": levels}


class Network(Strict):
    """What is trained: a cell that torch has, stacked, and a head."""

    cell: Literal["lstm", "gru", "rnn_tanh"] = Field(default="lstm", description="the recurrent cell")
    layers: int = Field(default=1, ge=1, le=LAYERS_MAX, description="cells on top of each other")
    hidden_size: int = Field(default=32, ge=1, le=HIDDEN_MAX, description="of each layer")
    recurrent: bool = Field(
        default=True, description="false (rnn_tanh alone): weight_hh stays 0, and all memory is what inputs bring back"
    )
    head: Head = Field(default=Head(), description="[network.head]")

    @model_validator(mode="after")
    def _only_rnn_tanh_forgets(self) -> Network:
        if not self.recurrent and self.cell != "rnn_tanh":
            raise ValueError("recurrent: only rnn_tanh can be without its recurrence")
        return self


class GapOptions(Strict):
    """What a session of the served model does about missing steps and values, and what training does to prepare it."""

    policy: Literal["refuse", "impute"] = Field(
        default="refuse", description="missing steps are refused, or bridged by the model's own predictions"
    )
    gap_steps_max: int = Field(default=0, ge=0, le=1000, description="most steps that are bridged at once")
    missing_steps_max: int = Field(
        default=24, ge=0, le=65_000, description="a value missing for more steps in a row is flagged as stale"
    )
    time_tolerance: float = Field(
        default=0.5,
        gt=0,
        le=0.5,
        description="how far from the grid an observation's time may be, in intervals; once clocks change, a "
        "small one refuses a feed of every 24 h of UTC, which is an hour off the days of data.time_zone then",
    )

    @model_validator(mode="after")
    def _fits_the_manifest(self) -> GapOptions:
        manifest.Gaps.model_validate(self.model_dump())
        return self


class Training(Strict):
    """How it is trained. Each update runs `truncation` steps of `streams` contiguous stretches of the training part.

    A stretch starts at random, from zero state (with the history that lags need), and is `stretch` steps long; its
    state is carried from update to update. An epoch is as many stretches as cover the training part once.
    """

    loss: Literal["huber", "l1", "mse"] = Field(
        default="huber", description="of a regression head; quantile and categorical heads have their own"
    )
    huber_delta: float = Field(default=1.0, gt=0, description="where Huber turns from squares to lines, scaled units")
    epochs: int = Field(default=100, ge=1, le=1_000_000, description="the learning rate falls to 0 over so many")
    seconds_max: float = Field(
        default=600.0,
        gt=0,
        description="the fit ends here, whatever the epoch; so does the refit, which may take as long again",
    )
    streams: int = Field(default=8, ge=1, le=65_536, description="stretches an update, side by side")
    stretch: int = Field(
        default=90, ge=1, description="steps that a state is carried; no more than a stream has is used"
    )
    truncation: int = Field(default=24, ge=1, description="steps that gradients flow back")
    learning_rate: float = Field(default=3e-3, gt=0, description="AdamW; warm-up over a tenth, then cosine to 0")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the hidden state that the head sees")
    gradient_norm_max: float = Field(default=1.0, gt=0, description="longer gradients are shortened to it")
    average: float = Field(default=0.99, ge=0, lt=1, description="decay of the weights' moving average; it is kept")
    gap_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of training steps taken away in blocks and bridged by the model's own predictions, so that it "
        "learns to forecast and to bridge gaps",
    )
    gap_steps: int = Field(default=24, ge=1, le=10_000, description="the longest such block; lengths are even from 1")
    gap_batches: float = Field(
        default=1.0, gt=0, le=1, description="share of batches that have such blocks; they take several times as long"
    )
    patience: int = Field(default=50, ge=1, description="epochs without a better validation before training stops")
    refit: bool = Field(default=True, description="train again on training and validation, for the best epochs")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of weights, stretches, dropout and gaps")
    checkpoint_seconds: float = Field(
        default=10.0, ge=0, description="at least so long between checkpoints, from which a killed training resumes"
    )


class MemoryOptions(Strict):
    """What a session keeps beside its state; each costs memory a session."""

    rewind_steps: int = Field(default=0, ge=0, le=REWIND_STEPS_MAX, description="states kept, to go back to")
    lateness_steps: int = Field(
        default=0,
        ge=0,
        le=REWIND_STEPS_MAX,
        description="how many steps late an observation may come, or be corrected; at most `rewind_steps`",
    )
    replay_steps: int = Field(
        default=0,
        ge=0,
        le=REPLAY_STEPS_MAX,
        description="observations kept, so that a session can move to a version that remembers otherwise",
    )


class Recipe(Strict):
    """The whole file. Build it with `load_recipe`, or from Python's own values with `make_recipe`."""

    name: str = Field(pattern=NAME_PATTERN, description="of the model, and of its folder")
    description: str = Field(default="", description="one line for people")
    data: Data = Field(default=Data(), description="[data]")
    features: tuple[Column, ...] = Field(
        min_length=1, description="[[features]], one a feature, in the order in which clients may send them"
    )
    inputs: Inputs = Field(default=Inputs(), description="[inputs]")
    network: Network = Field(default=Network(), description="[network]")
    gaps: GapOptions = Field(
        default=GapOptions(), description="[gaps]: what a session does about missing steps and values"
    )
    memory: MemoryOptions = Field(default=MemoryOptions(), description="[memory]: what a session keeps to go back to")
    training: Training = Field(default=Training(), description="[training]")

    _folder: Path = PrivateAttr(default=Path())
    _sha256: str = PrivateAttr(default="")

    def model_post_init(self, context: Any) -> None:
        if context:
            self._folder, self._sha256 = context["folder"], context["sha256"]

    @property
    def folder(self) -> Path:
        """Where the file lies; relative paths in it start there."""
        return self._folder

    @property
    def sha256(self) -> str:
        """Of the file's bytes: what provenance names it by."""
        return self._sha256

    @model_validator(mode="after")
    def _features_fit_the_head(self) -> Recipe:
        names = [column.name for column in self.features]
        if len(set(names)) != len(names):
            raise ValueError("features: two have the same name")
        targets = [column for column in self.features if column.role == "target"]
        if not targets:
            raise ValueError("features: one at least must have the role target")
        texts = [column.name for column in targets if column.vocabulary]
        if texts and (len(targets) > 1 or self.network.head.kind != "categorical"):
            raise ValueError(f"features: {texts[0]}: a vocabulary is the only target, of network.head.kind categorical")
        return self

    @model_validator(mode="after")
    def _inputs_have_what_they_need(self) -> Recipe:
        if self.inputs.ids and not self.data.id:
            raise ValueError("inputs.ids: needs data.id, the column that names a row's stream")
        if self.inputs.calendar and not self.data.frequency:
            raise ValueError("inputs.calendar: needs data.frequency")
        if self.network.head.kind == "categorical" and self.inputs.channel_independent:
            raise ValueError("inputs.channel_independent: a vocabulary cannot be")
        return self


def load_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe; raises ConfigError with the path of the wrong option."""
    try:
        content = path.read_bytes()
        options = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from None
    return _checked(options, str(path), {"folder": path.parent, "sha256": hashlib.sha256(content).hexdigest()})


def make_recipe(options: Mapping[str, Any], folder: Path = Path()) -> Recipe:
    """A recipe from Python's own values, named as in the file; raises ConfigError with the path of the wrong option.

    Relative paths start at `folder`.
    """
    digest = hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()
    return _checked(options, "recipe", {"folder": folder, "sha256": digest})


def _checked(options: Mapping[str, Any], origin: str, context: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(options, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{origin}: {field}: {message}" if field else f"{origin}: {message}") from None
