"""What the sessions machine draws: four models of different policies, and observations near to what is expected."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.packages import random_package
from tidegate.config import Limits
from tidegate.engine.sessions.catalog import Catalog, Steppers
from tidegate.engine.step.device import use_one_thread
from tidegate.model import repository

NAMES = ["a", "b", "c", "d"]
LIMITS = Limits(sessions_max=7, idle_seconds_max=100.0)


def _features(*marks: tuple[str, str, float, float]) -> list[dict[str, Any]]:
    return [
        {"name": f"x{place}", "role": role, "scaling": {"transform": transform, "center": center, "scale": scale}}
        for place, (role, transform, center, scale) in enumerate(marks)
    ]


@dataclass(frozen=True)
class Repository:
    """What all examples share: the packages, and steppers built once."""

    snapshot: repository.Snapshot
    steppers: Steppers


@lru_cache
def shared(device: str) -> Repository:
    """Four models: one refuses gaps, one imputes them on an hourly grid, one has nothing that saturates, and one allows
    for observations that come late."""
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        marks = [("target", "none", 0.25, 2.0), ("past", "none", 0.0, 1.0), ("target", "none", -1.0, 0.5)]
        random_package(models, "plain", hidden=8, features=_features(*marks), targets=["x2", "x0"])
        marks = [("past", "none", 1.0, 1.0), ("target", "log1p", 0.5, 1.5), ("target", "none", 0.0, 3.0)]
        random_package(
            models,
            "grid",
            cell="lstm_peephole",
            layers=2,
            hidden=8,
            features=_features(*marks),
            targets=["x1", "x2"],
            frequency="h",
            gaps={"policy": "impute", "gap_steps_max": 3, "missing_steps_max": 2, "time_tolerance": 0.25},
        )
        linear = [{"name": "x0", "role": "target"}]
        random_package(
            models, "linear", cell="rnn_tanh", hidden=8, features=linear, targets=["x0"], hidden_activation="identity"
        )
        marks = [("target", "none", 0.0, 1.0), ("target", "none", 0.5, 2.0), ("past", "none", 0.0, 1.0)]
        random_package(
            models,
            "late",
            hidden=8,
            features=_features(*marks),
            targets=["x0", "x1"],
            frequency="h",
            gaps={"policy": "impute", "gap_steps_max": 3, "time_tolerance": 0.25},
            rewind_steps=4,
            lateness_steps=3,
        )
        snapshot = repository.scan(models)
        return Repository(snapshot, Catalog(LIMITS, 1 << 30, device).prepare(snapshot))


MODELS = ["plain", "grid", "linear", "late"]
WIDTHS = {"plain": 3, "grid": 3, "linear": 1, "late": 3}


@dataclass
class Sketch:
    """A row before it is known what its session has seen: `step` and `hours` are relative to the session."""

    name: str
    step: int | None  # None: 0, the next one
    hours: float | None
    values: list[float]
    reset: bool
    again: bool  # the last row again
    spoil: str


NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -2.5, 3.0]) | st.floats(-4, 4, width=32)
SKETCHES = st.builds(
    Sketch,
    name=st.sampled_from(NAMES),
    step=st.sampled_from([None, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 0, -1, -2]),
    hours=st.sampled_from([None, None, None, 1, 1, 1, 2, 3, 4, 5, 0, -1, -2, 1.125, 0.75, 1.5, 2.375]),
    values=st.lists(NUMBERS | st.just(math.nan), min_size=3, max_size=3),
    reset=st.sampled_from([False] * 7 + [True]),
    again=st.sampled_from([False] * 4 + [True]),
    spoil=st.sampled_from([""] * 20 + ["huge", "infinite", "conflict"]),
)
