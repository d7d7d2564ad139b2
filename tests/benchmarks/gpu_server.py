"""A server on a GPU: batches from clients in processes of their own, and many resident sessions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.gload import BenchmarkError
from tests.benchmarks.ours import MODEL, Ours, Size
from tests.benchmarks.report import Finding
from tests.benchmarks.resident import MESSAGE_ROWS, WARM_SESSIONS, rates, step_all

WARM_SECONDS = 2.0
GRACE_SECONDS = 120.0


def usable() -> list[int]:
    """The cores that this process may use: a server on a GPU shares them with its clients."""
    return sorted(os.sched_getaffinity(0))


def clients(folder: Path, device: str, hidden: int, rows: int, counts: Sequence[int], seconds: float) -> list[Finding]:
    """Predictions a second of `tidegate bench` with one stream of whole batches a client, so many clients at once."""
    findings = []
    with Ours(folder, usable(), Size("gpu", hidden, 1), ("--device", device)) as ours:
        for count in counts:
            results = load(folder, ours.grpc, count, rows, seconds)
            findings.append(
                Finding(
                    f"clients-{count}",
                    f"predictions a second, batches of {rows} through gRPC, hidden {hidden}, {count} clients",
                    [sum(result["observations_per_second"] for result in results)],
                    unit="predictions a second",
                    raw={
                        f"{label}, ms": [1e3 * result["latency_seconds"][label] for result in results]
                        for label in ("p50", "p99")
                    },
                )
            )
        ours.check()
    return findings


def load(folder: Path, address: str, count: int, rows: int, seconds: float) -> list[dict[str, Any]]:
    """Runs the clients side by side; what each wrote."""
    files = [folder / f"client-{count}-{number}.json" for number in range(count)]
    command = [sys.executable, "-m", "tidegate.cli", "bench", "--address", address, "--model", MODEL]
    command += ["--sessions", str(rows), "--streams", "1", "--batch", str(rows)]
    command += ["--seconds", str(seconds), "--warmup", str(WARM_SECONDS)]
    children = [
        subprocess.Popen([*command, "--json", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for file in files
    ]
    for child in children:
        _, said = child.communicate(timeout=WARM_SECONDS + seconds + GRACE_SECONDS)
        if child.returncode:
            raise BenchmarkError(f"a client failed: {said[-2000:]}")
    return [json.loads(file.read_text()) for file in files]


def resident(folder: Path, device: str, hidden: int, sessions: int) -> list[Finding]:
    """Seconds to step so many resident sessions once, in batches; opening them all comes first."""
    all_sessions = sessions + WARM_SESSIONS
    flags = ["--device", device, "--limits-sessions-max", str(all_sessions), "--limits-aliases-max", str(all_sessions)]
    flags += ["--limits-batch-rows-max", str(MESSAGE_ROWS)]
    with Ours(folder, usable(), Size("gpu", hidden, 1), flags) as ours:
        seen = step_all(ours, sessions)
        used = ours.metric("tidegate_device_memory_bytes") / 2**30
    return [
        Finding(
            "resident",
            f"{sessions:,} resident sessions, hidden {hidden}: predictions a second of the last pass over all",
            [sessions / seen.seconds[-1]],
            unit="predictions a second",
            raw={
                **rates(seen, sessions),
                "host's memory, bytes a session": [(seen.after - seen.before) / sessions],
                "state, bytes a session": [float(ours.state_bytes)],
                "device's memory in use, GiB": [used],
            },
        )
    ]
