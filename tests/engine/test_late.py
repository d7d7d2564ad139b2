"""Late observations and corrections: a session that got them is, to the byte, one that got everything in its order."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.harness import DEVICES, LIMITS, Answer, InProcess
from tests.identity.feeds import DERIVED
from tests.packages import random_package
from tidegate.engine import commands
from tidegate.engine.flights import flight, restep
from tidegate.engine.flights.flight import Flight
from tidegate.engine.replies import RowFlag
from tidegate.engine.sessions.catalog import Catalog
from tidegate.engine.step.device import use_one_thread
from tidegate.errors import Reason, TidegateError
from tidegate.model import repository
from tidegate.model.frequency import NO_TIME

LATENESS, GAP_MAX = 4, 12
HOUR, START = 3_600_000_000_000, 1_700_000_000_000_000_000
KINDS = ["plain", *DERIVED]
SLOW = settings(max_examples=25)


@dataclass(frozen=True)
class Row:
    """An observation; `hour` None: without a time."""

    step: int
    values: tuple[float, ...]
    hour: int | None = None
    reset: bool = False

    @property
    def time(self) -> int:
        return NO_TIME if self.hour is None else START + self.hour * HOUR


@lru_cache
def shared(device: str) -> tuple[repository.Snapshot, Any]:
    """One model of each kind that allows for late observations, and steppers built once."""
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            late_model(Path(folder), kind, kind)
        snapshot = repository.scan(Path(folder))
    return snapshot, Catalog(LIMITS, 1 << 30, device).prepare(snapshot)


def late_model(folder: Path, kind: str, name: str = "random", **fields: Any) -> None:
    """One of KINDS: three values, hourly, gaps are bridged."""
    features = [{"name": "a"}, {"name": "b"}, {"name": "c", "role": "past"}]
    gaps = {"policy": "impute", "gap_steps_max": GAP_MAX, "missing_steps_max": 1}
    given = {"features": features, "targets": ["b", "a"], "frequency": "h", "hidden": 8, "gaps": gaps}
    late = {"rewind_steps": LATENESS, "lateness_steps": LATENESS}
    random_package(folder, name, **given | DERIVED.get(kind, {}) | late | fields)  # type: ignore[arg-type]


def engine_of(device: str = "cpu") -> InProcess:
    snapshot, steppers = shared(device)
    return InProcess(snapshot, device, steppers=steppers)


def ask(engine: InProcess, kind: str, row: Row, session: str = "s") -> Answer:
    return engine.ask(session, row.values, row.step, row.time, row.reset, kind)


def place(engine: InProcess, kind: str, session: str) -> tuple[Any, int]:
    return engine.sessions.place(engine.sessions.names("", kind)[session.encode()])


def held(engine: InProcess, kind: str, session: str = "s") -> dict[str, bytes]:
    """Everything that travels of a session: its columns, the retained states and the kept observations, as bytes."""
    slab, slot = place(engine, kind, session)
    return {name: value.tobytes() for name, value in slab.read(slot).items()}


def in_order(device: str, kind: str, rows: Sequence[Row], session: str = "s") -> dict[str, bytes]:
    """What a session holds that took these rows one after the other, alone."""
    engine = engine_of(device)
    for row in rows:
        assert ask(engine, kind, row, session).reason is Reason.OK
    return held(engine, kind, session)


NUMBERS = st.integers(-8, 8).map(lambda x: x / 2) | st.just(float("nan"))
VALUES = st.tuples(NUMBERS, NUMBERS, NUMBERS)


@dataclass(frozen=True)
class Feed:
    """`rows` as they should have come, and `arrivals` as they do: late ones, and wrong ones that are corrected."""

    rows: list[Row]
    arrivals: list[Row]


@st.composite
def numbered(draw: st.DrawFn) -> Feed:
    """A feed that numbers its steps (some it never sends), each late by at most LATENESS steps."""
    timed, rows, step = draw(st.booleans()), list[Row](), 0
    for number in range(draw(st.integers(2, 12))):
        step += draw(st.sampled_from([1, 1, 1, 2])) if number else 1
        reset = number > 0 and draw(st.sampled_from([False] * 9 + [True]))
        rows.append(Row(step, draw(VALUES), step if timed else None, reset))
    keyed: list[tuple[int, int, Row]] = []
    for number, row in enumerate(rows):
        wrong = draw(st.sampled_from([False, False, False, True]))
        late = draw(st.integers(0, LATENESS - 1 if wrong else LATENESS)) if number or wrong else 0
        if wrong:
            keyed.append((row.step, len(keyed), replace(row, values=draw(VALUES))))
        keyed.append((row.step + late, len(keyed), row))
    return Feed(rows, [row for _, _, row in sorted(keyed, key=lambda key: key[:2])])


@st.composite
def unnumbered(draw: st.DrawFn) -> Feed:
    """A feed that sends times alone; some hours have no observation."""
    hours = [*np.cumsum(draw(st.lists(st.sampled_from([1, 1, 1, 2, 3]), min_size=2, max_size=10))).tolist()]
    rows = [Row(0, draw(VALUES), hour) for hour in hours]
    keyed: list[tuple[int, int, Row]] = []
    for number, row in enumerate(rows):
        wrong = draw(st.sampled_from([False, False, False, True]))
        late = draw(st.integers(0, LATENESS - 1))
        if wrong:
            keyed.append((number, len(keyed), replace(row, values=draw(VALUES))))
        keyed.append((number + late, len(keyed), row))
    return Feed(rows, [row for _, _, row in sorted(keyed, key=lambda key: key[:2])])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
class TestAsIfInOrder:
    """Whatever the order of arrival, what a session holds in the end is what it would hold had all come in its time."""

    @given(feed=numbered())
    @SLOW
    def test_by_number(self, kind: str, device: str, feed: Feed) -> None:
        """Late steps fill the gaps that were bridged for them, and right readings take the place of wrong ones."""
        engine = engine_of(device)
        for row in feed.arrivals:
            before = engine.sessions.names("", kind).get(b"s") and held(engine, kind)
            answer = ask(engine, kind, row)
            assert answer.reason is Reason.OK
            if RowFlag.DUPLICATE in answer.flags:  # a wrong reading that is the right one
                assert held(engine, kind) == before
        assert held(engine, kind) == in_order(device, kind, feed.rows)

    @given(feed=unnumbered())
    @SLOW
    def test_by_time(self, kind: str, device: str, feed: Feed) -> None:
        """Without numbers, an observation takes its place by its time, and the server numbers again."""
        engine = engine_of(device)
        for row in feed.arrivals:
            assert ask(engine, kind, row).reason is Reason.OK
        assert held(engine, kind) == in_order(device, kind, feed.rows)

    @given(feeds=st.lists(numbered() | unnumbered(), min_size=2, max_size=40), data=st.data())
    @settings(max_examples=6)
    def test_in_company(self, kind: str, device: str, feeds: list[Feed], data: st.DataObject) -> None:
        """Many sessions are revised in one batch, among others that only go on: each as if it were alone."""
        engine = engine_of(device)
        for tick in range(max(len(feed.arrivals) for feed in feeds)):
            here = [number for number, feed in enumerate(feeds) if tick < len(feed.arrivals)]
            rows = [feeds[number].arrivals[tick] for number in here]
            before = engine.iterations
            answers = engine.ask_batch(
                [f"s{number}" for number in here],
                [row.values for row in rows],
                steps=[row.step for row in rows],
                times=[row.time for row in rows],
                resets=[row.reset for row in rows],
                scope=kind,
            )
            assert {answer.reason for answer in answers} == {Reason.OK}
            assert engine.iterations == before + 1
        for number, feed in enumerate(feeds):
            assert held(engine, kind, f"s{number}") == in_order(device, kind, feed.rows, f"s{number}")


ROWS = [Row(step, (float(step), -0.5 * step, 1.0), step) for step in range(1, 9)]


def engine_after(kind: str, rows: Sequence[Row]) -> InProcess:
    engine = engine_of()
    for row in rows:
        assert ask(engine, kind, row).reason is Reason.OK
    return engine


class TestReplies:
    """What the client is told."""

    def test_revised(self) -> None:
        """The reply to a late observation is what the session predicts now: the last step's number, time and values."""
        engine = engine_after("plain", [*ROWS[:2], *ROWS[3:5]])
        answer, wanted = ask(engine, "plain", ROWS[2]), engine_of()
        for row in ROWS[:5]:
            last = ask(wanted, "plain", row)
        assert (answer.step, answer.bits, answer.valid_time) == (5, last.bits, last.valid_time)
        assert answer.flags == RowFlag.REVISED
        assert answer.steps_seen == last.steps_seen == 5
        assert answer.gap == 0

    def test_the_bridge_is_shorter(self) -> None:
        """Steps that are still missing beside a late one are bridged again."""
        engine = engine_after("plain", [ROWS[0], ROWS[4]])
        answer = ask(engine, "plain", ROWS[2])
        assert (answer.step, answer.gap, answer.flags) == (5, 1, RowFlag.REVISED | RowFlag.GAP)

    @pytest.mark.parametrize("kind", ["plain", "lags-calendar"])
    def test_again(self, kind: str) -> None:
        """A late observation or a correction that is sent again is a duplicate, and the session is not touched."""
        engine = engine_after(kind, [*ROWS[:3], *ROWS[4:7]])
        correction = replace(ROWS[5], values=(0.0, 0.0, 0.0))
        first = [ask(engine, kind, row) for row in (ROWS[3], correction)]
        before = held(engine, kind)
        for row in (ROWS[3], correction, ROWS[4]):
            answer = ask(engine, kind, row)
            assert answer.reason is Reason.OK
            assert answer.flags == RowFlag.REVISED | RowFlag.DUPLICATE
            assert (answer.step, answer.bits) == (7, first[1].bits)
        assert ask(engine, kind, ROWS[6]).flags == RowFlag.DUPLICATE
        assert held(engine, kind) == before

    def test_again_at_the_edge(self) -> None:
        """The oldest observation that fits before all that are kept is known too when it comes again."""
        rows = [*ROWS[:2], *ROWS[3:7]]
        engine = engine_after("plain", rows)
        assert ask(engine, "plain", ROWS[2]).flags == RowFlag.REVISED
        assert ask(engine, "plain", ROWS[2]).flags == RowFlag.REVISED | RowFlag.DUPLICATE
        assert ask(engine, "plain", replace(ROWS[2], values=(0.0, 0.0, 0.0))).reason is Reason.STEP_TOO_OLD

    def test_created_is_said_once(self) -> None:
        """A correction of the first observation does not open the session again."""
        engine = engine_after("plain", ROWS[:1])
        answer = ask(engine, "plain", replace(ROWS[0], values=(2.0, 2.0, 2.0)))
        assert (answer.flags, answer.step, answer.steps_seen) == (RowFlag.REVISED, 1, 1)

    def test_numbers_follow(self) -> None:
        """The server's own numbers are given anew: what comes next is one after them."""
        engine = engine_of()
        for hour in (1, 2, 4):
            ask(engine, "plain", Row(0, (1.0, 2.0, 3.0), hour))
        answer = ask(engine, "plain", Row(0, (3.0, 2.0, 1.0), 3))
        assert (answer.step, answer.expected) == (4, 4)
        assert ask(engine, "plain", Row(0, (3.0, 2.0, 1.0), 5)).step == 5


class TestRefused:
    """What has no place keeps the reason that it had, and changes nothing."""

    @pytest.mark.parametrize(
        ("before", "late", "reason"),
        [
            (ROWS[:8], ROWS[2], Reason.STEP_TOO_OLD),  # more than LATENESS
            (ROWS[:8], replace(ROWS[3], values=(0.0,) * 3), Reason.STEP_TOO_OLD),  # replaces one more than are kept
            (ROWS[:5], Row(0, (0.0,) * 3, -4), Reason.TIME_NOT_INCREASING),
            (ROWS[:5], Row(6, (0.0,) * 3, 4), Reason.TIME_NOT_INCREASING),  # a new number for an old time
            ([*ROWS[:2], *ROWS[3:5]], Row(3, (0.0,) * 3, 4), Reason.TIME_NOT_INCREASING),  # the next one's time
            ([*ROWS[:2], *ROWS[3:5]], Row(3, (0.0,) * 3, 2), Reason.TIME_NOT_INCREASING),
            ([ROWS[0], Row(2, (0.0,) * 3, 3)], Row(0, (0.0,) * 3, 2), Reason.TIME_NOT_INCREASING),  # no number is free
            ([ROWS[0], Row(2, (0.0,) * 3, 9, reset=True)], Row(0, (0.0,) * 3, 8), Reason.TIME_NOT_INCREASING),
            (
                [Row(0, (1.0,) * 3, 1), Row(0, (2.0,) * 3, 9, reset=True)],
                Row(0, (0.0,) * 3, 8),
                Reason.TIME_NOT_INCREASING,
            ),
            (ROWS[:3], Row(2, (np.inf,) * 3, 2), Reason.BAD_OBSERVATION),
        ],
    )
    def test_untouched(self, before: list[Row], late: Row, reason: Reason) -> None:
        """Too late, or against the rules at its place."""
        engine = engine_after("plain", before)
        held_before, info = held(engine, "plain"), engine.execute(commands.GetSession("", "plain", b"s"))
        assert isinstance(info, commands.SessionInfo)
        answer = ask(engine, "plain", late)
        assert (answer.reason, answer.expected) == (reason, info.step + 1)
        assert held(engine, "plain") == held_before

    def test_after_a_quarantine(self) -> None:
        """A session that waits for a reset is not revised; what was taken before is still answered."""
        engine = engine_after("plain", ROWS[:3])
        assert ask(engine, "plain", Row(4, (1e300, 0.0, 0.0), 4)).reason is Reason.SESSION_DIVERGED
        before = held(engine, "plain")
        assert ask(engine, "plain", replace(ROWS[1], values=(0.0,) * 3)).reason is Reason.STEP_TOO_OLD
        assert RowFlag.DUPLICATE in ask(engine, "plain", ROWS[1]).flags
        assert held(engine, "plain") == before

    def test_a_package_that_allows_none(self, tmp_path: Path) -> None:
        """Without lateness_steps nothing is kept and every reason is as ever."""
        late_model(tmp_path, "plain", "none", lateness_steps=0)
        late_model(tmp_path, "plain", "some")
        engine = InProcess(tmp_path)
        for row in ROWS[:3]:
            ask(engine, "none", row)
        assert ask(engine, "none", replace(ROWS[2], values=(0.0,) * 3)).reason is Reason.STEP_CONFLICT
        assert ask(engine, "none", ROWS[1]).reason is Reason.STEP_TOO_OLD
        none, some = (engine.catalog.resolve(name).slab for name in ("none", "some"))
        assert some.row_bytes == none.row_bytes + 8 + LATENESS * (3 * 8 + 8 + 8 + 1)

    def test_a_manifest_that_cannot_be(self, tmp_path: Path) -> None:
        """Late observations need states to go back to."""
        with pytest.raises(Exception, match="lateness_steps: 5 is more than rewind_steps, 4"):
            late_model(tmp_path, "plain", "none", lateness_steps=5)


class TestFailures:
    """A revision that cannot be finished."""

    @pytest.mark.parametrize("kind", ["plain", "by-session"])
    def test_not_finite(self, kind: str) -> None:
        """The session is quarantined with the numbering that it had, and a reset lifts it; others are revised."""
        engine = engine_after(kind, ROWS[:5])
        for row in ROWS[:5]:
            ask(engine, kind, row, "other")
        rows = [Row(4, (1e300, 0.0, 0.0), 4), Row(4, (0.0, 0.0, 0.0), 4)]
        answers = engine.ask_batch(
            ["s", "other"],
            [row.values for row in rows],
            steps=[4, 4],
            times=[row.time for row in rows],
            scope=kind,
        )
        assert [answer.reason for answer in answers] == [Reason.SESSION_DIVERGED, Reason.OK]
        assert held(engine, kind, "other") == in_order("cpu", kind, [*ROWS[:3], rows[1], ROWS[4]], "other")
        info = engine.execute(commands.GetSession("", kind, b"s"))
        assert isinstance(info, commands.SessionInfo)
        assert (info.diverged, info.step) == (True, 5)
        assert ask(engine, kind, ROWS[5]).reason is Reason.SESSION_DIVERGED
        assert RowFlag.DUPLICATE in ask(engine, kind, ROWS[4]).flags  # the last one is known; the others are forgotten
        assert ask(engine, kind, ROWS[2]).reason is Reason.STEP_TOO_OLD
        with pytest.raises(TidegateError, match=r"steps that are: [01] to 2"):
            engine.execute(commands.RewindSession("", kind, b"s", 4))
        engine.execute(commands.ForkSession("", kind, b"s", b"fork", 2))
        for row in ROWS[2:4]:
            assert ask(engine, kind, row, "fork").reason is Reason.OK
        assert ask(engine, kind, replace(ROWS[5], reset=True)).reason is Reason.OK
        assert ask(engine, kind, replace(ROWS[2], values=(0.0,) * 3)).reason is Reason.STEP_TOO_OLD
        assert (
            ask(engine, kind, ROWS[6]).bits
            == ask(engine_after(kind, [replace(ROWS[5], step=1)]), kind, replace(ROWS[6], step=2)).bits
        )


class TestWithTheRest:
    """Late observations beside everything else that is done to sessions."""

    def test_a_reset_by_command_stays(self) -> None:
        """What a command reset is reset again where the steps before it are stepped again."""
        for after in ([], [ROWS[4]]):
            engine, calm = engine_after("by-session", ROWS[:4]), engine_of()
            late = replace(ROWS[3], values=(0.0, 1.0, 2.0))
            for row in (*ROWS[:3], late):
                ask(calm, "by-session", row)
            for server in (engine, calm):
                server.execute(commands.ResetSessions("", "by-session", [b"s"]))
                for row in after:
                    ask(server, "by-session", row)
            assert ask(engine, "by-session", late).flags & RowFlag.REVISED
            assert held(engine, "by-session") == held(calm, "by-session")
            assert ask(engine, "by-session", ROWS[5]).bits == ask(calm, "by-session", ROWS[5]).bits

    def test_forks_exports_and_rewinds_take_it_along(self) -> None:
        """A fork, an import, and a session that was taken back can be revised as the original can."""
        engine, kind = engine_after("lags-calendar", [*ROWS[:3], *ROWS[4:7]]), "lags-calendar"
        wanted = in_order("cpu", kind, ROWS[:7])
        engine.execute(commands.ForkSession("", kind, b"s", b"fork"))
        export = engine.execute(commands.ExportSession("", kind, b"s"))
        assert isinstance(export, commands.Export)
        engine.execute(commands.ImportSession("", export.content, b"import", ""))
        ask(engine, kind, ROWS[7])
        engine.execute(commands.RewindSession("", kind, b"s", 7))
        for session in ("s", "fork", "import"):
            assert ask(engine, kind, ROWS[3], session).flags == RowFlag.REVISED
            assert held(engine, kind, session)["state"] == wanted["state"]
            assert held(engine, kind, session)["state@"] != b""
        for session in ("fork", "import"):
            assert held(engine, kind, session) == wanted

    def test_checkpoints_take_it_along(self) -> None:
        """A session that is made of its checkpoint in another server can be revised there."""
        engine, other, kind = engine_after("by-session", [*ROWS[:3], *ROWS[4:7]]), engine_of(), "by-session"
        other.execute(commands.OpenSessions("", kind, "", [b"s"]))
        slab, slot = place(engine, kind, "s")
        content = slab.pack(np.array([slot]))
        there, fresh = place(other, kind, "s")
        there.unpack(np.array([fresh]), slab.schema.layout, content)
        assert ask(other, kind, ROWS[3]).flags == RowFlag.REVISED
        assert held(other, kind) == in_order("cpu", kind, ROWS[:7])

    def test_rewinds_go_to_revised_states(self) -> None:
        """After a revision the states that are retained are the revised ones."""
        engine = engine_after("plain", ROWS[:6])
        late = replace(ROWS[3], values=(0.0, 1.0, 2.0))
        ask(engine, "plain", late)
        engine.execute(commands.RewindSession("", "plain", b"s", 4))
        calm = engine_after("plain", [*ROWS[:3], late])
        assert ask(engine, "plain", ROWS[4]).bits == ask(calm, "plain", ROWS[4]).bits

    def test_a_reset_that_comes_late(self) -> None:
        """An observation with a reset takes its place too: what came before it is forgotten from there on."""
        engine = engine_after("plain", ROWS[:5])
        assert ask(engine, "plain", replace(ROWS[2], reset=True)).steps_seen == 3
        assert held(engine, "plain") == in_order("cpu", "plain", [*ROWS[:2], replace(ROWS[2], reset=True), *ROWS[3:5]])


def test_an_export_after_a_revision_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of which nothing is retained any more can be imported as any other."""
    engine = engine_after("plain", [ROWS[0], *ROWS[2:6]])
    commits, real = list[int](), flight.commit

    def fails_last(taken: Flight, now: float) -> NDArray[np.uint8]:
        outcome = real(taken, now)
        commits.append(1)
        return np.full_like(outcome, Reason.SESSION_DIVERGED) if len(commits) == 5 else outcome

    monkeypatch.setattr(restep, "commit", fails_last)
    assert ask(engine, "plain", ROWS[1]).reason is Reason.SESSION_DIVERGED
    assert len(commits) == 5
    export = engine.execute(commands.ExportSession("", "plain", b"s"))
    assert isinstance(export, commands.Export)
    assert engine.execute(commands.ImportSession("", export.content, b"copy", ""))
