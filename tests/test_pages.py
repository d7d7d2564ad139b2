"""Pages and comments name only files that are there: code moves, and what is said of it must move too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "service" / "tidegate"
PAGES = [ROOT / "ARCHITECTURE.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "tests").rglob("*.md"))
BASES = (PACKAGE, PACKAGE / "engine", ROOT, ROOT / "protos")
FILE = re.compile(r"(?<![\w/.:-])(?!google/)((?:[\w-]+/)+[\w-]+\.(?:py|c|h|proto))(?![\w(])")
ALONE = re.compile(r"`([\w-]+\.(?:py|c|h))`")  # without a folder
FOLDER = re.compile(r"`((?:[a-z_]+/)+)`")


def named(files: Iterable[Path], pattern: re.Pattern[str]) -> list[tuple[Path, str]]:
    """Which file names what."""
    return [(file, name) for file in files for name in pattern.findall(file.read_text())]


def missing(names: Iterable[tuple[Path, str]]) -> list[str]:
    """What is below none of the bases, nor beside the file that names it."""
    lost = [(file, name) for file, name in names if not any((base / name).exists() for base in (*BASES, file.parent))]
    return [f"{file.relative_to(ROOT)} names {name}" for file, name in lost]


def test_pages_name_what_exists() -> None:
    """Files and folders are below the package, its engine or the repository's root, in pictures too."""
    files = named(PAGES, FILE)
    assert len(files) > 100
    assert missing(files) == []
    assert missing(named(PAGES, ALONE)) == []
    assert missing(named(PAGES, FOLDER)) == []


def test_comments_name_what_exists() -> None:
    """The same of docstrings and comments: of the package, its C parts and its protos."""
    sources = [file for kind in ("py", "c", "h") for file in sorted(PACKAGE.rglob(f"*.{kind}"))]
    sources = [file for file in sources if "_pb2" not in file.name]
    files = named([*sources, *sorted((ROOT / "protos").rglob("tidegate/**/*.proto"))], FILE)
    assert len(files) > 10
    assert missing(files) == []
