"""Long memory: an LSTM and a tanh RNN (Elman's, trained through time) on sentences with about 20 words between subject
and object: python -m tests.quality filler

Both have the same data, size, batches, number of updates and learning rate, and gradients flow back to the start of the
sentence for both. A sentence is wrong if its form is, or if a name sees itself; who forgets the subject is wrong in a
third of its sentences.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.quality.bounds import Bound, report, served
from tidegate.client import Client, Generation, Scenario
from tidegate.training import make_recipe, train
from tidegate.training.generated import FILLERS, NAMES, SAW, STOP, WORDS

RECIPE = Path(__file__).with_name("filler.toml")
CELLS = {"lstm": {"at_most": 0.04}, "rnn_tanh": {"at_least": 0.10}}
SEEDS = (0, 1, 2)
SENTENCES, A_CALL, WORDS_MAX = 4_000, 1_000, 300


def right(words: Sequence[str]) -> bool:
    """Whether it is `Name saw`, any fillers, another `Name`, and the stop."""
    if len(words) < 4 or words[1] != WORDS[SAW] or words[-1] != WORDS[STOP]:
        return False
    named = words[0] in NAMES and words[-2] in NAMES and words[0] != words[-2]
    return named and all(word in FILLERS for word in words[2:-2])


def fit(models: Path, cell: str, seed: int) -> str:
    """Trains one of them into the repository; returns its name."""
    options = tomllib.loads(RECIPE.read_text())
    options["name"] = f"{cell}-{seed}"
    options["network"]["cell"] = cell
    options["training"]["seed"] = seed
    train(make_recipe(options), models)
    return f"{cell}-{seed}"


def wrong_share(client: Client, model: str) -> float:
    """Of SENTENCES generated at temperature 1, nothing left out."""
    reader = client.session(model, "reader")
    reader.step({word: float(word == WORDS[STOP]) for word in (*WORDS, *FILLERS)}, reset=True)
    generation, wrong = Generation(stop=WORDS[STOP]), 0
    for first in range(0, SENTENCES, A_CALL):
        scenarios = [Scenario("reader", seed=seed) for seed in range(first, first + A_CALL)]
        found = client.forecast(model, scenarios, WORDS_MAX, samples=1, generation=generation)
        wrong += sum(not right(forecast.words[0]) for forecast in found)
    return wrong / SENTENCES


def measure(seeds: Sequence[int] = SEEDS) -> list[Bound]:
    """Trains them all, then asks a server of them."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        names = {(cell, seed): fit(models, cell, seed) for seed in seeds for cell in CELLS}
        with served(models) as client:
            shares = {key: wrong_share(client, name) for key, name in names.items()}
    return [Bound(f"{cell}, seed {seed}: wrong", shares[cell, seed], **CELLS[cell]) for cell, seed in shares]


if __name__ == "__main__":
    sys.exit(report(measure([int(seed) for seed in sys.argv[1:]] or SEEDS)))
