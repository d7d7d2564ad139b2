"""Which store a setting names: `sqlite:PATH`, or the URL of a Redis or Valkey."""

from __future__ import annotations

from pathlib import Path

from tidegate.errors import ConfigError
from tidegate.store.protocol import Store, Terms
from tidegate.store.sqlite import SqliteStore


def open_store(setting: str, terms: Terms, *, read_only: bool = False) -> Store:
    """The store, not started yet; raises ConfigError where what it needs is not installed, and StoreError. `read_only`:
    for `scan` alone, also of a file that a server holds."""
    kind, _, path = setting.partition(":")
    if kind == "sqlite":
        return SqliteStore(Path(path), terms, read_only=read_only)
    try:
        from tidegate.store.redis import RedisStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"store: {error.name} is missing: pip install 'tidegate[redis]'") from None
    return RedisStore(setting, terms)
