"""Observation batches through gRPC: against nn.LSTM with slots in process, against Triton; how much of it is steps."""

from __future__ import annotations

from functools import partial

from tests.benchmarks import gload, messages
from tests.benchmarks.gload import Load, Target
from tests.benchmarks.ours import MIDDLE, MODEL, SMALL, Ours, Size
from tests.benchmarks.paired import CONNECTIONS, compared, in_turn
from tests.benchmarks.paired import STREAMS as SINGLES  # with more of them Triton is no faster
from tests.benchmarks.programs import Batcher, Worker
from tests.benchmarks.report import Budget, Finding, ratio
from tests.benchmarks.scenario import Settings
from tests.benchmarks.triton import Tritons

STREAMS, ROWS = 2, 256
SWEPT_ROWS = (16, 256, 4096)
MANY_ROWS = (16, 256)
STEP_SHARE_MIN = 0.6
SHARED = (1, 2, 4, 8, 16, SINGLES)  # streams whose share of steps is shown
SHARE = "seconds in the step over the server's CPU seconds"
RESTLESS = 1e6  # messages a second that are due: more than any server answers, so that the load's core never sleeps


def batches(settings: Settings) -> list[Finding]:
    """Of 256 rows."""
    against, share = against_slots(settings, "batches", SMALL, ROWS)
    against.budget, share.budget = Budget(1.0), Budget(STEP_SHARE_MIN)
    return [against, share]


def sweep(settings: Settings) -> list[Finding]:
    """Predictions a second by the size of the batch and of the model."""
    found = []
    for size in (SMALL, MIDDLE):
        for rows in SWEPT_ROWS:
            found += against_slots(settings, f"sweep-batches-{size}-{rows}", size, rows)
    return found


def step_share(settings: Settings) -> list[Finding]:
    """Of the server's time, by the number of streams.

    An answer wakes its reader, at the server's cost where that is another process of the machine: dear, if the
    processor is virtual and had halted. So it is also shown for a client that never sleeps.
    """
    path, found = settings.folder / "shared", []
    messages.write_batches(path, MODEL, max(SHARED), ROWS)
    with Ours(settings.folder, (settings.cores.server,)) as ours:
        for streams in SHARED:
            shares: dict[float | None, list[float]] = {None: [], RESTLESS: []}
            for _ in range(settings.runs):
                for rate, seen in shares.items():
                    load = partial(ours.target(path).load, streams, min(CONNECTIONS, streams), settings.seconds, rate)
                    seen.append(ours.step_share(load)[1])
            what = f"{SHARE}, {streams} streams of batches of {ROWS}"
            raw = {"for a client that never sleeps": shares[RESTLESS]}
            found.append(Finding(f"step-share-{streams}", what, shares[None], "of its time", raw=raw))
        ours.check()
    return found


def many_streams(settings: Settings) -> list[Finding]:
    """Batches of 64 streams, small ones and larger, against the echo of the same messages."""
    found, core = [], (settings.cores.server,)
    for rows in MANY_ROWS:
        path = settings.folder / f"batches-{rows}"
        messages.write_batches(path, MODEL, SINGLES, rows)
        with Ours(settings.folder, core) as ours, Batcher(core, "echo") as echo:
            pairs = in_turn(settings, ours.target(path).load, echo.target(path).load)
            ours.check()
        what = f"messages of {rows} rows a second against the echo of the same messages, {SINGLES} streams"
        found.append(compared(f"many-batches-{rows}", what, pairs, "echo"))
    return found


def against_slots(settings: Settings, name: str, size: Size, rows: int) -> list[Finding]:
    """Against the peers' nn.LSTM with slots, and the share of the server's time that is spent in the step."""
    path = settings.folder / f"batch-{rows}"
    messages.write_batches(path, MODEL, STREAMS, rows)
    core, loads, shares, theirs = settings.cores.server, [], [], []
    with Ours(settings.folder, (core,), size) as ours, Worker(core, "slots", size) as peer:
        for _ in range(settings.runs):
            load, share = ours.step_share(partial(one_load, ours.target(path), settings))
            loads.append(load)
            shares.append(share)
            theirs.append(peer.measure(rows, settings.seconds)["predictions_per_second"])
        ours.check()
    what = (
        f"predictions a second in batches of {rows}, hidden {size}, through gRPC, against nn.LSTM with slots in process"
    )
    against = ratio(name, what, predictions(loads, rows), theirs, raw=seen(loads, rows))
    against.raw["nn.LSTM with slots, predictions a second"] = theirs
    in_steps = Finding(
        f"{name}-step-share",
        f"{SHARE}, batches of {rows}, hidden {size}",
        shares,
        unit="of its time",
    )
    return [against, in_steps]


def against_triton(settings: Settings) -> list[Finding]:
    """Our batches of 256 against Triton with one observation a request."""
    path = settings.folder / f"batch-{ROWS}"
    messages.write_batches(path, MODEL, STREAMS, ROWS)
    cores, mine, theirs = (settings.cores.server,), [], []
    with Tritons(settings, cores) as triton, Ours(settings.folder, cores) as ours:
        for _ in range(settings.runs):
            mine.append(one_load(ours.target(path), settings))
            theirs.append(triton.load(SINGLES, CONNECTIONS, settings.seconds).messages_per_second)
        ours.check()
    what = f"predictions a second in batches of {ROWS} against Triton, {SINGLES} streams, an observation a request"
    raw = seen(mine, ROWS) | {"Triton, predictions a second": theirs, "Triton was started, times": [triton.starts]}
    return [ratio("batches-against-triton", what, predictions(mine, ROWS), theirs, Budget(40), raw)]


def one_load(target: Target, settings: Settings) -> Load:
    """Our streams of batches."""
    return gload.run(target, STREAMS, STREAMS, settings.seconds)


def predictions(loads: list[Load], rows: int) -> list[float]:
    """A second, run by run."""
    return [load.messages_per_second * rows for load in loads]


def seen(loads: list[Load], rows: int) -> dict[str, list[float]]:
    """What the load generator saw."""
    return {
        "predictions a second": predictions(loads, rows),
        "server's CPU, us a prediction": [load.cpu_microseconds / rows for load in loads],
        "server's cores": [load.cpu for load in loads],
        "load's cores": [load.client_cpu for load in loads],
        "p50, ms": [load.p50 for load in loads],
    }
