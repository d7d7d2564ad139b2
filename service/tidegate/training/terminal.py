"""Training seen from a terminal: a bar with losses while it runs."""

from __future__ import annotations

import os
from math import isnan
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tidegate.model.package import Package
from tidegate.training.fit import Report
from tidegate.training.recipe import load_recipe
from tidegate.training.trainer import train


def train_with_bar(recipe: Path, models: Path) -> Package:
    """Trains the recipe in a file, with a bar on standard error; raises ConfigError, PackageError."""
    options = load_recipe(recipe)
    quiet = os.environ.get("RANK", "0") != "0"
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as bar:
        tasks: dict[bool, TaskID] = {}

        def progress(report: Report) -> None:
            judged = not isnan(report.best)
            if judged not in tasks:
                tasks[judged] = bar.add_task("training" if judged else "refit", total=report.epochs, text="")
            bar.update(tasks[judged], completed=report.epoch, text=report_text(report))

        return train(options, models, progress=progress)


def report_text(report: Report) -> str:
    """One line of losses."""
    text = f"epoch {report.epoch}/{report.epochs} loss {report.loss:.4f}"
    if not isnan(report.best):
        text += f" validation {report.score:.4f} best {report.best:.4f}"
    return text
