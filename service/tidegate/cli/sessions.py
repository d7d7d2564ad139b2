"""`tidegate sessions`: the feeds' memories in a running server, and in its store."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import click

from tidegate.cli.backup import backup, restore
from tidegate.cli.options import NewFile, address, as_json, print_json, print_table
from tidegate.client import Client, RowError, SessionInfo

COLUMNS = ("model", "session", "version", "step", "steps seen", "last observation", "last active", "state")


@click.group()
def sessions() -> None:
    """List, read and change sessions of a running server; back up and restore those of a store."""


sessions.add_command(backup)
sessions.add_command(restore)


def print_sessions(found: Iterable[SessionInfo], as_json: bool) -> None:
    """As a table or as JSON lines."""
    if as_json:
        for info in found:
            print_json(info)
    else:
        print_table(COLUMNS, [row_of(info) for info in found])


def row_of(info: SessionInfo) -> tuple[object, ...]:
    """A session's cells."""
    state = "quarantined" if info.quarantined else "open"
    active = info.last_active_time and info.last_active_time.isoformat(timespec="seconds")
    observed = info.last_event_time and info.last_event_time.isoformat()
    return info.model, info.id, info.version, info.step, info.steps_seen, observed, active, state


def fail_on(errors: list[RowError]) -> None:
    """Names each session that failed; exit code 1 when there is one."""
    for error in errors:
        click.echo(f"{error.id}: {error.reason.name}: {error.message}", err=True)
    if errors:
        raise SystemExit(1)


@sessions.command("list")
@click.option("--model", default="", help="Only this model's.")
@click.option("--filter", "terms", default="", help="id=PREFIX*, version=V, state=QUARANTINED; join them by AND.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@address
@as_json
def list_sessions(model: str, terms: str, limit: int, address: str, as_json: bool) -> None:
    """Sessions, in no particular order."""
    with Client(address) as client:
        print_sessions(islice(client.sessions(model=model, filter=terms), limit), as_json)


@sessions.command()
@click.argument("model")
@click.argument("session")
@address
@as_json
def get(model: str, session: str, address: str, as_json: bool) -> None:
    """One session as the server has it."""
    with Client(address) as client:
        print_sessions([client.session(model, session).info()], as_json)


@sessions.command("open")
@click.argument("model")
@click.argument("ids", nargs=-1, required=True, metavar="SESSION...")
@click.option("--version", default="", help="A version or an alias instead of the default.")
@address
@as_json
def open_sessions(model: str, ids: tuple[str, ...], version: str, address: str, as_json: bool) -> None:
    """Open sessions; those that live are left as they are."""
    with Client(address) as client:
        opened = client.open_sessions(model, ids, version=version)
        failed = {error.row for error in opened.errors}
        good = [client.session(model, name).info() for row, name in enumerate(ids) if row not in failed]
    print_sessions(good, as_json)
    fail_on(opened.errors)


@sessions.command()
@click.argument("model")
@click.argument("ids", nargs=-1, required=True, metavar="SESSION...")
@address
@as_json
def reset(model: str, ids: tuple[str, ...], address: str, as_json: bool) -> None:
    """Set the states of sessions to zero; lifts a quarantine."""
    with Client(address) as client:
        result = client.reset_sessions(model, ids)
    report("reset", result.done, result.errors, as_json)


@sessions.command()
@click.argument("model")
@click.argument("ids", nargs=-1, metavar="[SESSION]...")
@click.option("--filter", "terms", default="", help="Those that `list` finds by it, in this server's memory alone.")
@click.option("--yes", is_flag=True, help="Do not ask, when there are several.")
@address
@as_json
def delete(model: str, ids: tuple[str, ...], terms: str, yes: bool, address: str, as_json: bool) -> None:
    """End sessions and forget them.

    By id wherever they are: in this server's memory, in the store, or in another server that shares it.
    """
    if bool(ids) == bool(terms):
        raise click.UsageError("name sessions, or give a --filter, and not both")
    with Client(address) as client:
        named = list(dict.fromkeys(ids)) or [info.id for info in client.sessions(model=model, filter=terms)]
        if len(named) > 1 and not yes:
            click.confirm(f"End {len(named)} sessions of {model}?", abort=True, err=True)
        result = client.close_sessions(model, named)
    report("deleted", result.done, result.errors, as_json)


@sessions.command()
@click.argument("model")
@click.argument("ids", nargs=-1, metavar="[SESSION]...")
@click.option("--to", "version", required=True, help="The version (or alias) to go to.")
@click.option("--all", "everything", is_flag=True, help="All of the model's in this server's memory.")
@click.option("--filter", "terms", default="", help="Those that `list` finds by it, in this server's memory alone.")
@address
@as_json
def migrate(
    model: str, ids: tuple[str, ...], version: str, everything: bool, terms: str, address: str, as_json: bool
) -> None:
    """Move sessions to another version of their model, where they go on under the same numbers.

    With their state where both versions remember alike, else by the last observations, as many as the old version keeps
    (its replay_steps). Those that cannot move stay as they are.
    """
    if (bool(ids), everything, bool(terms)).count(True) != 1:
        raise click.UsageError("name sessions, or give --all or a --filter, and only one of these")
    with Client(address) as client:
        named = list(dict.fromkeys(ids)) or [info.id for info in client.sessions(model=model, filter=terms)]
        result = client.migrate_sessions(model, named, version=version)
    if as_json:
        failed = [error.id for error in result.errors]
        print_json(
            {"ways": dict(zip(named, result.ways, strict=True)), "replayed": result.replayed.tolist(), "failed": failed}
        )
    else:
        replayed = [int(count) for way, count in zip(result.ways, result.replayed, strict=True) if way == "replay"]
        click.echo(f"migrated {result.ways.count('state')} by their state, {len(replayed)} by their last observations")
        if replayed:
            click.echo(f"taken again: {min(replayed)} to {max(replayed)} observations a session")
    fail_on(result.errors)


def report(verb: str, done: int, errors: list[RowError], as_json: bool) -> None:
    """How many went well, and which did not."""
    if as_json:
        print_json({verb: done, "failed": [error.id for error in errors]})
    else:
        click.echo(f"{verb} {done}")
    fail_on(errors)


@sessions.command()
@click.argument("model")
@click.argument("session")
@click.argument("new_session")
@click.option("--step", type=click.IntRange(min=0), help="Begin at this retained step instead of the last.")
@address
@as_json
def fork(model: str, session: str, new_session: str, step: int | None, address: str, as_json: bool) -> None:
    """Copy a session, its state and its numbering to a new id."""
    with Client(address) as client:
        print_sessions([client.session(model, session).fork(new_session, step=step).info()], as_json)


@sessions.command()
@click.argument("model")
@click.argument("session")
@click.argument("step", type=click.IntRange(min=0))
@address
@as_json
def rewind(model: str, session: str, step: int, address: str, as_json: bool) -> None:
    """Take a session back to a retained STEP; what came after it is forgotten."""
    with Client(address) as client:
        print_sessions([client.session(model, session).rewind(step)], as_json)


@sessions.command("export")
@click.argument("model")
@click.argument("session")
@click.argument("file", type=NewFile())
@address
def export_session(model: str, session: str, file: Path, address: str) -> None:
    """Write all that the server remembers of a session to FILE. The session lives on."""
    with Client(address) as client:
        content = client.session(model, session).export()
    file.touch(mode=0o600)  # what a session has seen is nobody else's business
    file.write_bytes(content)
    click.echo(f"{file}: {len(content)} bytes")


@sessions.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--id", "session", default="", help="The session's id; without it, the one that it had.")
@click.option("--version", default="", help="A version with the same state shape, instead of the package that it had.")
@address
@as_json
def import_session(file: Path, session: str, version: str, address: str, as_json: bool) -> None:
    """Make a session of an exported FILE; its predictions go on as if it had never moved."""
    with Client(address) as client:
        print_sessions([client.import_session(file.read_bytes(), id=session, version=version)], as_json)
