"""`tidegate sessions backup` and `restore`: a store's sessions as one file, and back. No server is asked."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tidegate.cli.options import as_json, print_json
from tidegate.signals import SIGNALLED
from tidegate.store_setting import in_memory, store_setting

if TYPE_CHECKING:
    from tidegate.store.backup import Restored
    from tidegate.store.protocol import Store

Answer = TypeVar("Answer")
NAMED_MAX = 20  # sessions that are named one by one; of more there is the number
DAY_SECONDS = 86_400.0
STORED_SECONDS_MAX = 100 * 365 * DAY_SECONDS


def _known(context: click.Context, option: click.Parameter, value: str) -> str:
    try:
        return store_setting(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None


def _sane(context: click.Context, option: click.Parameter, value: float) -> float:
    if not 0 < value <= STORED_SECONDS_MAX:  # nor is it "nan"
        raise click.BadParameter(f"must be above 0 and at most {STORED_SECONDS_MAX:.0f}", context, option)
    return value


store_option = click.option(
    "--store",
    required=True,
    callback=_known,
    envvar="TIDEGATE_STORE",
    show_envvar=True,
    metavar="STORE",
    help="sqlite:PATH or redis://HOST:PORT/DB, as the servers have it.",
)


def _file(context: click.Context, argument: click.Parameter, value: Path) -> Path:
    if in_memory(str(value)):
        raise click.BadParameter("is a database in memory, which keeps nothing; name a file", context, argument)
    return value


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), callback=_file)
@store_option
@as_json
def backup(file: Path, store: str, as_json: bool) -> None:
    """Copy all sessions of a store to FILE.

    Servers may run meanwhile, on a Redis and on a SQLite file alike. What is copied is what they have saved: each
    session is up to the checkpoint interval (limits.checkpoint_seconds, by default one second) behind what its server
    knows (more where checkpoints lag), and is whole. Damaged rows are left out and counted (exit code 1).

    FILE is a store itself: `tidegate serve --store sqlite:FILE` goes on from it. It is there when it is complete.
    """
    from tidegate.store.backup import back_up  # noqa: PLC0415

    done = _done(lambda: back_up(_store(store, read_only=True), file))
    if as_json:
        print_json({"file": str(file), "sessions": done.sessions, "damaged": done.damaged})
    else:
        click.echo(f"{file}: {done.sessions} sessions, {file.stat().st_size} bytes")
    _warn_of_damaged(done.damaged)
    if done.damaged:
        raise SystemExit(1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@store_option
@click.option("--overwrite", is_flag=True, help="Also sessions that the store has at the same or a later step.")
@click.option(
    "--stored-seconds-max",
    type=float,
    callback=_sane,
    default=30 * DAY_SECONDS,
    show_default=True,
    envvar="TIDEGATE_LIMITS__STORED_SECONDS_MAX",
    show_envvar=True,
    help="What nobody asks for is forgotten after this: the servers' limit of that name.",
)
@as_json
def restore(file: Path, store: str, overwrite: bool, stored_seconds_max: float, as_json: bool) -> None:
    """Put the sessions of FILE, a backup or another store's file, back into a store.

    Those that the store does not have, has damaged, or has at an earlier step. Servers may run on a Redis meanwhile;
    sessions that one has in its memory are left and named (exit code 1), and it is told to save them and let them go:
    restored again, they are in the store. A SQLite file must not be in use.
    """
    from tidegate.store.backup import restore as put_back  # noqa: PLC0415

    source = f"sqlite:{file}"
    done = _done(
        lambda: put_back(_store(source, read_only=True), _store(store, stored_seconds_max), overwrite=overwrite)
    )
    if as_json:
        counts = {"restored": done.restored, "kept": done.kept, "held": len(done.held), "damaged": done.damaged}
        print_json(counts)
    else:
        click.echo(f"restored {done.restored}, kept {done.kept} that the store has at that step or a later one")
    _warn_of_damaged(done.damaged)
    _fail_on_held(done)


def _store(setting: str, stored_seconds_max: float = 30 * DAY_SECONDS, *, read_only: bool = False) -> Store:
    """As a replica of its own uses it."""
    from tidegate.store.backup import LEASE_SECONDS  # noqa: PLC0415
    from tidegate.store.choice import open_store  # noqa: PLC0415
    from tidegate.store.protocol import Terms  # noqa: PLC0415

    replica = f"{socket.gethostname()}-cli-{secrets.token_hex(8)}"
    return open_store(setting, Terms(replica, LEASE_SECONDS, stored_seconds_max), read_only=read_only)


def _done(work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """The answer, or the store's refusal as one line. SIGTERM ends it as SIGINT does: what is half done goes."""
    from tidegate.store.protocol import StoreError  # noqa: PLC0415

    async def run() -> Answer:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work()

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    except asyncio.CancelledError:
        raise SystemExit(SIGNALLED + signal.SIGTERM) from None


def _warn_of_damaged(count: int) -> None:
    if count:
        click.echo(f"{count} damaged rows are left out", err=True)


def _fail_on_held(done: Restored) -> None:
    """Names sessions that were left; exit code 1 when there is one."""
    for key, owner in done.held[:NAMED_MAX]:
        click.echo(f"{key.model} {key.session_id.decode('utf-8', 'replace')}: is held by {owner}", err=True)
    if len(done.held) > NAMED_MAX:
        click.echo(f"and {len(done.held) - NAMED_MAX} more", err=True)
    if done.held:
        click.echo(f"left {len(done.held)} that servers have in memory; restore again, or stop these first", err=True)
        raise SystemExit(1)
