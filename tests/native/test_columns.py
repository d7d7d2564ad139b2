"""Ordinary batches and quick turns leave what the general way leaves, bit by bit: columns, states, answers, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ctypes import CDLL
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.harness import Answer, Answers, InProcess
from tests.engine.plain import HOUR
from tests.identity.feeds import DERIVED, derived_package
from tests.native.scripts import Op, Player, Row, Writer
from tests.packages import random_package
from tidegate import metrics
from tidegate.engine.admission import Admission
from tidegate.engine.flights import ordinary, quick
from tidegate.engine.step import native_stepper
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME

SCALED = [
    {"name": "x0", "role": "target", "scaling": {"transform": "none", "center": 0.25, "scale": 2.0}},
    {"name": "x1", "role": "past", "scaling": {"transform": "none", "center": 1.0, "scale": 0.5}},
    {"name": "x2", "role": "target", "scaling": {"transform": "none", "center": -1.0, "scale": 0.5}},
]
GAPS = {"policy": "impute", "gap_steps_max": 2, "missing_steps_max": 2, "time_tolerance": 0.25}
ORDINARY = {"features": SCALED, "targets": ["x2", "x0"], "hidden": 8}
MODELS: dict[str, dict[str, Any]] = {
    "no-frequency": ORDINARY,
    "hourly": ORDINARY | {"frequency": "h", "layers": 2},
    "imputes": ORDINARY | {"frequency": "h", "cell": "lstm_peephole", "gaps": GAPS},
    "8ns": ORDINARY | {"frequency": "8ns", "gaps": GAPS | {"time_tolerance": 1e-12}},
    "monthly": ORDINARY | {"frequency": "MS", "gaps": GAPS},
    "daily": ORDINARY | {"frequency": "D", "time_zone": "Europe/Berlin", "gaps": GAPS | {"time_tolerance": 0.01}},
    "identity": ORDINARY | {"hidden_activation": "identity", "gaps": GAPS},
    "rewinds": ORDINARY | {"frequency": "h", "gaps": GAPS, "rewind_steps": 3, "lateness_steps": 2},
    "gru": ORDINARY | {"cell": "gru", "gaps": GAPS},
    **{name: {"derived": name} for name in DERIVED},
}
WITHOUT = {"rewinds", "gru", *DERIVED}  # take no quick turns
SEEDS = ((0, 0.02), (1, 0.02), (2, 0.05), (3, 0.0), (4, 0.01))  # and how odd the scripts are
INTERVALS = {"8ns": 8, "monthly": 31 * 24 * HOUR, "daily": 24 * HOUR}
ON_CLOCKS = ("monthly", "daily")  # take quick turns without times alone


def make(folder: Path, kind: str) -> None:
    fields = MODELS[kind]
    if "derived" in fields:
        derived_package(folder, fields["derived"], hidden=8)
    else:
        random_package(folder, kind, **fields)


def generally(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch goes the general way."""
    monkeypatch.setattr(Admission, "ordinary", lambda *_: None)
    monkeypatch.setattr(Admission, "quick", lambda *_: None)


def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """No C but the step's."""
    for module in (ordinary, quick, metrics):
        monkeypatch.setattr(module, "library", lambda: None)


def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No C at all."""
    in_python(monkeypatch)
    monkeypatch.setattr(native_stepper, "library", lambda: None)


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each short way was gone."""
    gone: Counter[str] = Counter()

    def spy(name: str) -> Callable[..., object]:
        way: Callable[..., object] = getattr(Admission, name)

        def went(self: Admission, *arguments: object) -> object:
            flight = way(self, *arguments)
            gone[name] += flight is not None
            return flight

        return went

    for name in ("ordinary", "quick"):
        monkeypatch.setattr(Admission, name, spy(name))
    return gone


def play(folder: Path, kind: str, script: list[Op]) -> Player:
    player = Player(InProcess(folder), kind)
    player.play(script)
    return player


def answers(found: Answers) -> dict[tuple[int, int], dict[str, Any]]:
    """As fields; values as bits. `expected` is told only with an error."""

    def of(answer: Answer) -> dict[str, Any]:
        expected = answer.expected if answer.reason is not Reason.OK else None
        return asdict(answer) | {"values": answer.bits, "expected": expected}

    return {(request, row): of(answer) for request, rows in found.items() for row, answer in rows.items()}


def memory(engine: InProcess) -> dict[str, NDArray[Any]]:
    """All columns of all slots that were ever in use, but for the spare one."""
    columns: dict[str, NDArray[Any]] = {}
    for slab in engine.catalog.slabs:
        rows = slice(1, slab.slots.grown)
        held = {**slab.host, **slab.slots.columns, "unsaved": slab.unsaved, "leaving": slab.leaving}
        held |= {name: column.numpy() for name, column in slab.device.items()}
        columns |= {f"{slab.number}.{name}": column[rows].copy() for name, column in held.items()}
    return columns


def counts(engine: InProcess) -> dict[str, Any]:
    """What the metrics count, but for how rows were shared out among batches and how long steps took."""
    waits = (engine.metrics.queue_wait, engine.metrics.end_to_end)
    return {
        "steps": +engine.metrics.steps,
        "waits": [(wait._counts.tolist(), wait._sum) for wait in waits],
        "rows": engine.metrics.batch_rows._sum,
        "inbox": engine.inbox.rows,
    }


def same(found: Player, wanted: Player) -> None:
    told, expected = answers(found.answers), answers(wanted.answers)
    assert told.keys() == expected.keys()
    for key, answer in expected.items():
        assert told[key] == answer
    mine, other = memory(found.engine), memory(wanted.engine)
    assert mine.keys() == other.keys()
    for name, column in other.items():
        assert mine[name].tobytes() == column.tobytes(), name
    assert counts(found.engine) == counts(wanted.engine)


@pytest.mark.parametrize("other", [generally, in_python], ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", MODELS)
def test_the_same_bits(
    tmp_path: Path, kind: str, other: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random scripts with retries, conflicts, gaps, late and odd times, resets, missing, infinite and huge values."""
    make(tmp_path, kind)
    gone: Counter[str] = Counter()
    seeds = SEEDS if kind not in DERIVED else SEEDS[2:4]  # those differ in their steps, not in their columns
    for seed, odd in seeds:
        interval = INTERVALS.get(kind, HOUR)
        script = Writer(seed, 3, interval, odd, timed=kind not in ON_CLOCKS or seed % 2 == 0).script(150)
        with monkeypatch.context() as patch:
            other(patch)
            wanted = play(tmp_path, kind, script)
        with monkeypatch.context() as patch:
            if seed in (2, 3):  # flights of what turns would take
                patch.setattr(Admission, "quick", lambda *_: None)
            went = counted(patch)
            same(play(tmp_path, kind, script), wanted)
            gone += went
    assert kind == "rewinds" or gone["ordinary"] > 50
    assert kind in WITHOUT or gone["quick"] > 50


@pytest.mark.parametrize("kind", MODELS)
def test_without_any_c(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch alone: the same decisions, and numbers within the rounding of float32."""
    make(tmp_path, kind)
    script = Writer(5, 3, INTERVALS.get(kind, HOUR), 0.01).script(150)
    found = play(tmp_path, kind, script)
    in_torch(monkeypatch)
    wanted = play(tmp_path, kind, script)
    mine, other = memory(found.engine), memory(wanted.engine)
    for name, column in other.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(mine[name], column, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            assert mine[name].tobytes() == column.tobytes(), name
    left, right = answers(found.answers), answers(wanted.answers)
    assert left.keys() == right.keys()
    for key, answer in right.items():
        assert {**left[key], "values": None} == {**answer, "values": None}


def row(session: int, step: int, value: float = 0.5) -> Row:
    return Row(session, step, NO_TIME, (value, 0.25, -1.0), False)


def test_rows_that_wait_keep_their_order(tmp_path: Path, native: CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows of a session wait in a queue, later ones do not pass them by."""
    make(tmp_path, "no-frequency")
    player = Player(InProcess(tmp_path), "no-frequency")
    player.play([Op("named", (row(0, 1), row(1, 1)), 1), Op("run")])
    going = [Op("batch", (row(0, step), row(0, step + 1), row(0, step + 2)), 1) for step in (2, 5)]
    gone = counted(monkeypatch)
    player.play([*going, Op("iterate")])
    for step, kind in ((8, "one"), (9, "batch"), (10, "one")):
        player.play([Op(kind, (row(0, step),), 1), Op("iterate")])
    assert not gone.total()
    player.play([Op("run"), Op("one", (row(0, 11),)), Op("run")])
    assert gone["quick"] == 1
    steps = [player.answers[request][place].step for request, place in player.engine.order if request in player.answers]
    assert {answer.reason for rows in player.answers.values() for answer in rows.values()} == {Reason.OK}
    assert [step for step in steps if step > 1] == list(range(2, 12))
