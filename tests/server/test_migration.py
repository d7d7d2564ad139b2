"""Moving sessions to another version through a real server: by the client and by command, beside live streams."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client, Reason
from tidegate.cli import main

KEPT, MANY = 4, 600
VALUES = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Version 2 has the state shape of version 1, version 3 has another, version 4 other features."""
    models = tmp_path_factory.mktemp("migration") / "models"
    random_package(models, version="1", replay_steps=KEPT)
    random_package(models, version="2", seed=1)
    random_package(models, version="3", hidden=16, replay_steps=KEPT)
    random_package(models, version="4", features=5, targets=4)
    with RunningServer(models) as running:
        yield running


def test_by_the_client(server: RunningServer) -> None:
    """Each session is told how it went, and goes on under its numbers; one that cannot move goes on where it is."""
    with Client(server.grpc) as client:
        about = client.model("random", version="1").description
        assert about is not None
        assert about.replay_steps == KEPT
        names = ["a", "b", "c"]
        sessions = [client.session("random", name, version="1") for name in names]
        for session in sessions:
            for _ in range(6):
                session.step(VALUES)
        assert client.migrate_sessions("random", ["a"], version="2").ways == ("state",)
        found = client.migrate_sessions("random", ["b", "nobody", "b"], version="3")
        assert (found.ways, found.replayed.tolist()) == (("replay", "failed", "replay"), [KEPT, 0, KEPT])
        assert [(error.id, error.reason) for error in found.errors] == [("nobody", Reason.SESSION_NOT_FOUND)]
        assert client.migrate_sessions("random", ["b"], version="3").ways == ("already there",)
        failed = client.migrate_sessions("random", ["c", "a"], version="4")
        assert [error.reason for error in failed.errors] == [Reason.PACKAGE_MISMATCH] * 2
        assert [session.info().version for session in sessions] == ["2", "3", "1"]
        after = [session.step(VALUES) for session in sessions]
        assert [prediction.step for prediction in after] == [7, 7, 7]
        assert [prediction.steps_seen for prediction in after] == [7, KEPT + 1, 7]
        fresh = client.session("random", "fresh", version="3")
        for _ in range(KEPT + 1):
            wanted = fresh.step(VALUES)
        assert after[1].values.tobytes() == wanted.values.tobytes()


def test_beside_live_streams(server: RunningServer) -> None:
    """Sessions that are stepped all the while miss no step when they move: every number is answered once, in order."""
    names, done, steps = [f"live-{number}" for number in range(MANY)], threading.Event(), list[np.ndarray]()
    with Client(server.grpc) as client:

        def live() -> None:
            with client.batches("random", version="1") as batches:
                while not done.is_set() or len(steps) < 10:
                    predictions = batches.step(names, np.full((MANY, 4), 0.5))
                    assert not predictions.errors, predictions.errors[:3]
                    steps.append(predictions.steps)

        stream = threading.Thread(target=live)
        stream.start()
        try:
            while len(steps) < 5:
                done.wait(0.01)
            there = client.migrate_sessions("random", names, version="3")
            back = client.migrate_sessions("random", names, version="1")
        finally:
            done.set()
            stream.join()
        assert set(there.ways) == set(back.ways) == {"replay"}
        assert set(there.replayed.tolist()) == {KEPT}
        assert np.array_equal(np.stack(steps), np.arange(1, len(steps) + 1)[:, None] * np.ones(MANY))
        assert {info.version for info in client.sessions(model="random", filter="id=live-*")} == {"1"}


def command(server: RunningServer, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["sessions", "migrate", "random", *arguments, "--address", server.grpc])


def test_by_command(server: RunningServer) -> None:
    """`tidegate sessions migrate`: by id, by filter, and all; a table for people and JSON for programs."""
    with Client(server.grpc) as client:
        for name in ("cli-a", "cli-b"):
            for _ in range(3):
                client.session("random", name, version="1").step(VALUES)
    done = command(server, "cli-a", "--to", "2")
    assert (done.exit_code, done.output) == (0, "migrated 1 by their state, 0 by their last observations\n")
    done = command(server, "--filter", "id=cli-* AND version=1", "--to", "3")
    assert done.exit_code == 0, done.output
    assert "taken again: 3 to 3 observations a session" in done.output
    done = command(server, "--all", "--to", "4", "--json")
    assert done.exit_code == 1
    told = json.loads(done.output.splitlines()[0])
    assert set(told["ways"].values()) == {"failed"}
    assert {"cli-a", "cli-b"} <= set(told["failed"])
    assert "PACKAGE_MISMATCH" in done.output
    assert command(server, "--to", "2").exit_code == 2
    assert command(server, "cli-a", "--all", "--to", "2").exit_code == 2
    assert "VERSION_NOT_FOUND" in command(server, "cli-a", "--to", "9").output


def test_outlives_a_crash(tmp_path: Path) -> None:
    """Sessions of a store are moved for good when the call returns, also those that were in no server's memory."""
    models, flags = tmp_path / "models", ("--store", f"sqlite:{tmp_path / 'sessions.db'}")
    random_package(models, version="1", replay_steps=KEPT)
    random_package(models, version="2", hidden=16, replay_steps=KEPT)
    names = [f"s{number}" for number in range(300)]
    with RunningServer(models, *flags) as running, Client(running.grpc) as client:
        with client.batches("random", version="1") as batches:
            for _ in range(6):
                assert not batches.step(names, np.full((len(names), 4), 0.5)).errors
        running.stop(signal.SIGTERM)
    with RunningServer(models, *flags) as running, Client(running.grpc) as client:
        assert set(client.migrate_sessions("random", names, version="2").ways) == {"replay"}
        running.stop(signal.SIGKILL)
    with RunningServer(models, *flags) as running, Client(running.grpc) as client:
        with client.batches("random", version="1") as batches:
            predictions = batches.step(names, np.full((len(names), 4), 0.5))
        assert set(predictions.steps.tolist()) == {7}
        assert {info.version for info in client.sessions(model="random")} == {"2"}
        fresh = client.session("random", "fresh", version="2")
        for _ in range(KEPT + 1):
            wanted = fresh.step([0.5] * 4)
        assert np.array_equal(predictions.values, np.tile(wanted.values, (len(names), 1)))
