"""The page of a recipe's options (docs/recipes.md), from their descriptions."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tidegate.training.data_options import Column, Data
from tidegate.training.recipe import GapOptions, Head, Inputs, MemoryOptions, Network, Recipe, Training

SECTIONS: dict[str, type[BaseModel]] = {
    "Top of the file": Recipe,
    "[data]": Data,
    "[[features]]": Column,
    "[inputs]": Inputs,
    "[network]": Network,
    "[network.head]": Head,
    "[gaps]": GapOptions,
    "[memory]": MemoryOptions,
    "[training]": Training,
}
OPENING = """# Recipes

A recipe is a TOML file: which data, which inputs, which network, which training. `tidegate init DATA.csv` writes a
first one, `tidegate train RECIPE.toml --models models` trains it, and a wrong option is refused by its path. This page
lists every option. From Python: `tidegate.training.train(load_recipe(path), Path("models"), data=frame)`.

`init` finds out how a CSV file is written (`,`, `;`, tab or `|`; a decimal point or comma; the way of its times), which
column holds times, which one tells streams apart, and the frequency. A column is an `id` only if it tells apart nearly
all rows of the same time. What `init` could not make out, such as times that repeat or are on no grid, or dates that
may have their day or their month first, it says, and writes into the recipe as a note.

A training that was killed goes on from its last checkpoint when the command is given again. The checkpoint is a file of
its own in `models/NAME/.training`, of this recipe and this data alone: if you do not take the training up again, delete
it. `torchrun --nproc-per-node 2 -m tidegate.cli train RECIPE.toml` shares each batch between processes.

Several trainings on one machine at once: `OMP_NUM_THREADS=1` before each command. torch's threads wait for each other
at every step of the network, and where others keep one of them from its core, all wait (two such trainings on two
cores were seen to take forty times as long). Alone, more threads make networks of this size faster by a fifth.
"""


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join([OPENING, *(_section(title, model) for title, model in SECTIONS.items())])


def _section(title: str, model: type[BaseModel]) -> str:
    about = " ".join((model.__doc__ or "").split())
    rows = [f"| `{name}` | {_default(field)} | {_about(field)} |" for name, field in model.model_fields.items()]
    return "\n".join([f"## {title}", "", about, "", "| option | default | |", "|---|---|---|", *rows, ""])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if isinstance(value, BaseModel):
        return ""
    texts = {True: "`true`", False: "`false`"} if isinstance(value, bool) else {}
    if value is None or value == () or value == "":
        return ""
    return texts.get(value, f"`{value}`")


def _about(field: FieldInfo) -> str:
    limits = [_limit(item) for item in field.metadata]
    told = "; ".join(limit for limit in limits if limit)
    words = (field.description or "").replace("|", "\\|")
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        words = f"{' or '.join(f'`{choice}`' for choice in choices)}: {words}"
    return f"{words} ({told})" if told else words


def _limit(item: object) -> str:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{text} {getattr(item, name)}" for name, text in signs.items() if hasattr(item, name))
