"""What must not happen when something fails inside: silence, a doubled answer, a doubled step, a starved neighbour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.harness import InProcess, in_order
from tests.packages import random_package
from tidegate.engine.admission import Admission
from tidegate.engine.memory.slab import Slab
from tidegate.engine.queues.lane import Lane
from tidegate.errors import Reason

ROW = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def engine(tmp_path: Path) -> InProcess:
    """One small model."""
    random_package(tmp_path / "models", hidden=8)
    return InProcess(tmp_path / "models")


def test_long_queue_of_one_session(engine: InProcess) -> None:
    """A session with thousands of queued rows delays a neighbour by one iteration, not by its queue."""
    for _ in range(3):
        engine.send_batch(["hot"] * 5000, np.tile(ROW, (5000, 1)))
    request = engine.send("other", ROW, stream=2)
    engine.iterate()
    assert (request, 0) in engine.order
    assert engine.iterations == 1


def test_failed_step(engine: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a step that fails half-way are answered INTERNAL and quarantined: a retry cannot step them twice."""
    lane = engine.catalog.lanes[0]
    engine.ask("a", ROW, step=1)
    launch = lane.stepper.launch

    def breaks(batch: object, state: object) -> None:
        launch(batch, state)  # type: ignore[arg-type]
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(lane.stepper, "launch", breaks)
    monkeypatch.setattr(engine.engine.admission, "quick", lambda *_: None)  # which is C alone
    assert engine.ask("a", ROW, step=2).reason is Reason.INTERNAL
    monkeypatch.undo()
    assert engine.ask("a", ROW, step=2).reason is Reason.SESSION_DIVERGED
    afresh = engine.ask("b", ROW, step=1)
    assert engine.ask("a", ROW, step=2, reset=True).bits == afresh.bits
    assert engine.inbox.rows == 0


@pytest.mark.parametrize(("owner", "method"), [(Admission, "_values"), (Slab, "open"), (Lane, "layout")])
def test_failed_admission(engine: InProcess, monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
    """Rows that cannot be admitted are answered INTERNAL once each; the next message is served."""

    def breaks(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(owner, method, breaks)
    request = engine.send_batch(["a", "b"], [ROW, ROW])
    answers = in_order(engine.run()[request])
    assert [answer.reason for answer in answers] == [Reason.INTERNAL, Reason.INTERNAL]
    monkeypatch.undo()
    assert engine.ask("c", ROW, step=1).reason is Reason.OK
    assert engine.inbox.rows == 0


def test_failed_batch(engine: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that cannot be made up is answered INTERNAL; its sessions were not touched."""

    def breaks(*_: object) -> None:
        raise MemoryError

    engine.ask("a", ROW, step=1)
    monkeypatch.setattr("tidegate.engine.engine.make_flight", breaks)
    monkeypatch.setattr(Admission, "ordinary", breaks)
    monkeypatch.setattr(Admission, "quick", breaks)
    assert engine.ask("a", ROW, step=2).reason is Reason.INTERNAL
    monkeypatch.undo()
    assert engine.ask("a", ROW, step=2).reason is Reason.OK
    assert engine.inbox.rows == 0
