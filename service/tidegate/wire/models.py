"""ModelService: what is loaded, and loading anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tidegate.engine.catalog import Changes, Entry
from tidegate.engine.lane import Lane
from tidegate.errors import Reason, TidegateError
from tidegate.wire import codec
from tidegate.wire.frontend import FrontEnd
from tidegate.wire.guard import Context, Guard, Handlers
from tidegate.wire.stubs import model_pb2 as pb


class ModelService:
    """List, get and reload. `reload` reads the repository and tells what changed."""

    def __init__(self, front: FrontEnd, guard: Guard, reload: Callable[[], Awaitable[Changes]]) -> None:
        self._catalog = front.host.engine.catalog
        self._guard = guard
        self._reload = reload

    def handlers(self) -> Handlers:
        """By method name, for grpc's generic handler."""
        return self._guard.handlers({"ListModels": self.list, "GetModel": self.get, "ReloadModels": self.reload})

    async def list(self, message: bytes, _: Context) -> bytes:
        codec.parse(pb.ListModelsRequest, message)
        models = [_model(name, entry) for name, entry in sorted(self._catalog.models.items())]
        return pb.ListModelsResponse(models=models).SerializeToString()

    async def get(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.GetModelRequest, message)
        entry = self._catalog.models.get(request.model)
        if entry is None:
            self._catalog.resolve(request.model)
            raise TidegateError(Reason.MODEL_NOT_FOUND)
        lane = entry.lanes.get(request.version) or self._catalog.resolve(request.model, request.version)
        response = pb.GetModelResponse(model=_model(request.model, entry), description=_description(lane))
        return response.SerializeToString()

    async def reload(self, message: bytes, _: Context) -> bytes:
        codec.parse(pb.ReloadModelsRequest, message)
        changes = await self._reload()
        return pb.ReloadModelsResponse(
            added=changes.added, removed=changes.removed, refused=changes.refused
        ).SerializeToString()


def _model(name: str, entry: Entry) -> pb.Model:
    versions = [
        pb.ModelVersion(
            version=lane.version,
            state=pb.VERSION_STATE_RETIRED if lane.retired else pb.VERSION_STATE_READY,
            fingerprint=lane.package.fingerprint,
            sessions=lane.sessions,
            problem=entry.refused.get(lane.version, ""),
        )
        for lane in reversed(entry.lanes.values())
    ]
    versions += [
        pb.ModelVersion(version=version, state=pb.VERSION_STATE_REFUSED, problem=problem)
        for version, problem in entry.refused.items()
        if version not in entry.lanes
    ]
    return pb.Model(name=name, versions=versions, aliases=entry.aliases, default_version=entry.default_version or "")


def _description(lane: Lane) -> pb.ModelDescription:
    manifest = lane.package.manifest
    return pb.ModelDescription(
        version=manifest.version,
        description=manifest.description,
        features=[pb.Feature(name=feature.name, unit=feature.unit, role=feature.role) for feature in manifest.features],
        targets=manifest.targets,
        frequency=manifest.frequency,
        cell=manifest.cell,
        layers=manifest.layers,
        hidden_size=manifest.hidden_size,
        state_bytes=4 * lane.package.state_width,
    )
