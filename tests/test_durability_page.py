"""docs/durability.md says only what there is: limits, metrics, reasons, commands, files."""

from __future__ import annotations

import re
from pathlib import Path

import click

from tests.servers import RunningServer
from tests.services import RunningRedis, redis_server
from tidegate.cli import main
from tidegate.config import Limits
from tidegate.errors import Reason

__all__ = ["redis_server"]
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "durability.md").read_text()


def test_limits_exist_and_have_the_defaults_that_are_said() -> None:
    """`limits.lease_seconds`, 3: a number of seconds or days behind the name is the default."""
    named = re.findall(r"`limits\.(\w+)`(?:,? \(?(\d+)( days)?\)?)?", PAGE)
    assert named
    for name, number, days in named:
        default = getattr(Limits(), name)
        if number:
            assert default == float(number) * (86_400 if days else 1), name


def test_metrics_exist(models: Path, redis_server: RunningRedis) -> None:
    """Each is one that a server with a shared store has."""
    with RunningServer(models, "--store", redis_server.url) as server:
        found = server.get("/metrics")
    named = set(re.findall(r"`(tidegate_\w+)", PAGE))
    assert len(named) > 5
    assert all(f"# TYPE {name} " in found for name in named)


def test_reasons_and_evictions_exist() -> None:
    """Words in capitals are reasons of errors."""
    words = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE)) - {"TIDEGATE_STORE"}
    assert words
    assert words <= set(Reason.__members__)


def test_commands_exist() -> None:
    """Each line of a command names a verb and options that it has."""
    lines = re.findall(r"^tidegate (.*)$", PAGE, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        words = line.partition("#")[0].split()
        command: click.Command = main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        context = click.Context(command)
        options = {name for parameter in command.get_params(context) for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_files_exist() -> None:
    """What is applied, and what is linked."""
    named = re.findall(r"kubectl apply -k (\S+)`", PAGE) + re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert named
    assert all((ROOT / name).exists() or (ROOT / "docs" / name).exists() for name in named)
