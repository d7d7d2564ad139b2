"""Fits a recurrent network as it will be served: states carried along contiguous streams, from zero state.

Truncated back-propagation: a stretch of the stream is run a few steps at a time; gradients stop where those steps
begin, the state does not. What is judged and kept is a moving average of the weights, which rides out their noise.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tidegate.training import recipe

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}
State = Any  # of torch's layers: a Tensor, for an LSTM a pair of them, None for zeros


class Network(nn.Module):
    """Recurrent layers and a linear head; inputs [steps, streams, features] in training units."""

    def __init__(self, shape: recipe.Network, features: int, targets: int) -> None:
        super().__init__()
        self.layers = LAYERS[shape.cell](features, shape.hidden_size, shape.layers)
        self.head = nn.Linear(shape.hidden_size, targets)

    def forward(self, x: Tensor, state: State = None, dropout: float = 0.0) -> tuple[Tensor, State]:
        """Predictions [steps, streams, targets], and the state after the last step."""
        hidden, state = self.layers(x, state)
        return self.head(nn.functional.dropout(hidden, dropout, training=dropout > 0)), state


class Fit(NamedTuple):
    """A fitted network, the epoch that it is of, and its score (NaN if nothing judged it)."""

    network: Network
    epoch: int
    score: float


Judge = Callable[[Network], float]  # lower is better
Progress = Callable[[int, float], None]


def fit(
    network: Network,
    inputs: Tensor,
    targets: Tensor,
    settings: recipe.Training,
    epochs: int,
    judge: Judge | None,
    progress: Progress | None = None,
) -> Fit:
    """Runs at most `epochs` of the settings' schedule and returns the best epoch's average; the last one's, unjudged.

    inputs [steps, features] and targets [steps, targets] are one contiguous stream in training units.
    """
    ends = time.monotonic() + settings.seconds_max
    updater = _Updater(network, settings, len(inputs))
    best = Fit(network, 0, math.inf)
    for epoch in range(1, epochs + 1):
        for x, y in _stretches(inputs, targets, settings, epoch):
            updater.run(x, y)
        score = judge(updater.average) if judge else math.nan
        if progress and judge:
            progress(epoch, score)
        if not score >= best.score:
            best = Fit(copy.deepcopy(updater.average), epoch, score)
        if epoch - best.epoch >= settings.patience or time.monotonic() > ends:
            break
    return best


def _stretches(
    inputs: Tensor, targets: Tensor, settings: recipe.Training, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random contiguous stretches [steps, streams, …], about as many as cover the stream once."""
    random = np.random.default_rng((settings.seed, epoch))
    steps = torch.arange(settings.stretch, device=inputs.device)[:, None]
    for _ in range(_stretches_per_epoch(settings, len(inputs))):
        starts = random.integers(0, len(inputs) - settings.stretch + 1, settings.streams)
        rows = steps + torch.tensor(starts, device=inputs.device)
        yield inputs[rows], targets[rows]


def _stretches_per_epoch(settings: recipe.Training, steps: int) -> int:
    return max(1, round(steps / (settings.streams * settings.stretch)))


class _Updater:
    """The optimiser, its schedule, and the moving average of the weights."""

    def __init__(self, network: Network, settings: recipe.Training, steps: int) -> None:
        self.average = copy.deepcopy(network)
        self._network, self._settings = network, settings
        self._loss = nn.L1Loss() if settings.loss == "l1" else nn.HuberLoss(delta=settings.huber_delta)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        updates_per_stretch = math.ceil(settings.stretch / settings.truncation)
        self._updates = 0
        self._updates_max = settings.epochs * _stretches_per_epoch(settings, steps) * updates_per_stretch

    def run(self, x: Tensor, y: Tensor) -> None:
        """Trains on a stretch from zero state, an update for every `truncation` steps."""
        state: State = None
        pieces = (torch.split(part, self._settings.truncation) for part in (x, y))
        for inputs, targets in zip(*pieces, strict=True):
            predictions, state = self._network(inputs, state, self._settings.dropout)
            self._update(self._loss(predictions, targets))
            state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()

    def _update(self, loss: Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * _schedule(self._updates / self._updates_max)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.gradient_norm_max)
        self._optimizer.step()
        self._updates += 1
        decay = min(self._settings.average, self._updates / (self._updates + 9))
        with torch.no_grad():
            for average, value in zip(self.average.parameters(), self._network.parameters(), strict=True):
                average.lerp_(value, 1 - decay)


def _schedule(done: float) -> float:
    """The learning rate's factor when this share of the updates is done: up over a tenth, then cosine to 0."""
    return min(0.1 + 9 * done, 0.5 + 0.5 * math.cos(math.pi * done))
