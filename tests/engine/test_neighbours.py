"""What goes wrong in one row touches no other: to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.harness import DEVICES, Answer, InProcess
from tests.packages import random_package
from tidegate.engine import commands
from tidegate.engine.memory.slots import slots_of
from tidegate.engine.queues.block import AliasTable, Scope
from tidegate.errors import Reason

SESSIONS, FEATURES, ROUNDS = 1000, 4, 6
IDS = [f"s{number}" for number in range(SESSIONS)]
SICK = 421
CELLS: list[dict[str, Any]] = [
    {"cell": "lstm"},
    {"cell": "lstm_peephole", "layers": 2},
    {"cell": "gru", "hidden_activation": "identity"},
    {"cell": "rnn_tanh", "hidden_activation": "identity"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 and a version 2 with more features and other targets."""
    folder = tmp_path_factory.mktemp("models")
    random_package(folder, version="1", features=FEATURES, targets=2)
    random_package(folder, version="2", features=FEATURES, targets=3)
    random_package(folder, version="3", features=FEATURES + 1, targets=2)
    return folder


@pytest.fixture(params=DEVICES)
def engine(request: pytest.FixtureRequest, models: Path) -> InProcess:
    return InProcess(models, request.param)


def version(number: int) -> Scope:
    return Scope("", "random", str(number))


def observations(rounds: int = ROUNDS) -> NDArray[np.float64]:
    return np.random.default_rng(5).standard_normal((rounds, SESSIONS, FEATURES))


def bits(answers: list[Answer], *but: int) -> list[bytes]:
    return [answer.bits for place, answer in enumerate(answers) if place not in but]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [1e300, -1e39])
@pytest.mark.parametrize("fields", CELLS, ids=lambda fields: fields["cell"])
def test_a_diverging_session(tmp_path: Path, fields: dict[str, Any], value: float, device: str) -> None:
    """One session of a thousand overflows: its rows say SESSION_DIVERGED until a reset, the others' bytes are those of
    a run in which it stays healthy, and the reset one goes on as if new."""
    random_package(tmp_path, features=FEATURES, targets=2, **fields)
    healthy, struck = InProcess(tmp_path, device, threads=2), InProcess(tmp_path, device, threads=2)
    values = observations()
    for step in range(1, ROUNDS + 1):
        sent = values[step - 1].copy()
        if step == 3:
            sent[SICK] = [value, -value, value, -value]
        resets = np.zeros(SESSIONS, bool)
        resets[SICK] = step == 5
        steps = np.full(SESSIONS, step)
        if step >= 3:
            steps[SICK] = min(3, step) if step < 5 else step - 2
        well = healthy.ask_batch(IDS, values[step - 1], steps=[step] * SESSIONS)
        ill = struck.ask_batch(IDS, sent, steps=steps, resets=resets)
        assert bits(well, SICK) == bits(ill, SICK)
        assert all(answer.reason is Reason.OK for place, answer in enumerate(ill) if place != SICK)
        if step in (3, 4):
            assert ill[SICK].reason is Reason.SESSION_DIVERGED
            assert ill[SICK].expected == 3
            assert np.isnan(ill[SICK].values).all()
        else:
            assert ill[SICK].reason is Reason.OK
    fresh = InProcess(tmp_path, device)
    again = [fresh.ask("alone", list(values[step][SICK])).bits for step in (4, 5)]
    assert again[1] == ill[SICK].bits
    assert np.isfinite(ill[SICK].values).all()


def test_a_diverging_session_alone(tmp_path: Path) -> None:
    """The others' bytes are also those of a run in which the session does not exist."""
    random_package(tmp_path, features=FEATURES, targets=2)
    without, struck = InProcess(tmp_path), InProcess(tmp_path)
    values = observations(3)
    others = [place for place in range(SESSIONS) if place != SICK]
    for step in range(3):
        sent = values[step].copy()
        if step == 1:
            sent[SICK] = 1e300
        ill = struck.ask_batch(IDS, sent)
        alone = without.ask_batch([IDS[place] for place in others], values[step][others])
        assert bits(ill, SICK) == bits(alone)


def test_reset_lifts_quarantine(engine: InProcess) -> None:
    """A quarantined session refuses steps, still answers a retry of its last good one, and begins anew after a reset,
    on the row or by command."""
    good = engine.ask("a", [1.0] * FEATURES, step=1, scope=version(1))
    assert engine.ask("a", [1e300] * FEATURES, step=2).reason is Reason.SESSION_DIVERGED
    assert engine.ask("a", [1.0] * FEATURES, step=2).reason is Reason.SESSION_DIVERGED
    assert engine.ask("a", [1.0] * FEATURES, step=1).bits == good.bits
    by_row = engine.ask("a", [1.0] * FEATURES, step=2, reset=True)
    assert (by_row.reason, by_row.bits, by_row.steps_seen, by_row.step) == (Reason.OK, good.bits, 1, 2)
    assert engine.ask("a", [1e300] * FEATURES, step=3, reset=True).reason is Reason.SESSION_DIVERGED
    engine.execute(commands.ResetSessions("", "random", [b"a"]))
    by_command = engine.ask("a", [1.0] * FEATURES, step=3)
    assert (by_command.reason, by_command.bits, by_command.step) == (Reason.OK, good.bits, 3)


def test_bad_rows_in_one_message(engine: InProcess) -> None:
    """Infinite values, an unknown alias, a step of no session, another width and other targets: each row gets its own
    reason, and the rows around them the bytes that they have without them."""
    table = AliasTable()
    names = ["good", "infinite", "ahead", "targets", "wide", "late", "also good"]
    for name, number, width in (("targets", 2, FEATURES), ("wide", 3, FEATURES + 1)):
        engine.ask(name, [0.5] * width, step=1, scope=version(number))
    for name in ("good", "also good", "infinite", "late", "twin"):
        engine.ask(name, [0.5] * FEATURES, step=1, scope=version(1))
    values = np.full((8, FEATURES), 0.25)
    values[1, 2] = -np.inf
    aliases = [0, 1, 2, 3, 4, 5, 6]
    request = engine.send_batch(
        names, values[:7], [2, 2, 9, 2, 2, 5, 2], scope=version(1), aliases=aliases, table=table
    )
    answers = engine.run()[request]
    reasons = [answers[row].reason for row in range(7)]
    assert reasons == [
        Reason.OK,
        Reason.BAD_OBSERVATION,
        Reason.SESSION_NOT_FOUND,
        Reason.TARGETS_DIFFER,
        Reason.BAD_OBSERVATION,
        Reason.STEP_GAP,
        Reason.OK,
    ]
    request = engine.send_batch([], values[:2], [3, 3], scope=version(1), aliases=[0, 77], table=table)
    by_alias = engine.run()[request]
    assert by_alias[1].reason is Reason.UNKNOWN_ALIAS
    twin = [engine.ask("twin", [0.25] * FEATURES, step=step) for step in (2, 3)]
    assert twin[0].bits == answers[0].bits == answers[6].bits
    assert twin[1].bits == by_alias[0].bits
    for name, number, width in (("targets", 2, FEATURES), ("wide", 3, FEATURES + 1)):
        assert engine.ask(name, [0.25] * width, step=2, scope=version(number)).reason is Reason.OK
    for name in ("infinite", "late"):
        assert engine.ask(name, [0.25] * FEATURES, step=2).bits == twin[0].bits


def test_rows_of_versions_of_one_width_share_a_message(engine: InProcess) -> None:
    """Sessions of a version with the same targets but another width in one message: by row, BAD_OBSERVATION or fine."""
    engine.ask("narrow", [0.5] * FEATURES, step=1, scope=version(1))
    engine.ask("wide", [0.5] * (FEATURES + 1), step=1, scope=version(3))
    table = AliasTable()
    for width, reasons in (
        (FEATURES, [Reason.OK, Reason.BAD_OBSERVATION]),
        (FEATURES + 1, [Reason.BAD_OBSERVATION, Reason.OK]),
    ):
        request = engine.send_batch(["narrow", "wide"], np.full((2, width), 0.5), [2, 2], scope=version(1), table=table)
        answers = engine.run()[request]
        assert [answers[row].reason for row in range(2)] == reasons


def test_a_step_that_fails(models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where a step fails, its rows say INTERNAL and their sessions, perhaps half stepped, wait for a reset; other
    models' rows are stepped, and the server goes on."""
    random_package(models, "other", features=FEATURES, targets=2)
    engine, calm = InProcess(models), InProcess(models)
    for server in (engine, calm):
        server.ask("a", [1.0] * FEATURES, step=1, scope=version(1))
    broken = engine.catalog.resolve("random", "1").stepper

    def fail(*_: object) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(broken, "launch", fail)
        patch.setattr(engine.engine.admission, "quick", lambda *_: None)  # which is C alone
        failed, fine = engine.send("a", [2.0] * FEATURES, 2), engine.send("b", [2.0] * FEATURES, 1, scope="other")
        answers = engine.run()
    assert answers[failed][0].reason is Reason.INTERNAL
    assert answers[fine][0].reason is Reason.OK
    assert "out of memory" in caplog.text
    assert engine.ask("a", [2.0] * FEATURES, step=2).reason is Reason.SESSION_DIVERGED
    again, wanted = (server.ask("a", [2.0] * FEATURES, step=2, reset=True) for server in (engine, calm))
    assert again.reason is Reason.OK
    assert again.bits == wanted.bits


@pytest.mark.parametrize("device", DEVICES)
def test_a_session_that_diverges_on_its_way_over_a_gap(tmp_path: Path, device: str) -> None:
    """All that miss more steps are not finite any more: they alone are told, and the steps that are left are not
    taken for nobody."""
    random_package(tmp_path, hidden=8, gaps={"policy": "impute", "gap_steps_max": 9})
    engine, calm = (InProcess(tmp_path, device) for _ in range(2))
    for one in (engine, calm):
        for name in ("sick", "short", "well"):
            for _ in range(2):
                one.ask(name, [0.1] * FEATURES)
    (slot,) = slots_of(np.array([engine.sessions.names("", "random")[b"sick"]]))
    engine.catalog.lanes[0].slab.device["state"][slot] = np.nan  # a state that runs away
    steps = {"sick": 6, "short": 4, "well": 3}
    requests = {name: engine.send(name, [0.2] * FEATURES, step) for name, step in steps.items()}
    answers = engine.run()
    assert answers[requests["sick"]][0].reason is Reason.SESSION_DIVERGED
    for name in ("short", "well"):
        answer = answers[requests[name]][0]
        assert answer.reason is Reason.OK
        assert answer.bits == calm.ask(name, [0.2] * FEATURES, steps[name]).bits
