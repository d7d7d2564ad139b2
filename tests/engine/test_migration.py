"""Sessions that move to another version: by their state where it is the same, else by observations that they keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.harness import InProcess
from tests.engine.test_late import KINDS, ROWS, Row, held, late_model
from tests.identity.feeds import DERIVED
from tests.packages import random_package
from tidegate.config import Limits
from tidegate.engine.commands import (
    BulkResult,
    ExportSession,
    GetSession,
    ImportSession,
    Migrated,
    MigrateSessions,
    ResetSessions,
    SessionInfo,
    Way,
)
from tidegate.engine.queues.block import Scope
from tidegate.errors import Reason, TidegateError

KEPT = 5
OLD, NEW = Scope("", "random", "1"), Scope("", "random", "2")
NONE = {"rewind_steps": 0, "lateness_steps": 0}


def model(folder: Path, version: str, kind: str = "plain", **fields: Any) -> None:
    """A version of a model of one of KINDS; `seed` gives other weights."""
    late_model(folder, kind, "random", version=version, **NONE | fields)


def take(engine: InProcess, rows: Sequence[Row], scope: Scope = OLD, session: str = "s") -> list[bytes]:
    """Predictions' bits; every row must be taken."""
    answers = [engine.ask(session, row.values, row.step, row.time, row.reset, scope) for row in rows]
    assert {answer.reason for answer in answers} == {Reason.OK}
    return [answer.bits for answer in answers]


def migrate(engine: InProcess, *sessions: str, to: str = "2") -> Migrated:
    result = engine.execute(MigrateSessions("", "random", to, [session.encode() for session in sessions]))
    assert isinstance(result, Migrated)
    assert isinstance(result, BulkResult)
    return result


def info(engine: InProcess, session: str = "s") -> SessionInfo:
    found = engine.execute(GetSession("", "random", session.encode()))
    assert isinstance(found, SessionInfo)
    return found


class TestByState:
    """Versions whose columns are the same go on with them."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_as_an_import(self, tmp_path: Path, kind: str) -> None:
        """What the new version predicts is what it predicts of an export that it goes on with."""
        model(tmp_path, "1", kind)
        model(tmp_path, "2", kind, seed=1)
        engine = InProcess(tmp_path)
        take(engine, ROWS[:4])
        export = engine.execute(ExportSession("", "random", b"s"))
        engine.execute(ImportSession("", export.content, b"import", "2"))  # type: ignore[attr-defined]
        result = migrate(engine, "s")
        assert (result.ways.tolist(), result.replayed.tolist(), result.errors) == ([Way.STATE], [0], [])
        assert (info(engine).version, info(engine).step) == ("2", 4)
        assert take(engine, ROWS[4:6]) == take(engine, ROWS[4:6], session="import")
        assert held(engine, "random") == held(engine, "random", "import")

    @pytest.mark.parametrize("kept", [(0, 3), (3, 0), (KEPT, 3), (3, KEPT)])
    def test_where_more_or_less_is_kept(self, tmp_path: Path, kept: tuple[int, int]) -> None:
        """Versions that keep other numbers of earlier states and observations hand over the state, and what both keep
        of observations."""
        for version, steps in zip(("1", "2"), kept, strict=True):
            model(tmp_path, version, "by-session", rewind_steps=steps, lateness_steps=steps, replay_steps=steps)
        engine, calm = InProcess(tmp_path), InProcess(tmp_path)
        take(engine, ROWS[:6])
        assert migrate(engine, "s").ways.tolist() == [Way.STATE]
        assert take(engine, ROWS[6:8]) == take(calm, ROWS[:8])[6:]
        if min(kept):
            lane = engine.catalog.lanes[int(place(engine)[0].host["version"][place(engine)[1]])]
            slab, slot = place(engine)
            count = min(kept[1], min(kept) + 2)
            assert sorted(slab.host["kept_step"][slot].tolist())[-count:] == list(range(9 - count, 9))
            assert lane.version == "2"

    def test_one_that_is_there(self, tmp_path: Path) -> None:
        """Nothing is done to a session of that version; who is not known, and who is named twice, is told."""
        for version in ("1", "2"):
            model(tmp_path, version)
        engine = InProcess(tmp_path)
        take(engine, ROWS[:2], OLD, "old")
        take(engine, ROWS[:2], NEW, "new")
        before = held(engine, "random", "new")
        result = migrate(engine, "old", "new", "nobody", "old")
        assert result.ways.tolist() == [Way.STATE, Way.ALREADY_THERE, Way.FAILED, Way.STATE]
        assert result.errors == [(2, Reason.SESSION_NOT_FOUND)]
        assert result.steps.tolist() == [2, 2, 0, 2]
        assert held(engine, "random", "new") == before
        with pytest.raises(TidegateError, match="VERSION_NOT_FOUND"):
            migrate(engine, "old", to="3")


def place(engine: InProcess, session: str = "s") -> tuple[Any, int]:
    return engine.sessions.place(engine.sessions.names("", "random")[session.encode()])


class TestByReplay:
    """Versions of other shapes take what the session keeps."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_as_if_it_had_been_there(self, tmp_path: Path, kind: str) -> None:
        """Sessions of which all is kept are, to the byte, what they would be had the new version taken it all; with
        gaps, missing values, resets with a step and by command; many of different lengths at once."""
        model(tmp_path, "1", kind, replay_steps=12)
        model(tmp_path, "2", kind, replay_steps=12, rewind_steps=3, lateness_steps=2, hidden=12, seed=1)
        engine, calm = InProcess(tmp_path), InProcess(tmp_path)
        random = np.random.default_rng(1)
        names = [f"s{number}" for number in range(40)]
        for name in names:
            step = 0
            for number in range(int(random.integers(1, 10))):
                step += 1 if not number else int(random.integers(1, 3))
                values = np.where(random.random(3) < 0.2, np.nan, random.normal(3.0, 2.0, 3))
                row = Row(step, tuple(values.tolist()), step, bool(random.random() < 0.1))
                take(engine, [row], OLD, name)
                take(calm, [row], NEW, name)
            if random.random() < 0.2:
                for server in (engine, calm):
                    server.execute(ResetSessions("", "random", [name.encode()]))
                    take(server, [Row(step + 1, (1.0, 2.0, 3.0), 1)], OLD, name)
            if random.random() < 0.2:
                for server in (engine, calm):
                    server.execute(ResetSessions("", "random", [name.encode()]))
        result = migrate(engine, *names)
        assert result.errors == []
        assert set(result.ways.tolist()) == {Way.REPLAY}
        for name, count in zip(names, result.replayed.tolist(), strict=True):
            assert held(engine, "random", name) == held(calm, "random", name)
            slab, slot = place(calm, name)
            assert count == slab.host["kept"][slot]

    def test_the_last_ones(self, tmp_path: Path) -> None:
        """A longer session has the memory of the last observations, and its numbering."""
        model(tmp_path, "1", replay_steps=KEPT)
        model(tmp_path, "2", hidden=12)
        engine, calm = InProcess(tmp_path), InProcess(tmp_path)
        take(engine, ROWS[:7])
        result = migrate(engine, "s")
        assert (result.ways.tolist(), result.replayed.tolist()) == ([Way.REPLAY], [KEPT])
        assert (info(engine).step, info(engine).steps_seen, info(engine).version) == (7, KEPT, "2")
        renumbered = [Row(row.step - 2, row.values, row.hour) for row in ROWS[2:8]]
        assert take(engine, ROWS[6:8]) == take(calm, renumbered, NEW)[4:]  # the last one is a retry

    def test_a_gap_that_the_new_one_refuses(self, tmp_path: Path) -> None:
        """It begins after the gap."""
        model(tmp_path, "1", replay_steps=KEPT)
        model(tmp_path, "2", hidden=12, gaps={"policy": "refuse"})
        engine, calm = InProcess(tmp_path), InProcess(tmp_path)
        take(engine, [*ROWS[:3], *ROWS[4:6]])
        result = migrate(engine, "s")
        assert (result.replayed.tolist(), info(engine).step) == ([2], 6)
        renumbered = [Row(row.step - 4, row.values, row.hour) for row in ROWS[4:7]]
        assert take(engine, ROWS[6:7]) == take(calm, renumbered, NEW)[2:]

    def test_static_covariates_and_outputs(self, tmp_path: Path) -> None:
        """What was sent once, long ago, is known to the new version too; what nobody sends may stand elsewhere."""
        sent = [{"name": "t", "unit": "degC"}, {"name": "place", "role": "static"}, {"name": "p", "role": "past"}]
        output = {"name": "y", "role": "output"}
        future = {"name": "f", "role": "future"}
        targets = ["t", "y"]
        random_package(tmp_path, version="1", features=[output, *sent, future], targets=targets, replay_steps=3)
        random_package(tmp_path, version="2", features=[future, *sent, output], targets=targets, replay_steps=3)
        engine, calm = InProcess(tmp_path), InProcess(tmp_path)

        def ask(server: InProcess, step: int, place: float, scope: Scope) -> bytes:
            answer = server.ask("s", (10.0 + step, place, 2.0), step, scope=scope, future=(0.5 * step,))
            assert answer.reason is Reason.OK
            return answer.bits

        for step in range(1, 6):
            ask(engine, step, 7.0 if step == 1 else np.nan, OLD)
        assert migrate(engine, "s").ways.tolist() == [Way.REPLAY]
        for step in range(1, 4):
            server_step = calm.ask("s", (12.0 + step, 7.0, 2.0), step, scope=NEW, future=(0.5 * (step + 2),))
            assert server_step.reason is Reason.OK
        wanted = calm.ask("s", (16.0, 7.0, 2.0), 4, scope=NEW, future=(3.0,)).bits
        assert ask(engine, 6, np.nan, NEW) == wanted

    def test_a_quarantined_one(self, tmp_path: Path) -> None:
        """What it had taken is taken again, and it goes on: the observation that failed was never taken."""
        model(tmp_path, "1", replay_steps=KEPT)
        model(tmp_path, "2", hidden=12)
        engine, calm = InProcess(tmp_path), InProcess(tmp_path)
        take(engine, ROWS[:3])
        assert engine.ask("s", (1e300, 0.0, 0.0), 4, scope=OLD).reason is Reason.SESSION_DIVERGED
        assert migrate(engine, "s").errors == []
        assert take(engine, ROWS[3:4]) == take(calm, ROWS[:4], NEW)[3:]

    def test_queued_rows_follow(self, tmp_path: Path) -> None:
        """Rows that wait for their turn are stepped by the new version, in order; those of others stay in theirs."""
        for to, hidden in (("2", 8), ("3", 12)):
            folder = tmp_path / to
            model(folder, "1", replay_steps=KEPT)
            model(folder, to, replay_steps=KEPT, seed=1, hidden=hidden)
            engine, calm = InProcess(folder), InProcess(folder)
            take(engine, ROWS[:2], OLD, "s")
            take(engine, ROWS[:2], OLD, "other")
            requests = []
            for row in ROWS[2:6]:
                requests.append(engine.send("s", row.values, row.step, row.time, scope=OLD))
                engine.send("other", row.values, row.step, row.time, scope=OLD)
            engine.iterate()  # admits all and takes the first of each
            assert migrate(engine, "s", to=to).errors == []
            answers = engine.run()
            bits = [answers[request][0].bits for request in requests[1:]]
            assert {answers[request][0].reason for request in requests} == {Reason.OK}
            take(calm, ROWS[:3], OLD)
            assert migrate(calm, "s", to=to).errors == []
            assert bits == take(calm, ROWS[3:6])
            assert info(engine, "other").version == "1"
            assert info(engine, "other").step == 6


class TestRefused:
    """A session that cannot move stays where it is."""

    @pytest.mark.parametrize(
        ("new", "reason"),
        [
            ({"features": [{"name": "a"}, {"name": "b"}, {"name": "d", "role": "past"}]}, Reason.PACKAGE_MISMATCH),
            ({"features": [{"name": "a"}, {"name": "b"}, {"name": "c", "role": "static"}]}, Reason.PACKAGE_MISMATCH),
            ({"features": [{"name": "b"}, {"name": "a"}, {"name": "c", "role": "past"}]}, Reason.PACKAGE_MISMATCH),
            ({"features": [{"name": "a", "unit": "K"}, {"name": "b"}, {"name": "c", "role": "past"}]},
             Reason.PACKAGE_MISMATCH),
            ({"targets": ["a", "b"]}, Reason.PACKAGE_MISMATCH),
            ({"features": [{"name": "a"}, {"name": "b", "scaling": {"scale": 1e-300}}, {"name": "c", "role": "past"}]},
             Reason.SESSION_DIVERGED),
        ],
    )  # fmt: skip
    def test_by_the_package(self, tmp_path: Path, new: dict[str, Any], reason: Reason) -> None:
        """Features of other names, kinds, units or order, other targets, or numbers that the new one cannot take."""
        model(tmp_path, "1", replay_steps=KEPT)
        model(tmp_path, "2", hidden=12, **new)
        engine, calm = InProcess(tmp_path), InProcess(tmp_path)
        take(engine, ROWS[:3])
        take(calm, ROWS[:3])
        result = migrate(engine, "s")
        assert (result.errors, result.ways.tolist()) == ([(0, reason)], [Way.FAILED])
        assert held(engine, "random") == held(calm, "random")
        assert take(engine, ROWS[3:5]) == take(calm, ROWS[3:5])
        assert len(engine.sessions) == 1

    def test_nothing_is_kept(self, tmp_path: Path) -> None:
        """Without the same columns and without observations there is no way, but for a session that has no past."""
        model(tmp_path, "1", "plain")
        model(tmp_path, "2", "plain", hidden=12)
        engine = InProcess(tmp_path)
        take(engine, ROWS[:3])
        take(engine, ROWS[:3], OLD, "reset")
        engine.execute(ResetSessions("", "random", [b"reset"]))
        result = migrate(engine, "s", "reset")
        assert result.errors == [(0, Reason.PACKAGE_MISMATCH)]
        assert result.ways.tolist() == [Way.FAILED, Way.REPLAY]
        assert (info(engine, "reset").version, info(engine, "reset").step) == ("2", 3)
        take(engine, ROWS[3:4], OLD, "reset")

    def test_no_room(self, tmp_path: Path) -> None:
        """As many as there is room for; each is then one session again."""
        model(tmp_path, "1", replay_steps=KEPT)
        model(tmp_path, "2", hidden=12)
        engine = InProcess(tmp_path, limits=Limits(sessions_max=3))
        for name in ("a", "b"):
            take(engine, ROWS[:3], OLD, name)
        assert migrate(engine, "a", "b").errors == [(1, Reason.SESSION_LIMIT)]
        assert len(engine.sessions) == 2
        assert migrate(engine, "a", "b").errors == []
        counts = {lane.version: lane.sessions for lane in engine.catalog.lanes.values()}
        assert counts == {"1": 0, "2": 2}


@pytest.mark.parametrize("kind", DERIVED)
def test_a_retired_version_goes_with_its_last_session(tmp_path: Path, kind: str) -> None:
    """Migration ends what a version that left the repository has to do."""
    old, new = tmp_path / "old", tmp_path / "new"
    model(old, "1", kind, replay_steps=KEPT)
    model(new, "2", kind, hidden=12)
    engine = InProcess(old)
    take(engine, ROWS[:3])
    engine.install(new)
    assert {lane.version for lane in engine.catalog.lanes.values()} == {"1", "2"}
    assert migrate(engine, "s", to="").errors == []
    assert {lane.version for lane in engine.catalog.lanes.values()} == {"2"}
    take(engine, ROWS[3:5])
