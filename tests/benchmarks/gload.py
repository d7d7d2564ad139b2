"""Builds gload and runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("gload.c")
BINARY = Path(__file__).with_name("gload")  # git ignores it
WARM_SECONDS = 1.0
READY_SECONDS_MAX = 15  # gload.c: streams are accepted one after another while earlier ones are served already
GRACE_SECONDS = 60
PRINTED = re.compile(
    r": (?P<rate>\d+)/s p50=(?P<p50>[\d.]+)ms p99=(?P<p99>[\d.]+)ms max=(?P<max>[\d.]+)ms "
    r"srv_cpu=(?P<cpu>[\d.]+) cores \((?P<cpu_us>[\d.]+) us/msg\) cli_cpu=(?P<client_cpu>[\d.]+) "
    r"errors=(?P<errors>\d+) starved=(?P<starved>\d+) least=(?P<least>\d+) mean=(?P<mean>[\d.]+) "
    r"ready=(?P<ready>[\d.]+)s"
)


class BenchmarkError(Exception):
    """A benchmark that cannot run, or whose servers did not do what they should; the message says which and why."""


@dataclass(frozen=True)
class Target:
    """Where load goes: a gRPC method of a server, and the messages (see gload.c) that it is sent."""

    port: int
    method: str
    messages: Path
    server_pid: int


@dataclass(frozen=True)
class Load:
    """What one run gave. Latencies in ms; `cpu` in cores; `slowest` is the slowest stream's messages over the mean.

    `ready` is after how many seconds every stream had been answered, which is when measuring may begin.
    """

    messages_per_second: float
    p50: float
    p99: float
    longest: float
    cpu: float
    cpu_microseconds: float
    client_cpu: float
    slowest: float
    ready: float


def build() -> Path:
    """The load generator, compiled when its source is newer; raises BenchmarkError."""
    if BINARY.exists() and BINARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return BINARY
    if shutil.which("gcc") is None:
        raise BenchmarkError("gcc is missing, and builds the load generator: run `make services`")
    made = subprocess.run(
        ["gcc", "-O2", "-o", BINARY, SOURCE, "-lnghttp2"], check=False, capture_output=True, text=True
    )
    if made.returncode and "nghttp2" in made.stderr:
        raise BenchmarkError("libnghttp2-dev is missing, and builds the load generator: run `make services`")
    if made.returncode:
        raise BenchmarkError(f"the load generator does not compile:\n{made.stderr}")
    return BINARY


def run(target: Target, streams: int, connections: int, seconds: float, rate: float | None = None) -> Load:
    """Loads a server, one message in flight a stream; raises BenchmarkError when a call failed.

    Closed loop, or `rate` messages a second in all: then latency counts from the time a message was meant to go
    (corrected for coordinated omission).
    """
    command = [build(), "-p", target.port, "-m", target.method, "-M", "bidi", "-n", streams, "-c", connections]
    command += ["-w", WARM_SECONDS, "-d", seconds, "-f", target.messages, "-P", target.server_pid]
    command += [] if rate is None else ["-r", rate]
    try:
        done = subprocess.run(
            [str(part) for part in command],
            check=False,
            capture_output=True,
            text=True,
            timeout=READY_SECONDS_MAX + seconds + GRACE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{target.method}: the load did not end") from None
    printed = PRINTED.search(done.stdout)
    if done.returncode or printed is None or int(printed["errors"]) or not int(printed["rate"]):
        raise BenchmarkError(f"{target.method}: {done.stdout}{done.stderr}".strip())
    return Load(
        messages_per_second=float(printed["rate"]),
        p50=float(printed["p50"]),
        p99=float(printed["p99"]),
        longest=float(printed["max"]),
        cpu=float(printed["cpu"]),
        cpu_microseconds=float(printed["cpu_us"]),
        client_cpu=float(printed["client_cpu"]),
        slowest=int(printed["least"]) / float(printed["mean"]),
        ready=float(printed["ready"]),
    )
