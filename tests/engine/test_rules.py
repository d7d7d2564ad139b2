"""The session rules on columns against the same rules for one session at a time, and the digest that tells retries."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.plain import Known, Rules, decide, every
from tidegate.engine.judgement.rules import ADVANCE, DUPLICATE, Observed, Policy, Remembered, digest, judge
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME, Frequency

DAY = 86_400 * 10**9


@dataclass(frozen=True)
class Case:
    """One row and its session."""

    session: Known
    step: int
    time: int | None
    same: bool
    reset: bool
    refused: Reason


def cases(tick: int) -> st.SearchStrategy[list[Case]]:
    """Rows whose steps and times are close enough to meet every rule. Times are whole ticks."""
    times = st.none() | st.integers(0, 60).map(lambda ticks: ticks * tick)
    known = st.builds(Known, step=st.integers(0, 6), steps_seen=st.integers(0, 2), time=times, diverged=st.booleans())
    case = st.builds(
        Case,
        session=known,
        step=st.integers(0, 12),
        time=times,
        same=st.booleans(),
        reset=st.booleans(),
        refused=st.sampled_from([Reason.OK] * 4 + [Reason.BAD_OBSERVATION, Reason.TARGETS_DIFFER]),
    )
    return st.lists(case, min_size=1, max_size=40)


def ns(time: int | None) -> int:
    return NO_TIME if time is None else time


def column(values: list[int], dtype: str = "i8") -> NDArray[np.int64]:
    return np.array(values, dtype)


def assert_judged_as_decided(rows: list[Case], policy: Policy, rules: Rules) -> None:
    """The columns' verdicts are row for row what the plain rules decide."""
    sessions = [row.session for row in rows]
    verdicts = judge(
        Observed(
            step=column([row.step for row in rows]),
            time=column([ns(row.time) for row in rows]),
            digest=np.array([7 if row.same else 8 for row in rows], np.uint64),
            reset=np.array([row.reset for row in rows]),
            refused=np.array([row.refused for row in rows], np.uint8),
        ),
        Remembered(
            step=column([session.step for session in sessions]),
            steps_seen=column([session.steps_seen for session in sessions]),
            time=column([ns(session.time) for session in sessions]),
            digest=np.full(len(rows), 7, np.uint64),
            diverged=np.array([session.diverged for session in sessions]),
        ),
        policy,
    )
    for place, row in enumerate(rows):
        name, missing = decide(row.step, row.time, row.same, row.reset, row.session, rules)
        if row.refused:
            name, missing = row.refused.name, 0
        assert _name(int(verdicts.ruling[place])) == name
        assert verdicts.expected[place] == row.session.step + 1
        assert verdicts.missing[place] == missing
        if name == "ADVANCE":
            assert verdicts.step[place] == (row.step or row.session.step + 1)


def _name(ruling: int) -> str:
    return {ADVANCE: "ADVANCE", DUPLICATE: "DUPLICATE"}.get(ruling) or Reason(ruling).name


def months_between(start: int, end: int) -> Fraction:
    """Intervals of `MS`, counted on the calendar by hand: from the nearest of the days that follow on the first."""
    first, last = _day(start), _day(end)
    passed = _months(last) - _months(first)
    whole = round(passed)
    return passed if passed < Fraction(1, 2) else whole + _months(last) - _months(_month_after(first, whole))


def at_an_edge(row: Case, tolerance: float) -> bool:
    """Whether its time is exactly half-way, or exactly as far off as may be: there floats and fractions may differ."""
    start, end = row.session.time, row.time
    if start is None or end is None or end <= start:
        return False
    counted, passed = months_between(start, end), _months(_day(end)) - _months(_day(start))
    return Fraction(1, 2) in (counted % 1, passed % 1) or abs(counted - round(counted)) == Fraction(tolerance)


def _day(time: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(days=time // DAY)


def _months(at: datetime) -> Fraction:
    return at.year * 12 + at.month + Fraction(at.day - 1, calendar.monthrange(at.year, at.month)[1])


def _month_after(at: datetime, months: int) -> datetime:
    year, month = at.year + (at.month - 1 + months) // 12, (at.month - 1 + months) % 12 + 1
    length = calendar.monthrange(year, month)[1]
    is_last = at.day == calendar.monthrange(at.year, at.month)[1]
    return at.replace(year=year, month=month, day=length if is_last else min(at.day, length))


class TestJudge:
    """`judge` is the table of the design, row by row."""

    @given(rows=cases(tick=1), gap_max=st.integers(0, 4), tolerance=st.sampled_from([0.125, 0.25, 0.5]))
    @settings(max_examples=400)
    def test_every_rule_on_a_fixed_grid(self, rows: list[Case], gap_max: int, tolerance: float) -> None:
        """Steps, retries, gaps and times on and off a grid of 8 ns: as decided one by one."""
        policy = Policy(Frequency.parse("8ns"), gap_max, tolerance)
        assert_judged_as_decided(rows, policy, Rules(gap_max, tolerance, every(8)))

    @given(rows=cases(tick=5 * DAY), gap_max=st.integers(0, 4), tolerance=st.sampled_from([0.125, 0.25, 0.5]))
    def test_every_rule_on_the_calendar(self, rows: list[Case], gap_max: int, tolerance: float) -> None:
        """The same where the intervals are months."""
        rows = [row for row in rows if not at_an_edge(row, tolerance)]
        assume(rows)
        policy = Policy(Frequency.parse("MS"), gap_max, tolerance)
        assert_judged_as_decided(rows, policy, Rules(gap_max, tolerance, months_between))

    @given(rows=cases(tick=1), gap_max=st.integers(0, 4))
    def test_every_rule_without_a_grid(self, rows: list[Case], gap_max: int) -> None:
        """Without a frequency times only have to increase."""
        assert_judged_as_decided(rows, Policy(Frequency(), gap_max), Rules(gap_max))

    @given(start=st.integers(-(2**63) + 1, 2**63 - 1), end=st.integers(-(2**63) + 1, 2**63 - 1))
    def test_any_two_times_have_a_verdict(self, start: int, end: int) -> None:
        """Times at the ends of what 64 bits hold neither warn nor wrap into an acceptable gap."""
        for text in ("ns", "h", "100YS"):
            row = Case(Known(1, 1, start), 2, end, same=False, reset=False, refused=Reason.OK)
            verdicts = judge(
                Observed(column([2]), column([end]), np.zeros(1, np.uint64), np.zeros(1, bool), np.zeros(1, np.uint8)),
                Remembered(column([1]), column([1]), column([start]), np.zeros(1, np.uint64), np.zeros(1, bool)),
                Policy(Frequency.parse(text), gap_steps_max=3),
            )
            assert row.session.time is not None
            if end <= start:
                assert verdicts.ruling[0] == Reason.TIME_NOT_INCREASING
            elif text != "100YS" and end - start > 10 * 3600 * 10**9:
                assert verdicts.ruling[0] in (Reason.STEP_GAP, Reason.TIME_OFF_GRID)
            if verdicts.ruling[0] == ADVANCE:
                assert 0 <= verdicts.missing[0] <= 3


FLOATS = st.floats(allow_nan=True, allow_infinity=False)
TIMES = st.sampled_from([NO_TIME, 0, 1, -1, 2**62, -(2**62)]) | st.integers(-(2**63), 2**63 - 1)


def digest_of(values: list[float], time: int = NO_TIME, reset: bool = False) -> int:
    return int(digest(np.array([values]), column([time]), np.array([reset]))[0])


class TestDigest:
    """Eight bytes that tell a retry from another input."""

    @given(values=st.lists(FLOATS, min_size=1, max_size=9), place=st.integers(0, 8), other=FLOATS)
    def test_another_value(self, values: list[float], place: int, other: float) -> None:
        """One value changed in any place changes the digest; the same number written otherwise (-0.0) does not."""
        place %= len(values)
        changed = [*values[:place], other, *values[place + 1 :]]
        same = values[place] == other or (np.isnan(values[place]) and np.isnan(other))
        assert (digest_of(values) == digest_of(changed)) == same

    @given(values=st.lists(FLOATS, min_size=1, max_size=4), first=TIMES, second=TIMES, resets=st.booleans())
    def test_another_time_or_reset(self, values: list[float], first: int, second: int, resets: bool) -> None:
        """Another time (no time and 1970 differ too) or a reset changes the digest."""
        assert (digest_of(values, first) == digest_of(values, second)) == (first == second)
        assert digest_of(values, first, resets) != digest_of(values, first, not resets)

    @given(values=st.lists(FLOATS, min_size=2, max_size=6, unique_by=str))
    def test_order_of_values(self, values: list[float]) -> None:
        """The same values in another order are another input."""
        turned = [*values[1:], values[0]]
        same = all(a == b or (np.isnan(a) and np.isnan(b)) for a, b in zip(values, turned, strict=True))
        assert (digest_of(values) == digest_of(turned)) == same

    def test_nan_and_zero_have_one_form(self) -> None:
        """NaNs of any bits are one missing value, and -0.0 is 0.0."""
        odd_nan = float(np.array([0xFFF8_0000_0000_1234], np.uint64).view(np.float64)[0])
        assert digest_of([1.0, np.nan]) == digest_of([1.0, odd_nan]) == digest_of([1.0, -np.nan])
        assert digest_of([0.0, 2.0]) == digest_of([-0.0, 2.0])

    @given(rows=st.lists(st.tuples(FLOATS, FLOATS, TIMES, st.booleans()), min_size=1, max_size=20))
    def test_rows_alone(self, rows: list[tuple[float, float, int, bool]]) -> None:
        """A row's digest does not depend on its neighbours."""
        together = digest(
            np.array([row[:2] for row in rows]),
            column([row[2] for row in rows]),
            np.array([row[3] for row in rows]),
        )
        alone = [digest_of(list(row[:2]), row[2], row[3]) for row in rows]
        assert together.tolist() == alone
