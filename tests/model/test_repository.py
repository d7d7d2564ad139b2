"""The repository: good versions, refused ones with their fields, aliases, pins and the default."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.packages import random_package
from tidegate.errors import ConfigError
from tidegate.model.package import MANIFEST, WEIGHTS
from tidegate.model.repository import Model, natural_order, scan


def write(folder: Path, version: str, model: str = "weather", **fields: Any) -> None:
    random_package(folder, model, version, hidden=4, **fields)


def alias(folder: Path, content: Any) -> None:
    (folder / "weather" / "aliases.json").write_text(content if isinstance(content, str) else json.dumps(content))


def weather(folder: Path, known: dict[tuple[str, str], str] | None = None) -> Model:
    return scan(folder, known).models["weather"]


def test_models_and_versions(tmp_path: Path) -> None:
    """Each folder of packages is a model; its versions come oldest first, and the newest is the default: 2 < 10."""
    for version in ("10", "2", "1"):
        write(tmp_path, version)
    write(tmp_path, "1", model="dinner")
    snapshot = scan(tmp_path)
    assert list(snapshot.models) == ["dinner", "weather"]
    model = snapshot.models["weather"]
    assert list(model.versions) == ["1", "2", "10"]
    assert model.versions["2"].manifest.version == "2"
    assert (model.default_version, model.pin, model.problems) == ("10", None, ())


def test_natural_order() -> None:
    """Runs of digits are numbers, wherever they stand."""
    ordered = ["1", "01", "2", "10", "1.2", "1.10", "2024-09-01", "a", "v2", "v10", "v10a"]
    ordered = sorted(ordered, key=natural_order)
    assert ordered.index("2") < ordered.index("10")
    assert ordered.index("1.2") < ordered.index("1.10")
    assert ordered.index("v2") < ordered.index("v10") < ordered.index("v10a")


def test_a_broken_version_is_refused_alone(tmp_path: Path) -> None:
    """A broken package is refused with its field; the others, and older versions of the same model, are good."""
    for version in ("1", "2", "3"):
        write(tmp_path, version)
    (tmp_path / "weather" / "2" / WEIGHTS).write_bytes(b"no weights")
    (tmp_path / "weather" / "3" / MANIFEST).unlink()
    model = weather(tmp_path)
    assert list(model.versions) == ["1"]
    assert model.default_version == "1"
    assert model.refused["2"].startswith(f"{MANIFEST}:weights_sha256: ")
    assert model.refused["3"].startswith(f"{MANIFEST}: cannot be read")


def test_what_is_no_model_is_ignored(tmp_path: Path) -> None:
    """Recipes, cards, empty folders and dot folders (a version being written, a mounted volume) are no versions."""
    write(tmp_path, "1")
    (tmp_path / "weather" / "recipe.toml").write_text("")
    (tmp_path / "weather" / "card.md").write_text("")
    shutil.copytree(tmp_path / "weather" / "1", tmp_path / "weather" / ".2.part")
    shutil.copytree(tmp_path / "weather", tmp_path / "..data")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "empty").mkdir()
    snapshot = scan(tmp_path)
    assert list(snapshot.models) == ["weather"]
    assert list(snapshot.models["weather"].versions) == ["1"]
    assert not snapshot.models["weather"].refused


def test_aliases_and_pin(tmp_path: Path) -> None:
    """Aliases name versions; a pin, not the newest, is the default."""
    for version in ("1", "2", "3"):
        write(tmp_path, version)
    alias(tmp_path, {"pin": "2", "aliases": {"stable": "1", "canary": "3"}})
    model = weather(tmp_path)
    assert model.aliases == {"stable": "1", "canary": "3"}
    assert (model.pin, model.default_version, model.problems) == ("2", "2", ())


def test_aliases_that_name_nothing(tmp_path: Path) -> None:
    """An alias of a missing or refused version, or named as a version is, is reported and left out; the rest hold."""
    for version in ("1", "2"):
        write(tmp_path, version)
    (tmp_path / "weather" / "2" / WEIGHTS).unlink()
    alias(tmp_path, {"aliases": {"stable": "1", "canary": "2", "next": "7", "1": "1"}})
    model = weather(tmp_path)
    assert model.aliases == {"stable": "1"}
    assert model.default_version == "1"
    assert [problem.split(": ")[0] for problem in model.problems] == [
        "aliases.json.aliases.canary",
        "aliases.json.aliases.next",
        "aliases.json.aliases.1",
    ]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"pin": "7"}, "aliases.json.pin"),
        ({"pin": 1}, "aliases.json.pin"),
        ({"aliases": {"stable": None}}, "aliases.json.aliases.stable"),
        ({"alias": {}}, "aliases.json.alias"),
        ("{", "aliases.json"),
    ],
)
def test_no_default_is_guessed(tmp_path: Path, content: Any, field: str) -> None:
    """While the aliases cannot be read or the pin names nothing, the model is there but has no default version."""
    write(tmp_path, "1")
    alias(tmp_path, content)
    model = weather(tmp_path)
    assert list(model.versions) == ["1"]
    assert model.default_version is None
    assert [problem.split(": ")[0] for problem in model.problems] == [field]


def test_versions_are_immutable(tmp_path: Path) -> None:
    """Other files under a loaded version's number are refused; the loaded one is kept, and can be default and alias."""
    write(tmp_path, "1")
    write(tmp_path, "2")
    known = {("weather", v): package.fingerprint for v, package in weather(tmp_path).versions.items()}
    assert not weather(tmp_path, known).refused
    shutil.rmtree(tmp_path / "weather" / "2")
    write(tmp_path, "2", seed=9)
    alias(tmp_path, {"aliases": {"canary": "2"}})
    model = weather(tmp_path, known)
    assert list(model.versions) == ["1"]
    assert "versions are immutable" in model.refused["2"]
    assert model.kept == {"2"}
    assert model.aliases == {"canary": "2"}
    assert model.default_version == "2"


def test_a_removed_version_is_gone(tmp_path: Path) -> None:
    """A loaded version whose folder went is in the snapshot no more, nor is a model without versions."""
    write(tmp_path, "1")
    write(tmp_path, "2")
    known = {("weather", v): package.fingerprint for v, package in weather(tmp_path).versions.items()}
    shutil.rmtree(tmp_path / "weather" / "2")
    model = weather(tmp_path, known)
    assert (list(model.versions), model.kept, model.default_version) == (["1"], frozenset(), "1")
    shutil.rmtree(tmp_path / "weather" / "1")
    assert not scan(tmp_path, known).models


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_repository(tmp_path: Path, name: str) -> None:
    """A repository that is missing or no folder is one clear line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"^models: cannot read the folder .*{name} \(.+\)$"):
        scan(tmp_path / name)
