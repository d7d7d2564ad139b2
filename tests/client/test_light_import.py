"""The client is light: `pip install tidegate` brings neither the server nor what it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "pydantic", "pydantic_settings", "aiohttp", "prometheus_client", "tidegate.engine", "tidegate.config")


@pytest.mark.parametrize("module", ["tidegate", "tidegate.client", "tidegate.cli"])
def test_import_brings_nothing_of_the_server(module: str) -> None:
    """Importing the package, its client or its command line loads nothing that only the server needs."""
    code = f"import sys, {module}, tidegate; tidegate.Client; print(*(n for n in {HEAVY!r} if n in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_package_alone_brings_no_grpc() -> None:
    """`import tidegate`, which every module of the engine implies, loads neither gRPC nor asyncio."""
    code = "import sys, tidegate; print(*(n for n in ('grpc', 'asyncio', 'numpy') if n in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["serve"], "server"),
        (["serve", "--help"], "server"),
        (["demo", "storybook"], "demo"),
        (["init", "x.csv"], "train"),
        (["train", "recipe.toml"], "train"),
        (["evaluate", "weather"], "train"),
        (["import", "torch", "x.csv", "--name", "mine"], "onnx"),
        (["import", "onnx", "x.csv", "--name", "mine"], "onnx"),
    ],
)
def test_verbs_of_the_server_say_what_to_install(words: list[str], extra: str, tmp_path: Path) -> None:
    """Where only the client is installed, they end with one line that names what is missing and the extra."""
    (tmp_path / "x.csv").write_text("a\n1\n")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY[:5]!r})); from tidegate.cli import main; main({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"Error: \w+ is missing: pip install 'tidegate\[{extra}\]'\n", done.stderr)
