"""`python -m tests.quality NAME...`: runs quality benchmarks; exit code 1 when a bound is missed.

Each is a module here: `measure()` gives its figures, or `main()` prints them itself and returns its exit code.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import click

from tests.quality import data
from tests.quality.bounds import Bound, report

NEEDS = {"etth1": data.ETTH1, "airports": data.AIRPORTS, "weather_us": data.AIRPORTS}
NAMES = ("etth1", "airports", "scales", "counter", "storybook", "filler", "dinner", "weather_us")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def main(names: tuple[str, ...], json_file: Path | None) -> None:
    """Run the benchmarks NAMES, or all of them."""
    records = {}
    for name in names or NAMES:
        click.echo(f"\n{name}")
        records[name] = run(name)
    if json_file is not None:
        json_file.write_text(json.dumps(records, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    missed = [name for name, record in records.items() if record["exit_code"]]
    click.echo(f"\nmissed: {', '.join(missed)}" if missed else "\nall bounds are kept")
    sys.exit(1 if missed else 0)


def run(name: str) -> dict[str, Any]:
    """One of them: its figures, exit code and seconds. Without its data set it is skipped."""
    if name in NEEDS and not NEEDS[name].exists():
        click.echo(f"  skipped: needs {NEEDS[name].name} beside the checkout")
        return {"exit_code": 0, "skipped": NEEDS[name].name}
    module, began = importlib.import_module(f"tests.quality.{name}"), time.monotonic()
    bounds: list[Bound] = []
    if hasattr(module, "measure"):
        bounds = module.measure()
        code = report(bounds)
    else:
        code = int(module.main())
    return {"exit_code": code, "seconds": round(time.monotonic() - began, 1), "figures": [plain(one) for one in bounds]}


def plain(bound: Bound) -> dict[str, Any]:
    """A figure for JSON, without what it does not have."""
    fields = asdict(bound) | {"kept": bound.kept}
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in fields.items()}


if __name__ == "__main__":
    main()
