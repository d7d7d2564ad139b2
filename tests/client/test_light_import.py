"""The client is light: `pip install tidegate` brings neither the server nor what it needs."""

import subprocess
import sys

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
