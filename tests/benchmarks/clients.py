"""`tidegate bench` beside gload on the same server: do they see the same?"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.benchmarks import gload, messages
from tests.benchmarks.gload import BenchmarkError, Load
from tests.benchmarks.ours import MODEL, Ours
from tests.benchmarks.paired import CONNECTIONS, STREAMS
from tests.benchmarks.report import Finding, ratio
from tests.benchmarks.scenario import Settings

RATE = 1000.0  # observations a second in all, for the open loop: either client sends as many with ease
GRACE_SECONDS = 60
FIGURES = {"messages a second": "messages_per_second", "p50, ms": "p50", "p99, ms": "p99", "slowest stream": "slowest"}
Seen = dict[str, float]


def clients(settings: Settings) -> list[Finding]:
    """Both clients on the load's core, closed loop and open loop."""
    path = settings.folder / f"observation-{STREAMS}"
    messages.write_observations(path, MODEL, STREAMS)
    found = []
    with Ours(settings.folder, (settings.cores.server,)) as ours:
        target = ours.target(path)
        for name, rate in (("closed", None), ("open", RATE)):
            mine, theirs = [], []
            for _ in range(settings.runs):
                mine.append(bench(ours.grpc, settings, rate))
                theirs.append(as_seen(gload.run(target, STREAMS, CONNECTIONS, settings.seconds, rate)))
            found.append(finding(name, mine, theirs))
        ours.check()
    return found


def finding(name: str, mine: list[Seen], theirs: list[Seen]) -> Finding:
    """What each saw, side by side; the ratio is of messages a second."""
    raw = {}
    for label, figure in FIGURES.items():
        raw[f"tidegate bench: {label}"] = [seen[figure] for seen in mine]
        raw[f"gload: {label}"] = [seen[figure] for seen in theirs]
    what = f"messages a second by tidegate bench over gload's, {name} loop, {STREAMS} streams, the same server"
    ours, reference = ([seen["messages_per_second"] for seen in side] for side in (mine, theirs))
    return ratio(f"clients-{name}", what, ours, reference, raw=raw)


def bench(address: str, settings: Settings, rate: float | None) -> Seen:
    """Runs `tidegate bench`; raises BenchmarkError when it fails or was answered with errors."""
    file = settings.folder / "bench.json"
    command: list[object] = [sys.executable, "-m", "tidegate.cli", "bench", "--address", address, "--model", MODEL]
    command += ["--sessions", STREAMS, "--streams", STREAMS, "--seconds", settings.seconds, "--json", file]
    command += ["--warmup", gload.WARM_SECONDS, *([] if rate is None else ["--rate", rate])]
    limit = gload.WARM_SECONDS + settings.seconds + GRACE_SECONDS
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise BenchmarkError(f"tidegate bench failed: {done.stdout}{done.stderr}")
    found = json.loads(file.read_text())
    if found["errors"]:
        raise BenchmarkError(f"tidegate bench was answered with {found['errors']}")
    latency = found["latency_seconds"]
    return {
        "messages_per_second": found["messages_per_second"],
        "p50": 1e3 * latency["p50"],
        "p99": 1e3 * latency["p99"],
        "slowest": found["slowest_stream_ratio"],
    }


def as_seen(load: Load) -> Seen:
    """The same figures by gload."""
    return {figure: getattr(load, figure) for figure in FIGURES.values()}
