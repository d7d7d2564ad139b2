"""The recipe of a model: a TOML file that says which data, which network and which training.

Every option has a name and a default here; a wrong one is refused with its path. Dates mark where a part of the data
begins: training, then validation, then test. The test part is only ever measured.
"""

from __future__ import annotations

import hashlib
import itertools
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from tidegate.errors import ConfigError
from tidegate.model.manifest import HIDDEN_MAX, LAYERS_MAX, NAME_PATTERN


def _in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]  # a date is its midnight; without a zone, UTC


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(_Strict):
    """Where the observations come from: one stream, one row a step, in order, none missing."""

    source: str = Field(description="a CSV file (relative to the recipe), or vega:NAME for one that vega_datasets has")
    time: str = Field(description="the column of times")
    frequency: str = Field(description="the time between rows: D, h, 15min, MS, …")
    start: Moment | None = Field(default=None, description="leave out what is before")
    validation: Moment = Field(description="training ends and validation begins here")
    test: Moment = Field(description="validation ends and the test begins here")
    end: Moment | None = Field(default=None, description="leave out what is from here on")

    @model_validator(mode="after")
    def _parts_follow_each_other(self) -> Data:
        moments = [moment for moment in (self.start, self.validation, self.test, self.end) if moment]
        if any(later <= earlier for earlier, later in itertools.pairwise(moments)):
            raise ValueError("start, validation, test and end must follow each other")
        return self


class Column(_Strict):
    """One feature: a column of the data. `log1p` is for amounts such as rain."""

    name: str = Field(pattern=NAME_PATTERN)
    unit: str = ""
    role: Literal["target", "past"] = "target"
    transform: Literal["none", "log1p"] = "none"


class Network(_Strict):
    """What is trained: a cell that torch has, stacked, and a linear head."""

    cell: Literal["lstm", "gru", "rnn_tanh"] = "lstm"
    layers: int = Field(default=1, ge=1, le=LAYERS_MAX)
    hidden_size: int = Field(default=32, ge=1, le=HIDDEN_MAX)


class Training(_Strict):
    """How it is trained. Each update runs `truncation` steps of `streams` contiguous stretches of the training part.

    A stretch starts at random, from zero state, and is `stretch` steps long; its state is carried from update to
    update. An epoch is as many stretches as cover the training part once.
    """

    loss: Literal["huber", "l1"] = "huber"
    huber_delta: float = Field(default=1.0, gt=0, description="where Huber turns from squares to lines, scaled units")
    epochs: int = Field(default=100, ge=1, le=1_000_000)
    seconds_max: float = Field(default=600.0, gt=0, description="training ends here, whatever the epoch")
    streams: int = Field(default=8, ge=1, le=65_536)
    stretch: int = Field(default=90, ge=1, description="steps; no more than the training part has")
    truncation: int = Field(default=24, ge=1, description="steps that gradients flow back")
    learning_rate: float = Field(default=3e-3, gt=0, description="AdamW; warm-up over a tenth, then cosine to 0")
    weight_decay: float = Field(default=0.01, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the hidden state that the head sees")
    gradient_norm_max: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.99, ge=0, lt=1, description="decay of the weights' moving average; it is kept")
    patience: int = Field(default=50, ge=1, description="epochs without a better validation before training stops")
    refit: bool = Field(default=True, description="train again on training and validation, for the best epochs")
    seed: int = Field(default=0, ge=0, lt=2**32)


class Recipe(_Strict):
    """The whole file. Build it with `load_recipe`."""

    name: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    data: Data
    features: tuple[Column, ...] = Field(min_length=1)
    network: Network = Network()
    training: Training = Training()

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


def load_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe; raises ConfigError with the path of the wrong option."""
    try:
        content = path.read_bytes()
        origin = {"folder": path.parent, "sha256": hashlib.sha256(content).hexdigest()}
        return Recipe.model_validate(tomllib.loads(content.decode()), context=origin)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {field}: {first['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from None
