"""Histories: to the bit what stepping makes of their rows where they are exact, and close to it where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.harness import DEVICES, Answer, InProcess
from tests.packages import random_package
from tidegate.engine import commands
from tidegate.engine.histories import warming
from tidegate.engine.histories import work as histories
from tidegate.engine.histories.history import History
from tidegate.engine.queues.block import Scope
from tidegate.engine.replies import RowFlag
from tidegate.engine.step.native_stepper import NativeStepper
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME
from tidegate.model.sequence import Sequence

HOUR = 3_600_000_000_000
STEPS = 60
FEATURES: list[dict[str, Any]] = [{"name": "a"}, {"name": "b"}, {"name": "c", "role": "past"}]
SCALED: list[dict[str, Any]] = [
    {"name": "a", "scaling": {"by": "instance"}},
    {"name": "b", "scaling": {"by": "running"}},
    {"name": "c", "role": "past", "scaling": {"transform": "log1p", "center": 0.5, "scale": 2.0}},
]
LAGS = [{"feature": name, "steps": [1, 3, 15], "scales": [1.0, 2.0, 1.0]} for name in ("a", "b")]
IMPUTE = {"policy": "impute", "gap_steps_max": 4, "missing_steps_max": 2}
KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "two layers": {"layers": 2},
    "gru": {"cell": "gru", "layers": 2},
    "gru before": {"cell": "gru", "gru_reset": "before"},
    "rnn": {"cell": "rnn_tanh"},
    "peepholes": {"cell": "lstm_peephole", "layers": 2},
    "identity": {"hidden_activation": "identity"},
    "lags": {"lags": LAGS},
    "scaling": {"features": SCALED, "scaling_window": 20},
    "change": {"features": SCALED, "lags": LAGS, "head": {"output": "change", "hidden": [8]}},
    "quantile": {"head": {"kind": "quantile", "levels": [0.1, 0.5, 0.9], "hidden": [8], "activation": "tanh"}},
    "calendar": {"calendar": [{"field": "hour_of_day"}], "ids": ["s", "t"]},
    "channels": {"channel_independent": True, "lags": LAGS},
    "feedback": {"feedback": True, "lags": LAGS},
    "kept": {"rewind_steps": 5, "lateness_steps": 3, "replay_steps": 12, "lags": LAGS},
    "words": {
        "features": [{"name": name} for name in "abc"],
        "targets": ["a", "b", "c"],
        "head": {"kind": "categorical"},
    },
    "static": {"features": [*FEATURES, {"name": "d", "role": "static"}, {"name": "e", "role": "future"}]},
    "scaled output": {
        "features": [*FEATURES, {"name": "d", "role": "output", "scaling": {"by": "instance"}}],
        "targets": ["b", "d", "a"],
    },
    "output": {"features": [*FEATURES, {"name": "d", "role": "output"}], "targets": ["b", "d", "a"]},
}


def package(folder: Path, kind: str, **fields: Any) -> None:
    """A model of a kind, that bridges gaps on an hourly grid."""
    made: dict[str, Any] = {"features": FEATURES, "targets": ["b", "a"], "frequency": "h", "gaps": IMPUTE, "hidden": 24}
    random_package(folder, **(made | KINDS[kind] | fields))


def observations(steps: int = STEPS, seed: int = 0, width: int = 3) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(3.0, 2.0, (steps, width))


def width_of(kind: str) -> int:
    return 4 if kind == "static" else 3


def hours(steps: int = STEPS, first: int = 1) -> NDArray[np.int64]:
    return np.arange(first, first + steps) * HOUR


def untimed(steps: int = STEPS) -> NDArray[np.int64]:
    return np.full(steps, NO_TIME)


def send(
    engine: InProcess,
    values: NDArray[np.float64],
    times: NDArray[np.int64] | None = None,
    first: int = 1,
    session: str = "s",
    stream: int = 1,
    deadline: float = np.inf,
    scope: Scope | None = None,
    **how: Any,
) -> int:
    """Queues a history; returns its request."""
    request = engine._request(stream)
    times = untimed(len(values)) if times is None else times
    history = History(scope or Scope("", "random"), first, times, values, **how)
    engine.engine.histories.add(request, session.encode(), history, deadline, engine.clock.seconds)
    return request


def warm(engine: InProcess, values: NDArray[np.float64], times: NDArray[np.int64] | None = None, **how: Any) -> Answer:
    """One history, taken at once."""
    request = send(engine, values, times, **how)
    return only(engine.run()[request])


def only(answers: dict[int, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


def stepped(
    engine: InProcess,
    values: NDArray[np.float64],
    times: NDArray[np.int64] | None = None,
    first: int = 1,
    session: str = "s",
    reset: bool = False,
) -> list[Answer]:
    """The same rows, one after another."""
    times = untimed(len(values)) if times is None else times
    return [
        engine.ask(session, row.tolist(), first + place if first else 0, int(time), reset and not place)
        for place, (row, time) in enumerate(zip(values, times, strict=True))
    ]


def memory(engine: InProcess, session: str = "s", but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """All that the server remembers of a session."""
    slab, slot = engine.sessions.place(engine.sessions.find("", "random", session.encode()))
    return {name: value.tobytes() for name, value in slab.read(slot).items() if name not in but}


def alike(one: InProcess, other: InProcess, session: str = "s") -> None:
    """Both remember the same of a session, to the bit."""
    mine, wanted = memory(one, session), memory(other, session)
    for name in wanted:
        assert mine[name] == wanted[name], name


def same_answer(found: Answer, wanted: Answer) -> None:
    assert found.reason is wanted.reason is Reason.OK
    assert found.bits == wanted.bits
    assert (found.step, found.steps_seen, found.imputed, found.gap, found.valid_time) == (
        wanted.step,
        wanted.steps_seen,
        wanted.imputed,
        wanted.gap,
        wanted.valid_time,
    )


def spoiled(values: NDArray[np.float64], times: NDArray[np.int64]) -> None:
    """Missing values, of targets and of others, and a gap in the times."""
    values[[5, 6, 7, 30], 0] = np.nan
    values[[6, 40], 1] = np.nan
    values[[20, 21, 22], 2] = np.nan
    times[34:] += 3 * HOUR


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spoil", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_is_stepping(tmp_path: Path, kind: str, spoil: bool, device: str) -> None:
    """Whatever the model derives and whatever is missing: an exact history leaves the session, and its answer, to the
    bit as its rows do one after another."""
    package(tmp_path, kind)
    one, other = InProcess(tmp_path, device), InProcess(tmp_path, device)
    values, times = observations(width=width_of(kind)), hours()
    if spoil:
        spoiled(values, times)
    wanted = stepped(other, values, times)[-1]
    found = warm(one, values, times, exact=True)
    same_answer(found, wanted)
    assert found.flags == wanted.flags | RowFlag.CREATED
    alike(one, other)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spoil", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_is_close_to_stepping(
    tmp_path: Path, kind: str, spoil: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without `exact`, in calls of different lengths: within 1e-5 of the values' size, and all that is counted
    is the same; the steps after it are close too."""
    monkeypatch.setattr(warming, "SEQUENCE_STEPS_MAX", 11)
    package(tmp_path, kind)
    one, other = InProcess(tmp_path, device), InProcess(tmp_path, device)
    values, times = observations(width=width_of(kind)), hours()
    if spoil:
        spoiled(values, times)
    before = stepped(other, values[:20], times[:20])[-1]
    close(warm(one, values[:20], times[:20]), before)
    wanted = stepped(other, values[20:], times[20:], first=21)[-1]
    close(warm(one, values[20:], times[20:], first=21), wanted)
    rough = ("state", "reply", "ring", "scale", "feedback", "last_input")
    but = (*rough, *(f"{name}@" for name in rough), "retained", "retained_from", "kept")
    if kind == "kept":
        but += tuple(name for name in memory(one) if name.startswith("kept_") or name.endswith("@"))
    assert memory(one, but=but) == memory(other, but=but)
    after, more = observations(2, 9, width_of(kind)), hours(2, STEPS + 1 + 3 * spoil)
    for found, expected in zip(stepped(one, after, more, 61), stepped(other, after, more, 61), strict=True):
        close(found, expected)


def close(found: Answer, wanted: Answer) -> None:
    assert found.reason is wanted.reason is Reason.OK
    assert (found.step, found.steps_seen, found.imputed, found.gap) == (
        wanted.step,
        wanted.steps_seen,
        wanted.imputed,
        wanted.gap,
    )
    assert np.abs(found.values - wanted.values).max() < 1e-5 * max(1.0, np.abs(wanted.values).max())


def by_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact histories take a launch a step, as of models that the C parts do not step alone."""
    monkeypatch.setattr(NativeStepper, "by_address", False)


def test_is_taken_as_a_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are but the first and the last (and those before which the session can be taken back), of a model
    without feedback; of one with it, and of an exact history, none."""
    by_launches(monkeypatch)
    lengths: list[int] = []
    run = Sequence.run

    def counted(self: Sequence, observations: NDArray[np.float64], *rest: Any) -> Any:
        lengths.append(len(observations))
        return run(self, observations, *rest)

    monkeypatch.setattr(Sequence, "run", counted)
    expected = {("lstm", False): STEPS - 2, ("lstm", True): 0, ("feedback", False): 0, ("kept", False): STEPS - 7}
    for (kind, exact), rows in expected.items():
        lengths.clear()
        package(tmp_path / f"{kind}-{exact}", kind)
        assert warm(InProcess(tmp_path / f"{kind}-{exact}"), observations(), exact=exact).reason is Reason.OK
        assert sum(lengths) == rows


@pytest.mark.parametrize("exact", [False, True])
def test_untimed_rows_of_a_timed_session(tmp_path: Path, exact: bool) -> None:
    """Rows without times that follow on one that has a time are dated one interval after another."""
    package(tmp_path, "calendar")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    for engine in (one, other):
        engine.ask("s", [1.0, 2.0, 3.0], 1, HOUR)
    values = observations()
    close(warm(one, values, first=2, exact=exact), stepped(other, values, first=2)[-1])
    assert memory(one)["event_time"] == memory(other)["event_time"] != np.int64(HOUR).tobytes()


@pytest.mark.parametrize("exact", [False, True])
def test_sequence_of_what_is_missing(tmp_path: Path, exact: bool) -> None:
    """Values that are missing to the end of a history count as missing in the steps after it: stale."""
    package(tmp_path, "lstm")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    values = observations()
    values[-20:, 2] = np.nan
    found, wanted = warm(one, values, exact=exact), stepped(other, values)[-1]
    close(found, wanted)
    assert RowFlag.STALE in found.flags
    assert memory(one)["missing_run"] == memory(other)["missing_run"]


@pytest.mark.parametrize("exact", [False, True])
def test_cut_in_two(tmp_path: Path, exact: bool) -> None:
    """Two histories are as good as one, with a reset in between too, and without numbers."""
    package(tmp_path, "lags")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    values, times = observations(), hours()
    stepped(other, values[:25], times[:25])
    wanted = stepped(other, values[25:], times[25:], 0, reset=True)[-1]
    warm(one, values[:25], times[:25], first=0, exact=exact)
    found = warm(one, values[25:], times[25:], first=0, reset=True, exact=exact)
    close(found, wanted)
    assert found.steps_seen == STEPS - 25
    if exact:
        alike(one, other)


@pytest.mark.parametrize("exact", [False, True])
def test_retry(tmp_path: Path, exact: bool) -> None:
    """The same history again is answered from the last reply, as a duplicate, and takes nothing; one that overlaps
    takes only what is new."""
    package(tmp_path, "lstm")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    values, times = observations(), hours()
    first = warm(one, values[:40], times[:40], exact=exact)
    before = memory(one)
    again = warm(one, values[:40], times[:40], exact=exact)
    assert again.bits == first.bits
    assert (again.step, again.steps_seen) == (40, 40)
    assert RowFlag.DUPLICATE in again.flags
    assert RowFlag.CREATED not in again.flags
    assert memory(one) == before
    assert one.engine.histories.steps == 40
    stepped(other, values, times)
    found = warm(one, values[10:], times[10:], first=11, exact=exact)
    assert (found.reason, found.step, found.steps_seen) == (Reason.OK, STEPS, STEPS)
    assert RowFlag.DUPLICATE not in found.flags
    if exact:
        alike(one, other)


def test_what_does_not_follow(tmp_path: Path) -> None:
    """A history that does not belong to the session is refused as the row would be that it is refused for, with the
    step expected; the session is as it was."""
    package(tmp_path, "lstm")
    engine = InProcess(tmp_path)
    values, times = observations(), hours()
    warm(engine, values[:30], times[:30])
    before = memory(engine)
    other = values.copy()
    other[29] += 1.0
    late = times.copy()
    late[50] = late[49]
    off = times.copy()
    off[45] += HOUR // 2 + 1
    wide = np.concatenate((values, values), axis=1)
    infinite = values.copy()
    infinite[50, 1] = np.inf
    gap = times.copy()
    gap[40:] += 9 * HOUR
    refused: list[tuple[Answer, Reason]] = [
        (warm(engine, other, times), Reason.STEP_CONFLICT),
        (warm(engine, values[:20], times[:20]), Reason.STEP_TOO_OLD),
        (warm(engine, values[:20], times[40:], first=41), Reason.STEP_GAP),
        (warm(engine, values, late), Reason.TIME_NOT_INCREASING),
        (warm(engine, values, gap), Reason.STEP_GAP),
        (warm(engine, wide, times), Reason.BAD_OBSERVATION),
        (warm(engine, infinite, times), Reason.BAD_OBSERVATION),
        (warm(engine, values, times, session="new", first=7), Reason.SESSION_NOT_FOUND),
        (warm(engine, values, times, session=""), Reason.BAD_SESSION_ID),
        (warm(engine, values, times, deadline=0.0), Reason.DEADLINE_EXCEEDED),
    ]
    for answer, reason in refused:
        assert answer.reason is reason
        assert np.isnan(answer.values).all()
        assert memory(engine) == before
    assert refused[0][0].expected == 31
    assert engine.inbox.rows == 0
    assert warm(engine, values[30:], times[30:], first=31).step == STEPS


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("place", [0, 30, STEPS - 1])
def test_a_row_that_overflows(tmp_path: Path, place: int, exact: bool) -> None:
    """Where a row's result is not finite no row is taken: the session is as it was, and goes on."""
    package(tmp_path, "lags")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    values, times = observations(), hours()
    for engine in (one, other):
        stepped(engine, values[:5], times[:5])
    bad = values[5:].copy()
    bad[min(place, len(bad) - 1)] = 1e300
    answer = warm(one, bad, times[5:], first=6, exact=exact)
    assert (answer.reason, answer.expected) == (Reason.HISTORY_DIVERGED, 6)
    alike(one, other)
    assert one.ask("s", values[5].tolist(), 6, HOUR * 6).bits == other.ask("s", values[5].tolist(), 6, HOUR * 6).bits


def test_a_session_that_fails_to_begin(tmp_path: Path) -> None:
    """A history that fails and would have opened its session leaves it open and empty."""
    package(tmp_path, "lstm")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    bad = observations()
    bad[30] = 1e300
    assert warm(one, bad).reason is Reason.HISTORY_DIVERGED
    info = one.execute(commands.GetSession("", "random", b"s"))
    assert (info.step, info.steps_seen) == (0, 0)  # type: ignore[attr-defined]
    assert warm(one, observations(), exact=True).bits == stepped(other, observations())[-1].bits


def test_quarantine(tmp_path: Path) -> None:
    """A session in quarantine takes no history without a reset."""
    package(tmp_path, "lstm")
    engine, calm = InProcess(tmp_path), InProcess(tmp_path)
    engine.ask("s", [1.0, 2.0, 3.0], 1)
    assert engine.ask("s", [1e300, 0.0, 0.0], 2).reason is Reason.SESSION_DIVERGED
    assert warm(engine, observations(), first=2).reason is Reason.SESSION_DIVERGED
    found = warm(engine, observations(), first=2, reset=True, exact=True)
    assert found.bits == stepped(calm, observations())[-1].bits
    assert found.step == STEPS + 1


def test_order_on_a_stream(tmp_path: Path) -> None:
    """Observations of the session that come while its history is taken are stepped after it, in order, and answered
    after it; those of other sessions go on meanwhile."""
    package(tmp_path, "lstm")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    values, times = observations(), hours()
    wanted = stepped(other, values, times)
    first = one.send("s", values[0].tolist(), 1, HOUR)
    request = send(one, values[1:50], times[1:50], first=2, exact=True)
    later = [one.send("s", values[place].tolist(), place + 1, HOUR * (place + 1)) for place in range(50, 56)]
    neighbour = one.send("t", [1.0, 2.0, 3.0], 1)
    one.iterate()  # the first observation and the neighbour
    more = [one.send("s", values[place].tolist(), place + 1, HOUR * (place + 1)) for place in range(56, 60)]
    answers = one.run()
    order = [request for request, _ in one.order]
    assert order.index(neighbour) < order.index(request)
    assert [entry for entry in order if entry != neighbour] == [first, request, *later, *more]
    for place, asked in enumerate([*later, *more], start=50):
        assert only(answers[asked]).bits == wanted[place].bits
    assert only(answers[request]).bits == wanted[49].bits


def test_live_rows_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows wait a history does; once it has waited for long it gets a stretch."""
    by_launches(monkeypatch)
    monkeypatch.setattr(histories, "STRETCH_SECONDS", 0.0)  # one launch at a time
    package(tmp_path, "lstm")
    engine = InProcess(tmp_path)
    send(engine, observations(), exact=True)
    engine.iterate()
    launches = engine.engine.histories._groups[0].jobs[0].warmed
    assert launches is not None
    assert launches.at == 1
    for step in range(1, 5):
        engine.send("t", [1.0, 2.0, 3.0], step)
        engine.iterate()
        assert len(engine.order) == step
    assert launches.at == 1
    engine.clock.seconds += 1.0
    engine.send("t", [1.0, 2.0, 3.0], 5)
    engine.iterate()
    assert launches.at == 2
    assert len(engine.order) == 4
    assert len(engine.run()) == 6


@pytest.mark.parametrize("kind", ["lstm", "change", "channels", "feedback"])
def test_neighbours(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of sessions that are stepped while histories, exact and not, are taken beside them have the bits that
    they have without; and exact histories have the same bits alone as among others."""
    monkeypatch.setattr(histories, "STRETCH_SECONDS", 0.0)
    package(tmp_path, kind)
    calm, busy, alone = InProcess(tmp_path), InProcess(tmp_path), InProcess(tmp_path)
    names = [f"live-{number}" for number in range(300)]
    rounds = np.random.default_rng(3).normal(3.0, 2.0, (20, 300, 3))
    requests = {
        f"past-{number}": send(
            busy, observations(STEPS - number, number), session=f"past-{number}", exact=number % 3 > 0
        )
        for number in range(40)
    }
    answers: dict[int, dict[int, Answer]] = {}
    for values in rounds:
        wanted = calm.ask_batch(names, values)
        request = busy.send_batch(names, values)
        busy.clock.seconds += 0.2
        while request not in {answered for answered, _ in busy.order}:
            busy.iterate()
        answers, busy._answers = answers | busy._answers, {}
        assert [answers[request][row].bits for row in range(300)] == [answer.bits for answer in wanted]
    answers |= busy.run()
    for number in range(40):
        if number % 3:
            found = only(answers[requests[f"past-{number}"]])
            wanted_alone = warm(alone, observations(STEPS - number, number), session=f"past-{number}", exact=True)
            assert found.bits == wanted_alone.bits


def test_one_stream_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories of a stream that went away are dropped: the session is as before, and what others send goes on."""
    monkeypatch.setattr(histories, "STRETCH_SECONDS", 0.0)
    package(tmp_path, "lstm")
    engine = InProcess(tmp_path)
    engine.ask("s", [1.0, 2.0, 3.0], 1)
    before = memory(engine)
    request = send(engine, observations(), first=2, stream=5, exact=True)
    queued = send(engine, observations(), session="t", stream=5)
    engine.iterate()
    other = engine.send("s", [2.0, 2.0, 3.0], 2, stream=6)
    engine.iterate()
    engine.execute(commands.CancelStream(5))
    waiting = send(engine, observations(), session="u", stream=5)
    engine.execute(commands.CancelStream(5))
    answers = engine.run()
    assert [only(answers[entry]).reason for entry in (request, queued, waiting)] == [Reason.CANCELLED] * 3
    assert only(answers[other]).step == 2
    assert memory(engine) != before
    assert engine.inbox.rows == 0
    assert engine.engine.histories.steps == 0


@pytest.mark.parametrize("change", ["close", "reset", "reopen"])
def test_sessions_that_change_meanwhile(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is closed while its history is taken stays closed, and the history says so, also where another
    session has its name by then; one that is reset is as if the history had come after the reset."""
    by_launches(monkeypatch)
    monkeypatch.setattr(histories, "STRETCH_SECONDS", 0.0)
    package(tmp_path, "lstm")
    engine, other = InProcess(tmp_path), InProcess(tmp_path)
    values = observations()
    for server in (engine, other):
        stepped(server, values[:3])
    request = send(engine, values[3:], first=4, exact=True)
    follower = engine.send("s", [1.0, 1.0, 1.0], 61)
    for _ in range(5):
        engine.iterate()
    if change == "reset":
        for server in (engine, other):
            server.execute(commands.ResetSessions("", "random", [b"s"]))
        wanted = stepped(other, values[3:], first=4)[-1]
        found = only(engine.run()[request])
        same_answer(found, wanted)
        return
    engine.execute(commands.CloseSessions("", "random", [b"s"]))
    if change == "reopen":
        assert engine.send("s", [1.0, 1.0, 1.0], 1)
    answers = engine.run()
    assert only(answers[request]).reason is Reason.SESSION_NOT_FOUND
    assert only(answers[follower]).reason is Reason.SESSION_NOT_FOUND
    if change == "reopen":
        assert engine.ask("s", [1.0, 1.0, 1.0], 2).steps_seen == 2


def test_a_session_that_is_reset_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history is not begun again without end."""
    monkeypatch.setattr(histories, "STRETCH_SECONDS", 0.0)
    package(tmp_path, "lstm")
    engine = InProcess(tmp_path)
    request = send(engine, observations(12), exact=True)
    rewinds = 0
    while request not in {answered for answered, _ in engine.order}:
        engine.iterate()
        slab, slot = engine.sessions.place(engine.sessions.find("", "random", b"s"))
        rewinds += 1
        slab.host["digest"][slot] = rewinds
        assert rewinds < 1000
    assert only(engine.run()[request]).reason is Reason.DEADLINE_EXCEEDED


def test_migration_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that moves to another version while its history is taken, or before, takes it there; with what was
    sent after it."""
    by_launches(monkeypatch)
    monkeypatch.setattr(histories, "STRETCH_SECONDS", 0.0)
    for version, seed in (("1", 0), ("2", 1)):
        package(tmp_path, "lstm", version=version, seed=seed)
    engine, other = InProcess(tmp_path), InProcess(tmp_path)
    values = observations()
    for server in (engine, other):
        server.ask("s", values[0].tolist(), 1, scope=Scope("", "random", "1"))
    request = send(engine, values[1:50], first=2, exact=True, scope=Scope("", "random", "1"))
    later = engine.send("s", values[50].tolist(), 51)
    for _ in range(5):
        engine.iterate()
    for server in (engine, other):
        moved = server.execute(commands.MigrateSessions("", "random", "2", [b"s"]))
        assert moved.done.all()  # type: ignore[attr-defined]
    wanted = stepped(other, values[1:51], first=2)
    answers = engine.run()
    assert only(answers[request]).bits == wanted[-2].bits
    assert only(answers[later]).bits == wanted[-1].bits
    alike(engine, other)


@pytest.mark.parametrize("exact", [False, True])
def test_back_to_a_retained_step(tmp_path: Path, exact: bool) -> None:
    """After a history a session can be taken back as far as its package says, and takes late observations."""
    package(tmp_path, "kept")
    one, other = InProcess(tmp_path), InProcess(tmp_path)
    values, times = observations(), hours()
    warm(one, values, times, exact=exact)
    stepped(other, values, times)
    changed = (values[57] + 1.0).tolist()
    found, wanted = (server.ask("s", changed, 58, 58 * HOUR) for server in (one, other))
    assert RowFlag.REVISED in found.flags
    assert np.abs(found.values - wanted.values).max() < 1e-5
    for server in (one, other):
        assert server.sessions.rewind("", "random", b"s", 55, 0.0).step == 55
        forked = server.ask("s", values[55].tolist(), 56, 56 * HOUR)
        assert forked.reason is Reason.OK
    close(*(server.ask("s", values[56].tolist(), 57, 57 * HOUR) for server in (one, other)))


@pytest.mark.parametrize("where", ["work.arranged", "work.Warming", "warming.Warming.steps"])
def test_a_failure_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Where the work fails, or cannot begin, the history says INTERNAL, and the session is as it was."""
    package(tmp_path, "lstm")
    engine = InProcess(tmp_path)
    stepped(engine, observations(3))
    before = memory(engine)

    def fail(*_: object) -> NoReturn:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(f"tidegate.engine.histories.{where}", fail)
        assert warm(engine, observations(), first=4).reason is Reason.INTERNAL
    assert engine.inbox.rows == 0
    assert memory(engine) == before
    assert warm(engine, observations(), first=4).reason is Reason.OK
