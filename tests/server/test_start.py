"""Starting a server: where settings come from, what it says when it is ready, and what when it cannot begin."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.packages import random_package
from tests.servers import START_SECONDS_MAX, RunningServer
from tidegate import Client
from tidegate.config import Durability, Limits, Settings, load_settings
from tidegate.errors import ConfigError
from tidegate.model.package import MANIFEST


def refuse(*flags: str, **environment: str) -> str:
    """Runs a server that must not start; returns its one line (before it there may be only what it had done well)."""
    ran = subprocess.run(
        [sys.executable, "-m", "tidegate.cli", "serve", *flags],
        capture_output=True,
        text=True,
        timeout=START_SECONDS_MAX,
        env={**os.environ, **environment},
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    *log, line = ran.stderr.splitlines()
    assert line.startswith("Error: ")
    assert all(" INFO " in earlier for earlier in log)
    return line


FLAGS: dict[str, tuple[list[str], str]] = {
    "a port out of range": (["--port", "70000"], "port: "),
    "a port that is none": (["--http-port", "many"], "--http-port"),
    "a device that is none": (["--device", "abacus"], "--device"),
    "a kernel that is none": (["--kernel", "abacus"], "--kernel"),
    "a kernel of other devices": (["--device", "cpu", "--kernel", "triton"], "kernel: "),
    "a limit of nothing": (["--limits-streams-max", "0"], "limits.streams_max: "),
    "a wait of nothing": (["--limits-keepalive-seconds", "0"], "limits.keepalive_seconds: "),
    "a host beyond loopback": (["--host", "0.0.0.0"], "--insecure"),
    "all hosts of IPv6": (["--host", "::"], "--insecure"),
    "no file": (["--config", "/no/such/file.toml"], "there is no such file"),
}


@pytest.mark.parametrize(("flags", "named"), FLAGS.values(), ids=FLAGS.keys())
def test_a_wrong_flag_is_a_line(flags: list[str], named: str) -> None:
    """One line on standard error that names the setting, nothing on standard output, exit code 2."""
    assert named in refuse(*flags)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("TIDEGATE_PORT", "70000", "port: "),
        ("TIDEGATE_LIMITS__SESSIONS_MAX", "many", "limits.sessions_max: "),
        ("TIDEGATE_LIMITS__COLOUR", "red", "limits.colour: "),
        ("TIDEGATE_LIMITS", "many", "limits"),
        ("TIDEGATE_HOST", "0.0.0.0", "--insecure"),
        ("TIDEGATE_STORE__URL", "redis://h", "TIDEGATE_STORE__URL: STORE is no group"),
        ("tidegate_port__x", "5", "tidegate_port__x: PORT is no group"),
        ("TIDEGATE_NATIVE", "false", "TIDEGATE_NATIVE: must be 0 or 1 (got 'false')"),
        ("TIDEGATE_GRPC", "bogus", "TIDEGATE_GRPC: must be aio (got 'bogus')"),
    ],
)
def test_a_wrong_variable_is_a_line(name: str, value: str, named: str) -> None:
    """The same from the environment."""
    line = refuse(**{name: value})
    assert named in line
    assert "--config" not in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"port = 70000", "port: "),
        (b"port = 'many'", "port: "),
        (b"colour = 'red'", "colour: "),
        (b"[limits]\nsessions_max = 0", "limits.sessions_max: "),
        (b"[limits]\ncolour = 1", "limits.colour: "),
        (b"port = ", "settings.toml"),
        (b"\xff\xfe", "settings.toml"),
        (b"host = '0.0.0.0'", "--insecure"),
    ],
)
def test_a_wrong_file_is_a_line(tmp_path: Path, text: bytes, named: str) -> None:
    """The same from the file of --config."""
    file = tmp_path / "settings.toml"
    file.write_bytes(text)
    assert named in refuse("--config", str(file))


BOUNDS: dict[str, tuple[dict[str, Any], str]] = {
    "a wait for ever": ({"limits": {"stored_seconds_max": "inf"}}, "limits.stored_seconds_max: "),
    "a wait that is no number": ({"limits": {"lease_seconds": "nan"}}, "limits.lease_seconds: "),
    "a wait longer than a clock counts": ({"limits": {"idle_seconds_max": 1e300}}, "limits.idle_seconds_max: "),
    "a wait shorter than gRPC counts": ({"limits": {"keepalive_seconds": 1e-4}}, "limits.keepalive_seconds: "),
    "a wait longer than gRPC counts": ({"limits": {"keepalive_timeout_seconds": 1e7}}, "limits.keepalive_timeout_"),
    "checkpoints that lag by themselves": (
        {"limits": {"checkpoint_seconds": 20}},
        "limits.checkpoint_lag_seconds_max: .* at least twice checkpoint_seconds, which is 20",
    ),
    "rounds that take a core": ({"limits": {"sweep_seconds": 1e-9}}, "limits.sweep_seconds: "),
    "checkpoints that take a core": ({"limits": {"checkpoint_seconds": 1e-9}}, "limits.checkpoint_seconds: "),
    "two levels for one model": (
        {"store": "sqlite:x.db", "durability": "weather=step,weather=none"},
        "durability: .* says twice what weather have",
    ),
    "two levels for all others": ({"durability": "none,step"}, "durability: .* says twice what all others have"),
    "what memory cannot keep": ({"durability": "step"}, "durability: .* needs a store"),
    "what memory cannot keep, if it is asked for": ({"durability": "interval"}, "durability: .* needs a store"),
    "what memory cannot keep of a model": ({"durability": "none,random=interval"}, "durability: .* needs a store"),
}


@pytest.mark.parametrize(("settings", "problem"), BOUNDS.values(), ids=BOUNDS.keys())
def test_what_cannot_be_kept_is_refused(settings: dict[str, Any], problem: str) -> None:
    """Times that nothing can count, and promises that the other settings break."""
    with pytest.raises(ConfigError, match=f"^{problem}"):
        load_settings(**settings)


def test_the_default_level_is_none_without_a_store() -> None:
    """What nobody asked for need not be had; where there is a store, it is the level of whom nothing is said."""
    assert load_settings().durability_of("weather") is Durability.NONE
    assert load_settings(durability="weather=none").durability_of("other") is Durability.NONE
    stored = load_settings(store="sqlite:x.db", durability="weather=none")
    assert [stored.durability_of(name) for name in ("weather", "other")] == [Durability.NONE, Durability.INTERVAL]


COUNTS = [name for name, field in Limits.model_fields.items() if field.annotation is int]


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_one_that_can_be_told(name: str) -> None:
    """What gRPC, sockets and columns do not count to is refused, by name, rather than by what it breaks there."""
    with pytest.raises(ConfigError, match=rf"^limits.{name}: .* less than or equal to "):
        load_settings(limits={name: 10**20})


def test_the_largest_counts_are_served(models: Path) -> None:
    """All that is taken can be told to gRPC and to sockets. (Whether there is so much memory is another matter.)"""
    largest = {name: _largest(name) for name in COUNTS if name != "state_bytes_max"}
    flags = [part for name, most in largest.items() for part in (f"--limits-{name.replace('_', '-')}", str(most))]
    with RunningServer(models, *flags) as server:
        assert server.get("/readyz") == "ok\n"


def _largest(name: str) -> int:
    return next(int(bound.le) for bound in Limits.model_fields[name].metadata if hasattr(bound, "le"))


PASSWORD = "hunter2"
STORES = [
    f"http://u:{PASSWORD}@h:6379/0",
    f"redis:u:{PASSWORD}@h:6379/0",
    f"redis://u:{PASSWORD}@h:port/0",
    f"redis://u:{PASSWORD}@:6379",
    f"redis://u:{PASSWORD}@h/name",
    f"redis://u:{PASSWORD}@h/3/extra",
    f"redis://u:{PASSWORD}@h/0#1",
    f"unix://u:{PASSWORD}@h/socket",
    "redis:foo",
    "redis://",
    "redis:///1",
    "unix:socket",
    "sqlite:",
    "sqlite::memory:",
    "sqlite:./:memory:",
    "memory:",
]


@pytest.mark.parametrize("store", STORES)
def test_a_wrong_store_is_refused(store: str) -> None:
    """Nothing but a database that is named in full is connected to; and no error shows a password."""
    with pytest.raises(ConfigError, match=r"^store: ") as refused:
        load_settings(store=store)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("store", [STORES[0], f"redis://u:{PASSWORD}@h/0?colour=red", f"unix://u:{PASSWORD}@/a?db=x"])
def test_a_wrong_store_is_a_line(models: Path, store: str) -> None:
    """Where the settings refuse it, and where the store does."""
    line = refuse("--models", str(models), TIDEGATE_STORE=store)
    assert line.startswith("Error: store: ")
    assert PASSWORD not in line


def test_a_wrong_key_does_not_show_what_it_holds() -> None:
    """It may be a store, misspelt."""
    with pytest.raises(ConfigError, match=r"^stor: ") as refused:
        load_settings(stor=f"redis://u:{PASSWORD}@h")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "store"),
    [
        (" memory ", "memory"),
        (" sqlite:a b.db\n", "sqlite:a b.db"),
        ("valkey://u:p@h:6379/1", "redis://u:p@h:6379/1"),
        ("valkeys://h/", "rediss://h/"),
        ("redis://[::1]:6379/0?prefix=a", "redis://[::1]:6379/0?prefix=a"),
        ("unix:///run/socket?db=1", "unix:///run/socket?db=1"),
    ],
)
def test_a_store_has_other_names(setting: str, store: str) -> None:
    """Blanks around it are none of it, and a Valkey is spoken to as a Redis is."""
    assert Settings(store=setting).store == store


class TestModels:
    def test_a_missing_folder_is_a_line(self, tmp_path: Path) -> None:
        """A folder of models that is not there is named."""
        assert f"models: cannot read the folder {tmp_path / 'none'}" in refuse("--models", str(tmp_path / "none"))

    def test_an_empty_folder_is_a_line(self, tmp_path: Path) -> None:
        """A folder without a package is no repository."""
        assert f"models: nothing in {tmp_path} can be served" in refuse("--models", str(tmp_path))

    def test_nothing_but_broken_packages_are_named(self, tmp_path: Path) -> None:
        """When no package is good the last line says what is wrong with which field, and the exit code is 2."""
        random_package(tmp_path)
        (tmp_path / "random" / "1" / MANIFEST).write_text("{}")
        ran = subprocess.run(
            [sys.executable, "-m", "tidegate.cli", "serve", "--models", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "random/1: model.json:" in ran.stderr.splitlines()[-1]
        assert "Traceback" not in ran.stderr


class TestAddresses:
    @pytest.mark.parametrize("flag", ["--port", "--http-port"])
    def test_a_port_in_use_is_a_line(self, server: RunningServer, models: Path, flag: str) -> None:
        """A port that another server listens on is refused at the start (and not shared with it silently)."""
        taken = (server.grpc if flag == "--port" else server.http).rpartition(":")[2]
        flags = {"--port": "0", "--http-port": "0", flag: taken}
        line = refuse("--models", str(models), *(part for pair in flags.items() for part in pair))
        assert f"127.0.0.1:{taken}" in line
        assert line.startswith(f"Error: {flag.removeprefix('--').replace('-', '_')}: ")
        assert server.get("/readyz") == "ok\n"

    def test_one_port_for_both_is_a_line(self, models: Path) -> None:
        """gRPC and HTTP cannot have the same port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = str(probe.getsockname()[1])
        assert free in refuse("--models", str(models), "--port", free, "--http-port", free)

    def test_a_host_that_is_none_is_a_line(self, models: Path) -> None:
        """A name that does not resolve is refused."""
        flags = ["--host", "nowhere.invalid", "--insecure", "--port", "0", "--http-port", "0"]
        assert "nowhere.invalid" in refuse("--models", str(models), *flags)

    def test_insecure_opens_the_house(self, models: Path) -> None:
        """With --insecure the server listens beyond loopback."""
        with RunningServer(models, "--host", "0.0.0.0", "--insecure") as server:
            assert server.grpc.startswith("0.0.0.0:")
            assert server.get("/livez") == "ok\n"


class TestWarnings:
    def test_names_that_nothing_has_are_told(self, models: Path, tmp_path: Path) -> None:
        """A variable that is no setting, and a model of --durability that is not loaded, at each reload: misspelt, they
        would do nothing."""
        flags = ["--store", f"sqlite:{tmp_path / 'sessions.db'}", "--durability", "interval,random=step,radnom=none"]
        names = {"TIDEGATE_PROT": "1", "TIDEGATE_NATIVE": "1", "tidegate_log_level": "info"}
        with RunningServer(models, *flags, environment=names) as server:
            with Client(server.grpc) as client:
                client.reload_models()
            warnings = [line.partition(" WARNING ")[2] for line in server.log.splitlines() if " WARNING " in line]
        unloaded = "tidegate.server: durability: names radnom, which is not loaded"
        unknown = "tidegate.server: TIDEGATE_PROT is no setting; tidegate serve --help names them"
        assert warnings == [unknown, unloaded, unloaded]


class TestReady:
    def test_the_ready_line_is_all_of_standard_output(self, models: Path, tmp_path: Path) -> None:
        """One line of JSON with both addresses, and nothing after it; logs go to standard error, each a line of JSON
        where that is asked for; file, environment and flags all count.
        """
        file = tmp_path / "settings.toml"
        file.write_text('log_format = "json"\nport = 0\nhttp_port = 0\n[limits]\ninbox_rows_max = 12345\n')
        server = subprocess.Popen(
            [sys.executable, "-m", "tidegate.cli", "serve", "--config", str(file), "--models", str(models)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TIDEGATE_LOG_LEVEL": "debug"},
        )
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        assert list(ready) == ["grpc", "http"]
        assert all(re.fullmatch(r"127\.0\.0\.1:[1-9][0-9]{3,4}", address) for address in ready.values())
        server.send_signal(signal.SIGTERM)
        rest, log = server.communicate(timeout=START_SECONDS_MAX)
        assert (rest, server.returncode) == ("", 0)
        lines = [json.loads(line) for line in log.splitlines()]
        assert all(list(line)[:4] == ["time", "level", "logger", "message"] for line in lines)
        assert "debug" in {line["level"] for line in lines}
        messages = [line["message"] for line in lines if line["logger"] == "tidegate.server"]
        assert messages[0] == "serving random/1"
        assert messages[-2:] == ["draining", "drained"]
        assert ready["grpc"] in messages[1]

    @pytest.mark.parametrize("way", ["flag", "variable", "file"])
    @pytest.mark.parametrize("wrong", ["--models=/no/such/folder", "--port=70000"])
    def test_why_it_ended_is_json_too(self, tmp_path: Path, way: str, wrong: str) -> None:
        """Where log lines are JSON so is the last one, which a pipeline of logs would drop else; but for a
        setting that is wrong where the file alone asks for JSON: what it says does not count then."""
        (tmp_path / "settings.toml").write_text('log_format = "json"\n')
        flags = {"flag": ["--log-format", "json"], "file": ["--config", str(tmp_path / "settings.toml")]}
        ran = subprocess.run(
            [sys.executable, "-m", "tidegate.cli", "serve", *flags.get(way, []), wrong],
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX,
            env={**os.environ, **({"TIDEGATE_LOG_FORMAT": "json"} if way == "variable" else {})},
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (2, "")
        if way == "file" and wrong.startswith("--port"):
            assert ran.stderr.startswith("Error: port: ")
            return
        last = json.loads(ran.stderr.splitlines()[-1])
        assert (last["level"], last["logger"]) == ("critical", "tidegate")
        assert last["message"].startswith(f"{wrong[2:].partition('=')[0]}: ")

    def test_plain_logs_are_lines_for_people(self, server: RunningServer) -> None:
        """Time, level, logger and message."""
        assert server.log
        for line in server.log.splitlines():
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [a-z.]+: .+", line), line
