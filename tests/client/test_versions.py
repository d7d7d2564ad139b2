"""Models with several versions: whose names stand for which numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client, Reason, TidegateError
from tidegate.client import Generation, Prediction

MODEL = "tank"
SEEN = {"level": 1.0, "flow": -0.5, "heat": 0.25}
Names = tuple[str, ...]


@pytest.fixture
def tanks(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of one version, which predicts level, flow and heat of the same."""
    models = tmp_path / "models"
    save(models, "1", ("level", "flow", "heat"), ("level", "flow", "heat"))
    with RunningServer(models) as running:
        yield running


def save(models: Path, version: str, features: Names, targets: Names) -> None:
    named = [{"name": name, "role": "target" if name in targets else "past"} for name in features]
    random_package(models, MODEL, version, features=named, targets=targets, seed=int(version))


def reload(tanks: RunningServer, client: Client, features: Names, targets: Names) -> None:
    """There is a second version, which new sessions get."""
    save(tanks.models, "2", features, targets)
    assert client.reload_models().added == (f"{MODEL}/2",)


def by_name(targets: Names, values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> dict[str, float]:
    return dict(zip(targets, values.tolist(), strict=True))


def named(prediction: Prediction) -> dict[str, float]:
    return by_name(prediction.targets, prediction.values)


OTHERS: dict[str, tuple[Names, Names]] = {
    "another order": (("heat", "level", "flow"), ("flow", "heat", "level")),
    "fewer targets": (("level", "flow", "heat"), ("heat",)),
}


@pytest.mark.parametrize(("features", "targets"), OTHERS.values(), ids=OTHERS.keys())
def test_forecasts_are_named_by_their_version(tanks: RunningServer, features: Names, targets: Names) -> None:
    """A forecast's first step is the session's last prediction, name by name, whatever version new sessions get; by a
    client that has known the session and by one that has not."""
    with Client(tanks.grpc) as client:
        last = client.session(MODEL, "old").step(SEEN)
        reload(tanks, client, features, targets)
        new = client.session(MODEL, "new").step(SEEN)
        assert (new.targets, len(last.targets)) == (targets, 3)
        with Client(tanks.grpc) as other:
            for asking in (client, other):
                old = asking.session(MODEL, "old").forecast(2)
                found = asking.forecast(MODEL, ["old", "new", "nobody"], 2)
                assert [one.version for one in found] == ["1", "2", ""]
                assert by_name(old.targets, old.values[0]) == named(last)
                assert by_name(found[0].targets, found[0].values[0]) == named(last)
                assert by_name(found[1].targets, found[1].values[0]) == named(new)


def test_steps_go_by_the_sessions_version(tanks: RunningServer) -> None:
    """A session of an older version takes values in that version's order and is answered by its names, for a client
    that comes after the reload too."""
    with Client(tanks.grpc) as client:
        one, other = client.session(MODEL, "one"), client.session(MODEL, "other")
        assert named(one.step(SEEN)) == named(other.step(SEEN))
        reload(tanks, client, *OTHERS["another order"])
        wanted = named(one.step(SEEN))
        with Client(tanks.grpc) as late:
            assert named(late.session(MODEL, "other").step(SEEN)) == wanted
            assert named(late.session(MODEL, "third", version="1").step(list(SEEN.values()))) != wanted


def test_batches_match_features_by_name(tanks: RunningServer) -> None:
    """Columns in the new version's order reach the right features of a session of the old one."""
    with Client(tanks.grpc) as client:
        one = client.session(MODEL, "one")
        for name in ("one", "other"):
            client.session(MODEL, name).step(SEEN)
        reload(tanks, client, ("heat", "level", "flow"), ("level", "flow", "heat"))
        with client.batches(MODEL) as batches:
            assert batches.about.names == ("heat", "level", "flow")
            found = batches.step(["other", "new"], [[SEEN[name] for name in batches.about.names]] * 2)
        assert not found.errors
        assert by_name(found.targets, found.values[0]) == named(one.step(SEEN))
        assert by_name(found.targets, found.values[1]) == named(client.session(MODEL, "another").step(SEEN))


@pytest.mark.parametrize(("features", "targets"), OTHERS.values(), ids=OTHERS.keys())
def test_batches_refuse_other_targets(tanks: RunningServer, features: Names, targets: Names) -> None:
    """A row whose session predicts something else is refused, not taken and named otherwise; the error says what to do,
    and that does it. A stream that was open before the reload goes on."""
    with Client(tanks.grpc) as client, client.batches(MODEL) as before:
        one = client.session(MODEL, "one")
        for name in ("one", "other"):
            client.session(MODEL, name).step(SEEN)
        reload(tanks, client, features, targets)
        with client.batches(MODEL) as batches:
            row = [SEEN[name] for name in batches.about.names]
            for ids in (["new", "other"], ["other", "new"], ["other"]):
                found = batches.step(ids, [row] * len(ids))
                (error,) = found.errors
                assert (error.id, error.reason) == ("other", Reason.TARGETS_DIFFER)
                assert "client.batches(model, version=" in error.message
                assert np.isfinite(found.values).any() == ("new" in ids)
        wanted = named(one.step(SEEN))
        found = before.step(["other"], [list(SEEN.values())])
        assert by_name(found.targets, found.values[0]) == wanted
        wanted = named(one.step(SEEN))
        with client.batches(MODEL, version=client.session(MODEL, "other").info().version) as mine:
            found = mine.step(["other"], [list(SEEN.values())])
            assert by_name(found.targets, found.values[0]) == wanted


def test_batches_of_a_version_that_is_gone(tanks: RunningServer) -> None:
    """A batch stream that connects after its version was removed from the repository steps the sessions of it on."""
    with Client(tanks.grpc) as client, client.batches(MODEL) as batches:
        client.session(MODEL, "old").step(SEEN)
        reload(tanks, client, *OTHERS["another order"])
        shutil.rmtree(tanks.models / MODEL / "1")
        assert client.reload_models().removed == (f"{MODEL}/1",)
        assert batches.step(["old"], [list(SEEN.values())]).steps.tolist() == [2]


def test_batches_go_on_with_what_came_in_place(tmp_path: Path) -> None:
    """The server comes back with another version alone: a batch stream goes on with it where it takes and predicts the
    same, and else says that its version is gone."""
    names: Names = ("level", "flow", "heat")
    save(tmp_path / "models", "1", names, names)
    with RunningServer(tmp_path / "models") as before, Client(before.grpc) as client, client.batches(MODEL) as batches:
        assert not batches.step(["a"], [[1.0, 2.0, 3.0]]).errors
        for version, targets in (("2", names), ("3", ("heat",))):
            before.stop()
            shutil.rmtree(tmp_path / "models")
            save(tmp_path / "models", version, names, targets)
            port = before.grpc.rpartition(":")[2]
            with RunningServer(tmp_path / "models", "--port", port):
                if version == "2":
                    found = batches.step([f"of-{version}"], [[1.0, 2.0, 3.0]])
                    assert (found.errors, found.steps.tolist()) == ([], [1])
                    assert batches.about.version == "2"
                else:
                    with pytest.raises(TidegateError) as refused:
                        batches.step([f"of-{version}"], [[1.0, 2.0, 3.0]])
                    assert refused.value.reason is Reason.VERSION_NOT_FOUND


def test_paths_end_at_the_word_in_any_order(tmp_path: Path) -> None:
    """A stop is the session's own version's word of that name, wherever others have it; one that its version does not
    have is its scenario's error."""
    models, vocabularies = tmp_path / "models", {"1": ("x", "y", "stop"), "2": ("stop", "x", "y"), "3": ("x", "y", "z")}
    for version in ("1", "2"):
        words(models, version, vocabularies[version])
    with RunningServer(models) as running, Client(running.grpc) as client:
        for version in ("1", "2"):
            client.session("words", version, version=version).step([1.0, 0.0, 0.0])
        asked, ending = ["1", "2"], Generation(stop="stop")
        for found in client.forecast("words", asked, 30, samples=20, generation=ending):
            assert all("stop" not in path[:-1] for path in found.words)
            assert all(path[-1] == "stop" or len(path) == 30 for path in found.words)
            assert min(map(len, found.words)) < 30
        words(models, "3", vocabularies["3"])
        client.reload_models()
        client.session("words", "3").step([1.0, 0.0, 0.0])
        first, _, third = client.forecast("words", [*asked, "3"], 30, samples=20, generation=ending)
        assert first.error is None
        assert third.error is not None
        assert third.error.reason is Reason.BAD_FORECAST
        assert "'stop' is none of the targets of version 3" in third.error.message


def words(models: Path, version: str, vocabulary: Names) -> None:
    features = [{"name": word} for word in vocabulary]
    random_package(models, "words", version, features=features, targets=vocabulary, head={"kind": "categorical"})
