"""`tidegate forecast`: what comes after a session's last observation, without stepping it."""

from __future__ import annotations

import click

from tidegate.cli.options import address, as_json, print_json, print_table
from tidegate.client import Client, Forecast, Generation


@click.command()
@click.argument("model")
@click.argument("session")
@click.option("--horizon", type=click.IntRange(min=1), default=12, show_default=True, help="Steps ahead.")
@click.option("--level", "levels", type=float, multiple=True, help="A quantile to show, such as 0.1; may be repeated.")
@click.option("--samples", type=click.IntRange(min=0), default=0, help="Sample paths to draw.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Names the random numbers.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of a categorical model's draws.")
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="Draw from so many of the likeliest; 0: all.")
@click.option("--min-p", type=float, default=0.0, help="Draw from those with this share of the likeliest's.")
@click.option("--stop", default="", help="The category that ends a path.")
@address
@as_json
def forecast(
    model: str,
    session: str,
    horizon: int,
    levels: tuple[float, ...],
    samples: int,
    seed: int,
    temperature: float,
    top_k: int,
    min_p: float,
    stop: str,
    address: str,
    as_json: bool,
) -> None:
    """Forecast SESSION of MODEL. The session stays where it is.

    A categorical model's sample paths are printed as words.
    """
    with Client(address) as client:
        about = client.model(model).description
        categorical = about is not None and about.head == "categorical"
        generation = Generation(temperature, top_k, min_p, stop) if categorical and samples else None
        found = client.session(model, session).forecast(
            horizon, levels=sorted(levels), samples=samples, seed=seed, generation=generation
        )
    if as_json:
        print_json(record(found))
    elif found.tokens:
        for path in found.words:
            click.echo(" ".join(path))
    else:
        print_table(*table(found, sorted(levels)))


def record(found: Forecast) -> dict[str, object]:
    """As plain values."""
    times = None if found.valid_times is None else [str(time) for time in found.valid_times]
    return {
        "session_id": found.session_id,
        "version": found.version,
        "step": found.step,
        "targets": found.targets,
        "valid_times": times,
        "values": found.values.tolist(),
        "quantiles": found.quantiles.tolist(),
        "paths": found.paths.tolist(),
        "words": found.words,
    }


def table(found: Forecast, levels: list[float]) -> tuple[list[str], list[tuple[str, ...]]]:
    """A row a step: its time or number, each target, and each target's quantiles."""
    columns = ["time" if found.valid_times is not None else "step"]
    for target in found.targets:
        columns += [target, *(f"{target} {level:g}" for level in levels)]
    rows = []
    for step, values in enumerate(found.values):
        when = str(found.step + 1 + step) if found.valid_times is None else f"{found.valid_times[step]:.19}"
        cells = [when]
        for place, value in enumerate(values):
            cells += [f"{value:.6g}", *(f"{quantile[step, place]:.6g}" for quantile in found.quantiles)]
        rows.append(tuple(cells))
    return columns, rows
