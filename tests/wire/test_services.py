"""ModelService, health and reflection: what a client can learn before it sends an observation."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.wire.clients import PATIENCE_SECONDS, Client, observation, refused
from tidegate.model.package import Package
from tidegate.wire.stubs import model_pb2 as pb

SERVICES = ("tidegate.v1.PredictionService", "tidegate.v1.SessionService", "tidegate.v1.ModelService")


class TestModels:
    async def test_models_are_listed_with_their_versions(self, client: Client, random_model: Package) -> None:
        """By name; versions newest first, with state and fingerprint; aliases and the default that the pin says."""
        models = (await client.models.ListModels(pb.ListModelsRequest())).models
        assert [model.name for model in models] == ["random", "station"]
        versions = models[0].versions
        assert [(version.version, version.state) for version in versions] == [
            ("2", pb.VERSION_STATE_READY),
            ("1", pb.VERSION_STATE_READY),
        ]
        assert versions[1].fingerprint == random_model.fingerprint
        assert not any(version.problem for version in versions)
        assert (dict(models[0].aliases), models[0].default_version) == ({"canary": "2"}, "1")
        assert (dict(models[1].aliases), models[1].default_version) == ({}, "1")

    async def test_sessions_are_counted_by_version(self, client: Client) -> None:
        """A version says how many sessions live on it."""

        async def counts() -> dict[str, int]:
            model = (await client.models.GetModel(pb.GetModelRequest(model="random"))).model
            return {version.version: version.sessions for version in model.versions}

        before = await counts()
        for name, version in (("a", "1"), ("b", "canary"), ("c", "2")):
            await client.predict(observation(f"counted-{name}", [1, 2, 3, 4]), version=version)
        assert await counts() == {"1": before["1"] + 1, "2": before["2"] + 2}

    async def test_a_model_says_what_to_send(self, client: Client) -> None:
        """GetModel tells features with units and roles in order, targets, frequency and the cell."""
        answer = await client.models.GetModel(pb.GetModelRequest(model="station"))
        about = answer.description
        assert [(feature.name, feature.unit, feature.role) for feature in about.features] == [
            ("temperature", "degC", "target"),
            ("wind", "m/s", "target"),
            ("rain", "mm", "past"),
        ]
        assert list(about.targets) == ["wind", "temperature"]
        assert (about.version, about.description, about.frequency) == ("1", "Made for tests.", "D")
        assert (about.cell, about.layers, about.hidden_size, about.state_bytes) == ("gru", 1, 16, 64)
        assert answer.model.name == "station"

    @pytest.mark.parametrize(("asked", "described"), [("", "1"), ("1", "1"), ("2", "2"), ("canary", "2")])
    async def test_the_version_asked_for_is_described(self, client: Client, asked: str, described: str) -> None:
        """A version, an alias, or the default."""
        answer = await client.models.GetModel(pb.GetModelRequest(model="random", version=asked))
        assert answer.description.version == described

    async def test_what_there_is_is_named_where_something_is_not(self, client: Client) -> None:
        """Unknown models and versions are refused, and the text names those that there are."""
        error = await refused(client.models.GetModel(pb.GetModelRequest(model="none")))
        assert (error.reason, error.code) == ("MODEL_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        assert "random, station" in error.message
        error = await refused(client.models.GetModel(pb.GetModelRequest(model="random", version="9")))
        assert (error.reason, error.code) == ("VERSION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        assert "1, 2" in error.message
        assert "canary" in error.message

    async def test_a_reload_of_the_same_changes_nothing(self, client: Client) -> None:
        """ReloadModels without changes in the folder answers with three empty lists."""
        answer = await client.models.ReloadModels(pb.ReloadModelsRequest())
        assert not answer.added
        assert not answer.removed
        assert not answer.refused


class TestHealth:
    @pytest.mark.parametrize("service", ["", *SERVICES])
    async def test_each_service_is_serving(self, client: Client, service: str) -> None:
        """Check and the first word of Watch are SERVING, for the server and for each service."""
        request = health_pb2.HealthCheckRequest(service=service)
        assert (await client.health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        watch = client.health.Watch(request)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

    async def test_an_unknown_service_is_unknown(self, client: Client) -> None:
        """Check is NOT_FOUND and Watch SERVICE_UNKNOWN, as the health protocol says."""
        request = health_pb2.HealthCheckRequest(service="tidegate.v1.Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.health.Check(request)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        watch = client.health.Watch(request)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


class TestReflection:
    async def ask(self, client: Client, **request: str) -> reflection_pb2.ServerReflectionResponse:
        call = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(**request))
        answer = await call.read()
        await call.done_writing()
        return answer

    async def test_the_services_are_listed(self, client: Client) -> None:
        """All services of the server, so that grpcurl works without protos."""
        answer = await self.ask(client, list_services="")
        assert {service.name for service in answer.list_services_response.service} == {
            *SERVICES,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }

    @pytest.mark.parametrize("symbol", [*SERVICES, "google.rpc.Status", "tidegate.v1.ObservationBatch"])
    async def test_symbols_are_described(self, client: Client, symbol: str) -> None:
        """Each service and the messages that it uses can be asked for."""
        answer = await self.ask(client, file_containing_symbol=symbol)
        assert answer.file_descriptor_response.file_descriptor_proto


async def test_an_unknown_method_is_unimplemented(client: Client) -> None:
    """A method that the server does not know is UNIMPLEMENTED, and nothing breaks."""
    call = client.channel.unary_unary("/tidegate.v1.PredictionService/Guess")
    error = await refused(call(b""))
    assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")
    stream = client.channel.stream_stream("/tidegate.v2.Service/Guess")()  # what is written too late hides the answer
    streamed = await refused(stream.read())
    assert streamed == error
