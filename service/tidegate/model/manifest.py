"""The content of `model.json`: what a model's numbers mean, checked field by field.

Features are what clients send. Derived inputs (lags, calendar, …) are computed by the server from them and from what
the session remembers; `model/inputs.py` says how, and in which order the cell sees them all.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tidegate.model.frequency import Frequency

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
FEATURES_MAX, HIDDEN_MAX, LAYERS_MAX = 4096, 4096, 16
TARGET_ROLES = ("target", "output")
REWIND_STEPS_MAX = REPLAY_STEPS_MAX = 1_000
LAG_STEPS_MAX, LAGS_MAX = 10_000, 256
CATEGORIES_MAX, IDS_MAX, LEVELS_MAX, HEAD_LAYERS_MAX = 4096, 65_536, 99, 4
AGE_COLUMNS = 2  # a target; see `model/ages.py`


class Strict(BaseModel):
    """Unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scaling(Strict):
    """Raw to training units, in float64.

    `package`: (transform(x) - center) / scale. `running` and `instance` are by session, for streams of one model whose
    sizes differ: transform(x) is divided by its running root mean square, or has its running mean taken off and is
    divided by its running standard deviation (reversible instance normalisation, Kim et al. 2022, made causal).
    `log1p` is sign(x) log(1 + |x|), for amounts such as rain.
    """

    by: Literal["package", "running", "instance"] = "package"
    transform: Literal["none", "log1p"] = "none"
    center: float = 0.0
    scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _session_scaling_has_no_constants(self) -> Scaling:
        if self.by != "package" and (self.center, self.scale) != (0.0, 1.0):
            raise ValueError("center and scale belong to scaling by package")
        return self


class Feature(Strict):
    """One input: its name and unit as clients send it, its role and its scaling.

    Roles: a target is predicted, a past covariate is only observed, a future covariate is known ahead (its value is
    that of the step that is predicted), a static one belongs to the session (sent once; NaN afterwards keeps it), an
    output is a target that the cell does not see and that clients do not send.
    With `categories` a value is the number of one of them, from 0, and the cell sees it one-hot; all zeros when it is
    none of them. `input` false: the cell does not see the value itself, only what is derived from it.
    """

    name: str = Field(pattern=NAME_PATTERN)
    unit: str = ""
    role: Literal["target", "past", "future", "static", "output"] = "target"
    scaling: Scaling = Scaling()
    categories: tuple[str, ...] = Field(default=(), max_length=CATEGORIES_MAX)
    input: bool = True

    @model_validator(mode="after")
    def _categories_are_no_numbers(self) -> Feature:
        if self.categories and (self.role in TARGET_ROLES or self.scaling != Scaling()):
            raise ValueError("categories have no scaling and are no target; a categorical head's targets are one-hot")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("two categories have the same name")
        return self

    @property
    def width(self) -> int:
        """Columns that the cell sees of it."""
        return (len(self.categories) or 1) if self.input and self.role != "output" else 0


class Lags(Strict):
    """Differences of one feature to its own past: (transform(x_t) - transform(x_{t-k})) / s, in float64, and 0 while
    the session has no k steps of history. `scales` is s for each of `steps`, times the session's own scale if the
    feature has one."""

    feature: str
    steps: tuple[int, ...] = Field(min_length=1, max_length=LAGS_MAX)
    scales: tuple[float, ...]

    @model_validator(mode="after")
    def _steps_increase(self) -> Lags:
        if self.steps[0] < 1 or self.steps[-1] > LAG_STEPS_MAX or any(b <= a for a, b in pairwise(self.steps)):
            raise ValueError(f"steps must increase, from 1 to {LAG_STEPS_MAX}")
        if len(self.scales) != len(self.steps) or min(self.scales) <= 0:
            raise ValueError("scales must be positive, one a step")
        return self


class CalendarInput(Strict):
    """One field of the time of the predicted step, as sine and cosine of its place in the cycle, or one-hot."""

    field: Literal["hour_of_day", "day_of_week", "day_of_month", "day_of_year", "month_of_year"]
    encoding: Literal["cyclic", "one_hot"] = "cyclic"


class Head(Strict):
    """From the last layer's hidden state to the outputs: linear, or an MLP with the widths in `hidden`.

    regression: one output a target. quantile: one a target and level, of which 0.5 must be one. categorical: the
    targets are a vocabulary, one-hot in, probabilities (softmax) out. `output` `change`: what is predicted is the
    change of the transformed value, in units of `change_scales` (one a target; 1 when empty) and of the session's
    scale if it has one. `residual_std`: of one-step errors of a regression head in its own units, one a target; sample
    paths need it.
    """

    kind: Literal["regression", "quantile", "categorical"] = "regression"
    levels: tuple[float, ...] = Field(default=(), max_length=LEVELS_MAX)
    output: Literal["level", "change"] = "level"
    change_scales: tuple[float, ...] = ()
    residual_std: tuple[float, ...] = ()
    hidden: tuple[int, ...] = Field(default=(), max_length=HEAD_LAYERS_MAX)
    activation: Literal["relu", "tanh"] = "relu"

    @model_validator(mode="after")
    def _levels_are_a_quantile_heads(self) -> Head:
        if (self.kind == "quantile") != bool(self.levels):
            raise ValueError("levels belong to a quantile head, and it needs them")
        if self.levels and (0.5 not in self.levels or not self.levels[0] > 0 or not self.levels[-1] < 1):
            raise ValueError("levels must lie between 0 and 1, and 0.5 must be one of them")
        if any(b <= a for a, b in pairwise(self.levels)):
            raise ValueError("levels must increase")
        if self.kind == "categorical" and self.output == "change":
            raise ValueError("a categorical head has no change")
        if any(width < 1 or width > HIDDEN_MAX for width in self.hidden):
            raise ValueError(f"hidden widths must be from 1 to {HIDDEN_MAX}")
        if min((*self.change_scales, *self.residual_std), default=1.0) <= 0:
            raise ValueError("change_scales and residual_std must be positive")
        return self

    @property
    def width(self) -> int:
        """Outputs a target."""
        return len(self.levels) or 1

    def in_order(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Outputs [n, targets x width] as [n, targets, width], the levels of each target in order: quantiles that cross
        are no distribution (Chernozhukov et al. 2010, doi:10.3982/ECTA7880)."""
        rows, width = outputs.shape
        return np.sort(outputs.reshape(rows, width // self.width, self.width), axis=2)

    @property
    def drawable(self) -> bool:
        """Whether it says how sure it is, so that sample paths can be drawn."""
        return self.kind != "regression" or bool(self.residual_std)

    @cached_property
    def intervals(self) -> dict[float, tuple[float, float]]:
        """The levels that bound an interval around the median, by its coverage."""
        pairs = ((low, high) for low, high in zip(self.levels, reversed(self.levels), strict=True) if low < high)
        return {round(high - low, 9): (low, high) for low, high in pairs if abs(low + high - 1) < 1e-9}


class Gaps(Strict):
    """What a session does about missing steps, missing values and times off the grid.

    `time_tolerance` is in intervals: how far from a whole number of intervals after the last observation a time may be.
    """

    policy: Literal["refuse", "impute"] = "refuse"
    gap_steps_max: int = Field(default=0, ge=0, le=1000)
    missing_steps_max: int = Field(default=24, ge=0, le=65_000)
    time_tolerance: float = Field(default=0.5, gt=0, le=0.5)

    @model_validator(mode="after")
    def _impute_needs_a_limit(self) -> Gaps:
        if self.policy == "impute" and not self.gap_steps_max:
            raise ValueError("policy 'impute' needs gap_steps_max of at least 1")
        return self


class GraphState(Strict):
    """One state of a foreign graph: the names of its input and output, its shape, and which axis of it is the batch.

    `shape` is float32 and leaves the batch axis out: (1, 64) with `batch_axis` 1 is [1, batch, 64].
    """

    input: str
    output: str
    shape: tuple[int, ...]
    batch_axis: int = Field(default=0, ge=0)


class Graph(Strict):
    """A foreign ONNX graph (`graph.onnx`): one step of any recurrent network, its states declared.

    `input` takes the inputs as [batch, width] or, `sequence_axis` given, with an axis of length 1 inserted there;
    `output` gives [batch, outputs], with the same axis if `output_sequence_axis` is given.
    """

    input: str
    output: str
    states: tuple[GraphState, ...] = Field(min_length=1, max_length=64)
    sequence_axis: int | None = Field(default=None, ge=0, le=2)
    output_sequence_axis: int | None = Field(default=None, ge=0, le=2)


class Manifest(Strict):
    """The content of `model.json`.

    `hidden_activation` is what the equations of rnn_tanh and gru call tanh of the new state, and in LSTMs the tanh of
    h = o*tanh(c): with identity, h = o*c, and the candidate keeps its tanh. `gru_reset` matters to gru alone: before
    or after the product with h (`after` is torch.nn.GRU). `cell` "onnx" is a foreign `graph` with its head inside.
    Derived inputs: `lags`; `calendar`, in `time_zone`; `ids`, session ids that the cell knows one-hot (all zeros for
    any other); `ages`, whether a target is missing and for how long by now (`model/ages.py`); `feedback`, the last
    prediction in training units (zeros before there is one). `channel_independent`:
    one set of weights, and each target its own row of state (`model/inputs.py`). `scaling_window` is the memory of
    scaling by session, in steps. `rewind_steps`: how many steps back a session can be taken; each costs as much memory
    as the session itself. `lateness_steps`, at most `rewind_steps`: how many of its last observations are stepped again
    for one that comes late, or corrects one of them. `replay_steps`: how many of its last observations a session keeps,
    so that it can be moved to a version of another state shape by taking them there. Of each one that is kept, for
    either, 8 bytes a feature and 17 more.
    """

    format: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    features: tuple[Feature, ...] = Field(min_length=1, max_length=FEATURES_MAX)
    targets: tuple[str, ...] = Field(min_length=1, max_length=FEATURES_MAX)
    lags: tuple[Lags, ...] = Field(default=(), max_length=FEATURES_MAX)
    calendar: tuple[CalendarInput, ...] = Field(default=(), max_length=8)
    ids: tuple[str, ...] = Field(default=(), max_length=IDS_MAX)
    ages: bool = False
    feedback: bool = False
    channel_independent: bool = False
    scaling_window: int = Field(default=1_000, ge=2, le=10_000_000)
    cell: Literal["lstm", "lstm_peephole", "rnn_tanh", "gru", "onnx"] = "lstm"
    hidden_activation: Literal["tanh", "identity"] = "tanh"
    gru_reset: Literal["before", "after"] = "after"
    layers: int = Field(default=1, ge=1, le=LAYERS_MAX)
    hidden_size: int = Field(default=0, ge=0, le=HIDDEN_MAX)
    graph: Graph | None = None
    head: Head = Head()
    frequency: str = ""
    time_zone: str = "UTC"
    stamp: Literal["start", "end"] = "start"
    gaps: Gaps = Gaps()
    rewind_steps: int = Field(default=0, ge=0, le=REWIND_STEPS_MAX)
    lateness_steps: int = Field(default=0, ge=0, le=REWIND_STEPS_MAX)
    replay_steps: int = Field(default=0, ge=0, le=REPLAY_STEPS_MAX)
    metrics: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("frequency")
    @classmethod
    def _frequency_is_known(cls, value: str) -> str:
        Frequency.parse(value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _time_zone_is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
            raise ValueError(f"{value!r} is not a time zone") from None
        except KeyError:
            raise ValueError(f"there is no time zone {value!r}") from None
        return value

    @model_validator(mode="after")
    def _targets_are_features(self) -> Manifest:
        roles = {feature.name: feature.role for feature in self.features}
        if len(roles) != len(self.features):
            raise ValueError("features: two features have the same name")
        marked = [name for name, role in roles.items() if role in TARGET_ROLES]
        if len(set(self.targets)) != len(self.targets) or sorted(marked) != sorted(self.targets):
            raise ValueError(f"targets: must name each feature of role 'target' or 'output' once ({', '.join(marked)})")
        if "output" in roles.values() and (self.head.output == "change" or self.channel_independent):
            raise ValueError("features: an output is never seen, so no change of it is predicted, and it is no channel")
        if "output" in roles.values() and self.ages:
            raise ValueError("ages: an output is never observed, and has none")
        return self

    @model_validator(mode="after")
    def _derived_inputs_fit(self) -> Manifest:
        lagged = [lags.feature for lags in self.lags]
        numbers = [feature.name for feature in self.features if not feature.categories and feature.role != "output"]
        if len(set(lagged)) != len(lagged) or not set(lagged) <= set(numbers):
            raise ValueError("lags: each must name a different feature that is a number")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("ids: two are the same")
        for name in ("change_scales", "residual_std"):
            if len(getattr(self.head, name)) not in (0, len(self.targets)):
                raise ValueError(f"head.{name}: must be one a target")
        if (self.cell == "onnx") != (self.graph is not None):
            raise ValueError("graph: belongs to cell 'onnx', and it needs one")
        if (self.hidden_size == 0) != (self.cell == "onnx") or (self.graph and self.head.hidden):
            raise ValueError("hidden_size: every cell has one but 'onnx', whose graph holds everything")
        return self

    @model_validator(mode="after")
    def _channels_are_alike(self) -> Manifest:
        if not self.channel_independent:
            return self
        lagged = [lags.feature for lags in self.lags]
        of_targets = {lags.steps for lags in self.lags if lags.feature in self.targets}
        missing = set(self.targets) - set(lagged) if of_targets else set()
        if len(of_targets) > 1 or missing:
            raise ValueError("lags: in a channel-independent model all targets have the same steps, or none has any")
        if len({feature.input for feature in self.features if feature.role == "target"}) > 1:
            raise ValueError("features: in a channel-independent model all targets are inputs, or none is")
        if self.head.kind == "categorical":
            raise ValueError("head: a vocabulary cannot be channel-independent")
        return self

    @model_validator(mode="after")
    def _late_steps_can_be_taken_back(self) -> Manifest:
        if self.lateness_steps > self.rewind_steps:
            raise ValueError(
                f"lateness_steps: {self.lateness_steps} is more than rewind_steps, {self.rewind_steps}; a session is "
                "taken back to take an observation that comes late"
            )
        return self

    @cached_property
    def kept_steps(self) -> int:
        """How many of its last observations a session keeps."""
        return max(self.lateness_steps, self.replay_steps)

    @cached_property
    def channels(self) -> int:
        """Rows of recurrent state a session: one, or one a target."""
        return len(self.targets) if self.channel_independent else 1

    @cached_property
    def input_width(self) -> int:
        """Values that the cell sees a row."""
        of_targets = {feature.name: feature.width for feature in self.features if feature.name in self.targets}
        lag_counts = {lags.feature: len(lags.steps) for lags in self.lags}
        width = sum(feature.width for feature in self.features) + sum(lag_counts.values())
        if self.channel_independent:  # of the targets' columns, each channel sees its own
            own = sum(of_targets.values()) + sum(count for name, count in lag_counts.items() if name in of_targets)
            width += own // self.channels - own + self.channels
        feedback = self.head.width * len(self.targets) // self.channels if self.feedback else 0
        return width + self.calendar_width + len(self.ids) + self.age_width // self.channels + feedback

    @cached_property
    def calendar_width(self) -> int:
        """Columns that the calendar inputs take."""
        return sum(CALENDAR_SIZES[entry.field] if entry.encoding == "one_hot" else 2 for entry in self.calendar)

    @cached_property
    def age_width(self) -> int:
        """Columns of all age inputs; of a channel-independent model, each channel sees its own."""
        pairs = 1 if self.head.kind == "categorical" else len(self.targets)
        return AGE_COLUMNS * pairs if self.ages else 0

    @cached_property
    def lag_steps_max(self) -> int:
        """The furthest lag, in steps; 0 without any."""
        return max((lags.steps[-1] for lags in self.lags), default=0)

    @cached_property
    def outputs(self) -> int:
        """Values of one reply: targets, or targets times levels (a target's levels lie together)."""
        return len(self.targets) * self.head.width

    @cached_property
    def sent(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Which features a client sends as an observation's values, in order; future covariates come beside them."""
        return np.flatnonzero([feature.role not in ("future", "output") for feature in self.features])

    @cached_property
    def future(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Which features are future covariates."""
        return np.flatnonzero([feature.role == "future" for feature in self.features])

    @cached_property
    def point_indices(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Where the point estimates stand among the outputs: one a target, a quantile head's median."""
        median = self.head.levels.index(0.5) if self.head.levels else 0
        return np.arange(len(self.targets), dtype=np.intp) * self.head.width + median


CALENDAR_SIZES = {"hour_of_day": 24, "day_of_week": 7, "day_of_month": 31, "day_of_year": 366, "month_of_year": 12}
