"""Quick turns do what flights do, also when the columns that they were told of are gone."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.harness import LIMITS, InProcess
from tests.packages import random_package
from tidegate.engine.commands import CloseSessions, Sweep
from tidegate.engine.flights.ordinary import Ordinary
from tidegate.engine.flights.quick import ROWS_MAX, Turn
from tidegate.engine.judgement.rules import digest
from tidegate.engine.loop import AnyFlight
from tidegate.engine.memory.slots import slots_of
from tidegate.engine.queues.block import Addresses, AliasTable, Scope
from tidegate.engine.queues.lane import Queued, RowQueue
from tidegate.engine.replies import STREAM_SHIFT
from tidegate.engine.step import device
from tidegate.engine.step.native_stepper import NativeStepper
from tidegate.engine.step.pace import SIZES, Pace
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME
from tidegate.native import address, library


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """One small model. Its steps are quick enough for turns, also where the machine stands still in one of them."""
    if library() is None:
        pytest.skip("the C parts are not built here: there is no C compiler, or the processor is too old")
    for limit in ("INLINE_SECONDS_MAX", "ALONE_SECONDS_MAX"):
        monkeypatch.setattr(device, limit, 3600.0)
    random_package(tmp_path / "models", hidden=8)
    return InProcess(tmp_path / "models")


def test_turns_are_about_the_columns_of_now(engine: InProcess) -> None:
    """The inbox gets new columns now and then, and one of them may lie where one lay before, and another not: what a
    session remembers of its observation is that observation."""
    engine.ask("a", [0.1] * 4)
    engine.send("a", [0.2] * 4)
    waiting = engine.inbox.quick(1)
    assert waiting is not None
    assert engine.engine.admission.quick(waiting, engine.clock.read()) is not None
    other = np.array([[0.3, 0.4, 0.5, 0.6]])
    waiting.values, waiting.at = other, Addresses.from_buffer_copy(waiting.at)
    waiting.at.values = address(other)
    assert engine.engine.admission.quick(waiting, engine.clock.read()) is not None
    host = engine.catalog.lanes[0].slab.host
    (slot,) = slots_of(np.array([engine.sessions.names("", "random")[b"a"]]))
    assert (host["last_input"][slot] == other[0]).all()
    assert host["digest"][slot] == digest(other, np.array([NO_TIME]), np.zeros(1, bool))[0]


def test_turns_are_taken(engine: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary observation goes by a turn: nothing makes a flight of it."""
    engine.ask("a", [0.1] * 4, step=1)
    monkeypatch.setattr(engine.engine, "prepare", lambda: pytest.fail("a flight was made up"))
    assert engine.ask("a", [0.2] * 4, step=2).step == 2


@pytest.mark.parametrize("rows", [1, 3, ROWS_MAX])
def test_steps_of_turns_are_learned_from(engine: InProcess, rows: int) -> None:
    """By the C parts, as `Pace` learns from those of flights."""
    names, pace = [f"s{row}" for row in range(rows)], engine.catalog.lanes[0].stepper.pace
    for name in names:  # opens the sessions, by a flight
        engine.ask(name, [0.1] * 4)
    for _ in range(3):
        alike, seconds = Pace(), engine.metrics.step_seconds.buckets()[1]
        ctypes.memmove(alike.where, pace.where, 8 * SIZES)
        for name in names:
            engine.send(name, [0.2] * 4)
        turn = engine.engine.quick()
        assert isinstance(turn, Turn)
        alike.measured(rows, engine.metrics.step_seconds.buckets()[1] - seconds)
        for size in (1, rows, 2 * rows, 1 << 20):
            assert pace.expected(size) == pytest.approx(alike.expected(size), rel=1e-6)


def test_several_scopes(engine: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams with other configs take turns too: what one of them has waiting is all that waits."""
    scopes = [Scope("", "random"), Scope("", "random", strict_steps=True)]
    for step in (1, 2):
        for name, scope in zip("ab", scopes, strict=True):
            engine.ask(name, [0.1] * 4, step=step, scope=scope)
    monkeypatch.setattr(engine.engine, "prepare", lambda: pytest.fail("a flight was made up"))
    for step in (3, 4):
        for name, scope in zip("ab", scopes, strict=True):
            assert engine.ask(name, [0.2] * 4, step=step, scope=scope).step == step


def test_sessions_of_two_versions(tmp_path: Path, engine: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream may ask for sessions of several versions, which take turns each by their own."""
    engine.ask("old", [0.1] * 4, step=1)
    random_package(tmp_path / "models", version="2", hidden=8, seed=1)
    engine.install(tmp_path / "models")
    engine.ask("new", [0.1] * 4, step=1)
    calm = InProcess(tmp_path / "models")
    monkeypatch.setattr(engine.engine, "prepare", lambda: pytest.fail("a flight was made up"))
    for name, version in (("old", "1"), ("new", "2")):
        calm.ask(name, [0.1] * 4, step=1, scope=Scope("", "random", version))
    for step in (2, 3, 4):
        for name in ("old", "new"):
            values = [0.1 * step] * 4
            assert engine.ask(name, values, step=step).bits == calm.ask(name, values, step=step).bits


@pytest.mark.parametrize("rows", [ROWS_MAX - 1, ROWS_MAX, ROWS_MAX + 1, 3 * ROWS_MAX])
@pytest.mark.parametrize("way", ["singles", "batch"])
def test_many_rows(engine: InProcess, monkeypatch: pytest.MonkeyPatch, way: str, rows: int) -> None:
    """As many rows as a turn takes, and more: each session's answer is its own, as if it were alone."""
    names, values = [f"s{row}" for row in range(rows)], np.random.default_rng(rows).standard_normal((rows, 4))
    table, aliases = AliasTable(), list(range(rows))
    engine.ask_batch(names, values, aliases=aliases, table=table)  # opens the sessions
    engine.ask_batch([], values, aliases=aliases, table=table)  # finds them by alias
    if way == "batch":
        with monkeypatch.context() as patch:
            if rows <= ROWS_MAX:
                patch.setattr(engine.engine, "prepare", lambda: pytest.fail("a flight was made up"))
            together = engine.ask_batch([], values, aliases=aliases, table=table)
    else:
        requests = [engine.send(name, list(row)) for name, row in zip(names, values, strict=True)]
        answers = engine.run()
        together = [answers[request][0] for request in requests]
    for row in (0, rows // 2, rows - 1):
        for _ in range(3):
            alone = engine.ask(f"alone-{row}", list(values[row]))
        assert together[row].step == 3
        assert together[row].bits == alone.bits


def test_batches_that_could_be_joined_are(engine: InProcess) -> None:
    """One batch that waits takes a turn; of two streams', both are stepped at once, and each row is as if alone."""
    tables, aliases, values = [AliasTable(), AliasTable()], [0, 1], np.random.default_rng(1).standard_normal((2, 2, 4))
    for stream, table in enumerate(tables):
        for names in ([f"{stream}-{row}" for row in aliases], []):  # opens the sessions, finds them by alias
            engine.ask_batch(names, values[stream], aliases=aliases, table=table)
    before, scope = engine.iterations, Scope("", "random")
    requests = [
        engine.send_batch([], values[stream], aliases=aliases, table=table, scope=scope, stream=stream + 1)
        for stream, table in enumerate(tables)
    ]
    answers = engine.run()
    assert engine.iterations == before + 1
    for stream, request in enumerate(requests):
        for row in aliases:
            for _ in range(3):
                alone = engine.ask(f"alone-{stream}-{row}", list(values[stream, row]))
            assert answers[request][row].step == 3
            assert answers[request][row].bits == alone.bits


@pytest.mark.parametrize(("cores", "fitting"), [(1, 20), (2, LIMITS.batch_rows_max)])
def test_turns_are_of_as_many_batches_as_are_quick(
    engine: InProcess, monkeypatch: pytest.MonkeyPatch, cores: int, fitting: int
) -> None:
    """Where a turn of all batches would hold up the loop for too long, the next ones are of fewer: with one core, which
    a thread would share with the loop. A sweep forgets that."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(NativeStepper, "expected_seconds", lambda _, rows: rows * device.ALONE_SECONDS_MAX / 20)
    streams, aliases, values = 8, list(range(4)), np.random.default_rng(3).standard_normal((4, 8, 4, 4))
    tables, flights = [AliasTable() for _ in range(streams)], list[int]()

    def send(message: int) -> list[int]:
        return [
            engine.send_batch(
                [] if message else [f"{stream}-{row}" for row in aliases],
                values[message, stream],
                aliases=aliases,
                table=tables[stream],
                stream=stream + 1,
                scope=scope,
            )
            for stream in range(streams)
        ]

    scope, prepare = Scope("", "random"), engine.engine.prepare

    def count() -> AnyFlight | None:
        flight = prepare()
        if isinstance(flight, Ordinary):
            flights.append(len(flight.batch))
        return flight

    send(0)  # opens the sessions
    engine.run()
    for stream in range(streams):  # finds them by alias
        engine.ask_batch([], values[1, stream], aliases=aliases, table=tables[stream])
    monkeypatch.setattr(engine.engine, "prepare", count)
    for message in (2, 3):
        requests = send(message)
        answers = engine.run()
    assert flights == ([32] if cores == 1 else [32, 32])
    assert engine.inbox.together_max == fitting
    for stream in (0, 4, 5, 7):
        for message in range(4):
            alone = engine.ask(f"alone-{stream}", list(values[message, stream, 3]))
        assert answers[requests[stream]][3].bits == alone.bits
    engine.execute(Sweep())
    assert engine.inbox.together_max == LIMITS.batch_rows_max


def test_a_backlog_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a batch takes were queued once. The streams go on at once when they are answered, so that rows
    wait all the time; yet after one batch of each, none is queued row by row again."""
    if library() is None:
        pytest.skip("the C parts are not built here: there is no C compiler, or the processor is too old")
    random_package(tmp_path / "models", hidden=8)
    engine = InProcess(tmp_path / "models", limits=LIMITS.model_copy(update={"batch_rows_max": 8}))
    streams, rows, messages = 12, 4, 10
    tables, aliases = [AliasTable() for _ in range(streams)], list(range(rows))
    values = np.random.default_rng(2).standard_normal((messages, streams, rows, 4))
    sent, answered = [0] * streams, 0

    def send(stream: int) -> None:
        names = [] if sent[stream] else [f"{stream}-{row}" for row in aliases]
        message = values[sent[stream], stream]
        engine.send_batch(names, message, aliases=aliases, table=tables[stream], stream=stream)
        sent[stream] += 1

    queued: list[int] = []
    append = RowQueue.append

    def count(queue: RowQueue, rows: Queued, next_turn: NDArray[np.int64]) -> None:
        queued.append(len(rows))
        append(queue, rows, next_turn)

    monkeypatch.setattr(RowQueue, "append", count)
    for stream in range(streams):
        send(stream)
    while engine.engine.waiting:
        engine.iterate()
        for request, _ in engine.order[answered::rows]:
            stream = request >> STREAM_SHIFT
            if sent[stream] < messages:
                send(stream)
        answered = len(engine.order)
    assert answered == streams * rows * messages
    assert sum(queued) <= 2 * streams * rows
    answers = engine.run()
    for request, (stream, row) in ((request, (request >> STREAM_SHIFT, row)) for request, row in engine.order[-8:]):
        for message in range(messages):
            alone = engine.ask(f"alone-{request}-{row}", list(values[message, stream, row]))
        assert answers[request][row].bits == alone.bits


def test_a_backlog_of_one_version_holds_up_no_other(tmp_path: Path) -> None:
    """Versions take turns: while two have more than a batch waiting, a new row of one is in its next turns."""
    for version in ("1", "2"):
        random_package(tmp_path / "models", hidden=8, version=version, seed=int(version))
    engine = InProcess(tmp_path / "models", limits=LIMITS.model_copy(update={"batch_rows_max": 8}))
    scopes = [Scope("", "random", version) for version in ("1", "2")]
    for stream, (scope, sessions) in enumerate(zip(scopes, (120, 40), strict=True)):
        for session in range(sessions):
            for _ in range(20):
                engine.send(f"{stream}-{session}", [0.1] * 4, scope=scope, stream=stream)
    for _ in range(4):
        engine.iterate()
    request = engine.send("late", [0.2] * 4, scope=scopes[1], stream=4)
    before = engine.iterations
    while (request, 0) not in engine.order:
        engine.iterate()
    assert engine.iterations - before <= 2 * (40 // 8 + 1)


def test_a_close_is_of_the_rows_before_it(tmp_path: Path) -> None:
    """A row that came before its session was closed finds none, also while a turn is under way; it opens no new one."""
    random_package(tmp_path / "models", hidden=8)
    engine = InProcess(tmp_path / "models", limits=LIMITS.model_copy(update={"batch_rows_max": 8}))
    engine.ask("s", [0.0] * 4)
    for session in range(100):
        engine.send(f"a{session}", [0.1] * 4, stream=2)
    engine.iterate()
    request = engine.send("s", [0.2] * 4, stream=3)
    engine.iterate()
    assert (request, 0) not in engine.order
    engine.execute(CloseSessions("", "random", [b"s"]))
    assert engine.run()[request][0].reason is Reason.SESSION_NOT_FOUND
    assert b"s" not in engine.sessions.names("", "random")


@pytest.mark.parametrize("role", ["future", "output"])
@pytest.mark.parametrize("beside", [False, True])
def test_as_many_values_as_the_package_has_features(tmp_path: Path, role: str, beside: bool) -> None:
    """Some of them are not sent in `values`: such an observation is wrong, whoever it comes with."""
    features = [{"name": "a"}, {"name": "b", "role": role}]
    random_package(tmp_path / "models", features=features, targets=["a", "b"] if role == "output" else ["a"], hidden=8)
    engine = InProcess(tmp_path / "models")
    future = [0.5] if role == "future" else []
    assert engine.ask("s", [0.1], future=future).reason is Reason.OK
    request = engine.send("s", [0.1, 0.2])
    if beside:
        engine.send("new", [0.1, 0.2])
    assert engine.run()[request][0].reason is Reason.BAD_OBSERVATION


def test_times_at_the_end(tmp_path: Path) -> None:
    """The last ones that there are, are to a turn what they are to a flight."""
    random_package(tmp_path / "models", features=[{"name": "a"}], targets=["a"], hidden=8, frequency="8ns")
    last, found = 2**63 - 32 * 86_400 * 10**9 - 8, list[tuple[int, ...]]()
    for general in (False, True):
        engine = InProcess(tmp_path / "models")
        if general:
            engine.engine.quick = lambda: None  # type: ignore[method-assign]
            engine.engine._ordinary = lambda: None  # type: ignore[method-assign]
        engine.ask("s", [1.0], time=last - 8)
        answers = engine.ask("s", [1.0], time=last), engine.ask("s", [1.0])
        slab, slot = engine.sessions.place(engine.sessions.names("", "random")[b"s"])
        found.append((*(answer.valid_time for answer in answers), int(slab.host["event_time"][slot])))
    assert found[0] == found[1]
