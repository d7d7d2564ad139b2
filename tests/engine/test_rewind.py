"""Rewinding: a session that was taken back is, to the bit, one that never took what came after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.harness import DEVICES, InProcess
from tests.identity.feeds import DERIVED
from tests.packages import random_package
from tidegate.engine.commands import ForkSession, ResetSessions, RewindSession
from tidegate.errors import Reason, TidegateError

STEPS_BACK = 4
Row = tuple[int, NDArray[np.float64]]


def model(folder: Path, kind: str) -> None:
    """One of DERIVED that can be rewound and bridges gaps."""
    features = [{"name": "a"}, {"name": "b"}, {"name": "c", "role": "past"}]
    gaps = {"policy": "impute", "gap_steps_max": 2}
    given = {"features": features, "targets": ["b", "a"], "frequency": "h", "hidden": 20, "gaps": gaps}
    random_package(folder, **given | DERIVED[kind], rewind_steps=STEPS_BACK)  # type: ignore[arg-type]


def take(engine: InProcess, session: str, row: Row) -> bytes:
    """One observation; returns the prediction's bits."""
    answer = engine.ask(session, row[1].tolist(), row[0])
    assert answer.reason is Reason.OK
    return answer.bits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", DERIVED)
def test_as_if_it_had_never_been(tmp_path: Path, kind: str, device: str) -> None:
    """Sessions that are stepped, rewound and stepped again at random, among others, end with the bits of sessions that
    took only what remains of their histories."""
    model(tmp_path, kind)
    random, engine = np.random.default_rng(1), InProcess(tmp_path, device)
    histories: dict[str, list[Row]] = {f"s{number}": [] for number in range(12)}
    last: dict[str, bytes] = {}
    rewound = 0
    for _ in range(200):
        session = f"s{random.integers(12)}"
        history = histories[session]
        reach = engine_reach(engine, session)
        if reach and random.random() < 0.3:
            step = int(random.choice(reach))
            engine.execute(RewindSession("", "random", session.encode(), step))
            histories[session] = [row for row in history if row[0] <= step]
            rewound += 1
            continue
        before = history[-1][0] if history else 0
        step = before + (int(random.integers(1, 3)) if before else 1)
        history.append((step, np.where(random.random(3) < 0.1, np.nan, random.normal(3.0, 2.0, 3))))
        last[session] = take(engine, session, history[-1])
    assert rewound > 20
    probe = np.array([1.0, 2.0, 3.0])
    calm = InProcess(tmp_path, device)
    for session, history in histories.items():
        for row in history:
            take(calm, session, row)
        step = history[-1][0] + 1 if history else 1
        assert take(engine, session, (step, probe)) == take(calm, session, (step, probe)), session


def engine_reach(engine: InProcess, session: str) -> list[int]:
    """The steps that a session can be taken back to."""
    ref = engine.sessions.names("", "random").get(session.encode())
    if ref is None:
        return []
    slab, slot = engine.sessions.place(ref)
    return list(slab.retained_steps(slot))


def test_how_far_back(tmp_path: Path) -> None:
    """As many steps as the package says, and no step of a branch that was left; a retry of the step that it was taken
    back to is answered."""
    model(tmp_path, "quantiles")
    engine = InProcess(tmp_path)
    rows = [(step, np.full(3, float(step))) for step in range(1, 9)]
    for row in rows:
        take(engine, "s", row)
    assert engine_reach(engine, "s") == [4, 5, 6, 7]
    with pytest.raises(TidegateError, match="steps that are: 4 to 7") as caught:
        engine.execute(RewindSession("", "random", b"s", 3))
    assert caught.value.reason is Reason.STEP_NOT_RETAINED
    engine.execute(RewindSession("", "random", b"s", 8))  # where it is
    engine.execute(RewindSession("", "random", b"s", 6))
    assert engine_reach(engine, "s") == [4, 5]
    assert engine.ask("s", rows[5][1].tolist(), 6).reason is Reason.OK
    assert engine.ask("s", rows[7][1].tolist(), 8).gap == 1
    assert engine_reach(engine, "s") == [4, 5, 6]


def test_forks_of_the_past(tmp_path: Path) -> None:
    """A fork of a retained step goes on from there, can be rewound itself, and leaves the session where it is."""
    model(tmp_path, "lags-calendar")
    engine = InProcess(tmp_path)
    rows = [(step, np.random.default_rng(step).normal(3.0, 2.0, 3)) for step in range(1, 8)]
    bits = [take(engine, "s", row) for row in rows]
    engine.execute(ForkSession("", "random", b"s", b"fork", 5))
    assert [take(engine, "fork", row) for row in rows[5:]] == bits[5:]
    engine.execute(RewindSession("", "random", b"fork", 4))
    assert [take(engine, "fork", row) for row in rows[4:]] == bits[4:]
    assert take(engine, "s", (8, np.ones(3))) == take(engine, "fork", (8, np.ones(3)))
    sessions = len(engine.sessions)
    with pytest.raises(TidegateError):
        engine.execute(ForkSession("", "random", b"s", b"other", 1))
    assert len(engine.sessions) == sessions


def test_back_over_a_reset_and_out_of_a_quarantine(tmp_path: Path) -> None:
    """What was before a reset can come back, and a session that diverged goes on from where it was well."""
    model(tmp_path, "by-session")
    engine = InProcess(tmp_path)
    rows = [(step, np.random.default_rng(step).normal(3.0, 2.0, 3)) for step in range(1, 6)]
    bits = [take(engine, "s", row) for row in rows[:4]]
    engine.execute(ResetSessions("", "random", [b"s"]))
    take(engine, "s", (5, np.ones(3)))
    engine.execute(RewindSession("", "random", b"s", 3))
    assert take(engine, "s", rows[3]) == bits[3]
    assert engine.ask("s", [1e300, 1.0, 1.0], 5).reason is Reason.SESSION_DIVERGED
    engine.execute(RewindSession("", "random", b"s", 3))
    assert take(engine, "s", rows[3]) == bits[3]


def test_costs_nothing_where_it_is_not_wanted(tmp_path: Path) -> None:
    """A package without rewinding has no such columns, and each step back costs as much as the session itself."""
    random_package(tmp_path, "none")
    random_package(tmp_path, "some", rewind_steps=3)
    engine = InProcess(tmp_path)
    none, some = (engine.catalog.resolve(name).slab for name in ("none", "some"))
    assert not none.schema.past
    local = sum(column.row_bytes for column in none.schema.columns if column.local)
    assert some.row_bytes == none.row_bytes + 3 * (none.row_bytes - local) + 16
