"""`tidegate import` as its user calls it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from tidegate.cli import main
from tidegate.model.package import Package, load_package


def call(kind: str, file: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of an import as model `net` into `models/` beside the file."""
    arguments = ["import", kind, str(file), "--name", "net", "--models", str(file.parent / "models"), *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    return result.exit_code, result.output


def imported(kind: str, file: Path, *options: str) -> Package:
    """The package that an import writes."""
    code, output = call(kind, file, *options)
    assert code == 0, output
    assert "agrees with" in output
    return load_package(file.parent / "models" / "net" / "1")


def refusal(kind: str, file: Path, *options: str) -> str:
    """The one line that an import is refused with; nothing was written."""
    code, output = call(kind, file, *options)
    assert code != 0
    assert not (file.parent / "models").exists()
    return output
