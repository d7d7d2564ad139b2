"""A thousand past steps in one message against a thousand observations one after another, through gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from tests.benchmarks import gload, messages
from tests.benchmarks.gload import BenchmarkError, Load
from tests.benchmarks.ours import METHOD, MODEL, Ours
from tests.benchmarks.report import Budget, Finding, ratio
from tests.benchmarks.scenario import PeerMissingError, Settings
from tidegate.wire.stubs import prediction_pb2

STEPS = 1000
TIMES_MIN = 20


def history(settings: Settings) -> list[Finding]:
    """One session on one stream. Exact (bit by bit what steps give) is reported."""
    if "history" not in prediction_pb2.StreamPredictRequest.DESCRIPTOR.fields_by_name:
        raise PeerMissingError("this server has no History")
    steps, path = settings.folder / "observation-1", settings.folder / "history"
    messages.write_observations(steps, MODEL, 1)
    for kind, exact in (("sequence", False), ("exact", True)):
        messages.write_history(Path(f"{path}-{kind}"), MODEL, STEPS, exact)
    loads: dict[str, list[Load]] = {"single": [], "sequence": [], "exact": []}
    with Ours(settings.folder, (settings.cores.server,)) as ours:
        for kind in ("sequence", "exact"):
            check_answer(ours, Path(f"{path}-{kind}.start.0"))
        for _ in range(settings.runs):
            for kind, taken in loads.items():
                sent = steps if kind == "single" else Path(f"{path}-{kind}")
                taken.append(gload.run(ours.target(sent), 1, 1, settings.seconds))
        ours.check()
    return [finding("history", loads, "sequence", Budget(TIMES_MIN)), finding("history-exact", loads, "exact", None)]


def finding(name: str, loads: dict[str, list[Load]], kind: str, budget: Budget | None) -> Finding:
    """Steps a second of histories over those of single observations."""
    ours = [load.messages_per_second * STEPS for load in loads[kind]]
    singles = [load.messages_per_second for load in loads["single"]]
    what = f"steps a second of histories of {STEPS:,} steps ({kind}) against one observation after another, one session"
    raw = {
        "steps a second": ours,
        "single observations a second": singles,
        "a history, ms": [load.p50 for load in loads[kind]],
        f"{STEPS:,} single observations, ms": [STEPS * 1e3 / rate for rate in singles],
        "server's CPU, us a step": [load.cpu_microseconds / STEPS for load in loads[kind]],
        "single: server's CPU, us a step": [load.cpu_microseconds for load in loads["single"]],
    }
    return ratio(name, what, ours, singles, budget, raw)


def check_answer(ours: Ours, message: Path) -> None:
    """Raises BenchmarkError when a history is not answered by the prediction of its last step."""
    with grpc.insecure_channel(ours.grpc) as channel:
        reply: Any = prediction_pb2.StreamPredictResponse.FromString(
            next(channel.stream_stream(METHOD)(iter([message.read_bytes()])))
        )
    if reply.WhichOneof("payload") != "prediction" or reply.prediction.step % STEPS:
        raise BenchmarkError(f"a history was answered by {reply}")
