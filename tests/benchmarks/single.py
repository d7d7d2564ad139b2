"""Single observations against the grpc.aio echo of the same messages: throughput, fairness, round trip, open loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.benchmarks import gload, messages
from tests.benchmarks.gload import Target
from tests.benchmarks.ours import MODEL, Ours
from tests.benchmarks.paired import CONNECTIONS, STREAMS, Pairs, compared, in_turn, one_pair, seen
from tests.benchmarks.programs import Batcher
from tests.benchmarks.report import Budget, Finding, ratio
from tests.benchmarks.scenario import Settings

MANY_STREAMS = 256
SWEPT_SESSIONS = (1, 16, 64, 256)
SHARES_OF_CAPACITY = {20: None, 50: Budget(2.0, at_most=True), 80: None}  # percent


@contextlib.contextmanager
def ours_and_echo(settings: Settings, streams: int) -> Iterator[tuple[Target, Target]]:
    """Both up, on one core, and sent the same messages of so many streams; our answers are checked at the end."""
    path = settings.folder / f"observation-{streams}"
    messages.write_observations(path, MODEL, streams)
    cores = (settings.cores.server,)
    with Ours(settings.folder, cores) as ours, Batcher(cores, "echo") as echo:
        yield ours.target(path), echo.target(path)
        ours.check()


def observations(settings: Settings) -> list[Finding]:
    """Messages a second of 64 streams."""
    with ours_and_echo(settings, STREAMS) as (ours, echo):
        pairs = in_turn(settings, ours, echo)
    what = f"messages a second against the echo of the same messages, {STREAMS} streams"
    return [compared("observations", what, pairs, "echo", Budget(0.8))]


def fairness(settings: Settings) -> list[Finding]:
    """What the worst of 256 streams gets and the longest wait, in the worst run; the echo's beside."""
    with ours_and_echo(settings, MANY_STREAMS) as (ours, echo):
        pairs = in_turn(settings, ours, echo, MANY_STREAMS)
    share = Finding(
        "fairness-share",
        f"the slowest stream's messages over the mean of {MANY_STREAMS} streams, in the worst run",
        [mine.slowest for mine, _ in pairs],
        budget=Budget(0.5),
        worst=True,
        raw={"echo": [theirs.slowest for _, theirs in pairs], **seen(pairs, "echo")},
    )
    longest = Finding(
        "fairness-longest",
        f"the longest wait over the median wait, {MANY_STREAMS} streams, in the worst run",
        [mine.longest / mine.p50 for mine, _ in pairs],
        budget=Budget(20, at_most=True),
        worst=True,
        raw={"echo": [theirs.longest / theirs.p50 for _, theirs in pairs]},
    )
    return [share, longest]


def one_session(settings: Settings) -> list[Finding]:
    """The round trip of one session that sends one observation at a time."""
    with ours_and_echo(settings, 1) as (ours, echo):
        pairs = in_turn(settings, ours, echo, 1)
    what = "median round trip of one session, one observation at a time, against the echo's"
    return [times("one-session", what, pairs, "p50", Budget(1.6, at_most=True))]


def sweep(settings: Settings) -> list[Finding]:
    """Messages a second by the number of sessions."""
    found = []
    for sessions in SWEPT_SESSIONS:
        with ours_and_echo(settings, sessions) as (ours, echo):
            pairs = in_turn(settings, ours, echo, sessions)
        what = f"messages a second against the echo of the same messages, {sessions} streams"
        found.append(compared(f"sweep-observations-{sessions}", what, pairs, "echo"))
    return found


def open_loop(settings: Settings) -> list[Finding]:
    """p99 of 256 sessions at shares of what we can do, which each run measures first; both at the same rate."""
    pairs: dict[int, Pairs] = {share: [] for share in SHARES_OF_CAPACITY}
    capacities = []
    with ours_and_echo(settings, MANY_STREAMS) as (ours, echo):
        for _ in range(settings.runs):
            full = gload.run(ours, MANY_STREAMS, CONNECTIONS, settings.seconds)
            capacities.append(full.messages_per_second)
            for share, before in pairs.items():
                rate = full.messages_per_second * share / 100
                before.append(one_pair(settings, ours, echo, MANY_STREAMS, rate))
    found = []
    for share, budget in SHARES_OF_CAPACITY.items():
        what = f"p99 of {MANY_STREAMS} sessions at {share}% of our capacity, open loop, against the echo's"
        finding = times(f"open-loop-{share}", what, pairs[share], "p99", budget)
        finding.raw["capacity, messages a second"] = capacities
        found.append(finding)
    return found


def times(name: str, what: str, pairs: Pairs, field: str, budget: Budget | None) -> Finding:
    """One of our times over the echo's."""
    ours, theirs = zip(*((getattr(mine, field), getattr(echo, field)) for mine, echo in pairs), strict=True)
    return ratio(name, what, ours, theirs, budget, seen(pairs, "echo"))
