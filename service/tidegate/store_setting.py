"""The setting that says where checkpoints are kept, read alike by the server and by the verbs that open stores."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

REDIS = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
STORES = "sqlite:PATH or redis://HOST:PORT/DB (rediss://, valkey://, unix:///PATH); odd characters of a password as %XX"

ADVICE = "name a file (a server that is to keep nothing has --store memory)"


def store_setting(text: str, besides: str = "") -> str:
    """`sqlite:PATH`, or the URL of a Redis as redis-py has it. Raises ValueError for anything else, in words that quote
    none of it: it may hold a password. `besides` is what else they say it may be."""
    kind, _, rest = text.strip().partition(":")
    if kind == "sqlite" and in_memory(rest):
        raise ValueError(f"is a database in memory, which keeps nothing; {ADVICE}")
    if kind == "sqlite" and rest:
        return f"sqlite:{rest}"
    if kind in REDIS and _is_place(kind, f"{kind}:{rest}"):
        return f"{REDIS[kind]}:{rest}"
    raise ValueError(f"must be {besides}{STORES}")


def in_memory(path: str) -> bool:
    """Whether SQLite takes it for a database in memory."""
    return Path(path) == Path(":memory:")


def _is_place(kind: str, url: str) -> bool:
    """Whether it names what it will be connected to: redis-py takes much else for localhost and database 0."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False
    if kind == "unix":
        return not named and parts.path not in ("", "/") and url.startswith("unix://")
    return named and re.fullmatch(r"/?|/[0-9]+", parts.path) is not None and not parts.fragment
