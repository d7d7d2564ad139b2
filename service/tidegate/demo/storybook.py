"""The storybook's demo: a story drawn word by word from the model's probabilities, its mistakes marked by kind.

The session is told one word, the stop that is before every story, with a reset. All that follows are sample paths of
forecasts, so that the session stays where it is: one path is the story that is shown, the others are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.client import AsyncClient, Forecast, Generation, Scenario
from tidegate.demo.grammar import NAMES, SAW, STOP, WORDS, Mistake, mistakes, sentences, written
from tidegate.demo.stage import Stage

MODEL, CONTRAST = "storybook", "storybook-rnn"
SHOWN = 10  # sentences
STORIES, COUNTED = 1_100, 10_000
MIN_P = 0.05
MISTAKES_MAX = {MODEL: 0}  # of COUNTED sentences
MISTAKES_MIN = {CONTRAST: 1000}  # it is there to make them
EXPLAINED = {
    MODEL: "An LSTM. When it has read `Doug saw`, it still knows that the subject was Doug.",
    CONTRAST: "A network without memory of its own: it sees the new word and its own last prediction, and learnt from "
    "each step alone. After `saw` it no longer knows who saw; after a name, whether that was subject or object.",
}


@dataclass(frozen=True)
class Count:
    """Sentences, how many of them are wrong, and the mistakes by kind (a sentence may have several)."""

    sentences: int
    wrong: int
    kinds: Counter[Mistake]

    def lines(self) -> list[str]:
        """In words."""
        kinds = [f"  {self.kinds[kind]:,} with {kind}" for kind in Mistake if self.kinds[kind]]
        return [f"{self.sentences:,} sentences, {self.wrong:,} of them wrong", *kinds]


async def tell(client: AsyncClient, model: str, stage: Stage) -> bool:
    """Shows a story, then counts mistakes in many; whether there were as few, or as many, as there should be."""
    await begin(client, model)
    stage.say(f"{model}: {EXPLAINED[model]}")
    stage.say("Words are drawn from the model's probabilities, those below a twentieth of the likeliest's left out.")
    stage.title("A story")
    for sentence in (await stories(client, model, 1))[:SHOWN]:
        wrong = mistakes(sentence)
        stage.say(written(sentence) + (f"   <- {', '.join(wrong)}" if wrong else ""), "red" if wrong else "")
    stage.title(f"Mistakes in {COUNTED:,} sentences of {SHOWN} a story")
    found = count((await stories(client, model, STORIES))[:COUNTED])
    for line in found.lines():
        stage.say(line)
    enough = found.sentences == COUNTED
    return enough and MISTAKES_MIN.get(model, 0) <= found.wrong <= MISTAKES_MAX.get(model, COUNTED)


async def begin(client: AsyncClient, model: str) -> None:
    """Resets the session and tells it the stop before a story."""
    words = dict.fromkeys((*NAMES, SAW, STOP), 0.0)
    await client.session(model, "reader").step(words | {STOP: 1.0}, reset=True)


async def stories(client: AsyncClient, model: str, number: int, min_p: float = MIN_P) -> list[tuple[str, ...]]:
    """The whole sentences of so many stories, story after story; seeds are numbers from 1."""
    scenarios = [Scenario("reader", seed=seed + 1) for seed in range(number)]
    horizon = 2 * WORDS * SHOWN  # a network that forgets writes long ones
    generation = Generation(min_p=min_p)
    forecasts = await client.forecast(model, scenarios, horizon, samples=1, generation=generation)
    return [sentence for forecast in forecasts for sentence in told(forecast)]


def told(forecast: Forecast) -> list[tuple[str, ...]]:
    """The first sentences of one forecast's path, as many as a story has."""
    return sentences(forecast.words[0])[:SHOWN]


def count(found: Sequence[Sequence[str]]) -> Count:
    """The mistakes of sentences."""
    marks = [mistakes(sentence) for sentence in found]
    return Count(len(marks), sum(map(bool, marks)), Counter(kind for kinds in marks for kind in kinds))
