"""`tidegate sessions backup`, `restore` and `delete`, with real servers, SQLite and a real Redis."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.servers import RunningServer
from tests.services import RunningRedis, redis_server
from tests.waiting import PATIENCE_SECONDS, wait_for
from tidegate import Client, Reason, TidegateError
from tidegate.cli import main

__all__ = ["redis_server"]

MODEL = "random"
IDS = [f"s{number}" for number in range(200)]
OFTEN = {"TIDEGATE_LIMITS__CHECKPOINT_SECONDS": "0.05"}
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def wanted(models: Path) -> list[bytes]:
    """What a server that nothing happens to predicts, step by step."""
    with RunningServer(models) as calm:
        return stepped(calm, range(1, 9))


@dataclass(frozen=True)
class Place:
    """A store by its setting."""

    store: str

    def server(self, models: Path, *flags: str) -> RunningServer:
        return RunningServer(models, "--store", self.store, *flags, environment=OFTEN)


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty one of each kind."""
    if request.param == "sqlite":
        return Place(f"sqlite:{tmp_path / 'sessions.db'}")
    return redis_place(request.getfixturevalue("redis_server"))


def redis_place(running: RunningRedis) -> Place:
    return Place(f"{running.url}?prefix=cli-{next(_NUMBERS)}")


def stepped(server: RunningServer, steps: range) -> list[bytes]:
    """Steps all sessions from where the server has them; returns the predictions' bytes."""
    told = []
    with Client(server.grpc) as client, client.batches(MODEL) as batches:
        for step in steps:
            values = np.random.default_rng(step).normal(size=(len(IDS), 4))
            predictions = batches.step(IDS, values)
            assert not predictions.errors
            assert (predictions.steps == step).all()
            told.append(predictions.values.tobytes())
    return told


def saved(server: RunningServer) -> None:
    """Returns when all that was answered by now is saved."""
    wait_for(lambda: server.metric("tidegate_checkpoint_lag_seconds") <= 0, lambda: "nothing is saved")


def run(*words: str, environment: dict[str, str] | None = None, answer: str | None = None) -> Result:
    """The command's result."""
    return CliRunner().invoke(main, ["sessions", *words], env=environment, input=answer)


def counts(result: Result) -> dict[str, object]:
    """What --json printed."""
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_a_backup_beside_a_running_server(place: Place, models: Path, wanted: list[bytes], tmp_path: Path) -> None:
    """Of what it saved; a server on the backup goes on from there, to the bit. The one that runs is not disturbed."""
    file = tmp_path / "backup.db"
    with place.server(models) as server:
        assert stepped(server, range(1, 5)) == wanted[:4]
        saved(server)
        done = run("backup", str(file), environment={"TIDEGATE_STORE": place.store})
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        assert done.stdout.startswith(f"{file}: {len(IDS)} sessions, ")
        assert stepped(server, range(5, 9)) == wanted[4:]
        server.stop(signal.SIGKILL)
    with Place(f"sqlite:{file}").server(models) as server:
        assert server.metric("tidegate_sessions_restored_total") == len(IDS)
        assert stepped(server, range(5, 9)) == wanted[4:]


def test_a_store_that_lost_its_sessions(place: Place, models: Path, wanted: list[bytes], tmp_path: Path) -> None:
    """They are put back from the backup, and go on to the bit; what is damaged in the backup is said."""
    file = tmp_path / "backup.db"
    with place.server(models) as server:
        stepped(server, range(1, 5))
    assert counts(run("backup", str(file), "--store", place.store, "--json"))["sessions"] == len(IDS)
    with place.server(models) as server:
        ended = run("delete", MODEL, *IDS, "--yes", "--json", "--address", server.grpc)
        assert counts(ended) == {"deleted": len(IDS), "failed": []}
    assert counts(run("backup", str(tmp_path / "none.db"), "--store", place.store, "--json"))["sessions"] == 0
    put_back = run("restore", str(file), "--store", place.store, "--json")
    assert counts(put_back) == {"restored": len(IDS), "kept": 0, "held": 0, "damaged": 0}
    put_back = run("restore", str(file), "--store", place.store)
    assert put_back.stdout == f"restored 0, kept {len(IDS)} that the store has at that step or a later one\n"
    with place.server(models) as server:
        assert stepped(server, range(5, 9)) == wanted[4:]
    with sqlite3.connect(file) as damaged:
        damaged.execute("UPDATE sessions SET content = x'00' WHERE session_id = ?", (b"s7",))
    damaged.close()
    copied = run("backup", str(tmp_path / "copy.db"), "--store", f"sqlite:{file}")
    assert (copied.exit_code, copied.stderr) == (1, "1 damaged rows are left out\n")
    assert copied.stdout.startswith(f"{tmp_path / 'copy.db'}: {len(IDS) - 1} sessions, ")
    put_back = run("restore", str(file), "--store", place.store, "--overwrite")
    assert put_back.exit_code == 0, put_back.output
    assert put_back.stdout.startswith(f"restored {len(IDS) - 1}, kept 0 ")
    assert put_back.stderr == "1 damaged rows are left out\n"


def test_restored_beside_running_servers(
    models: Path, wanted: list[bytes], redis_server: RunningRedis, tmp_path: Path
) -> None:
    """What lives is left and named, and let go of by its server: a second time it is put back, and goes on from there,
    on another replica too; which can also end what the first one has."""
    place, file = redis_place(redis_server), tmp_path / "backup.db"
    with place.server(models) as one, place.server(models) as other:
        stepped(one, range(1, 5))
        saved(one)
        assert run("backup", str(file), "--store", place.store).exit_code == 0
        stepped(one, range(5, 7))
        saved(one)
        kept = counts(run("restore", str(file), "--store", place.store, "--json"))
        assert kept == {"restored": 0, "kept": len(IDS), "held": 0, "damaged": 0}
        assert one.metric('tidegate_sessions_resident{model="random",version="1"}') == len(IDS)
        left = run("restore", str(file), "--store", place.store, "--overwrite")
        assert left.exit_code == 1
        assert left.stdout == "restored 0, kept 0 that the store has at that step or a later one\n"
        lines = left.stderr.splitlines()
        assert len(lines) == 22
        assert all(line.startswith(f"{MODEL} s") and ": is held by " in line for line in lines[:20])
        assert lines[20] == "and 180 more"
        assert lines[21].startswith("left 200 that servers have in memory; ")
        put_back = 0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while put_back < len(IDS):
            assert time.monotonic() < deadline, "they are not let go"
            again = run("restore", str(file), "--store", place.store, "--overwrite", "--json")
            put_back = json.loads(again.stdout)["restored"]
        assert again.exit_code == 0, again.output
        assert stepped(other, range(5, 7)) == wanted[4:6]
        assert stepped(one, range(7, 9)) == wanted[6:]
        ended = run("delete", MODEL, *IDS, "--yes", "--address", other.grpc)
        assert (ended.exit_code, ended.stdout) == (0, f"deleted {len(IDS)}\n"), ended.output
        assert one.metric('tidegate_sessions_resident{model="random",version="1"}') == 0


def test_from_a_sqlite_file_to_redis(
    models: Path, wanted: list[bytes], redis_server: RunningRedis, tmp_path: Path
) -> None:
    """A store's file is what restore reads too: so sessions move to a store that replicas share."""
    alone, shared = Place(f"sqlite:{tmp_path / 'sessions.db'}"), redis_place(redis_server)
    with alone.server(models) as server:
        stepped(server, range(1, 5))
        refused = run("restore", str(tmp_path / "sessions.db"), "--store", alone.store)
        assert refused.exit_code == 1
        assert "is in use by another server" in refused.stderr
    moved = run("restore", str(tmp_path / "sessions.db"), "--store", shared.store, "--json")
    assert counts(moved)["restored"] == len(IDS)
    with shared.server(models) as server:
        assert stepped(server, range(5, 9)) == wanted[4:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_backup_that_is_ended_leaves_nothing(redis_server: RunningRedis, tmp_path: Path, number: int) -> None:
    """No part of a copy lies about, whichever signal ends it."""
    folder = tmp_path / "backups"
    folder.mkdir()
    store = redis_place(redis_server).store
    command = [sys.executable, "-m", "tidegate.cli", "sessions", "backup", str(folder / "monday.db"), "--store", store]
    redis_server.freeze()
    try:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not list(folder.iterdir()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(number)
            assert process.wait(PATIENCE_SECONDS) != 0
    finally:
        redis_server.thaw()
    assert list(folder.iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    """A wrong setting is wrong usage; a file that is there, and a Redis that is not, are one line each."""
    backup = str(tmp_path / "backup.db")
    assert run("backup", backup).exit_code == 2
    for store in ("memory", "sqlite:", "http://h", "redis:h", "redis://h/name"):
        wrong = run("backup", backup, "--store", store)
        assert wrong.exit_code == 2
        assert "must be sqlite:PATH or redis://" in wrong.stderr
    for words in (["backup", ":memory:", "--store", "redis://h"], ["backup", backup, "--store", "sqlite::memory:"]):
        wrong = run(*words)
        assert wrong.exit_code == 2
        assert "is a database in memory, which keeps nothing; name a file" in " ".join(wrong.stderr.split())
    for seconds in ("inf", "nan", "0", "1e300"):
        wrong = run("restore", __file__, "--store", "redis://h", "--stored-seconds-max", seconds)
        assert (wrong.exit_code, "--stored-seconds-max" in wrong.stderr) == (2, True)
    for words, problem in (
        (["backup", backup, "--store", f"sqlite:{tmp_path / 'none.db'}"], "there is no such file"),
        (["backup", backup, "--store", "redis://me:secret@127.0.0.1:1/0"], "Error: redis://127.0.0.1:1/0: "),
        (["backup", str(tmp_path / "x" / "y.db"), "--store", "redis://127.0.0.1:1/0"], "No such file"),
    ):
        refused = run(*words)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert problem in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert "secret" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def idle(models: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server whose sessions leave for the store as soon as they are idle."""
    place = Place(f"sqlite:{tmp_path / 'sessions.db'}")
    flags = ["--limits-idle-seconds-max", "0.1", "--limits-sweep-seconds", "0.05"]
    with place.server(models, *flags) as running:
        yield running


def test_delete_what_is_in_the_store_alone(idle: RunningServer) -> None:
    """By its id, it is fetched and ended; what is not there is named."""
    address = ("--address", idle.grpc)
    stepped(idle, range(1, 3))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while idle.metric('tidegate_sessions_resident{model="random",version="1"}') > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert run("delete", MODEL, "--filter", "id=s*", *address).stdout == "deleted 0\n"
    assert run("delete", MODEL, "s1", *address).stdout == "deleted 1\n"
    some = run("delete", MODEL, "s1", "s2", "--yes", *address)
    assert (some.exit_code, some.stdout) == (1, "deleted 1\n")
    assert some.stderr.startswith("s1: SESSION_NOT_FOUND: ")
    with Client(idle.grpc) as client:
        assert client.session(MODEL, "s3").info().step == 2
        for name in ("s1", "s2"):
            with pytest.raises(TidegateError) as gone:
                client.session(MODEL, name).info()
            assert gone.value.reason is Reason.SESSION_NOT_FOUND


def test_delete_asks_when_there_are_several(server: RunningServer) -> None:
    """Not for one; a no, and no answer, leave them all."""
    prefix = uuid.uuid4().hex
    address = ("--address", server.grpc)
    ids = [f"{prefix}-{letter}" for letter in "abc"]
    with Client(server.grpc) as client:
        client.open_sessions(MODEL, [*ids, "other"])
        for answer in ("n\n", ""):
            refused = run("delete", MODEL, *ids, *address, answer=answer)
            assert (refused.exit_code, refused.stdout) == (1, "")
            assert f"End 3 sessions of {MODEL}?" in refused.stderr
        assert {info.id for info in client.sessions(filter=f"id={prefix}*")} == set(ids)
        assert run("delete", MODEL, ids[0], ids[0], *address).stdout == "deleted 1\n"
        ended = run("delete", MODEL, "--filter", f"id={prefix}*", *address, answer="y\n")
        assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, "deleted 2")
        assert [info.id for info in client.sessions(model=MODEL, filter="id=other")] == ["other"]
        assert not list(client.sessions(filter=f"id={prefix}*"))


def test_delete_usage(server: RunningServer) -> None:
    """All sessions of a model are not ended by leaving something out."""
    assert run("delete", MODEL, "--address", server.grpc).exit_code == 2
    assert run("delete", MODEL, "a", "--filter", "id=a*", "--address", server.grpc).exit_code == 2
    wrong = run("delete", MODEL, "--filter", "colour=red", "--yes", "--address", server.grpc)
    assert (wrong.exit_code, wrong.stderr.startswith("Error: BAD_FILTER: ")) == (1, True)
