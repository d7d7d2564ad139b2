"""The model repository of a running server: versions come, go, change and break, and no session is dropped."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.packages import random_package, random_weights
from tests.servers import RunningServer
from tests.wire.clients import Client, batch, check_text, observation, refusal_of, refused, until, values_of
from tests.wire.inprocess import InProcess, gate, in_process
from tidegate.errors import TidegateError
from tidegate.model import reference
from tidegate.model.package import MANIFEST, WEIGHTS, Package, save_package
from tidegate.wire.stubs import forecast_pb2, session_pb2
from tidegate.wire.stubs import model_pb2 as pb

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32).astype(np.float64)
READY, RETIRED, REFUSED = pb.VERSION_STATE_READY, pb.VERSION_STATE_RETIRED, pb.VERSION_STATE_REFUSED


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with `random/1`, and `other/1` for company."""
    folder = tmp_path / "models"
    random_package(folder, version="1", seed=1)
    random_package(folder, "other", "1", features=2, targets=1)
    return folder


@pytest.fixture
async def running(models: Path) -> AsyncIterator[InProcess]:
    async with in_process(models) as running:
        yield running


@pytest.fixture
async def client(running: InProcess) -> AsyncIterator[Client]:
    async with Client(running.grpc) as client:
        yield client


async def reload(client: Client) -> tuple[list[str], list[str], list[str]]:
    answer = await client.models.ReloadModels(pb.ReloadModelsRequest())
    return list(answer.added), list(answer.removed), list(answer.refused)


async def states(client: Client, model: str = "random") -> dict[str, int]:
    """The model's versions as they are listed, and where each stands; {} when there is no such model."""
    models = (await client.models.ListModels(pb.ListModelsRequest())).models
    return {v.version: v.state for listed in models if listed.name == model for v in listed.versions}


def metric(running: InProcess, name: str, *model: str) -> float | None:
    """What is scraped of the model, or in all."""
    labels = dict(zip(("model",), model, strict=False))
    return running.server.metrics.registry.get_sample_value(f"tidegate_{name}", labels)


async def session(client: Client, name: str, model: str = "random") -> Any:
    request = session_pb2.GetSessionRequest(model=model, session_id=name)
    return (await client.sessions.GetSession(request)).session


async def close(client: Client, *names: str, model: str = "random") -> None:
    request = session_pb2.BatchCloseSessionsRequest(model=model, session_ids=names)
    assert not (await client.sessions.BatchCloseSessions(request)).errors


def move(folder: Path, target: Path) -> Path:
    return folder.rename(target)


def make_empty(folder: Path) -> None:
    folder.mkdir()


def predicted(package: Package, steps: int) -> Any:
    return reference.predict(package, X[:steps]).raw[-1]


class TestAdded:
    async def test_new_sessions_get_it_and_running_ones_keep_theirs(self, client: Client, models: Path) -> None:
        """On the streams that are open: a session goes on bit for bit on its version, a new one begins on the new."""
        stream = client.stream()
        await stream.predict(observation("old", X[0], 1))
        two = random_package(models, version="2", seed=2)
        assert await reload(client) == (["random/2"], [], [])
        old = await stream.predict(observation("old", X[1], 2))
        new = await stream.predict(observation("new", X[0], 1))
        one = random_package(models.parent / "again", version="1", seed=1)
        np.testing.assert_allclose(old.values, predicted(one, 2), atol=1e-5)
        np.testing.assert_allclose(new.values, predicted(two, 1), atol=1e-5)
        assert ((await session(client, "old")).version, (await session(client, "new")).version) == ("1", "2")
        assert await states(client) == {"2": READY, "1": READY}

    async def test_the_newest_is_the_default_however_it_came(self, client: Client, models: Path) -> None:
        """Versions are in natural order, also those that are added late: 10 after 9, and 9.5 between them."""
        for version in ("10", "9", "9.5"):
            random_package(models, version=version)
            await reload(client)
        answer = await client.models.GetModel(pb.GetModelRequest(model="random"))
        assert [version.version for version in answer.model.versions] == ["10", "9.5", "9", "1"]
        assert answer.model.default_version == answer.description.version == "10"

    async def test_a_model_may_be_added(self, client: Client, models: Path) -> None:
        """A folder of a new name is a new model."""
        assert (await refused(client.predict(observation("a", X[0]), "third"))).reason == "MODEL_NOT_FOUND"
        random_package(models, "third")
        assert await reload(client) == (["third/1"], [], [])
        assert (await client.predict(observation("a", X[0]), "third")).prediction.step == 1


class TestRemoved:
    async def test_it_serves_its_sessions_until_they_end(
        self, running: InProcess, client: Client, models: Path
    ) -> None:
        """A removed version steps the sessions that it has, on old streams and new ones, takes no new session, and is
        gone from lists and metrics when the last one ends.
        """
        random_package(models, version="2", seed=2)
        await reload(client)
        stream = client.stream(version="2")
        await stream.predict_batch(batch(["a", "b"], X[[0, 0]]))
        shutil.rmtree(models / "random" / "2")
        assert await reload(client) == ([], ["random/2"], [])
        assert await states(client) == {"2": RETIRED, "1": READY}
        assert (await stream.predict(observation("a", X[1], 2))).step == 2
        assert (await client.stream().predict(observation("a", X[2], 3))).step == 3
        assert refusal_of((await stream.ask(observation("new", X[0]))).error).reason == "VERSION_NOT_FOUND"
        assert (await client.predict(observation("new", X[0]))).prediction.step == 1
        assert (await session(client, "new")).version == "1"
        await close(client, "a")
        assert await states(client) == {"2": RETIRED, "1": READY}
        await close(client, "b")
        assert await states(client) == {"1": READY}
        assert {lane.version for lane in running.server.catalog.lanes.values() if lane.model == "random"} == {"1"}

    async def test_a_client_comes_back_to_it(self, client: Client, models: Path) -> None:
        """A client that connects again with the config that it always had reaches its sessions on a removed version,
        also when that was the model's only one, or when a newer one has other features.
        """
        named: dict[str, Any] = {"version": "1", "features": ["x3", "x2", "x1", "x0"]}
        await client.stream(**named).predict(observation("a", X[0], 1))
        await client.stream().predict(observation("b", X[0], 1))
        shutil.rmtree(models / "random" / "1")
        assert await reload(client) == ([], ["random/1"], [])
        assert (await client.stream(**named).predict(observation("a", X[1], 2))).step == 2
        assert (await client.predict(observation("b", X[1], 2))).prediction.step == 2
        assert (await refused(client.predict(observation("new", X[0])))).reason == "VERSION_NOT_FOUND"
        random_package(models, version="2", features=5, targets=4)
        await reload(client)
        assert (await client.stream(**named).predict(observation("a", X[2], 3))).step == 3
        assert (await client.stream(**{**named, "version": ""}).predict(observation("a", X[3], 4))).step == 4
        assert (await client.predict(observation("new", [1, 2, 3, 4, 5]))).prediction.step == 1

    async def test_what_its_sessions_are_asked_for(self, client: Client, models: Path) -> None:
        """Where a model's only version was removed: forecasts of its sessions, and whether they are there; a new one is
        refused, in an open of both too.
        """
        await client.predict(observation("a", X[0]))
        shutil.rmtree(models / "random" / "1")
        await reload(client)
        forecast = forecast_pb2.ForecastRequest(
            model="random", horizon=2, scenarios=[forecast_pb2.Scenario(session_id="a")]
        )
        assert [len(found.values) for found in (await client.predictions.Forecast(forecast)).forecasts] == [
            2 * 4 * 4
        ]  # bytes
        found = await client.sessions.OpenSession(session_pb2.OpenSessionRequest(model="random", session_id="a"))
        assert (found.session.step, found.created) == (1, False)
        for ids in (["new"], ["a", "new"]):
            request = session_pb2.BatchOpenSessionsRequest(model="random", session_ids=ids)
            assert (await refused(client.sessions.BatchOpenSessions(request))).reason == "VERSION_NOT_FOUND"

    async def test_a_model_goes_with_its_last_session(self, client: Client, models: Path) -> None:
        """A model whose folder is gone serves its sessions, and is unknown after the last of them."""
        await client.predict(observation("a", [1, 2]), "other")
        shutil.rmtree(models / "other")
        assert await reload(client) == ([], ["other/1"], [])
        assert (await client.predict(observation("a", [1, 2]), "other")).prediction.step == 2
        assert await states(client, "other") == {"1": RETIRED}
        await close(client, "a", model="other")
        assert await states(client, "other") == {}
        assert (await refused(client.predict(observation("a", [1, 2]), "other"))).reason == "MODEL_NOT_FOUND"
        assert (await client.predict(observation("a", X[0]))).prediction.step == 1

    async def test_it_may_come_back(self, client: Client, models: Path) -> None:
        """A version that returns as it was is ready again, with the sessions that it still had."""
        await client.predict(observation("a", X[0], 1))
        (models / "random" / "1").rename(models.parent / "away")
        await reload(client)
        (models.parent / "away").rename(models / "random" / "1")
        assert await reload(client) == (["random/1"], [], [])
        assert await states(client) == {"1": READY}
        assert (await client.predict(observation("a", X[1], 2))).prediction.step == 2
        assert (await client.predict(observation("b", X[0], 1))).prediction.created

    async def test_it_may_come_back_as_another(self, client: Client, models: Path) -> None:
        """Other content under the number of a removed version serves new sessions; the old ones keep theirs."""
        await client.predict(observation("a", X[0], 1))
        shutil.rmtree(models / "random" / "1")
        await reload(client)
        other = random_package(models, version="1", seed=99)
        assert await reload(client) == (["random/1"], [], [])
        np.testing.assert_allclose(
            (await client.predict(observation("new", X[0], 1))).prediction.values, predicted(other, 1), atol=1e-5
        )
        one = random_package(models.parent / "again", version="1", seed=1)
        np.testing.assert_allclose(
            (await client.predict(observation("a", X[1], 2))).prediction.values, predicted(one, 2), atol=1e-5
        )
        assert await states(client) == {"1": READY}

    async def test_while_its_step_is_in_flight(self, running: InProcess, client: Client, models: Path) -> None:
        """A reload during a step waits for it; the step and what is queued behind it are answered."""
        with gate(running.lane()) as held:
            stream = client.stream()
            await stream.send(batch(["a"] * 3, X[:3]))
            await held.taken()
            shutil.rmtree(models / "random" / "1")
            reloading = asyncio.ensure_future(reload(client))
            await until(lambda: bool(running.commands), "the reload is queued")
            held.open()
            assert await reloading == ([], ["random/1"], [])
            assert list((await stream.receive()).batch.steps) == [1, 2, 3]


class TestAliases:
    async def test_pin_and_aliases_follow_the_file(self, client: Client, models: Path) -> None:
        """New sessions get what the pin or the alias says since the last reload; running ones keep theirs."""
        random_package(models, version="2", seed=2)
        file = models / "random" / "aliases.json"
        file.write_text(json.dumps({"pin": "1", "aliases": {"canary": "2"}}))
        await reload(client)
        stream = client.stream(version="canary")
        await stream.predict(observation("a", X[0]))
        await client.predict(observation("b", X[0]))
        file.write_text(json.dumps({"pin": "2", "aliases": {"canary": "1", "stable": "2"}}))
        assert await reload(client) == ([], [], [])
        await stream.predict_batch(batch(["a", "c"], X[:2]))
        await client.predict(observation("d", X[0]))
        assert [(await session(client, name)).version for name in "abcd"] == ["2", "1", "1", "2"]
        model = (await client.models.GetModel(pb.GetModelRequest(model="random"))).model
        assert (dict(model.aliases), model.default_version) == ({"canary": "1", "stable": "2"}, "2")
        file.unlink()
        await reload(client)
        assert refusal_of((await stream.ask(observation("e", X[0]))).error).reason == "VERSION_NOT_FOUND"
        assert (await stream.predict(observation("a", X[1], 3))).step == 3

    async def test_a_broken_file_is_named(self, running: InProcess, client: Client, models: Path) -> None:
        """Junk in aliases.json, or a pin that names nothing, is reported; sessions run on, and nothing is guessed."""
        await client.predict(observation("a", X[0]))
        for content, field in (("{", "aliases.json"), ('{"pin": "7"}', "aliases.json.pin")):
            (models / "random" / "aliases.json").write_text(content)
            _, _, (problem,) = await reload(client)
            assert problem.startswith(f"random/{field}")
            assert (await client.predict(observation("a", X[0]))).prediction.step > 1
            assert (await refused(client.predict(observation("new", X[0])))).reason == "VERSION_NOT_FOUND"
            with pytest.raises(TidegateError, match=r"random has no default version; versions: 1; aliases: none"):
                running.lane()
            assert (await client.predict(observation(f"new-{field}", X[0]), version="1")).prediction.step == 1


def spoiled_hash(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def spoiled_shape(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "hidden_size": 33}))


def spoiled_json(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


BROKEN = {
    "hash": (spoiled_hash, "model.json:weights_sha256"),
    "shape": (spoiled_shape, "weights.safetensors:"),
    "json": (spoiled_json, "model.json"),
    "no weights": (no_weights, "weights.safetensors"),
}


class TestBroken:
    @pytest.mark.parametrize(("spoil", "field"), BROKEN.values(), ids=BROKEN.keys())
    async def test_it_is_refused_by_field_while_the_rest_serve(
        self, client: Client, models: Path, spoil: Any, field: str
    ) -> None:
        """A broken version is named with its field, in the reload and in the lists, without a path of the server; new
        sessions get the newest good one; mended, it serves.
        """
        await client.predict(observation("a", X[0]))
        random_package(models, version="2")
        spoil(models / "random" / "2")
        added, removed, (problem,) = await reload(client)
        assert (added, removed) == ([], [])
        assert problem.startswith(f"random/2: {field}")
        assert str(models) not in problem
        (two, _) = (await client.models.GetModel(pb.GetModelRequest(model="random"))).model.versions
        assert (two.version, two.state, two.fingerprint, two.sessions) == ("2", REFUSED, "", 0)
        assert two.problem == problem.removeprefix("random/2: ")
        assert (await client.predict(observation("b", X[0]))).prediction.step == 1
        assert (await refused(client.predict(observation("c", X[0]), version="2"))).reason == "VERSION_NOT_FOUND"
        shutil.rmtree(models / "random" / "2")
        random_package(models, version="2")
        assert await reload(client) == (["random/2"], [], [])
        assert await states(client) == {"2": READY, "1": READY}

    async def test_a_loaded_version_survives_its_files(self, running: InProcess, client: Client, models: Path) -> None:
        """When the files under a loaded version change or break, it serves on from memory, and the problem is told, by
        a metric too: after a restart it would not be served."""
        await client.predict(observation("a", X[0]))
        spoiled_hash(models / "random" / "1")
        added, removed, (problem,) = await reload(client)
        assert (added, removed, problem.startswith("random/1: model.json:weights_sha256")) == ([], [], True)
        assert (metric(running, "packages_refused", "random"), metric(running, "packages_refused", "other")) == (1, 0)
        assert await states(client) == {"1": READY}
        assert (await client.predict(observation("a", X[1]))).prediction.step == 2
        assert (await client.predict(observation("new", X[0]))).prediction.step == 1
        shutil.rmtree(models / "random" / "1")
        random_package(models, version="1", seed=5)
        _, _, (problem,) = await reload(client)
        assert "immutable" in problem

    async def test_a_broken_model_goes_with_its_folder(self, client: Client, models: Path) -> None:
        """A model that has only broken versions is listed as such while its folder is there, and not after."""
        random_package(models, "third")
        spoiled_json(models / "third" / "1")
        await reload(client)
        assert await states(client, "third") == {"1": REFUSED}
        assert (await refused(client.predict(observation("a", X[0]), "third"))).reason == "VERSION_NOT_FOUND"
        shutil.rmtree(models / "third")
        assert await reload(client) == ([], [], [])
        assert await states(client, "third") == {}
        assert (await refused(client.predict(observation("a", X[0]), "third"))).reason == "MODEL_NOT_FOUND"

    async def test_a_broken_version_goes_with_its_folder(self, client: Client, models: Path) -> None:
        """A refused version whose folder is gone is no longer listed, also when the whole model is on its way out."""
        await client.predict(observation("a", X[0]))
        random_package(models, version="2")
        spoiled_json(models / "random" / "2")
        await reload(client)
        assert await states(client) == {"2": REFUSED, "1": READY}
        shutil.rmtree(models / "random")
        assert await reload(client) == ([], ["random/1"], [])
        assert await states(client) == {"1": RETIRED}
        await close(client, "a")
        assert await states(client) == {}

    async def test_a_folder_that_cannot_be_read_changes_nothing(
        self, running: InProcess, client: Client, models: Path
    ) -> None:
        """When the whole repository is gone, or holds nothing that can be served, the reload fails in words
        (without the path) and is counted, and everything serves on."""
        await client.predict(observation("a", X[0]))
        away = move(models, models.parent / "away")
        error = await refused(client.models.ReloadModels(pb.ReloadModelsRequest()))
        assert (error.reason, error.code) == ("MODELS_UNREADABLE", grpc.StatusCode.FAILED_PRECONDITION)
        assert "model repository" in error.message
        assert (await client.predict(observation("a", X[1]))).prediction.step == 2
        make_empty(models)
        assert (await refused(client.models.ReloadModels(pb.ReloadModelsRequest()))).reason == "MODELS_UNREADABLE"
        assert await states(client) == {"1": READY}
        assert (await client.predict(observation("b", X[0]))).prediction.step == 1
        move(models, models.parent / "empty")
        move(away, models)
        assert await reload(client) == ([], [], [])
        assert metric(running, "reloads_failed_total") == 2


class TestMixedVersions:
    """Rows of one message that belong to sessions of different versions."""

    async def test_of_the_same_shape(self, client: Client, models: Path) -> None:
        """Each row is stepped by its own version, in one message, by ids and by aliases."""
        packages = {"1": random_package(models.parent / "again", version="1", seed=1)}
        packages["2"] = random_package(models, version="2", seed=2, hidden=16, layers=2)
        await reload(client)
        stream, ids = client.stream(), [f"{version}-{row}" for row in range(3) for version in "12"]
        for version in "12":
            mine = [name for name in ids if name.startswith(version)]
            await client.stream(version=version).predict_batch(batch(mine, X[[0] * 3]))
        rows = await stream.predict_batch(batch(ids, X[[1] * 6], aliases=range(6)))
        again = await stream.predict_batch(batch([], X[[2] * 6], aliases=range(6)))
        for row, name in enumerate(ids):
            np.testing.assert_allclose(values_of(rows)[row], predicted(packages[name[0]], 2), atol=1e-5)
            np.testing.assert_allclose(values_of(again)[row], predicted(packages[name[0]], 3), atol=1e-5)
        assert not rows.errors

    async def test_of_another_width(self, client: Client, models: Path) -> None:
        """Rows of a version that takes another number of features are BAD_OBSERVATION, alone."""
        random_package(models, version="2", features=5, targets=4)
        await reload(client)
        await client.predict(observation("one", X[0]), version="1")
        await client.predict(observation("two", [1, 2, 3, 4, 5]), version="2")
        rows = await client.stream().predict_batch(batch(["two", "one", "two"], X[:3]))
        assert [(error.row, error.reason, error.expected_step) for error in rows.errors] == [
            (0, "BAD_OBSERVATION", 2),
            (2, "BAD_OBSERVATION", 2),
        ]
        assert list(rows.steps) == [0, 2, 0]
        assert np.isfinite(values_of(rows)[1]).all()

    async def test_of_other_features(self, client: Client, models: Path) -> None:
        """Rows of a version that has not the features that the stream names are BAD_CONFIG, alone."""
        features = [{"name": name, "role": "target"} for name in ("x0", "x1", "x2", "y")]
        two = json.loads((models / "random" / "1" / MANIFEST).read_text())
        del two["weights_sha256"]
        two |= {"version": "2", "features": features, "targets": ["x0", "x1", "x2", "y"]}
        save(models, two)
        await reload(client)
        await client.predict(observation("one", X[0]), version="1")
        await client.predict(observation("two", X[0]), version="2")
        stream = client.stream(version="1", features=["x3", "x2", "x1", "x0"])
        rows = await stream.predict_batch(batch(["two", "one"], X[:2]))
        assert [(error.row, error.reason) for error in rows.errors] == [(0, "BAD_CONFIG")]
        assert list(rows.steps) == [0, 2]
        check_text("BAD_CONFIG", rows.errors[0].code, rows.errors[0].message)
        error = refusal_of((await stream.ask(observation("two", X[1]))).error)
        assert error.reason == "BAD_CONFIG"

    async def test_of_another_number_of_targets(self, client: Client, models: Path) -> None:
        """A message has one width of answers: that of its first row. Rows of other versions are TARGETS_DIFFER, and are
        taken in a message of their own.
        """
        random_package(models, version="2", targets=2)
        await reload(client)
        for version in "12":
            await client.predict(batch([version, version + "b"], X[:2]), version=version)
        stream = client.stream()
        for first, second in (("1", "2"), ("2", "1")):
            rows = await stream.predict_batch(batch([first, second, first + "b", second + "b"], X[:4]))
            assert [(error.row, error.reason) for error in rows.errors] == [
                (1, "TARGETS_DIFFER"),
                (3, "TARGETS_DIFFER"),
            ]
            check_text("TARGETS_DIFFER", rows.errors[0].code, rows.errors[0].message)
            assert values_of(rows).shape == (4, {"1": 4, "2": 2}[first])
            assert np.isfinite(values_of(rows)[[0, 2]]).all()
            own = await stream.predict_batch(batch([second, second + "b"], X[:2]))
            assert (len(own.errors), values_of(own).shape) == (0, (2, {"1": 4, "2": 2}[second]))
        assert len((await stream.predict(observation("2", X[0]))).values) == 2


def save(folder: Path, manifest: dict[str, Any]) -> None:
    save_package(folder / manifest["name"] / manifest["version"], manifest, random_weights(manifest))


async def test_traffic_does_not_feel_reloads(client: Client, models: Path) -> None:
    """While versions come and go, every observation on an open stream is answered as its own version would."""
    one = random_package(models.parent / "again", version="1", seed=1)
    stream = client.stream()
    x = np.random.default_rng(1).normal(size=(400, 4))
    values = [(await stream.predict(observation("steady", x[0], 1))).values]  # opened before there is another version
    sent = 1
    reloading = asyncio.ensure_future(churn(client, models, 6))
    while not reloading.done() or sent < 50:
        answer = await stream.predict(observation("steady", x[sent % 400], sent + 1))
        values.append(answer.values)
        sent += 1
    assert await reloading == [([f"random/{version}"], []) for version in range(2, 8)]
    tiled = np.concatenate([x] * (sent // 400 + 1))[:sent]
    np.testing.assert_allclose(values, reference.predict(one, tiled).raw, atol=1e-4)
    assert await stream.finish() == []


async def churn(client: Client, models: Path, turns: int) -> list[tuple[list[str], list[str]]]:
    """Adds a version with a session, then removes it, again and again."""
    changes = []
    for version in range(2, 2 + turns):
        random_package(models, version=str(version), seed=version)
        added, _, refused_packages = await reload(client)
        changes.append((added, refused_packages))
        await client.predict(observation(f"of-{version}", X[0]), version=str(version))
        shutil.rmtree(models / "random" / str(version))
        await reload(client)
        assert (await client.predict(observation(f"of-{version}", X[1]))).prediction.step == 2
        await close(client, f"of-{version}")
    assert await states(client) == {"1": READY}
    return changes


async def test_sighup_reloads(models: Path) -> None:
    """SIGHUP does what ReloadModels does: streams stay open, changes are logged, and a failure is a line and no end."""
    with RunningServer(models) as server:
        async with Client(server.grpc) as client:
            stream = client.stream()
            await stream.predict(observation("old", X[0]))
            random_package(models, version="2", seed=2)
            random_package(models, version="3")
            spoiled_shape(models / "random" / "3")
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: "serving random/2" in server.log, "the new version")
            assert "refused random/3: weights.safetensors:" in server.log
            await stream.predict(observation("new", X[0]))
            assert [(await session(client, name)).version for name in ("old", "new")] == ["1", "2"]
            move(models, models.parent / "away")
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: "reload failed" in server.log, "the failure")
            assert (await stream.predict(observation("old", X[1]))).step == 2
            assert await stream.finish() == []
        assert "Traceback" not in server.log
