"""The demo of `weather-us`: one day of five figures in, tomorrow's in the same units out."""

from __future__ import annotations

import math

import numpy as np

from tidegate.client import AsyncClient, Prediction
from tidegate.demo.stage import Stage

MODEL = "weather-us"
TODAY = {"high": 67.0, "low": 43.0, "wind": 13.0, "precipitation": 0.25, "humidity": 83.0}
DAY = np.datetime64("2026-04-15")
POSSIBLE = {"high": (-20, 115), "low": (-30, 95), "wind": (0, 60), "precipitation": (0, 10), "humidity": (5, 100)}


def sentence(day: dict[str, float]) -> str:
    """Five figures as a weather report says them."""
    return (
        f"High {day['high']:.0f} F, low {day['low']:.0f} F, wind {day['wind']:.0f} mph, "
        f"{day['precipitation']:.2f} in of rain, humidity {day['humidity']:.0f}%"
    )


def figures(prediction: Prediction) -> dict[str, float]:
    """The predicted figures by name. Rain is an amount: what is predicted below 0 is none."""
    found = {name: prediction[name] for name in TODAY}
    return found | {"precipitation": max(found["precipitation"], 0.0)}


def plausible(day: dict[str, float]) -> bool:
    """Whether New York could have such a day."""
    inside = all(low <= day[name] <= high for name, (low, high) in POSSIBLE.items())
    return inside and all(map(math.isfinite, day.values())) and day["low"] < day["high"]


async def show(client: AsyncClient, stage: Stage) -> bool:
    """One observation, one prediction; then the same day once more, now with a memory of the first."""
    stage.say("weather-us: five figures of a day at an airport of New York, and what they say of tomorrow.")
    session = client.session(MODEL, "new-york")
    stage.title("Today")
    stage.say(sentence(TODAY))
    tomorrow = figures(await session.step(TODAY, time=DAY))
    stage.title("Tomorrow, as predicted from this one day")
    stage.say(sentence(tomorrow))
    again = figures(await session.step(TODAY, time=DAY + 1))
    stage.title("The day after, had tomorrow been as today: the session remembers the first day")
    stage.say(sentence(again))
    return plausible(tomorrow) and plausible(again)
