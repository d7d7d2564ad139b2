"""The text of a first recipe: what was seen of a file as comments, and options that fit its size."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tidegate.errors import ConfigError
from tidegate.model.manifest import NAME_PATTERN
from tidegate.training.init import DAY_SECONDS, Sight


def recipe_text(path: Path, source: str, sight: Sight) -> str:
    """TOML that `tidegate train` takes as it is; `source` is the file as the recipe names it."""
    parts = [_head(path, source, sight), *_features(sight), _inputs(sight), _rest(sight)]
    return "\n".join(parts)


def write_recipe(data: Path, output: Path, sight: Sight) -> None:
    """Writes the recipe, never over a file; raises ConfigError."""
    source = data.resolve()
    folder = output.resolve().parent
    named = str(source.relative_to(folder)) if source.is_relative_to(folder) else str(source)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(recipe_text(data, named, sight))
    except FileExistsError:
        raise ConfigError(f"{output}: exists; name another file with --output") from None
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror})") from None


def _head(path: Path, source: str, sight: Sight) -> str:
    seen = f"{sight.rows} rows in {sight.streams} stream(s), {sight.missing_steps} missing steps, "
    seen += f"{sight.duplicates} repeated times, {sight.missing_cells} missing values"
    lines = [
        f"# {path.name}: {seen}.",
        "# Every option: docs/recipes.md",
        "",
        f"name = {json.dumps(_name(path.stem))}",
        "",
        "[data]",
        f"source = {json.dumps(source)}",
    ]
    if sight.time:
        lines += [f"time = {json.dumps(sight.time)}", f"frequency = {json.dumps(sight.frequency)}"]
        lines += ["time_tolerance = 0.5 # of an interval: times this far from the grid are moved to it"]
    if sight.id:
        lines += [f"id = {json.dumps(sight.id)} # each of its values is a stream, and a session"]
    if sight.duplicates:
        lines += ['duplicates = "first"']
    lines += ["validation = 0.7 # training ends here: a share, a number of rows or a date", "test = 0.85", ""]
    if sight.left_out:
        lines.insert(1, f"# Left out (constant, or too many words): {', '.join(sight.left_out)}.")
    return "\n".join(lines)


def _features(sight: Sight) -> list[str]:
    taken: set[str] = set()
    blocks = ["# role: target (predicted), past (only observed), future (known ahead) or static (of a stream)"]
    for column in (*sight.numbers, *sight.categories):
        name = _name(column)
        while name in taken:
            name += "_"
        taken.add(name)
        lines = ["[[features]]", f"name = {json.dumps(name)}"]
        lines += [f"column = {json.dumps(column)}"] if name != column else []
        lines += ['role = "past"', 'categories = "auto"'] if column in sight.categories else []
        blocks.append("\n".join([*lines, ""]))
    return blocks


def _inputs(sight: Sight) -> str:
    """Lags of a day and a week and the calendar, as far as the frequency and the data reach."""
    steps = [2, 3]
    calendar = []
    if sight.seconds and sight.seconds < DAY_SECONDS:
        day = DAY_SECONDS // sight.seconds
        steps += [day - 1, day, day + 1, 7 * day]
        calendar = ["hour_of_day", "day_of_week"]
    elif sight.seconds == DAY_SECONDS:
        steps, calendar = [2, 7], ["day_of_week", "day_of_year"]
    elif sight.seconds > DAY_SECONDS:
        calendar = ["month_of_year"]
    longest = sight.rows // sight.streams // 4
    steps = sorted({step for step in steps if 2 <= step <= longest})
    lines = ["[inputs]", f"lags = {steps} # differences to so many steps ago", f"calendar = {json.dumps(calendar)}"]
    return "\n".join([*lines, ""])


def _rest(sight: Sight) -> str:
    stretch = max(8, min(360, sight.rows // sight.streams // 8))
    lines = ["[network]", "hidden_size = 32", ""]
    lines += ["[network.head]", 'output = "change" # from the last value; or "level"', ""]
    lines += ["[gaps]", 'policy = "impute" # the model bridges gaps by its own predictions', "gap_steps_max = 24", ""]
    lines += ["[training]", "epochs = 60", "seconds_max = 300.0", f"stretch = {stretch}", "dropout = 0.1"]
    return "\n".join([*lines, "refit = true", ""])


def _name(text: str) -> str:
    """A name that clients can send."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:60]
    return name if re.fullmatch(NAME_PATTERN, name) else "x"
