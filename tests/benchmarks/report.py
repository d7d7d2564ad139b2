"""What a scenario found, how it is printed and how it is recorded."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Budget:
    """The limit that a figure has to keep."""

    limit: float
    at_most: bool = False

    def kept(self, value: float) -> bool:
        """Whether the figure is within it."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.limit:,g}"


@dataclass
class Finding:
    """One figure. `values` has one entry a run, in `unit` ("times" for ratios); `value` is what they come to.

    `raw` holds the numbers behind it, each a list with one entry a run; of a ratio `pair` holds both sides.
    """

    name: str
    what: str
    values: list[float]
    unit: str = "times"
    budget: Budget | None = None
    worst: bool = False  # the figure is that of the worst run and not the median
    raw: dict[str, list[float]] = field(default_factory=dict)
    pair: tuple[list[float], list[float]] | None = None  # ours and the reference's

    @property
    def value(self) -> float:
        """The ratio of the medians where there are two sides; else the median, or the worst run."""
        if self.pair is not None:
            ours, reference = self.pair
            return statistics.median(ours) / statistics.median(reference)
        if self.worst:
            at_most = self.budget is not None and self.budget.at_most
            return max(self.values) if at_most else min(self.values)
        return statistics.median(self.values)

    def record(self) -> dict[str, object]:
        """For the JSON file."""
        kept = None if self.budget is None else self.budget.kept(self.value)
        budget = None if self.budget is None else asdict(self.budget)
        return {**asdict(self), "budget": budget, "value": self.value, "kept": kept}

    def lines(self) -> list[str]:
        """For people: the figure, then the raw numbers, median first and each run in order."""
        lines = [f"  {self.what}", f"    {self.summary()}"]
        for name, values in {self.unit: self.values, **self.raw}.items():
            runs = "" if len(values) == 1 else f"  (runs: {' '.join(number(value) for value in values)})"
            lines.append(f"      {name:<44}{number(statistics.median(values)):>10}{runs}")
        return lines

    def summary(self) -> str:
        """The figure beside its budget."""
        text = f"{number(self.value)} {self.unit}"
        if self.budget is None:
            return text
        return f"{text}; budget {self.budget}: {'kept' if self.budget.kept(self.value) else 'MISSED'}"


def ratio(
    name: str,
    what: str,
    ours: Sequence[float],
    reference: Sequence[float],
    budget: Budget | None = None,
    raw: dict[str, list[float]] | None = None,
) -> Finding:
    """Ours over the reference's: one entry a run each, measured in turn."""
    each = [mine / theirs for mine, theirs in zip(ours, reference, strict=True)]
    return Finding(name, what, each, budget=budget, raw=raw or {}, pair=(list(ours), list(reference)))


def number(value: float) -> str:
    """Three digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def table(findings: list[Finding]) -> list[str]:
    """All figures, one a line."""
    return [f"{finding.name:<28}{finding.summary()}" for finding in findings]
