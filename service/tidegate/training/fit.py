"""Fits a recurrent network as it will be served: states carried along contiguous streams.

Truncated back-propagation: a stretch of the stream is run a few steps at a time; gradients stop where those steps
begin, the state does not. What is judged and kept is a moving average of the weights, which rides out their noise.
Every random number follows from the seed and the epoch, so that a fit that was cut off goes on to the same bits.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tidegate.training.examples import Stretch
from tidegate.training.losses import Loss
from tidegate.training.network import Network, State, detached
from tidegate.training.parallel import World
from tidegate.training.recipe import Training
from tidegate.training.rollout import Batch, Rollout, make_batch, random_gaps


class Report(NamedTuple):
    """After an epoch: the mean loss of training, the validation loss of the averaged weights and the best so far (both
    NaN if nothing judges; of a network that diverges, the score alone)."""

    epoch: int
    epochs: int
    loss: float
    score: float
    best: float


Judge = Callable[[Network], float]  # lower is better
Progress = Callable[[Report], None]


@dataclass
class Material:
    """What a fit works with: spans of rows to train on, and who turns them into inputs and losses."""

    spans: list[Stretch]
    rollout: Rollout
    loss: Loss
    settings: Training
    device: torch.device
    world: World


class Fit:
    """A network on its way: weights, their average, optimiser, epoch, and the best average so far."""

    def __init__(self, network: Network, material: Material, epochs: int) -> None:
        self.network, self.average = network, copy.deepcopy(network).eval()
        self.epoch, self.epochs = 0, epochs
        self.best_epoch, self.best_score = 0, math.inf
        self.best = {name: value.clone() for name, value in self.average.state_dict().items()}
        self.seconds = 0.0
        self._material = material
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        settings = material.settings
        self._optimizer = torch.optim.AdamW(
            self._parameters, settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._updates = 0
        self._updates_max = settings.epochs * self._updates_an_epoch()

    def _updates_an_epoch(self) -> int:
        settings = self._material.settings
        return sum(math.ceil(max(s.steps for s in batch) / settings.truncation) for batch in self._batches(0))

    def run(self, judge: Judge | None, done: Callable[[Report], None]) -> Network:
        """Runs the epochs that are left; returns the best average (the last one, unjudged). `done` follows each."""
        while self.epoch < self.epochs and not self._is_exhausted():
            started = time.monotonic()
            self.epoch += 1
            loss = self._run_epoch()
            score = judge(self.average) if judge else math.nan
            self.seconds += time.monotonic() - started
            world, device = self._material.world, self._material.device
            score, self.seconds = world.from_first([score, self.seconds], device)
            if judge is None or score < self.best_score:  # NaN is no score
                self.best_epoch, self.best_score = self.epoch, score
                self.best = {name: value.clone() for name, value in self.average.state_dict().items()}
            done(Report(self.epoch, self.epochs, loss, score, self.best_score))
        self.average.load_state_dict(self.best)
        return self.average

    def _is_exhausted(self) -> bool:
        """Asked before an epoch, so that a fit that was done when it was cut off does not run another one."""
        settings = self._material.settings
        return self.epoch - self.best_epoch >= settings.patience or self.seconds > settings.seconds_max

    def state(self) -> dict[str, Any]:
        """All that a fit needs to go on: tensors and numbers."""
        names = ("epoch", "best_epoch", "best_score", "best", "seconds", "_updates")
        return {name: getattr(self, name) for name in names} | {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        for name in ("epoch", "best_epoch", "best_score", "best", "seconds", "_updates"):
            setattr(self, name, state[name])

    def _run_epoch(self) -> float:
        settings, world = self._material.settings, self._material.world
        torch.manual_seed((settings.seed * 1_000_003 + self.epoch) * world.size + world.rank)  # dropout
        total = number = 0.0
        for index, batch in enumerate(self._batches(self.epoch)):
            for loss, count in self._run_batch(batch, np.random.default_rng((settings.seed, self.epoch, index))):
                total, number = total + loss, number + count
        return total / max(number, 1.0)

    def _batches(self, epoch: int) -> Iterator[list[Stretch]]:
        """Random stretches, about as many as cover the spans once, in batches; the same in every process."""
        settings = self._material.settings
        random = np.random.default_rng((settings.seed, epoch))
        spans = [span for span in self._material.spans for _ in range(max(1, round(span.steps / settings.stretch)))]
        order = random.permutation(len(spans))
        batches = max(1, round(len(spans) / settings.streams))
        if len(spans) == settings.streams * batches or len(self._material.spans) > 1:
            chosen = [spans[index] for index in order]
        else:
            chosen = [spans[index % len(spans)] for index in range(settings.streams * batches)]
        for part in np.array_split(np.arange(len(chosen)), batches):
            yield [_random_part(chosen[index], settings.stretch, random) for index in part]

    def _run_batch(self, stretches: list[Stretch], random: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Trains on stretches side by side, an update for every `truncation` steps."""
        settings, rollout = self._material.settings, self._material.rollout
        steps = max(stretch.steps for stretch in stretches)
        gap = None
        if settings.gap_share and random.random() < settings.gap_batches:
            gap = random_gaps(random, steps, len(stretches), settings.gap_share, settings.gap_steps)
        own = self._material.world.share(range(len(stretches)))
        batch = self._own_batch(stretches, gap, own)
        memory = rollout.start(batch) if batch and (rollout.by_model or gap is not None) else None
        state: State = None
        for start in range(0, steps, settings.truncation):
            piece = batch.piece(slice(start, start + settings.truncation)) if batch else None
            self._optimizer.zero_grad()
            loss = count = torch.zeros((), device=self._material.device)
            if piece is not None and len(piece.rows):
                x, goals, _, _ = rollout.piece(self.network, piece, memory, state)
                outputs, state = self.network.train()(x, state)
                state = detached(state)
                loss, count = self._material.loss(outputs.view(*goals.shape[:2], -1), goals)
                loss.backward()  # type: ignore[no-untyped-call]
            yield self._update(loss, count)

    def _own_batch(self, stretches: list[Stretch], gap: np.ndarray | None, own: list[int]) -> Batch | None:
        if not own:
            return None
        mine = [stretches[index] for index in own]
        steps = max(stretch.steps for stretch in mine)
        return make_batch(mine, self._material.device, None if gap is None else gap[:steps, own])

    def _update(self, loss: Tensor, count: Tensor) -> tuple[float, float]:
        settings = self._material.settings
        sums = self._material.world.sum_gradients(self._parameters, loss, count)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(self._updates / self._updates_max)
        nn.utils.clip_grad_norm_(self._parameters, settings.gradient_norm_max)
        self._optimizer.step()
        self._updates += 1
        decay = min(settings.average, self._updates / (self._updates + 9))
        with torch.no_grad():
            for average, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                average.lerp_(value, 1 - decay)
        return sums


def _random_part(span: Stretch, steps: int, random: np.random.Generator) -> Stretch:
    """A stretch of at most so many steps, anywhere in the span."""
    room = max(span.steps - steps, 0)
    return Stretch(span.start + int(random.integers(0, room + 1)), min(span.steps, steps))


def _schedule(done: float) -> float:
    """The learning rate's factor when this share of the updates is done: up over a tenth, then cosine to 0."""
    return min(0.1 + 9 * done, 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))
