"""How good a model is: streamed through the serving code, beside forecasts that anybody can make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.model.package import load_package
from tidegate.training.evaluation import baselines
from tidegate.training.evaluation.card import REPORTS, update_card
from tidegate.training.evaluation.one_step import evaluate, mean_absolute_errors
from tidegate.training.evaluation.report import write_report
from tidegate.training.evaluation.run import Options, evaluate_streams
from tidegate.training.evaluation.streams import Part, recipe_streams, trained_on
from tidegate.training.recipe import Recipe

__all__ = ["evaluate", "evaluate_package", "mean_absolute_errors"]

SEASONS_AHEAD = (1, 2)  # horizons of a package's own report, besides one step


def evaluate_package(models: Path, name: str, version: str, recipe: Recipe, part: Part = "test") -> dict[str, Any]:
    """Evaluates a version on a part of its recipe's data, writes the report and the model's card, returns the record.

    Raises ConfigError (also when the part holds no step), PackageError, TidegateError.
    """
    folder = models / name / version
    package = load_package(folder)
    streams = recipe_streams(recipe, package.manifest, part)
    shortest = min((stream.end - stream.start for stream in streams if stream.end > stream.start), default=0)
    season = baselines.season_of(package.frequency) if package.manifest.head.kind != "categorical" else None
    ahead = [times * season for times in SEASONS_AHEAD if season and times * season <= min(shortest // 4, 200)]
    seen = ", which it was trained on" if trained_on(package.manifest, part) else ""
    source = f"{recipe.data.source}, {part} part{seen}"
    evaluation, material = evaluate_streams(folder, streams, Options((1, *ahead)), source)
    pictures = write_report(evaluation, material, folder / REPORTS)
    update_card(models / name, evaluation, pictures)
    return evaluation.record()
