"""The shared store goes away under a server: what the log says of it, and how a server ends that cannot save."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.servers import RunningServer
from tests.services import RunningRedis, redis_server
from tests.waiting import PATIENCE_SECONDS, wait_for
from tidegate import Client, Reason, TidegateError

__all__ = ["redis_server"]
FAILURES = "tidegate_checkpoint_failures_total"
X = [1.0, 2.0, 3.0, 4.0]


def start(models: Path, redis: RunningRedis, name: str, *flags: str) -> RunningServer:
    """A server with its sessions in that Redis, under a prefix of its own."""
    return RunningServer(models, "--store", f"{redis.url}?prefix={name}", *flags)


def until(server: RunningServer, happened: Callable[[], bool]) -> None:
    """Returns when it has happened."""
    wait_for(happened, lambda: server.log)


def until_failed(server: RunningServer, rounds: int) -> None:
    """Returns when the store has broken off so many more rounds."""
    wanted = server.metric(FAILURES) + rounds
    until(server, lambda: server.metric(FAILURES) >= wanted)


def test_an_outage_is_two_lines(models: Path, redis_server: RunningRedis) -> None:
    """One when the store goes, one when it is back: whether there is something to save or only something to fetch."""
    with start(models, redis_server, "outage", "--limits-handover-seconds-max", "0.1") as server:
        with Client(server.grpc) as client, Client(server.grpc, timeout_seconds=5.0) as hasty:
            session = client.session("random", "a")
            session.step(X)
            redis_server.stop()
            session.step(X)  # the first one may be saved already
            until_failed(server, 1)
            session.step(X)
            until_failed(server, 5)
            redis_server.start()
            until(server, lambda: "saved again" in server.log)
            redis_server.stop()
            for name in ("b", "c"):
                with pytest.raises(TidegateError) as away:
                    hasty.session("random", name).step(X)
                assert away.value.reason is Reason.STORE_UNAVAILABLE
            redis_server.start()
            until(server, lambda: server.log.count("saved again") == 2)
        assert server.stop() == 0
        told = re.findall(r"(ERROR|INFO) tidegate.durability.keeper", server.log)
        assert told == ["ERROR", "INFO"] * 2, server.log


def test_a_store_that_nothing_is_wanted_of(models: Path, redis_server: RunningRedis) -> None:
    """A replica with nothing to save and nothing to fetch tells of an outage too: one line when the store goes and one
    when it is back, life signs that fail are counted, and it is not ready in between."""
    flags = ("--limits-checkpoint-seconds", "0.1", "--limits-checkpoint-lag-seconds-max", "0.3")
    with start(models, redis_server, "unasked", *flags) as server:
        port = int(server.http.rpartition(":")[2])
        until(server, lambda: status(port, "/readyz") == 200)
        redis_server.stop()
        try:
            until(server, lambda: status(port, "/readyz") == 503)
            assert server.metric("tidegate_lease_age_seconds") > 0.3
            failed = server.metric("tidegate_lease_failures_total")
            until(server, lambda: server.metric("tidegate_lease_failures_total") > failed)
        finally:
            redis_server.start()
        until(server, lambda: status(port, "/readyz") == 200)
        assert server.stop() == 0
        told = re.findall(r"(ERROR|INFO) tidegate.durability", server.log)
        assert told == ["ERROR", "INFO"], server.log


def test_outages_between_checkpoints_that_are_seldom(models: Path, redis_server: RunningRedis) -> None:
    """Each is two lines of the log, and the second does not wait for the next checkpoint."""
    flags = ("--limits-checkpoint-seconds", "3600", "--limits-checkpoint-lag-seconds-max", "7200")
    with start(models, redis_server, "seldom", *flags) as server:
        for outage in (1, 2):
            redis_server.stop()
            until(server, lambda: server.log.count("are not saved") == outage)  # noqa: B023 - it is called here
            redis_server.start()
            until(server, lambda: server.log.count("are saved again") == outage)  # noqa: B023 - the same
        assert server.stop() == 0


def test_it_is_alive_before_the_store_has_answered(models: Path, redis_server: RunningRedis) -> None:
    """A start that waits for the store is no reason to be killed: /livez is 200 and /readyz 503 until it is ready."""
    port = free_port()
    redis_server.freeze()
    with ThreadPoolExecutor(1) as pool:
        try:
            starting = pool.submit(start, models, redis_server, "alive", "--http-port", str(port))
            deadline = time.monotonic() + PATIENCE_SECONDS
            while status(port, "/livez") != 200:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert status(port, "/readyz") == 503
        finally:
            redis_server.thaw()
        with starting.result() as server:
            assert (server.get("/livez"), server.get("/readyz")) == ("ok\n", "ok\n")


def status(port: int, path: str) -> int:
    """What the page answers; 0 when nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError:
        return 0


def test_what_cannot_be_saved_is_an_exit_code(models: Path, redis_server: RunningRedis) -> None:
    """A server that is to end while the store is away tries until the drain's limit, says what is lost, and exits 1."""
    with start(models, redis_server, "end", "--limits-drain-seconds-max", "2") as server:
        with Client(server.grpc) as client:
            session = client.session("random", "a")
            session.step(X)
            redis_server.stop()
            try:
                session.step(X)
                assert server.stop() == 1
            finally:
                redis_server.start()
        assert "is not saved" in server.log
