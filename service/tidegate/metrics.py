"""Metrics: plain numbers counted by column once an iteration, turned into Prometheus families when scraped.

prometheus_client's own histograms take one observation a call; here a whole column is counted with two NumPy calls.
Labels are models, versions and reasons: never a session or a stream.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tidegate.native import address, library

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = tuple(float(1 << power) for power in range(15))


class ColumnHistogram:
    """Counts of a quantity in fixed buckets (upper bounds, inclusive)."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._list = list(bounds)
        self._bounds = np.array(self._list)
        self._counts = np.zeros(len(self._bounds) + 1, np.int64)
        self._sum = np.zeros(1)
        lies = address(self._bounds), len(self._list), address(self._counts), address(self._sum)
        self._described = np.array(lies)  # as columns.c wants it
        self.at = address(self._described)

    def observe(self, values: NDArray[np.float64]) -> None:
        """Counts a column."""
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += values.sum()

    def observe_since(self, moments: NDArray[np.float64], now: float, at: int = 0) -> None:
        """Counts the time from each of some moments to now. `at`: where they lie, if that is known."""
        native = library()
        if native is None:
            self.observe(now - moments)
        else:
            native.tidegate_count(self.at, at or address(moments), len(moments), now)

    def observe_one(self, value: float) -> None:
        """Counts one."""
        self._counts[bisect_left(self._list, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum, as Prometheus wants them."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, self._counts.cumsum().astype(float).tolist(), strict=True)), float(self._sum[0])


Series = Mapping[tuple[str, ...], float]
Gauge = Callable[[], float | Series]


class Metrics(Collector):
    """All that the server counts, and the registry that serves it."""

    def __init__(self) -> None:
        self.steps: Counter[tuple[str, ...]] = Counter()  # by model and outcome
        self.batch_rows = ColumnHistogram(ROWS)
        self.queue_wait = ColumnHistogram(SECONDS)
        self.step_seconds = ColumnHistogram(SECONDS)
        self.end_to_end = ColumnHistogram(SECONDS)
        turn = self.queue_wait.at, self.end_to_end.at, self.batch_rows.at, self.step_seconds.at
        self._turn = np.array(turn)
        self.turn_at = address(self._turn)  # where the C parts count a quick turn: see columns.h
        self.calls_failed: Counter[str] = Counter()  # by reason
        self.reloads_failed = 0
        self._gauges: list[tuple[type[Metric], str, str, tuple[str, ...], Gauge]] = []
        self._infos: list[tuple[str, str, Callable[[], list[dict[str, str]]]]] = []
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(self)

    def gauge(self, name: str, text: str, read: Gauge, labels: tuple[str, ...] = ()) -> None:
        """A value read when scraped."""
        self._gauges.append((GaugeMetricFamily, name, text, labels, read))

    def counter(self, name: str, text: str, read: Gauge, labels: tuple[str, ...] = ()) -> None:
        """A count kept elsewhere and read when scraped. `name` is without `_total`."""
        self._gauges.append((CounterMetricFamily, name, text, labels, read))

    def info(self, name: str, text: str, read: Callable[[], list[dict[str, str]]]) -> None:
        """Facts as labels, one series an entry. `name` is without `_info`."""
        self._infos.append((name, text, read))

    def collect(self) -> Iterator[Metric]:
        """What Prometheus scrapes."""
        yield self._family(
            CounterMetricFamily,
            "tidegate_steps",
            "Observations answered, by model and outcome (OK, REVISED, DUPLICATE or the reason of the refusal).",
            ("model", "outcome"),
            lambda: self.steps,
        )
        yield _histogram("tidegate_batch_rows", "Rows stepped together.", self.batch_rows)
        yield _histogram(
            "tidegate_queue_wait_seconds",
            "From a row's arrival to its batch, in which it is stepped, or refused.",
            self.queue_wait,
        )
        yield _histogram("tidegate_step_seconds", "One batched step of a model.", self.step_seconds)
        yield _histogram(
            "tidegate_end_to_end_seconds",
            "From a row's arrival to its reply's departure, where it came to a batch.",
            self.end_to_end,
        )
        yield self._family(
            CounterMetricFamily,
            "tidegate_calls_failed",
            "Streams and calls that ended with an error, by reason.",
            ("reason",),
            lambda: {(reason,): count for reason, count in self.calls_failed.items()},
        )
        for kind, name, text, labels, read in self._gauges:
            yield self._family(kind, name, text, labels, read)
        for name, text, facts in self._infos:
            entries = facts()
            info = InfoMetricFamily(name, text, labels=list(entries[0]) if entries else [])
            for entry in entries:
                info.add_metric(list(entry.values()), {})
            yield info

    @staticmethod
    def _family(kind: type[Metric], name: str, text: str, labels: tuple[str, ...], read: Gauge) -> Metric:
        family = kind(name, text, labels=labels)  # type: ignore[call-arg]
        values = read()
        for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
            family.add_metric(key, value)  # type: ignore[attr-defined]
        return family


def _histogram(name: str, text: str, histogram: ColumnHistogram) -> Metric:
    buckets, total = histogram.buckets()
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)
