"""The model repository: a folder of `<model>/<version>/` packages, read into a snapshot of what is good and what not.

`<model>/aliases.json` may name versions (`{"pin": "2", "aliases": {"stable": "1", "canary": "2"}}`); without a pin, new
sessions get the newest good version (natural order: 2 < 10). Dot folders and other files (recipe, card) are ignored.
Versions are immutable: one that changed or broke under a loaded number is refused, and the loaded one stays.
Nothing is guessed: while `aliases.json` is broken or its pin names no good version, the model has no default version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidegate.errors import ConfigError, PackageError
from tidegate.model.manifest import NAME_PATTERN
from tidegate.model.package import MANIFEST, Package, load_package

ALIASES = "aliases.json"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Known = Mapping[tuple[str, str], str]  # (model, version) -> fingerprint of what is loaded


class Aliases(BaseModel):
    """The content of `aliases.json`: the version that new sessions get, and other names of versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pin: Name | None = None
    aliases: dict[Name, Name] = {}


@dataclass(frozen=True)
class Model:
    """One model of a snapshot. Problems read "field: problem", as those of PackageError."""

    name: str
    versions: Mapping[str, Package]  # good ones, oldest first
    refused: Mapping[str, str]  # version -> problem
    kept: frozenset[str]  # refused, but loaded from earlier files and still served from those
    aliases: Mapping[str, str]  # only those that name a good or kept version
    pin: str | None
    default_version: str | None  # the pin, else the newest good or kept version
    problems: tuple[str, ...]  # of the model's folder and aliases


@dataclass(frozen=True)
class Snapshot:
    """What the folder held when it was read."""

    models: Mapping[str, Model]


def scan(folder: Path, known: Known | None = None) -> Snapshot:
    """Reads every model under `folder`; raises ConfigError if that is no readable folder, and only then."""
    try:
        names = _folders(folder)
    except OSError as error:
        raise ConfigError(f"models: cannot read the folder {folder} ({error.strerror})") from None
    models = (_scan_model(folder / name, known or {}) for name in names)
    return Snapshot({model.name: model for model in models if model.versions or model.refused or model.problems})


def natural_order(version: str) -> tuple[list[str | int], str]:
    """Sorts runs of digits as numbers: 2 < 10, v2 < v10, 1.9 < 1.10; the text itself settles 01 and 1."""
    pieces = re.split(r"([0-9]+)", version)
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], version


def _scan_model(folder: Path, known: Known) -> Model:
    versions: dict[str, Package] = {}
    refused: dict[str, str] = {}
    try:
        names, problems = _folders(folder), []
    except OSError as error:
        names, problems = [], [f"{folder.name}: cannot be read ({error.strerror})"]
    for version in names:
        try:
            versions[version] = _load(folder / version, known.get((folder.name, version)))
        except PackageError as error:
            refused[version] = str(error)
    kept = frozenset(version for version in refused if (folder.name, version) in known)
    served = sorted(versions.keys() | kept, key=natural_order)
    given, more = _read_aliases(folder / ALIASES, served)
    return Model(
        name=folder.name,
        versions=versions,
        refused=refused,
        kept=kept,
        aliases=given.aliases if given else {},
        pin=given.pin if given else None,
        default_version=_default(given, served),
        problems=(*problems, *more),
    )


def _load(folder: Path, known_fingerprint: str | None) -> Package:
    package = load_package(folder)
    if known_fingerprint not in (None, package.fingerprint):
        raise PackageError(MANIFEST, "changed under the same version; versions are immutable, so write a new one")
    return package


def _read_aliases(path: Path, served: list[str]) -> tuple[Aliases | None, list[str]]:
    """The aliases that name a served version, and the problems of the others; None if the file is no good."""
    try:
        given = Aliases.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Aliases(), []
    except OSError as error:
        return None, [f"{ALIASES}: cannot be read ({error.strerror})"]
    except ValidationError as error:
        first = error.errors()[0]
        return None, [f"{'.'.join([ALIASES, *map(str, first['loc'])])}: {first['msg']}"]
    good, problems = {}, []
    for alias, version in given.aliases.items():
        if alias in served:
            problems.append(f"{ALIASES}.aliases.{alias}: is the name of a version")
        elif version not in served:
            problems.append(f"{ALIASES}.aliases.{alias}: names version {version!r}, which is missing or refused")
        else:
            good[alias] = version
    if given.pin is not None and given.pin not in served:
        problems.append(f"{ALIASES}.pin: names version {given.pin!r}, which is missing or refused")
    return Aliases(pin=given.pin, aliases=good), problems


def _default(given: Aliases | None, served: list[str]) -> str | None:
    if given is None or not served:
        return None
    if given.pin is not None:
        return given.pin if given.pin in served else None
    return served[-1]


def _folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that are not hidden, in natural order; raises OSError."""
    names = (path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(names, key=natural_order)
