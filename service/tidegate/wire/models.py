"""ModelService: what is loaded, and loading anew."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from tidegate.config import Durability
from tidegate.engine.queues.block import Scope
from tidegate.engine.queues.lane import Lane
from tidegate.engine.sessions.catalog import Changes, Entry
from tidegate.errors import ConfigError, Reason, TidegateError
from tidegate.model.manifest import Feature
from tidegate.model.repository import natural_order
from tidegate.wire import codec
from tidegate.wire.frontend import FrontEnd
from tidegate.wire.guard import Context, Guard, Handlers
from tidegate.wire.stubs import model_pb2 as pb

DURABILITIES = {
    Durability.NONE: pb.DURABILITY_NONE,
    Durability.INTERVAL: pb.DURABILITY_INTERVAL,
    Durability.STEP: pb.DURABILITY_STEP,
}

log = logging.getLogger(__name__)


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
        lane = self._catalog.about(Scope(tenant="", model=request.model, version=request.version))
        model = _model(request.model, self._catalog.models[request.model])
        response = pb.GetModelResponse(model=model, description=_description(lane))
        return response.SerializeToString()

    async def reload(self, message: bytes, _: Context) -> bytes:
        codec.parse(pb.ReloadModelsRequest, message)
        try:
            changes = await self._reload()
        except ConfigError as error:
            log.error("reload failed: %s", error)
            raise TidegateError(Reason.MODELS_UNREADABLE) from None
        return pb.ReloadModelsResponse(
            added=changes.added, removed=changes.removed, refused=changes.refused
        ).SerializeToString()


def _model(name: str, entry: Entry) -> pb.Model:
    versions = {
        lane.version: pb.ModelVersion(
            version=lane.version,
            state=pb.VERSION_STATE_RETIRED if lane.retired else pb.VERSION_STATE_READY,
            fingerprint=lane.package.fingerprint,
            sessions=lane.sessions,
            problem=entry.refused.get(lane.version, ""),
        )
        for lane in entry.lanes.values()
    }
    for version in entry.refused.keys() - versions.keys():
        problem = entry.refused[version]
        versions[version] = pb.ModelVersion(version=version, state=pb.VERSION_STATE_REFUSED, problem=problem)
    newest_first = [versions[version] for version in sorted(versions, key=natural_order, reverse=True)]
    return pb.Model(
        name=name, versions=newest_first, aliases=entry.aliases, default_version=entry.default_version or ""
    )


def _description(lane: Lane) -> pb.ModelDescription:
    manifest = lane.package.manifest
    return pb.ModelDescription(
        version=manifest.version,
        description=manifest.description,
        features=[_feature(feature) for feature in manifest.features],
        targets=manifest.targets,
        frequency=manifest.frequency,
        cell=manifest.cell,
        layers=manifest.layers,
        hidden_size=manifest.hidden_size,
        state_bytes=4 * lane.package.state_width,
        head=manifest.head.kind,
        levels=manifest.head.levels,
        coverages=sorted(manifest.head.intervals),
        sample_paths=manifest.head.drawable,
        calendar=[entry.field for entry in manifest.calendar],
        time_zone=manifest.time_zone,
        lag_steps_max=manifest.lag_steps_max,
        known_ids=len(manifest.ids),
        channel_independent=manifest.channel_independent,
        rewind_steps=manifest.rewind_steps,
        durability=DURABILITIES[lane.durability],
        lateness_steps=manifest.lateness_steps,
        replay_steps=manifest.replay_steps,
    )


def _feature(feature: Feature) -> pb.Feature:
    return pb.Feature(
        name=feature.name,
        unit=feature.unit,
        role=feature.role,
        categories=feature.categories,
        derived_only=not feature.width,
    )
