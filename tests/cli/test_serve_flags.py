"""`tidegate serve`: every setting is a flag, a key and a variable; a wrong one is a line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import tidegate.server
from tidegate.cli import main
from tidegate.cli.serve import serve, settings_options
from tidegate.config import Settings


def field_names(settings: Any, prefix: str = "") -> Iterator[str]:
    """Every setting's name, as the environment writes it in small letters."""
    for name, field in settings.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from field_names(field.annotation, f"{prefix}{name}__")
        else:
            yield prefix + name


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What the command would serve with, instead of a server."""
    settings: list[Settings] = []

    def take(given: Settings) -> int:
        settings.append(given)
        return 0

    monkeypatch.setattr(tidegate.server, "serve", take)
    return settings


def test_every_setting_is_a_flag() -> None:
    """The options of serve are the settings, one for one, with their defaults in the help."""
    assert [option.name for option in settings_options()] == list(field_names(Settings))
    assert all(option.help for option in settings_options())
    text = CliRunner().invoke(main, ["serve", "--help"]).output
    assert "--limits-sessions-max" in text
    assert "\nLimits:" in text


def test_help_twice_is_the_same() -> None:
    """The flags are added once, however often the command is asked for them."""
    first, second = (CliRunner().invoke(main, ["serve", "--help"]).output for _ in range(2))
    assert first == second
    names = [option.name for option in serve.get_params(click.Context(serve))]
    assert len(names) == len(set(names))


def test_flag_wins_over_environment_over_file(
    served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting is taken from its flag, else the environment, else the file, one by one within a group too."""
    file = tmp_path / "tidegate.toml"
    file.write_text(
        "port = 1\nhttp_port = 2\nlog_format = 'json'\n[limits]\nsessions_max = 1\nstreams_max = 2\naliases_max = 3\n"
    )
    monkeypatch.setenv("TIDEGATE_HTTP_PORT", "20")
    monkeypatch.setenv("TIDEGATE_LIMITS__STREAMS_MAX", "20")
    flags = ["--config", str(file), "--port", "10", "--limits-sessions-max", "10", "--insecure"]
    assert CliRunner().invoke(main, ["serve", *flags]).exit_code == 0
    (settings,) = served
    assert (settings.port, settings.http_port, settings.log_format, settings.insecure) == (10, 20, "json", True)
    limits = settings.limits
    assert (limits.sessions_max, limits.streams_max, limits.aliases_max) == (10, 20, 3)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--port", "70000"], "port: "),
        (["--port", "many"], "--port"),
        (["--limits-streams-max", "0"], "limits.streams_max: "),
        (["--device", "abacus"], "--device"),
        (["--host", "0.0.0.0"], "--insecure"),
        (["--config", "/no/such/file.toml"], "there is no such file"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_wrong_settings(served: list[Settings], flags: list[str], named: str) -> None:
    """A wrong setting is named on standard error, nothing is served, and the exit code is 2."""
    result = CliRunner().invoke(main, ["serve", *flags])
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""
    assert served == []


def test_wrong_key_in_the_file(served: list[Settings], tmp_path: Path) -> None:
    """A key that no setting has is refused, not passed over."""
    file = tmp_path / "tidegate.toml"
    file.write_text("colour = 'red'\n")
    result = CliRunner().invoke(main, ["serve", "--config", str(file)])
    assert (result.exit_code, served) == (2, [])
    assert "colour" in result.stderr


def test_exit_code_is_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server returns is the command's exit code."""
    monkeypatch.setattr(tidegate.server, "serve", lambda _: 7)
    assert CliRunner().invoke(main, ["serve"]).exit_code == 7


def test_client_verbs_load_no_server(tmp_path: Path) -> None:
    """Running a verb of the client, to its error, loads neither torch nor pydantic."""
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from tidegate.cli import main\n"
        "verbs = (['models', 'list'], ['sessions', 'list'], ['bench', '--model=m'], ['replay', 'x.csv', '--model=m'])\n"
        "codes = [CliRunner().invoke(main, [*verb, '--address', '127.0.0.1:1']).exit_code for verb in verbs]\n"
        "print(json.dumps([codes, [n for n in ('torch', 'pydantic', 'aiohttp') if n in sys.modules]]))\n"
    )
    (tmp_path / "x.csv").write_text("a\n1\n")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(ran.stdout) == [[1, 1, 1, 1], []]
