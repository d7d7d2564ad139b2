"""What this client knows of the server's models, asked once each."""

from __future__ import annotations

import asyncio

from tidegate.client.connection import Connection
from tidegate.client.records import Description, Model, Reloaded, read_model
from tidegate.wire.stubs import model_pb2


class Catalog:
    """Models and their descriptions. A version never changes, so its description is asked for once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, str], Description] = {}
        self._lock = asyncio.Lock()

    async def describe(self, model: str, version: str) -> Description:
        """What a version takes and predicts."""
        if (model, version) not in self._known:
            async with self._lock:  # a thousand first steps at once ask once
                if (model, version) not in self._known:
                    self._known[model, version] = await self.fresh(model, version)
        return self._known[model, version]

    async def fresh(self, model: str, version: str) -> Description:
        """The same, asked again: what "" and an alias stand for changes with a reload."""
        description = (await self.model(model, version)).description
        assert description is not None
        return description

    async def model(self, name: str, version: str = "") -> Model:
        """The model, and what its version (or alias; empty: the default) takes; raises MODEL_NOT_FOUND."""
        request = model_pb2.GetModelRequest(model=name, version=version)
        response = await self._connection.call(self._connection.models.GetModel, request)
        return read_model(response.model, response.description)

    async def models(self) -> list[Model]:
        """All models, by name."""
        response = await self._connection.call(self._connection.models.ListModels, model_pb2.ListModelsRequest())
        return [read_model(message) for message in response.models]

    async def reload(self) -> Reloaded:
        """Has the server read its model repository again."""
        response = await self._connection.call(self._connection.models.ReloadModels, model_pb2.ReloadModelsRequest())
        return Reloaded(tuple(response.added), tuple(response.removed), tuple(response.refused))
