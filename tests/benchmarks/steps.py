"""The engine's step in process, one thread: against the matrix products alone, and against ONNX Runtime's LSTM."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.against import need_ort
from tests.benchmarks.ours import Size
from tests.benchmarks.programs import Worker
from tests.benchmarks.report import Budget, Finding, ratio
from tests.benchmarks.scenario import Run, Settings

ORT_ROWS = (16, 64, 256, 1024, 4096)
ORT_ROWS_REPORTED = (1, 2, 4, 8, 15)  # below a batch worth the name: no budget
ORT_TIME_MAX = 1.0
DERIVED_ROWS = (1, 16, 256)
SHARE_OF_SECONDS = 0.4  # slices of 20 ms in turn, nothing to warm up: this is enough


def against_product(size: Size, limits: dict[int, float | None]) -> Run:
    """Time of the step, gather and scatter included, against the same matrix products alone; limits by rows."""

    def run(settings: Settings) -> list[Finding]:
        about = f"hidden {size}, against the product alone"
        return measured(settings, "product", f"step-{size}", size, about, limits)

    return run


def against_ort(size: Size, budget: bool) -> Run:
    """Time of the step against ONNX Runtime's LSTM with the gather and scatter that it needs."""
    limits: dict[int, float | None] = dict.fromkeys(ORT_ROWS_REPORTED)
    limits |= dict.fromkeys(ORT_ROWS, ORT_TIME_MAX if budget else None)

    def run(settings: Settings) -> list[Finding]:
        need_ort()
        about = f"hidden {size}, against ONNX Runtime with gather and scatter"
        return measured(settings, "ort", f"step-ort-{size}", size, about, limits)

    return run


def derived(size: Size) -> Run:
    """Time of the step of a package that derives most of what its cell sees, against one that scales alone."""

    def run(settings: Settings) -> list[Finding]:
        about = f"hidden {size}, with logarithms, lags and calendar, against one that scales alone"
        return measured(settings, "derived", f"step-derived-{size}", size, about, dict.fromkeys(DERIVED_ROWS))

    return run


def measured(
    settings: Settings, reference: str, name: str, size: Size, about: str, limits: dict[int, float | None]
) -> list[Finding]:
    """A finding for each number of rows."""
    with Worker(settings.cores.server, reference, size) as worker:
        runs = {
            rows: [worker.measure(rows, SHARE_OF_SECONDS * settings.seconds) for _ in range(settings.runs)]
            for rows in limits
        }
    return [
        finding(f"{name}-{rows}", f"time of a step of {rows} rows, {about}, one thread", runs[rows], limit)
        for rows, limit in limits.items()
    ]


def finding(name: str, what: str, runs: Sequence[dict[str, float]], limit: float | None) -> Finding:
    """Our time over the reference's."""
    step, reference = ([run[side] for run in runs] for side in ("step", "reference"))
    budget = None if limit is None else Budget(limit, at_most=True)
    return ratio(name, what, step, reference, budget, {"step, us": step, "reference, us": reference})
