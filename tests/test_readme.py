"""The README says only what works: its Python runs against a real server, its commands and links exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import RunningServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the model repository that comes with Tidegate."""
    link = tmp_path_factory.mktemp("repository") / "models"
    link.symlink_to(ROOT / "models")
    with RunningServer(link) as running:
        yield running


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_runs(block: str, weather: RunningServer) -> None:
    """Each block runs as it stands, but for the server's address, and prints."""
    code = block.replace("127.0.0.1:8001", weather.grpc)
    assert code != block
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_links_exist() -> None:
    """Every relative link leads to a file."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_evaluations_know_the_times() -> None:
    """Every `tidegate evaluate` that is shown has a recipe or names the column of times."""
    shown = re.findall(r"^tidegate evaluate .*$", README + (ROOT / "docs" / "evaluation.md").read_text(), re.MULTILINE)
    assert shown
    assert all("--recipe " in line or "--time " in line for line in shown)


def test_verbs_exist() -> None:
    """Every `tidegate` and `make` command that is named is one."""
    verbs = set(re.findall(r"^tidegate (\w+)", README, re.MULTILINE))
    listed = subprocess.run(
        [sys.executable, "-m", "tidegate.cli", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert verbs
    assert all(re.search(rf"^  {verb} ", listed, re.MULTILINE) for verb in verbs)
    targets = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
