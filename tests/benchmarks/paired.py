"""Two servers under the same load, in turn: A B A B …"""

from __future__ import annotations

from tests.benchmarks import gload
from tests.benchmarks.gload import Load, Target
from tests.benchmarks.report import Budget, Finding, ratio
from tests.benchmarks.scenario import Settings

STREAMS, CONNECTIONS = 64, 8
LOAD_FIGURES = {
    "messages a second": "messages_per_second",
    "server's CPU, us a message": "cpu_microseconds",
    "server's cores": "cpu",
    "load's cores": "client_cpu",
    "p50, ms": "p50",
    "p99, ms": "p99",
    "longest, ms": "longest",
    "slowest stream over the mean": "slowest",
    "every stream answered after, s": "ready",
}
Pairs = list[tuple[Load, Load]]


def in_turn(
    settings: Settings, ours: Target, theirs: Target, streams: int = STREAMS, rate: float | None = None
) -> Pairs:
    """Loads of both, as many as there are runs."""
    return [one_pair(settings, ours, theirs, streams, rate) for _ in range(settings.runs)]


def one_pair(settings: Settings, ours: Target, theirs: Target, streams: int, rate: float | None) -> tuple[Load, Load]:
    """One load of each; `rate`: messages a second in all, else closed loop."""
    connections = min(CONNECTIONS, streams)
    return (
        gload.run(ours, streams, connections, settings.seconds, rate),
        gload.run(theirs, streams, connections, settings.seconds, rate),
    )


def compared(name: str, what: str, pairs: Pairs, reference: str, budget: Budget | None = None) -> Finding:
    """Messages a second, ours over theirs, with what else was seen."""
    raw = seen(pairs, reference)
    raw["by the servers' CPU a message alone, times"] = [
        theirs.cpu_microseconds / max(mine.cpu_microseconds, 1e-3) for mine, theirs in pairs
    ]
    ours, peers = zip(*((mine.messages_per_second, theirs.messages_per_second) for mine, theirs in pairs), strict=True)
    return ratio(name, what, ours, peers, budget, raw)


def seen(pairs: Pairs, reference: str) -> dict[str, list[float]]:
    """All that the load generator saw, ours and the reference's beside each other."""
    raw: dict[str, list[float]] = {}
    for label, field in LOAD_FIGURES.items():
        raw[label] = [getattr(mine, field) for mine, _ in pairs]
        raw[f"{reference}: {label}"] = [getattr(theirs, field) for _, theirs in pairs]
    return raw
