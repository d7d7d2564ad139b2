"""What comes back from a step: one prediction, or the predictions of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from tidegate.client.failures import RowError
from tidegate.client.values.observations import to_datetime
from tidegate.wire.stubs import types_pb2


class RowFlag(IntFlag):
    """What is said of one row of a batch."""

    CREATED = 1
    DUPLICATE = 2
    IMPUTED = 4
    STALE = 8
    STEPS_IMPUTED = 16
    RESET = 32
    REVISED = 64


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The estimate of a session's next observation.

    `values` is float32 [targets] in the order of `targets` and the model's units; `prediction["temp_max"]` picks one.
    `valid_time` is the time (UTC) that the prediction is for, None when the step had no time or the model no fixed
    frequency. `imputed` names the features that were missing, `imputed_steps` counts the steps bridged before this
    one, and `steps_seen` the steps that the cell has run since its state was zero. `lower` and `upper`, float32
    [levels, targets], bound the intervals that the session was made to ask for. `revised`: the observation came late,
    or corrected another; `values` are what the session predicts now, and `step` is its last step.
    """

    session_id: str
    step: int
    targets: tuple[str, ...]
    values: NDArray[np.float32]
    valid_time: datetime | None
    steps_seen: int
    created: bool
    duplicate: bool
    imputed: tuple[str, ...]
    imputed_steps: int
    stale: bool
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    revised: bool = False

    def __getitem__(self, target: str) -> float:
        """The estimate of one target by its name; KeyError names what there is."""
        if target not in self.targets:
            raise KeyError(f"{target} is not predicted; the targets are {', '.join(self.targets)}")
        return float(self.values[self.targets.index(target)])


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The predictions of one `batches.step`, in the order of its ids.

    `values`: float32 (or float64, if asked for) [rows, targets], NaN where a row failed. `lower` and `upper`: [rows,
    levels, targets], the bounds of the intervals asked for. `steps`: uint64 [rows], 0 where a row failed. `flags`:
    uint8 [rows], bits of RowFlag. `errors` names each row that failed, in row order.
    """

    targets: tuple[str, ...]
    values: NDArray[np.floating]
    lower: NDArray[np.floating]
    upper: NDArray[np.floating]
    steps: NDArray[np.uint64]
    flags: NDArray[np.uint8]
    errors: list[RowError]


def read_prediction(
    message: types_pb2.Prediction, features: tuple[str, ...], targets: tuple[str, ...], opened: bool
) -> Prediction:
    """The prediction that a message holds; `opened` is true when this step's session was opened for it."""
    return Prediction(
        session_id=message.session_id,
        step=message.step,
        targets=targets,
        values=np.array(message.values, np.float32),
        valid_time=to_datetime(message.valid_time) if message.HasField("valid_time") else None,
        steps_seen=message.steps_seen,
        created=message.created or opened,
        duplicate=message.duplicate,
        imputed=tuple(features[index] for index in message.imputed_features),
        imputed_steps=message.imputed_steps,
        stale=message.stale,
        lower=np.array(message.lower, np.float32).reshape(-1, len(targets)),
        upper=np.array(message.upper, np.float32).reshape(-1, len(targets)),
        revised=message.revised,
    )
