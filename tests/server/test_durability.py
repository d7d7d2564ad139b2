"""Sessions that survive: a server that is killed and started again goes on, to the bit, from its last checkpoint."""

from __future__ import annotations

import resource
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from redis import Redis

from tests.identity.feeds import DERIVED, derived_package
from tests.packages import random_package
from tests.servers import RunningServer
from tests.services import RunningRedis, redis_server
from tests.waiting import PATIENCE_SECONDS, wait_for
from tidegate import Client, Reason, TidegateError
from tidegate.checkpoints import Key
from tidegate.client.values.predictions import RowFlag
from tidegate.store.redis_keys import Keys
from tidegate.wire.stubs.prediction_pb2 import PredictRequest, StreamConfig
from tidegate.wire.stubs.prediction_pb2_grpc import PredictionServiceStub
from tidegate.wire.stubs.types_pb2 import DTYPE_FLOAT64, ObservationBatch

__all__ = ["redis_server"]
HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-01-01T00", "ns")
IDS = [f"s{number}" for number in range(300)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """One model of each kind."""
    folder = tmp_path / "models"
    for name in DERIVED:
        derived_package(folder, name)
    return folder


def start(models: Path, *flags: str) -> RunningServer:
    """A server with its checkpoints beside the models."""
    store = f"sqlite:{models.parent / 'sessions.db'}"
    environment = {"TIDEGATE_LIMITS__CHECKPOINT_SECONDS": "0.05"}
    return RunningServer(models, "--store", store, *flags, environment=environment)


def saved(server: RunningServer) -> None:
    """Returns when all that was answered by now is saved."""
    wait_for(lambda: server.metric("tidegate_checkpoint_lag_seconds") <= 0, lambda: "nothing is saved")


def rows(step: int) -> np.ndarray:
    """What all sessions observe at a step; some values are missing."""
    random = np.random.default_rng(step)
    values = random.normal(3.0, 2.0, (len(IDS), 3))
    values[random.random(values.shape) < 0.05] = np.nan
    return values


def stepped(server: RunningServer, model: str, steps: range) -> list[bytes]:
    """Steps all sessions by batches; returns the predictions' bytes."""
    with Client(server.grpc) as client, client.batches(model) as batches:
        told = []
        for step in steps:
            predictions = batches.step(IDS, rows(step), times=np.full(len(IDS), START + step * HOUR))
            assert not predictions.errors
            assert (predictions.steps == step).all()
            told.append(predictions.values.tobytes())
        return told


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_goes_on_to_the_bit(models: Path, end: int) -> None:
    """Killed at once, or drained: three hundred sessions of each kind of model go on as if nothing had been."""
    wanted = {}
    with RunningServer(models) as calm:
        for model in DERIVED:
            wanted[model] = stepped(calm, model, range(1, 13))
    told: dict[str, list[bytes]] = {model: [] for model in DERIVED}
    for steps in (range(1, 5), range(5, 9), range(9, 13)):
        with start(models) as server:
            for model in DERIVED:
                told[model] += stepped(server, model, steps)
            if end == signal.SIGKILL:
                saved(server)
            server.stop(end)
    assert told == wanted


def test_what_ends_is_forgotten(models: Path) -> None:
    """A closed session is not there after a restart; one that was reset has no memory; the retry of a last step is
    still known."""
    with start(models) as server, Client(server.grpc) as client:
        for name in ("closed", "reset", "retried", "again"):
            session = client.session("quantiles", name)
            session.step([1.0, 2.0, 3.0])
            last = session.step([2.0, 3.0, 4.0])
        client.close_sessions("quantiles", ["closed", "again"])
        client.reset_sessions("quantiles", ["reset"])
        saved(server)
        again = client.session("quantiles", "again")
        again.resync()
        again.step([5.0, 5.0, 5.0])
        saved(server)
        server.stop(signal.SIGKILL)
    with start(models) as server, Client(server.grpc) as client:
        assert server.metric("tidegate_sessions_restored_total") == 3
        found = {session.id: session for session in client.sessions()}
        assert {name: (info.step, info.steps_seen) for name, info in found.items()} == {
            "reset": (2, 0),
            "retried": (2, 2),
            "again": (1, 1),
        }
        assert client.session("quantiles", "retried").forecast(1).values.tobytes() == last.values.tobytes()


def test_a_package_that_is_gone(models: Path) -> None:
    """Sessions whose package is not loaded stay in the store, are named in the log, and are back when it is."""
    with start(models) as server:
        for model in ("quantiles", "words"):
            stepped(server, model, range(1, 3))
    shutil.move(models / "words", models.parent / "away")
    with start(models) as server, Client(server.grpc) as client:
        assert len(list(client.sessions())) == len(IDS)
        assert "300 sessions of words stay in the store: PACKAGE_MISMATCH" in server.log
        with pytest.raises(TidegateError) as caught:
            client.session("words", "s1").info()
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
    shutil.move(models.parent / "away", models / "words")
    with start(models) as server:
        stepped(server, "words", range(3, 5))


def test_a_damaged_row_harms_no_other(models: Path) -> None:
    """It is counted, and all else serves on."""
    with start(models) as server:
        stepped(server, "quantiles", range(1, 3))
    with sqlite3.connect(models.parent / "sessions.db") as file:
        file.execute("UPDATE sessions SET content = x'00' WHERE session_id = ?", (b"s7",))
    with start(models) as server, Client(server.grpc) as client:
        assert "WARNING tidegate.durability.keeper: restored 299 sessions; 1 damaged" in server.log
        assert server.metric("tidegate_checkpoints_damaged_total") == 1
        assert client.session("quantiles", "s8").info().step == 2
        with pytest.raises(TidegateError) as caught:
            client.session("quantiles", "s7").step([1.0, 2.0, 3.0])
        assert caught.value.reason is Reason.SESSION_DAMAGED
        with client.batches("quantiles") as batches:
            refused = batches.step(["s7", "s8"], np.ones((2, 3)))
            assert [(error.id, error.reason) for error in refused.errors] == [("s7", Reason.SESSION_DAMAGED)]
            begun = batches.step(["s7"], np.ones((1, 3)), reset=[True])
        assert begun.flags[0] & RowFlag.CREATED


def test_a_damaged_row_of_a_shared_store(models: Path, redis_server: RunningRedis) -> None:
    """It is met when it is asked for: counted, and one line in the log, however often that is."""
    store = f"{redis_server.url}?prefix=damaged"
    with RunningServer(models, "--store", store) as server, Client(server.grpc) as client:
        client.session("quantiles", "s7").step([1.0, 2.0, 3.0])
    with Redis.from_url(redis_server.url) as redis:
        redis.hset(Keys("damaged").session(Key("", "quantiles", b"s7")), "content", b"0")
    with RunningServer(models, "--store", store) as server, Client(server.grpc) as client:
        for _ in range(3):
            with pytest.raises(TidegateError) as caught:
                client.session("quantiles", "s7").info()
            assert caught.value.reason is Reason.SESSION_DAMAGED
        assert server.metric("tidegate_checkpoints_damaged_total") == 3
        server.stop()
        assert server.log.count("checkpoints are damaged") == 1, server.log
        assert "WARNING tidegate.durability.keeper: 1 checkpoints are damaged" in server.log


def test_an_idle_session_stays_in_the_store(models: Path) -> None:
    """Over a restart its time goes on: it is not made resident by it, and is as idle as it was when it is asked for.
    What was active meanwhile is resident, as idle as it is."""
    with start(models) as server, Client(server.grpc) as client:
        for name in ("idle", "resting", "busy"):
            client.session("quantiles", name).step([1.0, 2.0, 3.0])
    active = {"idle": int(time.time()) - 8 * 86_400, "resting": int(time.time()) - 86_400}
    with sqlite3.connect(models.parent / "sessions.db") as file:
        for name, moment in active.items():
            file.execute("UPDATE sessions SET active_at = ? WHERE session_id = ?", (moment, name.encode()))
    file.close()
    for _ in range(2):
        with start(models) as server, Client(server.grpc) as client:
            assert sorted(info.id for info in client.sessions()) == ["busy", "resting"]
            for name, moment in active.items():
                told = client.session("quantiles", name).info().last_active_time
                assert told is not None
                assert abs(told.timestamp() - moment) < 5


def test_a_store_that_fails(models: Path) -> None:
    """While the store cannot be written, steps go on and the lag grows; when it can, everything is saved."""
    with start(models) as server:
        stepped(server, "quantiles", range(1, 3))
        saved(server)
        blocker = sqlite3.connect(models.parent / "sessions.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        stepped(server, "quantiles", range(3, 5))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not server.metric("tidegate_checkpoint_failures_total"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.metric("tidegate_checkpoint_lag_seconds") > 1.0
        stepped(server, "quantiles", range(5, 7))
        blocker.execute("ROLLBACK")
        blocker.close()
        saved(server)
        server.stop(signal.SIGKILL)
    with start(models) as server:
        stepped(server, "quantiles", range(7, 9))


def test_versions_of_other_widths(tmp_path: Path) -> None:
    """A batch of a session that is here and one that comes from the store, which predicts another number of targets:
    the answer has one width, and the row that does not fit is named."""
    folder = tmp_path / "models"
    random_package(folder, version="1", features=3, targets=2)
    random_package(folder, version="2", features=3, targets=3)
    with start(folder, "--limits-idle-seconds-max", "0.5", "--limits-sweep-seconds", "0.1") as server:
        with Client(server.grpc) as client:
            client.session("random", "old", version="1").step([1.0, 2.0, 3.0])
            evicted = 'tidegate_sessions_evicted_total{model="random",reason="idle"}'
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not server.metric(evicted):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with client.batches("random", version="2") as batches:
                batches.step(["new"], np.ones((1, 3)))
        with grpc.insecure_channel(server.grpc) as channel:
            stub = PredictionServiceStub(channel)
            batch = ObservationBatch(
                rows=2, session_ids=["new", "old"], dtype=DTYPE_FLOAT64, values=np.ones((2, 3)).tobytes()
            )
            config = StreamConfig(model="random")
            answer = stub.Predict(PredictRequest(config=config, batch=batch), timeout=PATIENCE_SECONDS).batch
    assert [(error.row, error.reason) for error in answer.errors] == [(1, "TARGETS_DIFFER")]
    assert np.isfinite(np.frombuffer(answer.values, np.float32)[:3]).all()


def test_a_full_disk(models: Path) -> None:
    """Steps go on and the lag grows; a new session is refused with a reason; with room again everything is saved."""
    with start(models, "--limits-checkpoint-lag-seconds-max", "1") as server:
        stepped(server, "quantiles", range(1, 3))
        saved(server)
        limit = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, limit[1]))
        stepped(server, "quantiles", range(3, 5))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not server.metric("tidegate_checkpoint_failures_total"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while server.metric("tidegate_checkpoint_lag_seconds") < 2.0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        stepped(server, "quantiles", range(5, 7))
        with Client(server.grpc) as client, pytest.raises(TidegateError) as caught:
            client.session("quantiles", "new").step([1.0, 2.0, 3.0])
        assert caught.value.reason is Reason.CHECKPOINT_LAG
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        saved(server)
        wait_for(lambda: "checkpoints are saved again" in server.log)  # a moment after the lag is gone
        server.stop(signal.SIGKILL)
        assert "checkpoints are not saved: sqlite:" in server.log
    with start(models) as server:
        stepped(server, "quantiles", range(7, 9))


def test_a_file_that_is_removed(models: Path) -> None:
    """At level step no answer goes out that only a file without a name holds: it waits until the file is back; the log
    says why."""
    path, away = models.parent / "sessions.db", models.parent / "away.db"
    with start(models, "--durability", "step") as server, Client(server.grpc) as client, ThreadPoolExecutor(1) as pool:
        session = client.session("quantiles", "a")
        session.step([1.0, 2.0, 3.0])
        path.rename(away)
        answer = pool.submit(session.step, [1.0, 2.0, 3.0])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "sessions.db: was removed" not in server.log:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not answer.done()
        assert server.metric("tidegate_checkpoint_lag_seconds") > 0
        away.rename(path)
        assert answer.result(PATIENCE_SECONDS).step == 2


def test_what_cannot_be_a_store(tmp_path: Path) -> None:
    """A wrong setting and a file that is no database end the start with one line and exit code 2."""
    random_package(tmp_path / "models")
    (tmp_path / "text").write_text("no database, " * 100)
    for store, problem in (
        ("redis", "must be memory, sqlite:PATH or redis:"),
        (f"sqlite:{tmp_path / 'text'}", "not a database"),
    ):
        with pytest.raises(RuntimeError, match=problem):
            RunningServer(tmp_path / "models", "--store", store)
