"""What the rows of a call come to, whatever the order in which their answers come."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.client.streams.outcome import Outcome
from tidegate.client.values.predictions import RowFlag
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import types_pb2


def reply(values: list[list[float]], steps: list[int], flags: list[int], *failed: int) -> types_pb2.PredictionBatch:
    """As a server answers; `failed`: rows that are elsewhere."""
    errors = [types_pb2.RowError(row=row, code=10, reason="SESSION_MOVED", message="elsewhere") for row in failed]
    matrix = np.array(values, np.float32)
    lower, upper = matrix - 1, matrix + 1
    return types_pb2.PredictionBatch(
        rows=len(steps),
        values=matrix.tobytes(),
        lower=lower.tobytes(),
        upper=upper.tobytes(),
        steps=steps,
        flags=bytes(flags),
        errors=errors,
    )


def steps(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """As a column."""
    return np.array(numbers, np.uint64)


def test_answers_are_put_together() -> None:
    """Rows that failed and were answered later stand where they were asked, and what failed for good is named."""
    outcome = Outcome(["a", "b", "c"], ("t",), 1, "float32")
    nan = float("nan")
    failed = outcome.take(np.array([0, 1, 2]), steps(1, 1, 1), reply([[nan], [2.0], [nan]], [0, 1, 0], [0, 4, 0], 0, 2))
    assert [(error.row, error.id, error.reason) for error in failed] == [
        (0, "a", Reason.SESSION_MOVED),
        (2, "c", Reason.SESSION_MOVED),
    ]
    (still,) = outcome.take(np.array([0, 2]), steps(1, 1), reply([[1.0], [nan]], [1, 0], [1, 0], 1))
    assert (still.row, still.id) == (2, "c")
    outcome.fail(still)
    predictions = outcome.predictions()
    assert predictions.values[:2].tolist() == [[1.0], [2.0]]
    assert (predictions.lower[:2, 0, 0].tolist(), predictions.upper[:2, 0, 0].tolist()) == ([0.0, 1.0], [2.0, 3.0])
    assert np.isnan(predictions.values[2]).all()
    assert (predictions.steps.tolist(), predictions.flags.tolist()) == ([1, 1, 0], [1, 4, 0])
    assert [error.row for error in predictions.errors] == [2]


def test_nobody_gets_the_prediction_of_another_step() -> None:
    """A step that was taken before others, and is answered by what the session predicts now, has lost its own: it is
    an error. What was revised is told as it is."""
    outcome = Outcome(["a", "a", "b"], ("t",), 1, "float32")
    flags = [RowFlag.DUPLICATE, RowFlag.DUPLICATE, RowFlag.REVISED]
    assert outcome.take(np.arange(3), steps(4, 5, 4), reply([[5.0], [5.0], [7.0]], [5, 5, 6], list(flags))) == []
    predictions = outcome.predictions()
    assert [(error.row, error.reason, error.expected_step) for error in predictions.errors] == [
        (0, Reason.STEP_TOO_OLD, 6)
    ]
    assert np.isnan(predictions.values[0, 0])
    assert predictions.values[1:, 0].tolist() == [5.0, 7.0]
    assert predictions.steps.tolist() == [0, 5, 6]


def test_other_targets_are_refused() -> None:
    """An answer that is not as wide as the model's targets is TARGETS_DIFFER."""
    outcome = Outcome(["a"], ("t", "u"), 1, "float32")
    with pytest.raises(TidegateError) as refused:
        outcome.take(np.array([0]), steps(1), reply([[1.0]], [1], [0]))
    assert refused.value.reason is Reason.TARGETS_DIFFER
