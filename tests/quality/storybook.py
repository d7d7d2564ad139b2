"""10,000 sentences of the storybook and of its contrast, by a real server: python -m tests.quality storybook"""

from __future__ import annotations

import sys
from collections import Counter

import click

from tests.quality.bounds import Bound, report, served
from tidegate.client import Client, Generation, Scenario
from tidegate.demo.grammar import NAMES, SAW, STOP, WORDS, Mistake, mistakes, sentences, written

SENTENCES = 10_000
A_STORY = 10
MIN_P = 0.05
STORIES_A_CALL = 2_000


def generate(client: Client, model: str, number: int, generation: Generation) -> list[tuple[str, ...]]:
    """So many sentences, of stories of A_STORY sentences at most; each story has a seed of its own."""
    first = client.session(model, "reader")
    first.step({word: float(word == STOP) for word in (*NAMES, SAW, STOP)}, reset=True)
    found: list[tuple[str, ...]] = []
    seed = 0
    while len(found) < number:
        stories = min(STORIES_A_CALL, (number - len(found)) // A_STORY + 1)
        scenarios = [Scenario("reader", seed=seed + place) for place in range(stories)]
        for story in client.forecast(model, scenarios, 2 * WORDS * A_STORY, samples=1, generation=generation):
            found += sentences(story.words[0])[:A_STORY]
        seed += stories
    return found[:number]


def wrong(found: list[tuple[str, ...]]) -> int:
    """How many of them have a mistake."""
    return sum(bool(mistakes(sentence)) for sentence in found)


def measure() -> list[Bound]:
    """Asks a server."""
    bounds = []
    with served() as client:
        for name, generation, most in (("min-p 0.05", Generation(min_p=MIN_P), 0), ("bare", Generation(), 30)):
            found = generate(client, "storybook", SENTENCES, generation)
            bounds.append(Bound(f"storybook, temperature 1, {name}: wrong of {SENTENCES}", wrong(found), at_most=most))
            found = generate(client, "storybook-rnn", SENTENCES, generation)
            bounds.append(Bound(f"storybook-rnn, {name}: wrong of {SENTENCES}", wrong(found), at_least=1000))
            kinds = Counter(kind for sentence in found for kind in mistakes(sentence))
            bounds += [Bound(f"storybook-rnn, {name}: {kind}", kinds[kind], at_least=100) for kind in list(Mistake)[:3]]
        click.echo("storybook-rnn writes: " + " ".join(map(written, found[:12])))
    return bounds


if __name__ == "__main__":
    sys.exit(report(measure()))
