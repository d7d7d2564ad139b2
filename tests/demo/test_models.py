"""The introduction's models as they are committed, through a real server: each reaches its figure on a small sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from tests.quality import dinner, storybook, weather_us
from tests.quality.bounds import served
from tests.quality.data import AIRPORTS
from tidegate.client import Client, Generation
from tidegate.config import default_models
from tidegate.demo.grammar import NAMES, SAW, STOP, Mistake, mistakes
from tidegate.model.package import load_package

MODELS = ("weather", "weather-us", "dinner", "storybook", "storybook-rnn")
BYTES_MAX = 200_000


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of a server of the project's own models."""
    with served() as connected:
        yield connected


@pytest.mark.parametrize("model", MODELS)
def test_a_committed_package_is_small_and_whole(model: str) -> None:
    """Version 1 loads, has a recipe and a card beside it, and is small."""
    folder = default_models() / model
    package = load_package(folder / "1")
    assert package.manifest.hidden_size <= 64
    assert sum(path.stat().st_size for path in (folder / "1").iterdir()) < BYTES_MAX
    assert (folder / "recipe.toml").is_file()
    assert model in (folder / "card.md").read_text()


def test_all_are_served(client: Client) -> None:
    """A server without further settings serves every one of them."""
    ready = {model.name for model in client.models() if any(v.state == "ready" for v in model.versions)}
    assert set(MODELS) <= ready


def test_the_storybook_makes_no_mistake(client: Client) -> None:
    """1,000 sentences with min-p 0.05 hold none, and at bare temperature 1 at most 5; all six sentences are told."""
    found = storybook.generate(client, "storybook", 1000, Generation(min_p=0.05))
    assert storybook.wrong(found) == 0
    assert len(set(found)) == 6
    assert storybook.wrong(storybook.generate(client, "storybook", 1000, Generation())) <= 5


def test_its_contrast_makes_every_kind(client: Client) -> None:
    """The network that forgets is wrong in most sentences: names that see themselves, run-ons, single words."""
    found = storybook.generate(client, "storybook-rnn", 500, Generation())
    kinds = Counter(kind for sentence in found for kind in mistakes(sentence))
    assert storybook.wrong(found) > 250
    assert min(kinds[kind] for kind in (Mistake.SEES_ITSELF, Mistake.RUN_ON, Mistake.ONE_WORD)) > 50


def test_the_subject_is_remembered(client: Client) -> None:
    """After `Doug saw`, the LSTM leaves Doug next to nothing; the contrast gives him his third."""
    chances = {}
    for model in ("storybook", "storybook-rnn"):
        session = client.session(model, "listener")
        for place, word in enumerate((STOP, "Doug", SAW)):
            words = dict.fromkeys((*NAMES, SAW, STOP), 0.0) | {word: 1.0}
            prediction = session.step(words, reset=place == 0)
        chances[model] = prediction["Doug"]
    assert chances["storybook"] < 0.01
    assert 0.2 < chances["storybook-rnn"] < 0.5


@pytest.mark.parametrize("share", [0.0, dinner.UNKNOWN_SHARE])
def test_dinners_are_foretold(client: Client, share: float) -> None:
    """400 days of a household never trained on, all dinners known or most of them not: every prediction is right,
    where the best rule without memory misses many."""
    days, unknown = dinner.random_days(400, seed=5), dinner.unknown_days(400, share, seed=5)
    assert dinner.foretold(client, f"household-{share}", days, unknown) == 1.0
    assert dinner.memoryless(days, unknown) < 0.9


@pytest.mark.skipif(not AIRPORTS.is_file(), reason="the hourly records of 2013 are not beside the checkout")
def test_tomorrow_in_new_york_is_better_than_today(client: Client) -> None:
    """On the last fifth of 2013 each feature's error is below persistence's."""
    days = weather_us.days_of_2013()
    model = weather_us.errors(weather_us.predicted(client, days), days)
    persistence = weather_us.errors(days.values[:-1], days)
    assert (model < persistence).all(), np.stack([model, persistence])
