"""What happens around steps: order, turns, deadlines, clients that go away, sessions that end, versions that change."""

from __future__ import annotations

import shutil
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.engine.harness import InProcess, in_order
from tests.packages import random_package
from tidegate.config import Limits
from tidegate.engine import commands
from tidegate.engine.queues.block import AliasTable, Scope
from tidegate.errors import Reason, TidegateError

ROW = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    random_package(folder)
    return folder


@pytest.fixture
def engine(models: Path) -> InProcess:
    return InProcess(models)


def close(engine: InProcess, *names: str) -> None:
    engine.execute(commands.CloseSessions("", "random", [name.encode() for name in names]))


class TestOrder:
    """Rows come out in the order in which a client sent them."""

    def test_one_step_a_session_an_iteration(self, engine: InProcess) -> None:
        """A message with five steps of a session takes five iterations, another session's row comes with the first."""
        request = engine.send_batch(["a"] * 5 + ["b"], [ROW] * 6, steps=[1, 2, 3, 4, 5, 1])
        engine.iterate()
        assert engine.order == [(request, 0), (request, 5)]
        engine.run()
        assert engine.order == [(request, row) for row in (0, 5, 1, 2, 3, 4)]
        assert engine.iterations == 5

    def test_across_messages(self, engine: InProcess) -> None:
        """Steps of one session in single observations and batches, mixed: each is taken once, in order."""
        requests = [
            engine.send("a", ROW, 1),
            engine.send("a", ROW, 2),
            engine.send_batch(["a", "b", "a"], [ROW] * 3, steps=[3, 1, 4]),
            engine.send("a", ROW, 5),
        ]
        answers = engine.run()
        assert [answer.step for request in requests for answer in in_order(answers[request])] == [1, 2, 3, 1, 4, 5]

    def test_no_more_rows_than_allowed(self, models: Path) -> None:
        """A batch has at most batch_rows_max rows; the rest follow."""
        engine = InProcess(models, limits=Limits(sessions_max=100, batch_rows_max=32))
        engine.send_batch([f"s{number}" for number in range(80)], [ROW] * 80)
        engine.iterate()
        assert len(engine.order) == 32
        engine.run()
        assert [row for _, row in engine.order] == list(range(80))

    def test_lanes_take_turns(self, models: Path) -> None:
        """A model with a long queue does not keep another from its next iteration."""
        random_package(models, "other")
        engine = InProcess(models, limits=Limits(sessions_max=1000, batch_rows_max=32))
        engine.send_batch([f"s{number}" for number in range(500)], [ROW] * 500)
        request = engine.send("a", ROW, scope="other")
        engine.iterate()
        engine.iterate()
        assert (request, 0) in engine.order
        assert len(engine.run()) == 2


class TestGoneClients:
    """What a client no longer waits for is not stepped."""

    @pytest.mark.parametrize("admitted", [False, True])
    def test_cancelled_stream(self, engine: InProcess, admitted: bool) -> None:
        """Rows of a stream that went away change nothing, whether they are in the inbox or queued; other streams' rows
        of the same sessions are stepped, and no session is opened for them."""
        engine.ask("a", ROW, 1)
        rows = [engine.send("a", ROW, step, stream=7) for step in (2, 3)]
        batch = engine.send_batch(["a", "new"], [ROW] * 2, steps=[4, 1], stream=7)
        if admitted:
            engine.iterate()  # takes step 2
        engine.execute(commands.CancelStream(7))
        other = engine.send("a", ROW, 0, stream=8)
        answers = engine.run()
        reasons = [answers[rows[0]][0].reason, answers[rows[1]][0].reason, answers[batch][0].reason]
        assert reasons == [Reason.OK if admitted else Reason.CANCELLED, Reason.CANCELLED, Reason.CANCELLED]
        assert answers[other][0].step == (3 if admitted else 2)
        if not admitted:
            assert answers[batch][1].reason is Reason.CANCELLED
            with pytest.raises(TidegateError, match="SESSION_NOT_FOUND"):
                engine.execute(commands.GetSession("", "random", b"new"))
        assert engine.inbox.rows == 0

    @pytest.mark.parametrize("admitted", [False, True])
    def test_deadline(self, engine: InProcess, admitted: bool) -> None:
        """A row whose deadline has passed is not stepped, and opens no session; the same step may come again."""
        late, opening = None, None
        engine.ask("a", ROW, 1)
        if admitted:
            engine.send("a", ROW, 2)
        late = engine.send("a", ROW, 3 if admitted else 2, deadline=engine.clock.seconds + 5.0)
        opening = engine.send("b", ROW, 1, deadline=engine.clock.seconds + 5.0)
        if admitted:
            engine.iterate()
        engine.clock.seconds += 5.5
        answers = engine.run()
        assert answers[late][0].reason is Reason.DEADLINE_EXCEEDED
        assert answers[opening][0].reason is (Reason.OK if admitted else Reason.DEADLINE_EXCEEDED)
        assert len(engine.sessions) == (2 if admitted else 1)
        assert engine.ask("a", ROW, 3 if admitted else 2).reason is Reason.OK


class TestEnds:
    """Sessions that end while rows of theirs wait."""

    def test_close_with_rows_queued(self, engine: InProcess) -> None:
        """Rows that wait for a closed session say SESSION_NOT_FOUND, also when its slot is another's by then."""
        request = engine.send_batch(["a"] * 3, [ROW] * 3, steps=[1, 2, 3])
        engine.iterate()
        close(engine, "a")
        other = engine.send("b", ROW, 1)  # in the same slot
        answers = engine.run()
        assert [answers[request][row].reason for row in range(3)] == [Reason.OK] + [Reason.SESSION_NOT_FOUND] * 2
        assert answers[request][2].expected == 0
        assert answers[other][0].bits == answers[request][0].bits
        assert answers[other][0].steps_seen == 1

    def test_alias_of_a_closed_session(self, engine: InProcess) -> None:
        """An alias finds its session by name again when it was closed and opened anew, never another in its slot."""
        table = AliasTable()
        engine.send_batch(["a"], [ROW], steps=[1], aliases=[4], table=table)
        first = engine.run()
        close(engine, "a")
        engine.ask("b", ROW, 1)
        request = engine.send_batch([], [ROW], steps=[2], aliases=[4], table=table)
        assert engine.run()[request][0].reason is Reason.SESSION_NOT_FOUND
        request = engine.send_batch([], [ROW], steps=[1], aliases=[4], table=table)
        again = engine.run()[request][0]
        assert (again.reason, again.step) == (Reason.OK, 1)
        assert again.bits == next(iter(first.values()))[0].bits
        request = engine.send_batch([], [ROW], steps=[2], aliases=[4], table=table)
        assert engine.run()[request][0].step == 2

    def test_idle_sessions_go(self, models: Path) -> None:
        """Only sessions not stepped for longer than the limit are closed; a retry does not count as a step."""
        engine = InProcess(models, limits=Limits(sessions_max=10, idle_seconds_max=60.0))
        for name in ("stepped", "retried", "left"):
            engine.ask(name, ROW, 1)
        engine.clock.seconds += 50.0
        engine.ask("stepped", ROW, 2)
        engine.ask("retried", ROW, 1)
        engine.clock.seconds += 20.0
        assert engine.execute(commands.Sweep()) == 2
        assert engine.ask("stepped", ROW, 3).reason is Reason.OK
        assert engine.ask("left", ROW, 2).reason is Reason.SESSION_NOT_FOUND
        assert engine.ask("retried", ROW, 1).steps_seen == 1
        assert engine.sessions.closed["random", "idle"] == 2

    def test_all_sessions_and_back(self, engine: InProcess) -> None:
        """Opening as many as there may be, closing them, and again: what is held returns to where it was."""
        names = [f"s{number}" for number in range(4096)]
        for _ in range(2):
            engine.execute(commands.OpenSessions("", "random", "", [name.encode() for name in names]))
            assert len(engine.sessions) == 4096
            assert engine.ask("one more", ROW, 1).reason is Reason.SESSION_LIMIT
            close(engine, *names)
            assert len(engine.sessions) == engine.sessions.bytes_used == 0
        assert engine.ask("one more", ROW, 1).reason is Reason.OK


def test_session_limit_row_by_row(models: Path) -> None:
    """A message opens sessions in row order while there is room; every other row of it is answered too."""
    engine = InProcess(models, limits=Limits(sessions_max=3))
    engine.ask("a", ROW, 1)
    answers = engine.ask_batch(["b", "a", "c", "d", "d", "b"], [ROW] * 6, steps=[1, 2, 1, 1, 2, 2])
    assert [answer.reason for answer in answers] == [
        Reason.OK,
        Reason.OK,
        Reason.OK,
        Reason.SESSION_LIMIT,
        Reason.SESSION_NOT_FOUND,
        Reason.OK,
    ]


def test_byte_limit(models: Path) -> None:
    """Sessions are refused when their bytes would be above the budget, forks too."""
    row_bytes = InProcess(models).catalog.slabs[0].row_bytes
    engine = InProcess(models, state_bytes_max=2 * row_bytes + 1)
    assert [answer.reason for answer in engine.ask_batch(["a", "b", "c"], [ROW] * 3)] == [
        Reason.OK,
        Reason.OK,
        Reason.SESSION_LIMIT,
    ]
    with pytest.raises(TidegateError, match="SESSION_LIMIT"):
        engine.execute(commands.ForkSession("", "random", b"a", b"copy"))


def test_bridged_steps_are_timed(tmp_path: Path) -> None:
    """A step without a time that comes after a gap counts the steps that are missing: the next timed one is on time."""
    hour = 3_600_000_000_000
    random_package(tmp_path, frequency="h", gaps={"policy": "impute", "gap_steps_max": 5})
    engine = InProcess(tmp_path)
    engine.ask("a", ROW, 1, time=hour)
    assert engine.ask("a", ROW, 4).gap == 2
    answer = engine.ask("a", ROW, 5, time=5 * hour)
    assert (answer.reason, answer.gap, answer.steps_seen, answer.valid_time) == (Reason.OK, 0, 5, 6 * hour)


@pytest.mark.parametrize(
    "dates", [("2023-12-31", "2024-01-31", "2024-02-29", "2024-05-31"), ("2024-02-01", "2024-03-01", "2024-04-01")]
)
def test_months_are_counted_on_the_packages_clock(tmp_path: Path, dates: tuple[str, ...]) -> None:
    """A prediction is for the next month's first or last day, as the observations' are, where the package's clocks say
    so; a session bridges the months that are missing."""
    zone = ZoneInfo("Europe/Berlin")
    gaps = {"policy": "impute", "gap_steps_max": 5, "time_tolerance": 0.02}
    random_package(tmp_path, frequency="MS", time_zone=str(zone), gaps=gaps)
    engine = InProcess(tmp_path)
    days = [datetime.fromisoformat(day).replace(tzinfo=zone) for day in dates]
    times = [int(day.timestamp()) * 10**9 for day in days]
    found = [engine.ask("a", ROW, time=time) for time in times]
    months = [12 * day.year + day.month for day in days]
    assert [answer.gap for answer in found] == [0, *(after - month - 1 for month, after in pairwise(months))]
    for answer, month, after in zip(found[:-1], months[:-1], times[1:], strict=True):
        assert (answer.valid_time == after) == (month + 1 in months)


def test_missing_target_after_a_gap(tmp_path: Path) -> None:
    """A target missing in the observation after a gap is what the session itself predicts for that very step."""
    random_package(tmp_path, gaps={"policy": "impute", "gap_steps_max": 5})
    engine = InProcess(tmp_path)
    engine.ask("whole", ROW, 1)
    engine.ask("broken", ROW, 1)
    bridged = engine.ask("whole", [np.nan] * 4, 3)
    step_by_step = [engine.ask("broken", [np.nan] * 4, step) for step in (2, 3)]
    assert bridged.bits == step_by_step[1].bits


class TestVersions:
    """Versions that come and go while sessions run."""

    def test_new_sessions_get_the_newest(self, engine: InProcess, models: Path) -> None:
        """After a reload new sessions run the new version, running ones keep theirs, and one stream serves both."""
        old = engine.ask("old", ROW, 1)
        random_package(models, version="2", seed=1)
        assert engine.install(models).added == ["random/2"]
        answers = engine.ask_batch(["old", "new"], [ROW, ROW], steps=[2, 1])
        assert [answer.reason for answer in answers] == [Reason.OK, Reason.OK]
        assert answers[1].bits != old.bits
        infos = [engine.execute(commands.GetSession("", "random", name)) for name in (b"old", b"new")]
        assert [info.version for info in infos if isinstance(info, commands.SessionInfo)] == ["1", "2"]

    def test_removed_version(self, engine: InProcess, models: Path) -> None:
        """A removed version serves its sessions until the last has ended, takes no new ones, and is then forgotten."""
        random_package(models, version="2", seed=1)
        engine.install(models)
        for name, version in (("one", "1"), ("two", "2")):
            engine.ask(name, ROW, 1, scope=Scope("", "random", version))
        shutil.rmtree(models / "random" / "2")
        assert engine.install(models).removed == ["random/2"]
        assert engine.ask("two", ROW, 2).reason is Reason.OK
        assert engine.ask("three", ROW, 1, scope=Scope("", "random", "2")).reason is Reason.VERSION_NOT_FOUND
        assert len(engine.catalog.lanes) == 2
        close(engine, "two")
        assert [lane.version for lane in engine.catalog.lanes.values()] == ["1"]
        assert engine.ask("one", ROW, 2).reason is Reason.OK

    def test_removed_model(self, engine: InProcess, models: Path) -> None:
        """When a model is gone altogether its sessions run on, and end with it forgotten."""
        random_package(models, "other")
        engine.install(models)
        engine.ask("a", ROW, 1)
        shutil.rmtree(models / "random")
        engine.install(models)
        assert engine.ask("a", ROW, 2).reason is Reason.OK
        assert engine.ask("b", ROW, 1).reason is Reason.VERSION_NOT_FOUND
        close(engine, "a")
        assert set(engine.catalog.models) == {"other"}
        assert engine.ask("b", ROW, 1).reason is Reason.MODEL_NOT_FOUND


def test_listing(models: Path) -> None:
    """Pages follow one another without loss or repetition, across models, while sessions come and go."""
    random_package(models, "other", hidden=16)
    engine = InProcess(models)
    for model in ("random", "other"):
        engine.execute(commands.OpenSessions("", model, "", [b"%s-%d" % (model.encode(), n) for n in range(25)]))
    seen: list[bytes] = []
    cursor: tuple[int, int] | None = (0, 1)
    while cursor is not None:
        page = engine.execute(commands.ListSessions("", commands.SessionFilter(), cursor, 7))
        assert isinstance(page, commands.Page)
        assert len(page.sessions) <= 7
        seen += [info.session_id for info in page.sessions]
        cursor = page.cursor
        if len(seen) == 14:
            for model in ("random", "other"):
                name = model.encode()
                engine.execute(commands.CloseSessions("", model, [name + b"-0", name + b"-20"]))
    assert len(set(seen)) == len(seen) == 47  # those listed before they ended, and none of those that had
    assert not {b"random-0", b"random-20", b"other-20"} & set(seen)
