"""Numbers of new versions, for whatever writes into a model repository."""

from __future__ import annotations

from pathlib import Path


def next_version(folder: Path) -> int:
    """One more than the highest number that a version has; versions with other names do not count."""
    numbers = [int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()]
    return max(numbers, default=0) + 1
