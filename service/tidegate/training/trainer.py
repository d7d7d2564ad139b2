"""From a recipe to a version in the model repository: data, scaling, two fits, errors, package.

The first fit, on the training part, finds the epoch that predicts the validation part best (`judge.py`). With `refit`,
a second one on both parts stops at that epoch. The test part is measured once, at the end, and decides nothing. A
killed training resumes from its checkpoint.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch

from tidegate.errors import ConfigError
from tidegate.model.manifest import Manifest
from tidegate.model.package import Package, load_package, save_package
from tidegate.training.checkpoint import Checkpoint
from tidegate.training.data import Dataset, load
from tidegate.training.draft import Fields, checked, draft_manifest
from tidegate.training.examples import Examples, make_examples
from tidegate.training.fit import Fit, Material, Progress, Report
from tidegate.training.judge import validation_judge
from tidegate.training.losses import Loss
from tidegate.training.network import Network, new_network
from tidegate.training.parallel import World, default_device, joined
from tidegate.training.recipe import Recipe
from tidegate.training.rollout import Rollout
from tidegate.training.scores import Scores
from tidegate.training.versions import next_version


def train(
    recipe: Recipe,
    models: Path,
    data: pd.DataFrame | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Package:
    """Trains and writes the next version under `models/<name>/`, complete or not at all.

    Raises ConfigError, also where the network diverges, and PackageError.
    `data` stands in for the recipe's source. `progress` is called after every epoch. Under torchrun every process calls
    it, the first one writes, and all return the package.
    """
    device = device or default_device()
    with joined(device) as world, torch.random.fork_rng():
        return _Training(recipe, models, load(recipe, data), device, world).run(progress)


class _Training:
    """One training from data to package."""

    def __init__(self, recipe: Recipe, models: Path, dataset: Dataset, device: torch.device, world: World) -> None:
        self._recipe, self._dataset, self._device, self._world = recipe, dataset, device, world
        self._folder = models / recipe.name
        self._fields: Fields = draft_manifest(recipe, dataset)
        self._manifest: Manifest = checked(self._fields)
        self._examples: Examples = make_examples(self._manifest, dataset, device)
        self._rollout = Rollout(self._manifest, self._examples, device)
        self._checkpoint = Checkpoint(self._folder, self._key())

    def run(self, progress: Progress | None) -> Package:
        saved = self._checkpoint.load(self._device) or {}
        best, first = self._fit("first", self._recipe.training.epochs, saved, progress)
        if not math.isfinite(best.best_score):
            self._refuse("no epoch has a validation loss that is a number")
        validation = self._scores("validation")
        settings = self._recipe.training
        metrics: Fields = {
            "validation": {"loss": round(best.best_score, 6), "epoch": best.best_epoch}
            | self._relative(validation, first)
        }
        if self._manifest.head.kind == "regression":
            self._fields["head"]["residual_std"] = validation.residual_std(first)
        final, seconds = first, best.seconds
        if settings.refit:
            saved = saved if saved.get("phase") == "second" else {"phase": "second", "first": best.state()}
            second, final = self._fit("second", best.best_epoch, saved, progress)
            seconds += second.seconds
        if not all(np.isfinite(value).all() for value in final.weights().values()):
            self._refuse("its weights are no longer numbers")
        metrics["test"] = self._test_errors(final)
        return self._write(final, metrics, seconds)

    def _refuse(self, problem: str) -> NoReturn:
        """Nothing is written; going on from the checkpoint would end alike."""
        self._checkpoint.remove()
        raise ConfigError(
            f"training: the network diverged: {problem}; lower training.learning_rate, or look for cells far beyond "
            "the others (features have minimum and maximum for such)"
        )

    def _fit(self, phase: str, epochs: int, saved: Fields, progress: Progress | None) -> tuple[Fit, Network]:
        settings = self._recipe.training
        torch.manual_seed(settings.seed)
        network = new_network(self._recipe, self._manifest, self._device)
        second = phase == "second"
        spans = self._examples.stretches(settings, refit=second)
        loss = Loss(self._manifest, settings)
        fit = Fit(network, Material(spans, self._rollout, loss, settings, self._device, self._world), epochs)
        state = saved.get(phase)
        if state:
            fit.restore(state)
        finished = phase == "first" and saved.get("phase") == "second"
        if finished:
            fit.average.load_state_dict(fit.best)
            return fit, fit.average
        judge = None if second else validation_judge(self._manifest, self._examples, self._rollout, settings)
        return fit, fit.run(judge, self._saver(phase, fit, saved, progress))

    def _saver(self, phase: str, fit: Fit, saved: Fields, progress: Progress | None) -> Callable[[Report], None]:
        last = time.monotonic()

        def done(report: Report) -> None:
            nonlocal last
            if progress and self._world.rank == 0:
                progress(report)
            if self._world.rank == 0 and time.monotonic() - last >= self._recipe.training.checkpoint_seconds:
                others = {"first": saved["first"]} if phase == "second" else {}
                self._checkpoint.save({"phase": phase, phase: fit.state()} | others)
                last = time.monotonic()

        return done

    def _scores(self, part: str) -> Scores:
        lanes = self._examples.lanes(part, self._recipe.training.stretch)
        return Scores(self._manifest, self._examples, self._rollout, lanes)

    def _relative(self, scores: Scores, network: Network) -> dict[str, float]:
        """MAE relative to persistence, mean over targets that change: below 1 is good."""
        if self._manifest.head.kind == "categorical":
            return {}
        own, naive = (np.array(part) for part in scores.errors(network))
        changes = naive > 0
        return {"relative_mae": round(float((own[changes] / naive[changes]).mean()), 4)} if changes.any() else {}

    def _test_errors(self, network: Network) -> Fields:
        """Errors of each target that is scored; the loss alone of a vocabulary, if a word is observed."""
        scores = self._scores("test")
        if not any(len(stream.test_part) > 1 for stream in self._dataset.streams):
            return {}
        if self._manifest.head.kind == "categorical":
            loss = scores.loss(network, self._recipe.training)
            return {"loss": round(loss, 6)} if math.isfinite(loss) else {}
        pairs = zip(self._manifest.targets, *scores.errors(network), strict=True)
        return {
            target: {"mae": float(f"{own:.5g}"), "persistence_mae": float(f"{naive:.5g}")}
            for target, own, naive in pairs
            if math.isfinite(own)
        }

    def _write(self, network: Network, metrics: Fields, seconds: float) -> Package:
        """The first process writes; all return the package."""
        version = int(self._world.from_first([float(next_version(self._folder))], self._device)[0])
        folder = self._folder / str(version)
        if self._world.rank == 0:
            fields = self._fields | {
                "version": folder.name,
                "metrics": metrics,
                "provenance": self._provenance(seconds),
            }
            save_package(folder, fields, network.weights())
            self._checkpoint.remove()
        self._world.from_first([0.0], self._device)  # waits for the file
        return load_package(folder)

    def _provenance(self, seconds: float) -> dict[str, Any]:
        streams = self._dataset.streams
        return {
            "data": self._recipe.data.source,
            "rows": {
                "training": sum(len(stream.training_part) for stream in streams),
                "validation": sum(len(stream.validation_part) for stream in streams),
            },
            "refit": self._recipe.training.refit,
            "recipe_sha256": self._recipe.sha256,
            "seed": self._recipe.training.seed,
            "torch": torch.__version__,
            "seconds": round(seconds, 1),
        }

    def _key(self) -> str:
        """Of recipe, data and torch: a checkpoint is of the training that wrote it."""
        digest = hashlib.sha256(f"{self._recipe.model_dump()!r} {torch.__version__} {self._world.size}".encode())
        for stream in self._dataset.streams:
            digest.update(repr((stream.id, stream.values.shape, stream.validation, stream.test)).encode())
            digest.update(stream.times.tobytes())
            digest.update(stream.values.tobytes())
        return digest.hexdigest()
