"""`tidegate import`: networks trained elsewhere into the model repository."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tidegate.errors import ConfigError, PackageError

NAMES = "comma-separated; by default"
_OPTIONS = (
    click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True)),
    click.option("--name", required=True, help="The model's name in the repository."),
    click.option(
        "--models",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("models"),
        show_default=True,
        help="The model repository.",
    ),
    click.option("--features", default="", help=f"What the network takes, {NAMES} x0,x1,…"),
    click.option("--targets", default="", help=f"What it predicts, {NAMES} y0,y1,… A feature's name predicts it."),
    click.option(
        "--unit", "units", multiple=True, metavar="NAME=UNIT", help="A feature's or target's unit; repeatable."
    ),
    click.option("--frequency", default="", help="The time between steps: h, D, MS, …"),
)


@click.group("import")
def import_() -> None:
    """Bring a network trained elsewhere; it is taken only if it predicts as its source."""


def _common(verb: Callable[..., None]) -> Callable[..., None]:
    """The options that every kind of file has; a PackageError becomes one clear line."""

    @wraps(verb)
    def called(**options: Any) -> None:
        try:
            verb(**options)
        except PackageError as error:
            file = options["file"].name
            line = str(error) if error.field.startswith(file) else f"{file}: {error}"
            raise click.ClickException(f"{line}; nothing was written") from None

    for option in reversed(_OPTIONS):
        called = option(called)
    return called


@import_.command("torch")
@_common
@click.option(
    "--activation",
    type=click.Choice(["relu", "tanh"]),
    default="relu",
    show_default=True,
    help="What stands between the layers of an MLP head.",
)
def import_torch(activation: str, **options: Any) -> None:
    """Import the state dict of an nn.LSTM, nn.GRU or nn.RNN with a head of nn.Linear from FILE (.pt, .safetensors).

    A state dict does not hold what the module's forward does: what is assumed of it is printed.
    """
    from tidegate.training.importers.torch_file import read_torch  # noqa: PLC0415  # torch, for this verb alone

    _write(read_torch(options["file"], "tanh" if activation == "tanh" else "relu"), **options)


@import_.command("onnx")
@_common
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="IN:OUT",
    help="Run the graph as it is: a state's input and the output that holds its next value; repeatable.",
)
def import_onnx(states: tuple[str, ...], **options: Any) -> None:
    """Import LSTM, GRU or RNN operators with a head from FILE (.onnx), or with --state any graph of one step."""
    if states:
        from tidegate.training.importers.foreign import read_foreign  # noqa: PLC0415

        _write(read_foreign(options["file"], states), **options)
    else:
        from tidegate.training.importers.onnx_file import read_onnx  # noqa: PLC0415

        _write(read_onnx(options["file"]), **options)


def _write(
    read: tuple[Any, Any], file: Path, name: str, models: Path, features: str, targets: str, units: Any, frequency: str
) -> None:
    from tidegate.training.importers.writing import Meaning, write_import  # noqa: PLC0415

    network, source = read
    meaning = Meaning(
        name=name,
        features=_names(features),
        targets=_names(targets),
        units=_pairs("--unit", units),
        frequency=frequency,
    )
    package, agreement = write_import(models, meaning, file, network, source)
    manifest = package.manifest
    for output in network.left_out:
        click.echo(f"left out: output {output}")
    for assumption in network.assumed:
        click.echo(f"assumed: {assumption}, which the file does not say")
    click.echo(
        f"agrees with {agreement.source} within {agreement.error_max:.2g} over {agreement.steps} steps of "
        f"{agreement.rows} sequences"
    )
    click.echo(f"wrote {models / manifest.name / manifest.version}: {manifest.cell}, {manifest.layers} layer(s)")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """`a=b` texts as a mapping; raises ConfigError."""
    pairs = {}
    for text in texts:
        left, found, right = text.rpartition("=")
        if not (found and left and right):
            raise ConfigError(f"{option} {text}: must be two names with '=' between them")
        pairs[left] = right
    return pairs
