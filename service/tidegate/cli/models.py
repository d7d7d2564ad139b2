"""`tidegate models`: what the server predicts with."""

from __future__ import annotations

import click

from tidegate.cli.options import address, as_json, print_json, print_table
from tidegate.client import Client, Description, Model


@click.group()
def models() -> None:
    """List, show and reload the models of a running server."""


@models.command("list")
@address
@as_json
def list_models(address: str, as_json: bool) -> None:
    """All models with their versions."""
    with Client(address) as client:
        found = client.models()
    if as_json:
        for model in found:
            print_json(model)
    else:
        print_table(("model", "version", "state", "sessions", "aliases", "problem"), version_rows(found))


def version_rows(found: list[Model]) -> list[tuple[object, ...]]:
    """One row a version; the default one is marked."""
    rows: list[tuple[object, ...]] = []
    for model in found:
        for version in model.versions:
            aliases = ["default"] if version.version == model.default_version else []
            aliases += [alias for alias, name in model.aliases.items() if name == version.version]
            cells = (version.version, version.state, version.sessions, ", ".join(aliases), version.problem)
            rows.append((model.name, *cells))
    return rows


@models.command()
@click.argument("name")
@click.option("--version", default="", help="A version or an alias instead of the default.")
@address
@as_json
def show(name: str, version: str, address: str, as_json: bool) -> None:
    """One model: its versions, and what one of them takes and predicts."""
    with Client(address) as client:
        model = client.model(name, version=version)
    if as_json:
        print_json(model)
        return
    print_table(("model", "version", "state", "sessions", "aliases", "problem"), version_rows([model]))
    if model.description is not None:
        print_description(model.description)


def print_description(about: Description) -> None:
    """What a version is, and its features in their order."""
    click.echo(f"{about.text or 'version ' + about.version}")
    click.echo(
        f"{about.cell}, {about.layers} x {about.hidden_size}, {about.state_bytes} bytes a session"
        + (f", frequency {about.frequency}" if about.frequency else "")
    )
    click.echo("; ".join(more_about(about)))
    rows = [(f.name, f.unit, f.role, "yes" if f.name in about.targets else "") for f in about.features]
    print_table(("feature", "unit", "role", "predicted"), rows)
    for name, words in about.words.items():
        click.echo(f"words of {name}: {', '.join(words)}")


def more_about(about: Description) -> list[str]:
    """Its head, and the inputs that the server derives."""
    facts = [f"{about.head} head"]
    if about.levels:
        facts.append("levels " + ", ".join(f"{level:g}" for level in about.levels))
    if about.coverages:
        facts.append("intervals of " + ", ".join(f"{coverage:g}" for coverage in about.coverages))
    if about.sample_paths:
        facts.append("sample paths")
    if about.calendar:
        facts.append(f"calendar {', '.join(about.calendar)} in {about.time_zone}")
    if about.lag_steps_max:
        facts.append(f"lags up to {about.lag_steps_max} steps")
    return facts


@models.command()
@address
@as_json
def reload(address: str, as_json: bool) -> None:
    """Have the server read its model folder again; exit 1 when it refused one."""
    with Client(address) as client:
        changed = client.reload_models()
    if as_json:
        print_json(changed)
    else:
        lines = [("added", name) for name in changed.added] + [("removed", name) for name in changed.removed]
        lines += [("refused", name) for name in changed.refused]
        for what, name in lines or [("nothing changed", "")]:
            click.echo(f"{what} {name}".rstrip())
    if changed.refused:
        raise SystemExit(1)
