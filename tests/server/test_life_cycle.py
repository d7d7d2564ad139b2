"""The life of a server: probes and metrics while it lives, the drain at its end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.error
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from tests.packages import random_package
from tests.ports import free_port
from tests.servers import RunningServer
from tests.waiting import wait_for
from tests.wire.clients import PATIENCE_SECONDS, Client, Stream, at_rest, batch, history, observation, refused, until
from tidegate import Client as ServiceClient
from tidegate.native import library
from tidegate.wire.stubs import session_pb2
from tidegate.wire.transport import takes_up

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
X = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`random` and `slow`, whose step takes some milliseconds."""
    folder = tmp_path_factory.mktemp("repository") / "models"
    random_package(folder)
    random_package(folder, "slow", layers=3, hidden=512)
    return folder


async def stopped(server: RunningServer, number: int = signal.SIGTERM) -> int:
    """Sends the signal and waits for the exit code, beside everything else."""
    return await asyncio.to_thread(server.stop, number)


PATIENT = """
from tidegate.cli import main
from tidegate.store import sqlite_file
sqlite_file.BUSY_SECONDS_MAX = 600.0  # who has the file may stand still
main()
"""


class TestStart:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signals_are_heard_from_the_start(self, models: Path, number: int) -> None:
        """Before torch is loaded SIGHUP is no end, and SIGTERM and SIGINT are one at once: exit code 0, never ready."""
        command = [sys.executable, "-m", "tidegate.cli", "serve", "--models", str(models), "--port", "0"]
        with subprocess.Popen([*command, "--http-port", "0"], stdout=subprocess.PIPE) as process:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not hears(process.pid, signal.SIGTERM):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.send_signal(signal.SIGHUP)
            process.send_signal(number)
            assert process.wait(PATIENCE_SECONDS) == 0
            assert process.stdout is not None
            assert process.stdout.read() == b""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_end_while_sessions_are_read(self, models: Path, tmp_path: Path, number: int) -> None:
        """Of a store that takes long to read: it ends at once with exit code 0, and was never ready; the store stays as
        it is."""
        path, port = tmp_path / "sessions.db", free_port()
        with RunningServer(models, "--store", f"sqlite:{path}") as server, ServiceClient(server.grpc) as client:
            client.session("random", "a").step(X)
        before = path.read_bytes()
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")  # reading waits for it
        command = [sys.executable, "-c", PATIENT, "serve", "--models", str(models), "--port", "0"]
        command += ["--http-port", str(port), "--store", f"sqlite:{path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            wait_for(lambda: listens(port))
            process.send_signal(number)
            wait_for(lambda: not listens(port))
            blocker.close()
            assert process.wait(PATIENCE_SECONDS) == 0
            assert process.stdout is not None
            assert process.stdout.read() == b""
        assert path.read_bytes() == before


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def hears(process: int, number: int) -> bool:
    """Whether a process has an answer of its own to a signal (proc_pid_status(5): SigCgt)."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


class TestHttp:
    def test_probes_say_ok(self, server: RunningServer) -> None:
        """/livez and /readyz are 200 while the server serves; what is not there is 404."""
        assert (server.get("/livez"), server.get("/readyz")) == ("ok\n", "ok\n")
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.get("/nothing")
        assert caught.value.code == 404
        assert b"aiohttp" not in caught.value.read()
        caught.value.close()

    async def test_metrics_pass_promtool(self, server: RunningServer) -> None:
        """`promtool check metrics` finds nothing to say, with every series in use."""
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("promtool is not installed (Debian: prometheus)")
        async with Client(server.grpc) as client:
            await client.predict(observation("a", X))
            await refused(client.predict(observation("a", X), "none"))
            close = session_pb2.CloseSessionRequest(model="random", session_id="a")
            await client.sessions.CloseSession(close)
        page = server.get("/metrics")
        checked = await asyncio.create_subprocess_exec(
            promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        said, _ = await checked.communicate(page.encode())
        assert (checked.returncode, said) == (0, b"")

    async def test_metrics_tell_what_happens(self, server: RunningServer) -> None:
        """Steps by outcome, sessions by reason, batches, waits and depths are counted; ids never stand in a label."""
        names = [f"secret-{row}" for row in range(5)]
        resident = 'tidegate_sessions_resident{model="random",version="1"}'
        series = {
            'tidegate_steps_total{model="random",outcome="OK"}': 6,
            'tidegate_steps_total{model="random",outcome="DUPLICATE"}': 1,
            'tidegate_steps_total{model="random",outcome="STEP_GAP"}': 1,
            'tidegate_sessions_opened_total{model="random"}': 5,
            'tidegate_sessions_closed_total{model="random",reason="closed"}': 1,
            'tidegate_messages_refused_total{reason="BAD_BATCH"}': 1,
            'tidegate_messages_refused_total{reason="BAD_HISTORY"}': 1,
            "tidegate_batch_rows_count": 2,
            "tidegate_batch_rows_sum": 6,
            "tidegate_step_seconds_count": 2,
            "tidegate_queue_wait_seconds_count": 8,
            "tidegate_end_to_end_seconds_count": 8,
            'tidegate_calls_failed_total{reason="SESSION_NOT_FOUND"}': 1,
            resident: 4,
        }
        before = {name: server.metric(name) for name in series}
        state_bytes = server.metric("tidegate_state_bytes")
        async with Client(server.grpc) as client:
            stream = client.stream()
            await stream.predict_batch(batch(names, [X] * 5))
            await stream.predict(observation(names[0], X, 2))
            await stream.predict(observation(names[0], X, 2))
            await stream.ask(observation(names[0], X, 9))
            await stream.ask(batch(names, [X] * 5, aliases=[0]))
            await stream.ask(history(names[0], [X], times=[0, 1]))
            assert server.metric("tidegate_streams_open") == 1
            close = session_pb2.CloseSessionRequest(model="random", session_id=names[4])
            await client.sessions.CloseSession(close)
            await refused(client.sessions.CloseSession(close))
            await stream.finish()
        await at_rest(server)
        assert {name: server.metric(name) - before[name] for name in series} == series
        page = server.get("/metrics")
        assert server.metric("tidegate_state_bytes") > state_bytes
        assert "secret" not in page
        for name in (
            "tidegate_build_info{",
            "tidegate_model_info{",
            "process_resident_memory_bytes",
            "tidegate_inbox_rows",
        ):
            assert f"\n{name}" in page
        for limit in ("inbox_rows", "state_bytes", "sessions_resident", "streams_open", "unary_calls_open"):
            assert server.metric(f"tidegate_{limit}_max") > 0
        assert server.metric("tidegate_inbox_rows_max") == 131_072

    @pytest.mark.parametrize("environment", [{}, {"TIDEGATE_NATIVE": "0", "TIDEGATE_GRPC": "aio"}])
    def test_metrics_tell_what_is_running(self, models: Path, environment: dict[str, str]) -> None:
        """Whether the C parts are in use, and whose gRPC server: what is slow without anything being wrong."""
        native, transport = not environment and library() is not None, not environment and takes_up()
        with RunningServer(models, environment=environment) as server:
            (build,) = re.findall(r"^tidegate_build_info\{(.*)\} 1.0$", server.get("/metrics"), re.MULTILINE)
        assert f'native="{"yes" if native else "no"}"' in build
        assert f'grpc="{"own" if transport else "aio"}"' in build


def waiting(server: RunningServer) -> float:
    """Messages that were read and are not answered."""
    return server.metric("tidegate_outbox_messages")


def stepped(server: RunningServer) -> float:
    """Rows of `slow` that were."""
    return server.metric('tidegate_steps_total{model="slow",outcome="OK"}')


class TestDrain:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_what_was_read_is_answered(self, models: Path, number: int) -> None:
        """At SIGTERM and SIGINT with steps in flight: what was read is stepped and answered in order, then every stream
        ends UNAVAILABLE with reason DRAINING, idle ones at once, and the exit code is 0.
        """
        with RunningServer(models) as server:
            async with Client(server.grpc) as client:
                busy, idle, fresh = client.stream("slow"), client.stream(), client.stream()
                await idle.predict(observation("idle", X))
                await fresh.send()
                unary = asyncio.ensure_future(client.predict(batch(["unary"] * 50, [X] * 50), "slow"))
                await busy.send(batch(["busy"] * 100, [X] * 100))
                for step in range(101, 106):
                    await busy.send(observation("busy", X, step))
                await until(lambda: waiting(server) == 7 or stepped(server) == 155, "all is read")
                exiting = asyncio.create_task(stopped(server, number))
                assert (await refused(idle.rest())).reason == "DRAINING"
                assert (await refused(fresh.rest())).reason == "DRAINING"
                first = await busy.receive()
                assert list(first.batch.steps) == list(range(1, 101))
                assert [(await busy.receive()).prediction.step for _ in range(5)] == list(range(101, 106))
                error = await refused(busy.rest())
                assert (error.reason, error.code) == ("DRAINING", grpc.StatusCode.UNAVAILABLE)
                assert list((await unary).batch.steps) == list(range(1, 51))
                assert await exiting == 0
            assert "Traceback" not in server.log
            assert server.log.rstrip().endswith("drained")

    async def test_a_watcher_that_does_not_read(self, models: Path) -> None:
        """It holds up nobody: streams end at once, and the server long before its limit."""
        with RunningServer(models, "--limits-drain-seconds-max", "600") as server:
            async with Client(server.grpc) as client:
                stream, seen = client.stream(), asyncio.Event()
                await stream.predict(observation("a", X))
                watching = asyncio.create_task(watch_without_reading(int(server.grpc.rpartition(":")[2]), seen))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await seen.wait()
                    exiting = asyncio.create_task(stopped(server))
                    assert (await refused(stream.rest())).reason == "DRAINING"
                    assert await exiting == 0
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    @pytest.mark.parametrize("way", ["", "aio"])
    async def test_watchers_hear_whatever_others_do(self, models: Path, way: str) -> None:
        """One that has left and one that takes no bytes keep nothing from the others: a watcher that came before them
        and one that came after are told of the drain."""
        with RunningServer(models, environment={"TIDEGATE_GRPC": way}) as server:
            async with Client(server.grpc) as client, asyncio.timeout(PATIENCE_SECONDS):
                watches = [client.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
                assert [(await watch.read()).status for watch in watches] == [SERVING, SERVING]
                watches.pop().cancel()
                seen = asyncio.Event()
                watching = asyncio.create_task(watch_without_reading(int(server.grpc.rpartition(":")[2]), seen))
                await seen.wait()
                assert (await client.health.Check(health_pb2.HealthCheckRequest())).status == SERVING
                watches.append(client.health.Watch(health_pb2.HealthCheckRequest()))
                assert (await watches[1].read()).status == SERVING
                server.process.send_signal(signal.SIGTERM)
                assert [(await watch.read()).status for watch in watches] == [NOT_SERVING, NOT_SERVING]
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            assert await stopped(server) == 0
            assert way == "aio" or "Traceback" not in server.log  # grpc.aio logs each peer that went in a write

    async def test_probes_turn_before_the_listener_closes(self, models: Path) -> None:
        """While the drain waits for a client that does not read, /readyz is 503, health NOT_SERVING (and watchers are
        told), new calls are refused in words, also on new connections; a second SIGTERM and a SIGINT change nothing.
        When that client is gone, the server exits 0, long before its limit, and nobody listens any more.
        """
        with RunningServer(models, "--limits-drain-seconds-max", "600") as server:
            async with Client(server.grpc) as client, Client(server.grpc) as deaf:
                watch = client.health.Watch(health_pb2.HealthCheckRequest(service="tidegate.v1.PredictionService"))
                assert (await watch.read()).status == SERVING
                sending = await hold(deaf.stream(), server)
                server.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert (await watch.read()).status == NOT_SERVING
                for number in (signal.SIGTERM, signal.SIGINT):
                    server.process.send_signal(number)
                with pytest.raises(urllib.error.HTTPError) as caught:
                    server.get("/readyz")
                assert caught.value.code == 503
                caught.value.close()
                assert server.get("/livez") == "ok\n"
                async with Client(server.grpc) as late:
                    assert (await late.health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
                    assert (await refused(late.predict(observation("x", X)))).reason == "DRAINING"
                    assert (await refused(late.stream().rest())).reason == "DRAINING"
                assert server.process.poll() is None
                sending.cancel()
                await deaf.channel.close()
                assert await asyncio.to_thread(server.process.wait, PATIENCE_SECONDS) == 0
                with pytest.raises(grpc.aio.AioRpcError) as gone:
                    await client.health.Check(health_pb2.HealthCheckRequest())
                assert gone.value.code() == grpc.StatusCode.UNAVAILABLE

    async def test_a_client_that_never_reads_cannot_hold_it(self, models: Path) -> None:
        """With a client that sends and never reads, the server still exits 0 when its limit is over."""
        with RunningServer(models, "--limits-drain-seconds-max", "2") as server:
            async with Client(server.grpc) as deaf:
                sending = await hold(deaf.stream(), server)
                assert await stopped(server) == 0
                sending.cancel()
            assert "Traceback" not in server.log

    async def test_idle_connections_do_not_hold_it(self, models: Path) -> None:
        """Open watches of health, reflection and kept-alive HTTP connections are no reason to wait for the limit."""
        with RunningServer(models, "--limits-drain-seconds-max", "600") as server:
            async with Client(server.grpc) as client:
                watch = client.health.Watch(health_pb2.HealthCheckRequest())
                assert (await watch.read()).status == SERVING
                reader, writer = await asyncio.open_connection(*server.http.split(":"))
                writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                assert await stopped(server) == 0
                writer.close()


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """Of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + content


async def watch_without_reading(port: int, seen: asyncio.Event) -> None:
    """A watch of health that has room for no answer: a window of 0. It answers pings, until it is cancelled; `seen` is
    set when the server has begun to answer."""
    data, headers, settings, ping = 0, 1, 4, 6
    acknowledged, end_stream, end_headers = 1, 1, 4
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/grpc.health.v1.Health/Watch",
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(
        b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields.items()
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(settings, 0, 0, struct.pack(">HI", 4, 0))
        + frame(headers, end_headers, 1, block)
        + frame(data, end_stream, 1, b"\0\0\0\0\0")
    )
    with contextlib.closing(writer):
        while True:
            head = await reader.readexactly(9)
            content = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] in (settings, ping) and not head[4] & acknowledged:
                writer.write(frame(head[3], acknowledged, 0, content if head[3] == ping else b""))
            if head[3] == headers:
                seen.set()


async def hold(stream: Stream, server: RunningServer) -> asyncio.Task[None]:
    """A client that sends without reading: returns when the server has read as much of it as it will."""

    async def send() -> None:
        ids = [f"deaf-{row}" for row in range(512)]
        while True:
            await stream.call.write(stream.request(batch(ids, np.ones((512, 4)))))

    sending = asyncio.create_task(send())
    await until(lambda: server.metric("tidegate_outbox_messages") >= 60, "a full window")
    return sending


CLOSING = """
import atexit, sys
from tidegate.cli import main

def close():
    print("closing", flush=True)
    sys.stdin.read()

atexit.register(close)
main(["serve", "--models", sys.argv[1], "--port", "0", "--http-port", "0"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_while_the_process_closes(models: Path, number: int) -> None:
    """After the drain, while Python takes its modules down, they change nothing any more: the exit code stays 0."""
    command = [sys.executable, "-c", CLOSING, str(models)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline().startswith("{")
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "closing\n"
        process.send_signal(number)
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0


ENDLESS = """
import sys, time
from pathlib import Path
from tidegate import server
from tidegate.config import Limits, Settings

class Endless(server.Server):
    async def _drain(self, grpc_server):
        time.sleep(600)  # the event loop hears nothing any more

server.Server, server.END_SECONDS_MAX = Endless, 0.5
server.serve(Settings(models=Path(sys.argv[1]), port=0, http_port=0, limits=Limits(drain_seconds_max=0.1)))
"""


def test_an_end_that_hangs_is_an_end(models: Path) -> None:
    """The process says where it was, and ends with exit code 1, some time after its drain should have."""
    command = [sys.executable, "-c", ENDLESS, str(models)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("{")
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) == 1
    assert "Timeout (0:00:00.6" in said
    assert "in _drain" in said
