"""Exports that were forged, and what an import into another version takes along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.harness import InProcess
from tests.packages import random_package
from tidegate.engine.commands import (
    CloseSessions,
    Export,
    ExportSession,
    ForkSession,
    GetSession,
    ImportSession,
    MigrateSessions,
    RewindSession,
)
from tidegate.engine.memory import record
from tidegate.engine.queues.block import Scope
from tidegate.errors import Reason, TidegateError

FEATURES: dict[str, Any] = {"features": [{"name": "a"}], "targets": ["a"], "hidden": 8}
LAGS: dict[str, Any] = {"lags": [{"feature": "a", "steps": [1, 4], "scales": [1.0, 1.0]}]}


def exported(engine: InProcess, session: str) -> tuple[record.Heading, record.Row]:
    """A session's export, to be changed."""
    export = engine.execute(ExportSession("", "random", session.encode()))
    assert isinstance(export, Export)
    return record.unpack(export.content)


def forged(heading: record.Heading, row: record.Row) -> bytes:
    """With a checksum that is right."""
    return record.pack(heading.model, heading.version, heading.fingerprint, heading.session_id, row)


def identity_of(engine: InProcess, session: str) -> int:
    slab, slot = engine.sessions.place(engine.sessions.names("", "random")[session.encode()])
    return int(slab.host["identity"][slot])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("steps_seen", np.array(-1)),  # which C would take for a place in the ring of another session
        ("steps_seen", np.array(2**63 - 1)),
        ("step", np.array(-1)),
        ("retained", np.array(2**62)),  # which would be counted to, step by step
        ("retained_from", np.array(-5)),
        ("kept", np.array(-1)),
        ("kept_step", np.array([-1, 0, 0, 0])),
        ("kept_step", np.array([0, 0, 0, 2**63 - 1])),
        ("step@", np.array([0, -1, 0, 0])),  # which a rewind, or what comes late, would bring back
        ("steps_seen@", np.array([0, 0, -1, 0])),
        ("steps_seen@", np.array([0, 0, 2**62 + 1, 0])),
        ("identity", np.array(3, np.int32)),
        ("state", np.zeros(16)),  # float64
    ],
)
def test_what_no_session_can_be(tmp_path: Path, column: str, value: np.ndarray[Any, Any]) -> None:
    """Whoever can compute a checksum can write anything: it is refused, and no session is made of it."""
    random_package(tmp_path, **FEATURES, **LAGS, ids=["p", "q"], rewind_steps=4, lateness_steps=4)
    engine = InProcess(tmp_path)
    for step in range(3):
        engine.ask("p", [float(step)])
    heading, row = exported(engine, "p")
    assert row[column].shape == value.shape
    row[column] = value
    with pytest.raises(TidegateError) as caught:
        engine.execute(ImportSession("", forged(heading, row), b"new", ""))
    assert caught.value.reason is Reason.BAD_EXPORT
    with pytest.raises(TidegateError) as caught:
        engine.execute(GetSession("", "random", b"new"))
    assert caught.value.reason is Reason.SESSION_NOT_FOUND


def test_as_it_was(tmp_path: Path) -> None:
    """An import goes on as the session would have, and is of the stream that it was of, whatever its name."""
    random_package(tmp_path, **FEATURES, **LAGS, ids=["p", "q"], rewind_steps=4, lateness_steps=4)
    engine = InProcess(tmp_path)
    for step in range(9):
        engine.ask("q", [float(step)])
    engine.execute(ImportSession("", forged(*exported(engine, "q")), b"copy", ""))
    assert identity_of(engine, "copy") == 2
    assert engine.ask("copy", [9.0]).bits == engine.ask("q", [9.0]).bits


@pytest.fixture
def two_orders(tmp_path: Path) -> InProcess:
    """Two versions that know ids by other numbers, the second fewer; `p` was stepped by the first, three times."""
    for version, ids in (("1", ["r", "s", "p", "q"]), ("2", ["q", "p"])):
        random_package(tmp_path, version=version, **FEATURES, ids=ids, rewind_steps=4, lateness_steps=4)
    engine = InProcess(tmp_path)
    for step in (1, 2, 3):
        engine.ask("p", [float(step)], step=step, scope=Scope("", "random", "1"))
    return engine


@pytest.mark.parametrize("back", ["rewind", "late"])
def test_who_it_is_after_a_migration(two_orders: InProcess, back: str) -> None:
    """A session's id means to a version what that version says, also when it is taken back to before it came there."""
    assert identity_of(two_orders, "p") == 3
    two_orders.execute(MigrateSessions("", "random", "2", [b"p"]))
    assert identity_of(two_orders, "p") == 2
    if back == "rewind":
        two_orders.execute(RewindSession("", "random", b"p", 2))
    else:
        assert two_orders.ask("p", [2.5], step=2, scope=Scope("", "random", "1")).reason is Reason.OK
    assert identity_of(two_orders, "p") == 2


@pytest.mark.parametrize("name", ["", "copy"])
def test_who_it_is_after_an_import_into_another_version(two_orders: InProcess, name: str) -> None:
    """The same, by the name that it was exported under."""
    content = forged(*exported(two_orders, "p"))
    two_orders.execute(CloseSessions("", "random", [b"p"]))
    two_orders.execute(ImportSession("", content, name.encode(), "2"))
    assert identity_of(two_orders, name or "p") == 2


def test_a_fork_of_no_model(tmp_path: Path) -> None:
    """It is refused, and nothing is remembered of the name."""
    random_package(tmp_path, **FEATURES)
    engine = InProcess(tmp_path)
    with pytest.raises(TidegateError) as caught:
        engine.execute(ForkSession("", "other", b"a", b"b"))
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert ("", "other") not in engine.sessions._names


def test_what_is_refused_makes_no_room(tmp_path: Path) -> None:
    """Nobody leaves memory for an import that comes to nothing."""
    random_package(tmp_path, **FEATURES)
    engine = InProcess(tmp_path)
    engine.ask("p", [1.0])
    heading, row = exported(engine, "p")
    row["step"] = np.array(-1)
    engine.sessions.make_room = lambda *_: pytest.fail("room was made")
    with pytest.raises(TidegateError) as caught:
        engine.execute(ImportSession("", forged(heading, row), b"new", ""))
    assert caught.value.reason is Reason.BAD_EXPORT
