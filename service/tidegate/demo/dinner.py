"""The dinner's demo: two weeks with late meetings and unknown dinners, then a forecast of the next week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.client import AsyncClient
from tidegate.demo.stage import Stage
from tidegate.training.generated import DINNERS, SUNDAY, dinners

MODEL = "dinner"
START = np.datetime64("2026-03-02")  # a Monday
SHOWN, AHEAD = 14, 7  # days
LATE = (2, 8, 9, 17)  # days of late meetings, counted from START
UNKNOWN = (4, 5, 10, 11, 12)  # days whose dinner nobody wrote down
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
RULE = (
    "Pizza, burger, fries, and again. Sundays and days with a late meeting are pizza whatever comes next, and the "
    "cycle waits; a day whose dinner is unknown is bridged by what had been predicted for it."
)


@dataclass(frozen=True)
class Diary:
    """Days in a row: `dates` datetime64[D], and of each the weekday, whether it has a late meeting, and the dinner."""

    dates: NDArray[np.datetime64]
    weekdays: NDArray[np.int64]
    late: NDArray[np.bool_]
    dinner: NDArray[np.int64]

    def words(self, day: int) -> list[str]:
        """A day as it is shown: its date and what it is special for."""
        special = "Sunday" if self.weekdays[day] == SUNDAY else "late meeting" if self.late[day] else ""
        return [f"{WEEKDAYS[self.weekdays[day]]} {self.dates[day]}", special]


def diary() -> Diary:
    """The days of the demo, those of the forecast included."""
    dates = START + np.arange(SHOWN + AHEAD)
    weekdays = (dates.astype(np.int64) + 3) % 7
    late = np.isin(np.arange(len(dates)), LATE)
    return Diary(dates, weekdays, late, dinners(weekdays, late))


def one_hot(dinner: int | None) -> dict[str, float | None]:
    """A dinner as the model takes it; all values missing where it is unknown."""
    return {name: None if dinner is None else float(place == dinner) for place, name in enumerate(DINNERS)}


async def show(client: AsyncClient, stage: Stage) -> bool:
    """Both weeks, then the next; whether every dinner but the first was foretold."""
    days = diary()
    stage.say(f"dinner: {RULE}")
    stage.title("Two weeks, each day's dinner as it was predicted the day before")
    session = client.session(MODEL, "household")
    said: list[int] = []
    rows, right = [], True
    for day in range(SHOWN):
        predicted = said[-1] if said else None
        true, unknown = int(days.dinner[day]), day in UNKNOWN
        right &= predicted in (None, true)
        rows.append([*days.words(day), _word(predicted), DINNERS[true], _remark(predicted, true, unknown)])
        late = {"late_meeting": float(days.late[day + 1])}
        prediction = await session.step(one_hot(None if unknown else true), time=days.dates[day], future=late)
        said.append(int(np.argmax(prediction.values)))
    stage.table(("day", "", "predicted", "dinner", ""), rows)
    ahead = days.late[SHOWN + 1 :, np.newaxis].astype(np.float64)  # of the second day ahead and on
    forecast = await session.forecast(AHEAD, future=ahead)
    return _week(days, forecast.values.argmax(axis=1).tolist(), stage) and right


def _week(days: Diary, forecast: Sequence[int], stage: Stage) -> bool:
    """The next week as it was forecast, and whether it will be so."""
    stage.title("The next week, forecast on the last evening; late meetings are in the diary already")
    true = days.dinner[SHOWN:].tolist()
    marks = [
        "" if said == dinner else f"<- wrong: {DINNERS[dinner]}" for said, dinner in zip(forecast, true, strict=True)
    ]
    rows = [[*days.words(SHOWN + day), DINNERS[said], marks[day]] for day, said in enumerate(forecast)]
    stage.table(("day", "", "forecast", ""), rows)
    return bool(list(forecast) == true)


def _word(dinner: int | None) -> str:
    return "–" if dinner is None else DINNERS[dinner]


def _remark(predicted: int | None, true: int, unknown: bool) -> str:
    if predicted is not None and predicted != true:
        return "<- wrong"
    return "nobody wrote it down: the prediction stands in" if unknown else ""
