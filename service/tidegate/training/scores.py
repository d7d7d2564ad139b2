"""How good a network is on a part of the data while it trains: the loss, and errors beside persistence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tidegate.model.inputs import Derived
from tidegate.model.manifest import Manifest
from tidegate.training.examples import Examples, Stretch
from tidegate.training.losses import Loss
from tidegate.training.network import Network
from tidegate.training.recipe import Training
from tidegate.training.rollout import Piece, Rollout, make_batch

LANES_MAX = 256  # pieces of a part that are run side by side


class Errors(NamedTuple):
    """Mean over observed steps of one part, raw units; one a target, NaN where none was observed."""

    mae: list[float]
    persistence_mae: list[float]


class Scores:
    """Judges networks on the lanes of one part; `gap`, bool [steps, lanes], is where observations are taken away."""

    def __init__(
        self,
        manifest: Manifest,
        examples: Examples,
        rollout: Rollout,
        lanes: list[Stretch],
        gap: np.ndarray | None = None,
    ) -> None:
        self._manifest, self._examples, self._rollout, self._lanes = manifest, examples, rollout, lanes
        self._gap = gap

    @torch.no_grad()
    def loss(self, network: Network, settings: Training) -> float:
        """Mean training loss."""
        loss = Loss(self._manifest, settings)
        sums = [torch.stack(loss(outputs, piece.goals)) for outputs, piece, _ in self._passes(network)]
        total, count = torch.stack(sums).double().sum(0).tolist() if sums else (0.0, 0.0)
        return float(total / count) if count else float("nan")

    @torch.no_grad()
    def residual_std(self, network: Network) -> list[float]:
        """Of one-step errors, in the head's units; one a target."""
        errors = torch.cat([(outputs - piece.goals).flatten(0, 1) for outputs, piece, _ in self._passes(network)])
        errors = torch.where(errors.abs() < 1e3, errors, torch.nan)
        squares = (errors.double() ** 2).nanmean(0).sqrt().cpu()
        return [float(f"{max(value, 1e-9):.6g}") if np.isfinite(value) else 1.0 for value in squares.tolist()]

    @torch.no_grad()
    def errors(self, network: Network) -> Errors:
        """Absolute errors of predictions and of persistence, where step and next step are observed."""
        names = [feature.name for feature in self._manifest.features]
        targets = [names.index(target) for target in self._manifest.targets]
        own, naive = [], []
        for outputs, piece, rows in self._passes(network):
            now = self._examples.raw[rows][:, :, targets].cpu().numpy()
            goals = torch.where(piece.goals.isfinite(), piece.goals.double(), torch.nan)
            truth = self._raw(goals, piece)
            own.append(np.abs(self._raw(outputs[..., self._manifest.point_indices].double(), piece) - truth))
            naive.append(np.abs(now - truth))
        stacked = [np.concatenate([part.reshape(-1, len(targets)) for part in parts]) for parts in (own, naive)]
        known = ~(np.isnan(stacked[0]) | np.isnan(stacked[1]))
        counts = np.where(known.any(0), known.sum(0), np.nan)
        return Errors(*((np.where(known, part, 0).sum(0) / counts).tolist() for part in stacked))

    def _raw(self, scaled: Tensor, piece: Piece) -> np.ndarray:
        names = [feature.name for feature in self._manifest.features]
        features = [self._manifest.features[names.index(target)] for target in self._manifest.targets]
        log1p = np.array([feature.scaling.transform == "log1p" for feature in features])
        parts = [part.flatten(0, 1).cpu().numpy() for part in (piece.base, piece.unit)]
        derived = Derived(np.zeros(0), parts[0], parts[1], log1p, 1)
        return derived.restore(scaled.flatten(0, 1).cpu().numpy()).reshape(scaled.shape)

    def _passes(self, network: Network) -> Iterator[tuple[Tensor, Piece, Tensor]]:
        """Outputs [steps, lanes, outputs], the piece that they are of, and its rows."""
        network.eval()
        for first in range(0, len(self._lanes), LANES_MAX):
            lanes = self._lanes[first : first + LANES_MAX]
            steps = max(lane.steps for lane in lanes)
            gap = None if self._gap is None else self._gap[:steps, first : first + LANES_MAX]
            batch = make_batch(lanes, self._examples.goal.device, gap)
            memory = self._rollout.start(batch) if self._rollout.by_model or gap is not None else None
            piece = self._rollout.piece(network, batch, memory, None)
            outputs, _ = network(piece.x)
            yield outputs.view(*piece.goals.shape[:2], -1), piece, batch.rows
