"""The command `tidegate`. Verbs that only need the client import neither torch nor pydantic.

Exit codes: 0 done, 1 it failed (one line says why and what to do), 2 wrong usage or a wrong setting.
"""

from __future__ import annotations

import errno
import os
from typing import IO, Any

# Both are read when grpc is imported. Its errors reach us as exceptions; and on one core a server reads connections by
# the thread that waits for them, not by a pool of threads, which costs as much again there. With more cores those read
# while a step runs: up to a quarter more messages.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1:
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import click

import tidegate
from tidegate.cli.bench import bench
from tidegate.cli.demo import demo
from tidegate.cli.evaluate import evaluate
from tidegate.cli.forecast import forecast
from tidegate.cli.import_ import import_
from tidegate.cli.init import init
from tidegate.cli.models import models
from tidegate.cli.replay import replay
from tidegate.cli.serve import FORM, serve
from tidegate.cli.sessions import sessions
from tidegate.cli.train import train
from tidegate.errors import ConfigError, PackageError, TidegateError
from tidegate.logs import fatal


class Failure(click.ClickException):
    """Why a verb failed, as click shows and exits with it: one line, of JSON where the verb's log is."""

    def __init__(self, why: object, ctx: click.Context) -> None:
        super().__init__(str(why))
        self._json = ctx.meta.get(FORM) == "json"

    def show(self, file: IO[str] | None = None) -> None:
        """On standard error."""
        if self._json:
            click.echo(fatal(self.message), file, err=True)
        else:
            super().show(file)


class WrongSetting(Failure):
    """A ConfigError."""

    exit_code = 2


EXTRAS = {"serve": "server", "demo": "demo", "init": "train", "train": "train", "evaluate": "train", "import": "onnx"}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a file that was open already, whose name is not told


class Verbs(click.Group):
    """The verbs; what they raise becomes one clear line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise WrongSetting(error, ctx) from None
        except (PackageError, TidegateError) as error:
            raise Failure(error, ctx) from None
        except ModuleNotFoundError as error:
            why = missing(error, ctx.invoked_subcommand)
            if why is None:
                raise
            raise Failure(why, ctx) from None
        except OSError as error:
            if error.filename is not None:
                raise Failure(f"{error.filename}: {error.strerror}", ctx) from None
            if error.errno in FULL:
                raise Failure(f"what was to be written could not be: {error.strerror}", ctx) from None
            raise


def missing(error: ModuleNotFoundError, verb: str | None) -> str | None:
    """What to do about a package that the verb needs; None where a module of our own is missing, which is a defect."""
    extra = EXTRAS.get(verb or "")
    if error.name is None or error.name.partition(".")[0] == "tidegate" or extra is None:
        return None
    return f"{error.name} is missing: pip install 'tidegate[{extra}]'"


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tidegate.__version__, prog_name="tidegate")
def main() -> None:
    """Live predictions from LSTM sessions that a server keeps in memory."""


for verb in (serve, demo, replay, forecast, models, sessions, bench, init, train, evaluate, import_):
    main.add_command(verb)
