"""The scenarios by name. Each pairs us with a reference in the same run, in turn: A B A B …"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import gload, messages
from tests.benchmarks.gload import BenchmarkError, Load, Target
from tests.benchmarks.machine import Cores
from tests.benchmarks.programs import MODEL, Batcher, Ours, Triton, Worker, write_peer_messages
from tests.benchmarks.report import Budget, Finding
from tests.benchmarks.resident import million, resident

STREAMS, CONNECTIONS = 64, 8
BATCH_STREAMS, BATCH_ROWS = 2, 256
TRITON_LIVES = 5  # it sometimes dies under load
LOAD_FIGURES = {
    "messages a second": "messages_per_second",
    "server's CPU, us a message": "cpu_microseconds",
    "server's cores": "cpu",
    "load's cores": "client_cpu",
    "p50, ms": "p50",
    "p99, ms": "p99",
    "longest, ms": "longest",
}


@dataclass(frozen=True)
class Settings:
    """How long and how often, where, and where Triton is installed, if it is."""

    runs: int
    seconds: float
    cores: Cores
    folder: Path
    triton_venv: Path | None = None


class Scenario(NamedTuple):
    """`slow` ones run only when they are asked for."""

    about: str
    run: Callable[[Settings], list[Finding]]
    slow: bool = False


class PeerMissingError(Exception):
    """A scenario whose peer is not here; the message says what to do."""


def observations(settings: Settings) -> list[Finding]:
    """Single observations against the echo of the same messages, and what the slowest stream gets."""
    path = settings.folder / "observation"
    messages.write_observations(path, MODEL, STREAMS)
    with Ours(settings.folder, settings.cores.server) as ours, Batcher(settings.cores.server, "echo") as echo:
        pairs = in_turn(settings, ours.target(path), echo.target(path))
        ours.check()
    against_echo = compared("observations", "messages a second against the echo of the same messages", pairs, "echo")
    against_echo.budget = Budget(0.8)
    fair = Finding(
        "observations-slowest-stream",
        "the slowest stream's messages over the mean, in the worst run",
        [load.slowest for load, _ in pairs],
        budget=Budget(0.5),
        worst=True,
        raw={"echo": [load.slowest for _, load in pairs]},
    )
    return [against_echo, fair]


def batches(settings: Settings) -> list[Finding]:
    """Observation batches through gRPC against the peers' nn.LSTM with slots in process."""
    path = settings.folder / "batch"
    messages.write_batches(path, MODEL, BATCH_STREAMS, BATCH_ROWS)
    core, seconds, pairs = settings.cores.server, settings.seconds, []
    with Ours(settings.folder, core) as ours, Worker(core, "slots", BATCH_ROWS) as peer:
        for _ in range(settings.runs):
            load = gload.run(ours.target(path), BATCH_STREAMS, BATCH_STREAMS, seconds)
            pairs.append((load, peer.measure(seconds)["predictions_per_second"]))
        ours.check()
    predictions = [load.messages_per_second * BATCH_ROWS for load, _ in pairs]
    return [
        Finding(
            "batches",
            f"predictions a second in batches of {BATCH_ROWS}, through gRPC, against nn.LSTM with slots in process",
            [mine / theirs for mine, (_, theirs) in zip(predictions, pairs, strict=True)],
            budget=Budget(1.0),
            raw={
                "predictions a second": predictions,
                "nn.LSTM with slots, predictions a second": [theirs for _, theirs in pairs],
                "server's CPU, us a prediction": [load.cpu_microseconds / BATCH_ROWS for load, _ in pairs],
                "server's cores": [load.cpu for load, _ in pairs],
                "load's cores": [load.client_cpu for load, _ in pairs],
                "p50, ms": [load.p50 for load, _ in pairs],
            },
        )
    ]


def step(hidden: int, layers: int, limit: float) -> Callable[[Settings], list[Finding]]:
    """The engine's step, gather and scatter included, against the same matrix product alone."""

    def run(settings: Settings) -> list[Finding]:
        findings = []
        for rows in (256, 1024):
            with Worker(settings.cores.server, "step", hidden, layers, rows) as worker:
                measured = [worker.measure(settings.seconds) for _ in range(settings.runs)]
            findings.append(
                Finding(
                    f"step-{hidden}x{layers}-{rows}",
                    f"time of a step of {rows} rows, hidden {hidden} x {layers}, against the product alone, one thread",
                    [run["step"] / run["product"] for run in measured],
                    budget=Budget(limit, at_most=True),
                    raw={
                        "step, us": [run["step"] for run in measured],
                        "product, us": [run["product"] for run in measured],
                    },
                )
            )
        return findings

    return run


def batcher(kind: str, about: str) -> Callable[[Settings], list[Finding]]:
    """Single observations against the forty-line asyncio batcher."""

    def run(settings: Settings) -> list[Finding]:
        if kind == "ort" and not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx")):
            raise PeerMissingError(
                "onnxruntime and onnx are not installed beside Tidegate: pip install onnxruntime onnx"
            )
        write_peer_messages(settings.folder / "peers")
        with Batcher(settings.cores.server, kind) as peer:
            return against(settings, f"against-batcher-{kind}", about, peer.target(settings.folder / "peers" / "raw"))

    return run


def triton(settings: Settings) -> list[Finding]:
    """Single observations against Triton's sequence batcher."""
    venv = settings.triton_venv
    if venv is None:
        raise PeerMissingError(
            "--triton-venv names no environment with Triton's server; README.md says how to make one"
        )
    write_peer_messages(settings.folder / "peers", str(venv / "bin" / "python"))
    for _ in range(TRITON_LIVES):
        with Triton(settings.cores.server, venv) as peer:
            target = peer.target(settings.folder / "peers" / "triton")
            try:
                gload.run(target, 1, 1, 0.5)  # a burst on a cold server kills it
                return against(settings, "against-triton", "Triton's sequence batcher", target)
            except BenchmarkError:
                if not peer.ended():
                    raise
    raise BenchmarkError(f"Triton died under load {TRITON_LIVES} times")


def against(settings: Settings, name: str, about: str, theirs: Target) -> list[Finding]:
    """Our single observations beside a peer's."""
    path = settings.folder / "observation"
    messages.write_observations(path, MODEL, STREAMS)
    with Ours(settings.folder, settings.cores.server) as ours:
        pairs = in_turn(settings, ours.target(path), theirs)
        ours.check()
    return [compared(name, f"messages a second against {about}", pairs, "peer")]


def in_turn(settings: Settings, ours: Target, theirs: Target) -> list[tuple[Load, Load]]:
    """Loads of both with single observations, A B A B …"""
    return [
        (
            gload.run(ours, STREAMS, CONNECTIONS, settings.seconds),
            gload.run(theirs, STREAMS, CONNECTIONS, settings.seconds),
        )
        for _ in range(settings.runs)
    ]


def compared(name: str, what: str, pairs: list[tuple[Load, Load]], reference: str) -> Finding:
    """Messages a second, ours over theirs, with what else was seen."""
    raw: dict[str, list[float]] = {}
    for label, field in LOAD_FIGURES.items():
        raw[label] = [getattr(mine, field) for mine, _ in pairs]
        raw[f"{reference}: {label}"] = [getattr(theirs, field) for _, theirs in pairs]
    raw["by the servers' CPU a message alone, times"] = [
        theirs.cpu_microseconds / mine.cpu_microseconds for mine, theirs in pairs
    ]
    ratios = [mine.messages_per_second / theirs.messages_per_second for mine, theirs in pairs]
    return Finding(name, f"{what}, {STREAMS} streams", ratios, raw=raw)


def memory(settings: Settings) -> list[Finding]:
    """Memory of 100,000 sessions above their raw state."""
    with Ours(settings.folder, settings.cores.server) as ours:
        return [resident(ours, 100_000)]


def a_million(settings: Settings) -> list[Finding]:
    """A million sessions, opened and stepped."""
    with Ours(settings.folder, settings.cores.server) as ours:
        return million(ours)


SCENARIOS: dict[str, Scenario] = {
    "observations": Scenario("64 streams of single observations, against the grpc.aio echo", observations),
    "batches": Scenario("observation batches of 256, against nn.LSTM with slots in process", batches),
    "step-64x1": Scenario("the engine's step, hidden 64, against the product alone", step(64, 1, 2.5)),
    "step-512x2": Scenario("the engine's step, 2 layers of 512, against the products alone", step(512, 2, 1.25)),
    "memory": Scenario("bytes a resident session above its raw state, at 100,000", memory),
    "million": Scenario("1,000,000 resident sessions, opened and stepped", a_million, slow=True),
    "against-batcher-torch": Scenario(
        "single observations, against forty lines of asyncio on torch", batcher("torch", "forty lines on torch")
    ),
    "against-batcher-ort": Scenario(
        "the same on ONNX Runtime, where it is installed", batcher("ort", "forty lines on ONNX Runtime")
    ),
    "against-triton": Scenario("single observations, against Triton's sequence batcher (--triton-venv)", triton),
}
