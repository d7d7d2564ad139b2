"""The verbs that talk to a running server, against one."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client, __version__
from tidegate.cli import main

MODEL = "random"


@pytest.fixture
def ids() -> list[str]:
    """Three ids that nobody has used."""
    run = uuid.uuid4().hex
    return [f"{run}-{letter}" for letter in "abc"]


def run(server: RunningServer, *words: str) -> Result:
    """The command's result."""
    return CliRunner().invoke(main, [*words, "--address", server.grpc])


def records(result: Result) -> list[dict[str, Any]]:
    """What --json printed."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_version() -> None:
    """--version prints the version."""
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"tidegate, version {__version__}\n")


def test_models(server: RunningServer) -> None:
    """Models are listed and shown, as a table and as JSON."""
    assert MODEL in run(server, "models", "list").stdout
    assert MODEL in [model["name"] for model in records(run(server, "models", "list", "--json"))]
    shown = run(server, "models", "show", MODEL).stdout
    assert "x3" in shown
    assert "lstm, 1 x 32" in shown
    (model,) = records(run(server, "models", "show", MODEL, "--json"))
    assert model["description"]["targets"] == ["x0", "x1", "x2", "x3"]


def test_words_are_shown(server: RunningServer) -> None:
    """A feature's categories stand below the table."""
    features: list[dict[str, Any]] = [{"name": "x0"}, {"name": "sky", "role": "past", "categories": ["clear", "rain"]}]
    random_package(server.models, "sky", features=features, targets=["x0"])
    run(server, "models", "reload")
    assert "words of sky: clear, rain" in run(server, "models", "show", "sky").stdout
    assert "words of" not in run(server, "models", "show", MODEL).stdout


def test_reload(server: RunningServer) -> None:
    """A reload names what it added; one that refuses a package names the field and exits with 1."""
    random_package(server.models, "more")
    assert "added more/1" in run(server, "models", "reload").stdout
    random_package(server.models, "worse")
    (server.models / "worse" / "1" / "model.json").write_text("{}")
    result = run(server, "models", "reload")
    assert result.exit_code == 1
    assert "refused worse/1: " in result.stdout


def test_life_of_sessions(server: RunningServer, ids: list[str]) -> None:
    """Sessions are opened, read, listed, reset, forked and deleted."""
    assert [info["id"] for info in records(run(server, "sessions", "open", MODEL, *ids[:2], "--json"))] == ids[:2]
    with Client(server.grpc) as client:
        client.session(MODEL, ids[0]).step([0.0] * 4)
    (info,) = records(run(server, "sessions", "get", MODEL, ids[0], "--json"))
    assert (info["step"], info["steps_seen"]) == (1, 1)
    (forked,) = records(run(server, "sessions", "fork", MODEL, ids[0], ids[2], "--json"))
    assert (forked["id"], forked["step"]) == (ids[2], 1)
    assert records(run(server, "sessions", "reset", MODEL, ids[0], "--json")) == [{"reset": 1, "failed": []}]
    prefix = ids[0].rpartition("-")[0]
    listing = run(server, "sessions", "list", "--model", MODEL, "--filter", f"id={prefix}*", "--json")
    assert {record["id"]: record["steps_seen"] for record in records(listing)} == {ids[0]: 0, ids[1]: 0, ids[2]: 1}
    assert ids[1] in run(server, "sessions", "list", "--filter", f"id={ids[1]}").stdout
    assert run(server, "sessions", "delete", MODEL, *ids, "--yes").stdout == "deleted 3\n"


def test_failures_of_some(server: RunningServer, ids: list[str]) -> None:
    """What cannot be done is named on standard error with exit code 1; the rest is done."""
    records(run(server, "sessions", "open", MODEL, ids[0], "--json"))
    result = run(server, "sessions", "delete", MODEL, *ids[:2], "--yes")
    assert (result.exit_code, result.stdout) == (1, "deleted 1\n")
    assert result.stderr.startswith(f"{ids[1]}: SESSION_NOT_FOUND: ")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["models", "show", "nope"], "MODEL_NOT_FOUND"),
        (["sessions", "get", MODEL, "nope"], "SESSION_NOT_FOUND"),
        (["sessions", "list", "--filter", "colour=red"], "BAD_FILTER"),
        (["bench", "--model", "nope"], "MODEL_NOT_FOUND"),
    ],
)
def test_refusals(server: RunningServer, words: list[str], reason: str) -> None:
    """A refusal is one line on standard error, with the reason, and exit code 1."""
    result = run(server, *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {reason}: ")
    assert len(result.stderr.splitlines()) == 1


def test_nobody_there() -> None:
    """Where nothing listens, the line says what to check."""
    result = CliRunner().invoke(main, ["models", "list", "--address", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "UNREACHABLE" in result.stderr
    assert "Check the address" in result.stderr


@pytest.mark.parametrize(
    "load",
    [
        ["--sessions", "8", "--streams", "4"],
        ["--sessions", "20", "--streams", "3", "--batch", "4"],
        ["--sessions", "8", "--streams", "4", "--rate", "400"],
        ["--sessions", "20", "--streams", "2", "--batch", "10", "--rate", "2000"],
    ],
)
def test_bench(server: RunningServer, tmp_path: Path, load: list[str]) -> None:
    """Each kind of load gets answers to all it asks, without errors, and leaves no session behind."""
    file = tmp_path / "result.json"
    measured = ["--seconds", "1", "--warmup", "0.1", "--json", str(file)]
    result = run(server, "bench", "--model", MODEL, *load, *measured)
    assert result.exit_code == 0, result.output
    assert "p99.9" in result.stdout
    written = json.loads(file.read_text())
    assert written["errors"] == {}
    assert written["observations"] >= written["messages"] > 0
    latencies = written["latency_seconds"]
    assert 0 < latencies["p50"] <= latencies["p90"] <= latencies["p99"] <= latencies["p99.9"]
    with Client(server.grpc) as client:
        assert not list(client.sessions(filter="id=bench-*"))


def test_bench_usage(server: RunningServer) -> None:
    """A load that cannot be is wrong usage."""
    assert run(server, "bench", "--model", MODEL, "--sessions", "2", "--streams", "3").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "--model", MODEL, "--seconds", "60", "--json"],
        ["sessions", "export", MODEL, "nobody"],
        ["demo", "weather", "--svg"],
    ],
    ids=" ".join,
)
def test_files_without_a_folder(server: RunningServer, tmp_path: Path, words: list[str]) -> None:
    """They are wrong usage, said before the work."""
    result = CliRunner().invoke(main, [*words, str(tmp_path / "none" / "file")])
    assert result.exit_code == 2
    assert "there is no folder" in " ".join(result.stderr.split())


def test_ids_are_shown_as_they_are(server: RunningServer) -> None:
    """Nothing in them stands for something else, and none of them steers the terminal."""
    ids = ["plant:house:1", "[bold]x[/bold]", "a\x1b[31mb"]
    shown = run(server, "sessions", "open", MODEL, *ids).stdout
    for name in (*ids[:2], r"a\x1b[31mb"):
        assert name in shown
    assert "\x1b" not in shown


def test_bench_sends_what_the_model_takes(server: RunningServer) -> None:
    """Values of what is known ahead, and of what nobody sends, are not among them."""
    features: list[dict[str, Any]] = [
        {"name": "x0", "role": "past"},
        {"name": "known", "role": "future"},
        {"name": "y0", "role": "output"},
    ]
    random_package(server.models, "partly", features=features, targets=["y0"])
    run(server, "models", "reload")
    load = ["--sessions", "2", "--streams", "1", "--seconds", "1", "--warmup", "0.1"]
    result = run(server, "bench", "--model", "partly", *load)
    assert result.exit_code == 0, result.output


def test_no_address() -> None:
    """Such as that of a variable which is not set."""
    result = CliRunner().invoke(main, ["models", "list", "--address", ""])
    assert result.exit_code == 2
    assert "give HOST:PORT" in result.stderr
