"""The text of a first recipe: what was seen of a file as comments, and options that fit its size."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path

from tidegate.errors import ConfigError
from tidegate.model.manifest import LAG_STEPS_MAX, NAME_PATTERN
from tidegate.training.init import Sight
from tidegate.training.steps import DAY

NAME_LENGTH_MAX = 64  # of NAME_PATTERN
CONTROL = re.compile(r"[\x00-\x1f\x7f]+")  # which TOML takes in no comment, and a new line ends


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
        text = recipe_text(data, named, sight).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{str(source)!r}: a name in UTF-8 is all that a recipe can hold; rename it") from None
    try:
        with output.open("xb") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{output}: exists; name another file with --output") from None
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror})") from None


def notes(sight: Sight) -> list[str]:
    """What its reader must know of the file, or do about it."""
    told = []
    if doubtful := sight.times.doubtful:
        ways = f"may be written {' or '.join(sight.times.ways)}" if sight.times.ways else "could not be read as times"
        until = "data.time, data.time_format and data.frequency say how"
        told += [f"{doubtful!r} {ways}: rows are taken in their order, without times, until {until}"]
    if sight.time and not sight.steps.frequency:
        told += [f"no frequency fits the times of {sight.time!r}: rows are taken in their order, without times"]
    if sight.without_id:
        told += [
            f"{sight.without_id} of {sight.rows} rows have no {sight.id!r}: training refuses a row without its stream"
        ]
    if not sight.repeats_explained:
        told += [f"{sight.steps.repeats} of {sight.rows} rows have the time of another row; no column tells them apart"]
        told += ["training refuses them until data.id names their streams, or data.duplicates says which row is kept"]
    return told


def _head(path: Path, source: str, sight: Sight) -> str:
    steps = sight.steps
    seen = f"{sight.rows} rows in {sight.streams} stream(s), {steps.missing} missing steps, "
    seen += f"{steps.repeats} repeated times, {sight.missing_cells} missing values"
    lines = [_comment(f"{path.name}: {seen}.")]
    if sight.left_out:
        left_out = ", ".join(map(str, sight.left_out))
        lines += [_comment(f"Left out (constant, too many words, or dates that are not clear): {left_out}.")]
    lines += [_comment(f"Note: {note}.") for note in notes(sight)]
    lines += ["# Every option: docs/recipes.md", "", f"name = {_toml(_name(path.stem))}", ""]
    return "\n".join([*lines, *_data(source, sight), ""])


def _data(source: str, sight: Sight) -> list[str]:
    layout, steps = sight.layout, sight.steps
    lines = ["[data]", f"source = {_toml(source)}"]
    if layout.separator != ",":
        lines += [f"separator = {_toml(layout.separator)}", f"decimal = {_toml(layout.decimal)}"]
    if steps.frequency:
        lines += [f"time = {_toml(sight.time)}"]
        lines += [f"time_format = {_toml(sight.time_format)}"] if sight.time_format else []
        lines += [f"frequency = {_toml(steps.frequency)}"]
        lines += ["time_tolerance = 0.5 # of an interval: times this far from the grid are moved to it"]
    if sight.id:
        lines += [f"id = {_toml(sight.id)} # each of its values is a stream, and a session"]
    if steps.frequency and steps.repeats and sight.repeats_explained:
        lines += [f'duplicates = "first" # of two rows of one time; {steps.repeats} row(s) are left out']
    return [*lines, "validation = 0.7 # training ends here: a share, a number of rows or a date", "test = 0.85"]


def _features(sight: Sight) -> list[str]:
    taken: set[str] = set()
    blocks = ["# role: target (predicted), past (only observed), future (known ahead) or static (of a stream)"]
    for column in (*sight.numbers, *sight.categories):
        name = _free_name(_name(column), taken)
        taken.add(name)
        lines = ["[[features]]", f"name = {_toml(name)}"]
        lines += [f"column = {_toml(column)}"] if name != column else []
        lines += ['role = "past"', 'categories = "auto"'] if column in sight.categories else []
        blocks.append("\n".join([*lines, ""]))
    return blocks


def _inputs(sight: Sight) -> str:
    """Lags of a day and a week and the calendar, as far as the frequency and the data reach."""
    steps = [2, 3]
    calendar = []
    step = sight.steps.nanoseconds
    if step and step < DAY:
        day = DAY // step
        steps += [day - 1, day, day + 1, 7 * day]
        calendar = ["hour_of_day", "day_of_week"]
    elif step == DAY:
        steps, calendar = [2, 7], ["day_of_week", "day_of_year"]
    elif step > DAY:
        calendar = ["month_of_year"]
    longest = min(sight.rows // sight.streams // 4, LAG_STEPS_MAX)
    steps = sorted({step for step in steps if 2 <= step <= longest})
    lines = ["[inputs]", f"lags = {steps} # differences to so many steps ago", f"calendar = {_toml(calendar)}"]
    return "\n".join([*lines, ""])


def _rest(sight: Sight) -> str:
    stretch = max(8, min(360, sight.rows // sight.streams // 8))
    lines = ["[network]", "hidden_size = 32", ""]
    lines += ["[network.head]", 'output = "change" # from the last value; or "level"', ""]
    lines += ["[gaps]", 'policy = "impute" # the model bridges gaps by its own predictions', "gap_steps_max = 24", ""]
    lines += ["[training]", "epochs = 60", "seconds_max = 300.0", f"stretch = {stretch}", "dropout = 0.1"]
    return "\n".join([*lines, "refit = true", ""])


def _toml(value: object) -> str:
    """A string or a list of them. As JSON has it, but for what is beyond 16 bits, of which JSON makes two halves."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    """One line, whatever the names in it hold."""
    return "# " + CONTROL.sub(" ", text)


def _name(text: str) -> str:
    """A name that clients can send."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(text)).strip("._-")[:NAME_LENGTH_MAX]
    return name if re.fullmatch(NAME_PATTERN, name) else "x"


def _free_name(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if it is taken."""
    numbered = (f"{name[: NAME_LENGTH_MAX - len(end)]}{end}" for end in (f"_{number}" for number in count(2)))
    return name if name not in taken else next(free for free in numbered if free not in taken)
