"""The Dockerfile, read instruction by instruction: what no image has to be built to see."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import RunningServer
from tidegate.config import Settings

ROOT = Path(__file__).parents[2]
Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The instructions of each stage; those before the first FROM are left out."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    instructions = [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]
    starts = [index for index, (name, _) in enumerate(instructions) if name == "FROM"]
    return [instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


@pytest.fixture(scope="module")
def image(stages: list[list[Instruction]]) -> dict[str, str]:
    """The last instruction of each name in the stage that becomes the image."""
    return dict(stages[-1])


def test_runs_as_a_numbered_user(image: dict[str, str]) -> None:
    """The user is a number other than root's, the same that the Kubernetes pod runs as."""
    user = image["USER"].partition(":")[0]
    stateful_set = (ROOT / "deploy" / "kubernetes" / "base" / "stateful-set.yaml").read_text()
    assert user.isdecimal()
    assert int(user) > 0
    assert f"runAsUser: {user}\n" in stateful_set


def test_the_volume_is_the_users(stages: list[list[Instruction]], image: dict[str, str]) -> None:
    """A named volume at /data can be written: the folder in the image is the user's."""
    user, group = image["USER"].split(":")
    assert ("RUN", f"install -d -o {user} -g {group} /data") in stages[-1]


def test_ports_are_the_defaults(image: dict[str, str]) -> None:
    """The exposed ports are those on which the server listens by default."""
    fields = Settings.model_fields
    assert image["EXPOSE"].split() == [str(fields[name].default) for name in ("port", "http_port")]


def test_starts_the_server_on_loopback(image: dict[str, str]) -> None:
    """Without arguments the image serves, and lets nobody in: to listen beyond loopback is the runner's word."""
    assert json.loads(image["ENTRYPOINT"]) + json.loads(image["CMD"]) == ["tidegate", "serve"]


def test_health_check_is_python_and_asks_livez(image: dict[str, str]) -> None:
    """The slim image has no curl: the check is a line of Python that parses and asks where the server listens by
    default, if nothing else is said."""
    command = json.loads(image["HEALTHCHECK"].partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    called = {ast.unparse(call) for call in ast.walk(ast.parse(command[2])) if isinstance(call, ast.Call)}
    fields = Settings.model_fields
    assert f"os.getenv('TIDEGATE_HTTP_PORT', {fields['http_port'].default})" in called
    assert f"os.getenv('TIDEGATE_HOST', '{fields['host'].default}')" in called
    assert "asked.request('GET', '/livez')" in called


def listens(host: str) -> bool:
    """Whether one can listen on such an address here."""
    try:
        socket.create_server((host, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_health_check_asks_where_the_environment_says(image: dict[str, str], models: Path, host: str) -> None:
    """Where the server listens on another port or address than by default, the check finds it; it fails where nobody
    does."""
    if host == "::1" and not listens(host):
        pytest.skip("this machine has no IPv6")
    command = [sys.executable, *json.loads(image["HEALTHCHECK"].partition("CMD ")[2])[1:]]
    with RunningServer(models, "--host", host, "--insecure") as server:
        port = server.http.rpartition(":")[2]
        said = {**os.environ, "TIDEGATE_HOST": host, "TIDEGATE_HTTP_PORT": port}
        assert subprocess.run(command, env=said, check=False, capture_output=True).returncode == 0
    assert subprocess.run(command, env=said, check=False, capture_output=True).returncode != 0


def test_environment_is_the_servers(image: dict[str, str]) -> None:
    """Each TIDEGATE_ variable is a setting of the server."""
    names = re.findall(r"TIDEGATE_(\w+)=", image["ENV"])
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


def test_copies_what_exists_and_is_not_ignored(stages: list[list[Instruction]]) -> None:
    """What is copied from the repository exists, and .dockerignore lets that through and nothing else."""
    copies = [rest.split() for stage in stages for name, rest in stage if name == "COPY" and "--from" not in rest]
    copied = {source for copy in copies for source in copy[:-1]}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_through
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []


def test_torch_comes_first_and_from_where_the_builder_says(stages: list[list[Instruction]]) -> None:
    """torch comes alone, before the project and its stores, from the index that the builder names; none is named
    here."""
    runs = [rest for name, rest in stages[0] if name == "RUN" and "pip install" in rest]
    assert [("${TORCH_INDEX_ARGS}" in run, ".[server,redis]" in run) for run in runs] == [(True, False), (False, True)]
    assert "index-url" not in " ".join(rest for stage in stages for _, rest in stage)
