"""A server with the models that the tests of the wire share, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.clients import Client
from tests.wire.repository import station_package
from tidegate.model.package import Package, load_package


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Models: `random` (versions 1 and 2, pinned to 1, alias canary for 2) and `station` (units, daily)."""
    models: Path = tmp_path_factory.mktemp("repository") / "models"
    random_package(models, version="1")
    random_package(models, version="2", seed=2)
    (models / "random" / "aliases.json").write_text('{"pin": "1", "aliases": {"canary": "2"}}')
    station_package(models)
    with RunningServer(models) as running:
        yield running


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[Client]:
    async with Client(server.grpc) as client:
        yield client


@pytest.fixture
def random_model(server: RunningServer) -> Package:
    return load_package(server.models / "random" / "1")


@pytest.fixture
def station(server: RunningServer) -> Package:
    return load_package(server.models / "station" / "1")
