"""The part of a recipe that says what the data is: where it lies, its times, its streams, its columns."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator, model_validator

from tidegate.model.frequency import Frequency
from tidegate.model.manifest import CATEGORIES_MAX, LAG_STEPS_MAX, LAGS_MAX, NAME_PATTERN

GENERATED, VEGA = "generated:", "vega:"


class Strict(BaseModel):
    """Unknown options, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _place(value: Any) -> datetime | float | int:
    """A moment (a date is its midnight), a share between 0 and 1, or a number of rows."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001  # its zone is the recipe's
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError("must be a date or time, a share between 0 and 1, or a number of rows from 1")


Place: TypeAlias = Annotated[datetime | float | int, PlainValidator(_place)]


def sorted_steps(steps: tuple[int, ...]) -> tuple[int, ...]:
    """Lags in the order of the manifest; raises ValueError."""
    if len(set(steps)) != len(steps) or any(not 1 <= step <= LAG_STEPS_MAX for step in steps):
        raise ValueError(f"lags must be different numbers of steps from 1 to {LAG_STEPS_MAX}")
    return tuple(sorted(steps))


class Data(Strict):
    """Where the observations come from: one row a step of a stream, or many streams told apart by an id."""

    source: str = Field(
        default="",
        description="a CSV or Parquet file (relative to the recipe), `vega:NAME` for data of vega_datasets, or "
        "`generated:NAME` for data of the introduction's models; not needed when a DataFrame is handed over",
    )
    separator: str = Field(default=",", min_length=1, max_length=1, description="between the cells of a CSV file")
    decimal: Literal[".", ","] = Field(default=".", description="the decimal sign of a CSV file")
    time: str = Field(
        default="", description="the column of times; without one, rows are in order and dated by their number"
    )
    time_format: str = Field(
        default="",
        description="how times are written, as strptime reads it; or `unix s` (ms, us, ns), numbers since 1970; found "
        "when empty: with dots the day is first, and where 01/02/2024 may be either in every row, it is asked for",
    )
    time_zone: str = Field(
        default="UTC",
        description="the zone of the calendar inputs, of the days, weeks and months between steps, and of times (and "
        "of dates in this recipe) that name no zone; of the two rows that a stream has of one time when clocks go "
        "back, the first is the earlier",
    )
    time_tolerance: float = Field(
        default=0.01,
        ge=0,
        le=0.5,
        description="how far from the grid a time may be, in intervals; rows every 24 h of UTC are for half of the "
        "year an hour (0.042 of a day) off the days of a time_zone whose clocks change",
    )
    id: str = Field(
        default="",
        description="the column that names a row's stream, by any word (NA too); without one, all rows are one stream",
    )
    frequency: str = Field(
        default="",
        description="the time between rows: s, 15min, h, D, W, MS (months, dated by any day of theirs; last days "
        "are followed by last days, 2023-02-28 by 03-31), …; a column of times needs it",
    )
    stamp: Literal["start", "end"] = Field(
        default="start", description="whether a time marks its interval's start or its end, which the calendar respects"
    )
    duplicates: Literal["refuse", "first", "last"] = Field(
        default="refuse", description="what becomes of two rows of one stream and time: an error, or which one is kept"
    )
    missing: tuple[str | float, ...] = Field(
        default=(), description="cells that mean a missing value, besides empty ones, NA, NaN and null; not of ids"
    )
    start: Place | None = Field(
        default=None, description="leave out what is before: a date, a share or a number of rows of the whole"
    )
    parts: Literal["time", "streams"] = Field(
        default="time",
        description="how training, validation and test part: by time, or by whole streams in their order, of which the "
        "places below are then a share or a number",
    )
    validation: Place = Field(
        default=0.7,
        description="training ends and validation begins here: a date, or a share or number of rows of what start and "
        "end leave; over all streams at once if there are times, else of each stream",
    )
    test: Place | None = Field(
        default=0.85, description="validation ends and the test begins here, in the same ways; the test decides nothing"
    )
    end: Place | None = Field(default=None, description="leave out what is from here on, in the ways of start")

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
        except (OSError, ValueError, KeyError):
            raise ValueError(f"there is no time zone {value!r}") from None
        return value

    @model_validator(mode="after")
    def _times_have_a_frequency(self) -> Data:
        if self.time and not self.frequency:
            raise ValueError("frequency: a column of times needs it: D, h, 15min, MS, …")
        places = (self.start, self.validation, self.test, self.end)
        if (not self.time or self.parts == "streams") and any(isinstance(place, datetime) for place in places):
            raise ValueError("without a column of times, or by streams, parts begin at a share or a number")
        return self

    @model_validator(mode="after")
    def _parts_follow_each_other(self) -> Data:
        for kind in (datetime, float, int):
            places = [place for place in (self.start, self.validation, self.test, self.end) if type(place) is kind]
            moments = [self.moment(place) if isinstance(place, datetime) else place for place in places]
            if any(later <= earlier for earlier, later in itertools.pairwise(moments)):  # type: ignore[operator]
                raise ValueError("start, validation, test and end must follow each other")
        return self

    @property
    def interval(self) -> Frequency:
        """The frequency, on the clocks of the time zone."""
        return Frequency.parse(self.frequency, self.time_zone)

    def moment(self, place: datetime) -> datetime:
        """The place in UTC."""
        return (place if place.tzinfo else place.replace(tzinfo=ZoneInfo(self.time_zone))).astimezone(UTC)


class Column(Strict):
    """One feature, or a text that becomes one feature a word."""

    name: str = Field(pattern=NAME_PATTERN, description="what clients call the feature")
    column: str = Field(default="", description="its column in the data; the name when empty")
    unit: str = Field(default="", description="of the feature; clients may send any that converts to it")
    role: Literal["target", "past", "future", "static"] = Field(
        default="target",
        description="target: predicted; past: only observed; future: known ahead, such as a price or a holiday (in the "
        "data it stands in the row of its own time); static: constant for a stream",
    )
    transform: Literal["none", "log1p"] = Field(
        default="none", description="before scaling; log1p is for amounts that are often small and sometimes large"
    )
    multiply: float = Field(
        default=1.0, description="from the data's unit to the feature's: what a client sends is so many times the cell"
    )
    minimum: float | None = Field(default=None, description="smaller cells count as missing (in the data's unit)")
    maximum: float | None = Field(default=None, description="larger cells count as missing (in the data's unit)")
    categories: tuple[str, ...] | Literal["auto"] = Field(
        default=(),
        description="the words of a covariate that the cell sees one-hot; auto: those of the training part",
    )
    vocabulary: tuple[str, ...] | Literal["auto"] = Field(
        default=(),
        description="the words of a text that is predicted by a categorical head, one feature each; auto: those of the "
        "training part",
    )
    input: bool = Field(default=True, description="false: the cell sees only what is derived from it, such as its lags")
    lags: tuple[int, ...] | None = Field(
        default=None, description="the lags of this feature; when left out, those of [inputs] for a target, else none"
    )
    scaling: Literal["package", "running", "instance"] | None = Field(
        default=None, description="when left out, that of [inputs] for a target, else package"
    )

    @field_validator("lags")
    @classmethod
    def _lags_increase(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return sorted_steps(value[: LAGS_MAX + 1]) if value else value

    @model_validator(mode="after")
    def _words_are_no_numbers(self) -> Column:
        for option, words, roles in (
            ("categories", self.categories, ("past", "future", "static")),
            ("vocabulary", self.vocabulary, ("target",)),
        ):
            if words and self.role not in roles:
                raise ValueError(f"{option}: are for {', '.join(roles)}; a {self.role} has none")
            if words != "auto" and (len(set(words)) != len(words) or len(words) > CATEGORIES_MAX):
                raise ValueError(f"{option}: must be different words, at most {CATEGORIES_MAX}")
        numeric = (self.transform != "none", self.multiply != 1.0, self.minimum, self.maximum, self.lags, self.scaling)
        if self.is_text and any(numeric):
            raise ValueError("words have no transform, multiply, minimum, maximum, lags or scaling")
        if self.multiply == 0:
            raise ValueError("multiply: must not be 0")
        return self

    @model_validator(mode="after")
    def _minimum_is_no_more_than_maximum(self) -> Column:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(
                f"minimum: is {self.minimum:g}, more than maximum, {self.maximum:g}; no value would be left"
            )
        return self

    @property
    def is_text(self) -> bool:
        """Whether its cells are words."""
        return bool(self.categories or self.vocabulary)

    @property
    def source(self) -> str:
        """Its column in the data."""
        return self.column or self.name
