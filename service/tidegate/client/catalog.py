"""What this client knows of the server's models, asked once each."""

from __future__ import annotations

import asyncio

from tidegate.client.connection import Connection
from tidegate.client.patience import Patience
from tidegate.client.values.messages import built
from tidegate.client.values.records import Description, Model, Reloaded, read_model
from tidegate.errors import Code, TidegateError
from tidegate.wire.stubs import model_pb2


class Catalog:
    """Models and their descriptions. A version never changes, so its description is asked for once, and once more after
    a lost connection: another server may keep sessions in another way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, str], Description] = {}
        self._before: dict[tuple[str, str], Description] = {}  # the last lost connection
        self._breaks = 0
        self._lock = asyncio.Lock()

    async def describe(self, model: str, version: str, patience: Patience | None = None) -> Description:
        """What a version takes and predicts."""
        if self._breaks != self._connection.breaks:
            self._before, self._known = self._before | self._known, {}
            self._breaks = self._connection.breaks
        if (model, version) not in self._known:
            async with self._lock:  # a thousand first steps at once ask once
                if (model, version) not in self._known:
                    self._known[model, version] = await self._asked(model, version, patience)
        return self._known[model, version]

    async def _asked(self, model: str, version: str, patience: Patience | None) -> Description:
        try:
            return await self.fresh(model, version, patience)
        except TidegateError as error:
            if error.code is Code.NOT_FOUND and (model, version) in self._before:  # retired: it serves its sessions on
                return self._before[model, version]
            raise

    async def fresh(self, model: str, version: str, patience: Patience | None = None) -> Description:
        """The same, asked again: what "" and an alias stand for changes with a reload."""
        description = (await self.model(model, version, patience)).description
        assert description is not None
        return description

    async def model(self, name: str, version: str = "", patience: Patience | None = None) -> Model:
        """The model, and what its version (or alias; empty: the default) takes; raises MODEL_NOT_FOUND."""
        request = built(model_pb2.GetModelRequest, model=name, version=version)
        method = self._connection.models.GetModel
        response = await self._connection.call(method, request, patience=patience, at_once=True)
        return read_model(response.model, response.description)

    async def models(self) -> list[Model]:
        """All models, by name."""
        response = await self._connection.call(self._connection.models.ListModels, model_pb2.ListModelsRequest())
        return [read_model(message) for message in response.models]

    async def reload(self) -> Reloaded:
        """Has the server read its model repository again."""
        method = self._connection.models.ReloadModels
        response = await self._connection.call(method, model_pb2.ReloadModelsRequest(), repeatable=False)
        return Reloaded(tuple(response.added), tuple(response.removed), tuple(response.refused))
