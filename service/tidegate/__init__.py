"""Tidegate: a server that remembers each stream, and the client that talks to it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tidegate.errors import Code, Reason, TidegateError

if TYPE_CHECKING:
    from tidegate.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Code", "Reason", "TidegateError", "__version__"]

try:
    __version__ = version("tidegate")
except PackageNotFoundError:  # run from a folder that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """The clients, on first use: who imports only the engine's rules needs neither gRPC nor asyncio."""
    if name in ("AsyncClient", "Client"):
        from tidegate import client  # noqa: PLC0415

        return getattr(client, name)
    raise AttributeError(f"module 'tidegate' has no attribute {name!r}")
