"""`tidegate serve`: a flag for every field of the settings, made from them when they are needed."""

from __future__ import annotations

import os
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from tidegate.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

FORM = "tidegate.log_format"  # in a context's meta: how log lines look, for the line that says why it ended
NESTED = "__"  # between a group and its field in a parameter's name, as in the environment
TYPES: dict[Any, Any] = {bool: bool, int: int, float: float, Path: click.Path(path_type=Path)}


class ServeCommand(click.Command):
    """Adds the settings' flags on first use: the list of verbs must not need pydantic."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The flags: those written below and one for each setting."""
        self.params += [option for option in settings_options() if option.name not in {p.name for p in self.params}]
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A wrong value reads like one from the file or the environment: one line, without the usage."""
        ctx.find_root().with_resource(ended_at_once())
        ctx.meta[FORM] = os.environ.get("TIDEGATE_LOG_FORMAT")
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            raise ConfigError(error.format_message()) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Groups of settings get a section of their own."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            group = (parameter.name or "").rpartition(NESTED)[0]
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(group.capitalize() or "Options", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Answers signals until the server does so itself, seconds later, when torch is loaded. Nothing is served yet, so
    it may end; there are no models to read again. A container's first process would not hear SIGTERM at all."""
    answers: dict[signal.Signals, Any] = {signal.SIGHUP: signal.SIG_IGN, signal.SIGINT: _leave, signal.SIGTERM: _leave}
    before = {number: signal.signal(number, answer) for number, answer in answers.items()}
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _leave:  # a server that has run hears nothing more
            for number, answer in before.items():
                signal.signal(number, answer)


def _leave(*_: object) -> None:
    """Without the end of Python's own, which a half-loaded library may not bear."""
    os._exit(0)


def settings_options() -> list[click.Option]:
    """One option for each setting."""
    from tidegate.config import Settings  # noqa: PLC0415

    return list(options_of(Settings, ""))


def options_of(settings: type[BaseModel], prefix: str) -> list[click.Option]:
    """The options of a model's fields; a field that is a model itself gives its own, behind its name."""
    options: list[click.Option] = []
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
            options += options_of(field.annotation, f"{prefix}{name}{NESTED}")
        else:
            options.append(option_of(prefix + name, field))
    return options


def option_of(name: str, field: FieldInfo) -> click.Option:
    """One field's option. Ranges are left to the settings, so that flag, file and environment say the same."""
    flag = "--" + name.replace(NESTED, "-").replace("_", "-")
    default = "" if field.default_factory else f"  [default: {field.default}; TIDEGATE_{name.upper()}]"
    declaration = f"{flag}/--no-{flag.removeprefix('--')}" if field.annotation is bool else flag
    return click.Option(
        [declaration, name], type=type_of(field.annotation), default=None, help=f"{field.description or ''}{default}"
    )


def type_of(annotation: Any) -> Any:
    """The click type of a setting; what click does not know is a text that the settings read."""
    if get_origin(annotation) is Literal:
        return click.Choice([str(choice) for choice in get_args(annotation)])
    if isinstance(annotation, types.UnionType):
        return type_of(next(part for part in get_args(annotation) if part is not type(None)))
    return TYPES.get(annotation, str)


def nested(flags: dict[str, Any]) -> dict[str, Any]:
    """`limits__sessions_max=5` as `limits={"sessions_max": 5}`; flags that were not given are left out."""
    tree: dict[str, Any] = {}
    for name, value in flags.items():
        if value is not None:
            group, _, field = name.rpartition(NESTED)
            (tree.setdefault(group, {}) if group else tree)[field] = value
    return tree


@click.command(cls=ServeCommand)
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with the same settings as keys.")
@click.pass_context
def serve(ctx: click.Context, /, config: Path | None, **flags: Any) -> None:
    """Serve the models of a folder.

    When ready, prints {"grpc": "HOST:PORT", "http": "HOST:PORT"} on standard output. SIGTERM drains and ends it,
    SIGHUP reads the models again. A setting comes from its flag, else the environment, else the file.
    """
    from tidegate.config import load_settings  # noqa: PLC0415

    ctx.meta[FORM] = flags["log_format"] or ctx.meta[FORM]  # until the settings say it, which may not be right
    settings = load_settings(config, **nested(flags))
    ctx.meta[FORM] = settings.log_format
    from tidegate.server import serve as serve_settings  # noqa: PLC0415  # torch, for settings that are right

    ctx.exit(serve_settings(settings))
