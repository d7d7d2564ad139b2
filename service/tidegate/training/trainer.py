"""From a recipe to a version in the model repository: data, scaling, two fits, errors, package.

The first fit, on the training part, finds the epoch that predicts the validation part best (MAE relative to
persistence, mean over targets). With `refit`, a second one on both parts stops at that epoch. The test part is measured
once, at the end, and decides nothing. Scaling comes from the training part and runs in the code that serves.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tidegate.errors import ConfigError
from tidegate.model.package import Package, Weights, expected_shapes, parse_manifest, save_package
from tidegate.model.scaling import Scaler
from tidegate.training.data import Table, Values, load_table
from tidegate.training.evaluation import evaluate, mean_absolute_errors
from tidegate.training.fit import Fit, Judge, Network, Progress, fit
from tidegate.training.recipe import Column, Recipe

CPU = torch.device("cpu")


def train(recipe: Recipe, models: Path, device: torch.device = CPU, progress: Progress | None = None) -> Package:
    """Trains and writes the next version under `models/<name>/`, complete or not at all; raises ConfigError.

    `progress` is called with the epoch and its validation score after every epoch of the first fit.
    """
    started = time.monotonic()
    table = load_table(recipe)
    if len(table.training_part) <= recipe.training.stretch:
        raise ConfigError(
            f"training.stretch: the training part has {len(table.training_part)} rows, and needs one more"
        )
    folder = models / recipe.name / _next_version(models / recipe.name)
    manifest = _manifest(recipe, table, folder.name)
    draft = _draft(manifest)
    best = _best_fit(recipe, draft, table, device, progress)
    trained = Package(draft.manifest, _weights(best.network), "")
    manifest["metrics"] = {
        "validation": {"relative_mae": round(best.score, 4), "epoch": best.epoch},
        "test": evaluate(trained, table.test_part) if len(table.test_part) > 1 else {},
    }
    manifest["provenance"] = _provenance(recipe, table, time.monotonic() - started)
    return save_package(folder, manifest, trained.weights)


def _best_fit(
    recipe: Recipe, draft: Package, table: Table, device: torch.device, progress: Progress | None = None
) -> Fit:
    scaler, settings = Scaler(draft), recipe.training

    def run(rows: Values, epochs: int, judge: Judge | None) -> Fit:
        scaled = torch.tensor(scaler.scale(rows), device=device)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            network = Network(recipe.network, len(recipe.features), len(draft.manifest.targets)).to(device)
            return fit(network, scaled[:-1], scaled[1:, draft.target_indices], settings, epochs, judge, progress)

    first = run(table.training_part, settings.epochs, _judge(draft, scaler, table.validation_part, device))
    if not settings.refit:
        return first
    second = run(table.values[: table.test], first.epoch, None)
    return Fit(second.network, first.epoch, first.score)


def _judge(package: Package, scaler: Scaler, observations: Values, device: torch.device) -> Judge:
    """MAE relative to persistence over a stream of observations from zero state, mean over targets: below 1 is good."""
    observed = observations[:, package.target_indices]
    persistence = np.maximum(mean_absolute_errors(observed, observed), np.finfo(np.float64).tiny)
    inputs = torch.tensor(scaler.scale(observations), device=device)

    def judge(network: Network) -> float:
        with torch.inference_mode():
            predictions = scaler.unscale(network.eval()(inputs[:, None])[0][:, 0].cpu().numpy())
        return float((mean_absolute_errors(predictions, observed) / persistence).mean())

    return judge


def _manifest(recipe: Recipe, table: Table, version: str) -> dict[str, Any]:
    columns = zip(recipe.features, table.training_part.T, strict=True)
    return {
        "name": recipe.name,
        "version": version,
        "description": recipe.description,
        "features": [_feature(column, values) for column, values in columns],
        "targets": [column.name for column in recipe.features if column.role == "target"],
        "cell": recipe.network.cell,
        "layers": recipe.network.layers,
        "hidden_size": recipe.network.hidden_size,
        "frequency": recipe.data.frequency,
    }


def _feature(column: Column, values: Values) -> dict[str, Any]:
    """Standardised over the training part; a column that never changes there keeps its unit."""
    transformed = np.copysign(np.log1p(np.abs(values)), values) if column.transform == "log1p" else values
    scaling = {
        "transform": column.transform,
        "center": round(float(transformed.mean()), 6),
        "scale": round(float(transformed.std()), 6) or 1.0,
    }
    return {"name": column.name, "unit": column.unit, "role": column.role, "scaling": scaling}


def _draft(manifest: dict[str, Any]) -> Package:
    """The package before it is trained: all weights 0."""
    checked = parse_manifest(json.dumps(manifest | {"weights_sha256": "0" * 64}).encode())
    shapes = expected_shapes(checked)
    return Package(checked, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, "")


def _weights(network: Network) -> Weights:
    """Named as in a package: the recurrent layers' own names, and head.weight and head.bias."""
    return {name.removeprefix("layers."): value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def _provenance(recipe: Recipe, table: Table, seconds: float) -> dict[str, Any]:
    return {
        "data": recipe.data.source,
        "rows": {"training": table.validation, "validation": table.test - table.validation},
        "refit": recipe.training.refit,
        "recipe_sha256": recipe.sha256,
        "seed": recipe.training.seed,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
    }


def _next_version(folder: Path) -> str:
    """One more than the highest number that a version has; versions with other names do not count."""
    numbers = [int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()]
    return str(max(numbers, default=0) + 1)
