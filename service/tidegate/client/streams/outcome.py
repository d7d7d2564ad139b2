"""What the rows of one call came to, filled in as answers come: some at once, some after another attempt. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tidegate.client.failures import RowError, advised, read_row_error, told
from tidegate.client.values.predictions import Predictions, RowFlag
from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import types_pb2

Rows = NDArray[np.intp]


class Outcome:
    """Columns of predictions, one entry a row of the call; NaN where it has no answer or failed."""

    def __init__(self, ids: Sequence[str], targets: tuple[str, ...], levels: int, dtype: str) -> None:
        self._ids, self._targets = ids, targets
        self._dtype = np.dtype(dtype).newbyteorder("<")
        rows, width = len(ids), len(targets)
        self._values = np.full((rows, width), np.nan, self._dtype)
        self._lower = np.full((rows, levels, width), np.nan, self._dtype)
        self._upper = self._lower.copy()
        self.steps = np.zeros(rows, np.uint64)
        self.flags = np.zeros(rows, np.uint8)
        self._errors: dict[int, RowError] = {}

    def take(self, rows: Rows, sent: NDArray[np.uint64], reply: types_pb2.PredictionBatch) -> list[RowError]:
        """Fills in the answer to these rows, `sent` under these numbers; returns those that failed, which `fail` makes
        final."""
        width = len(reply.values) // (self._dtype.itemsize * reply.rows)
        if width != len(self._targets):
            problem = f"these sessions predict {width} targets, the model now {len(self._targets)}"
            raise TidegateError(Reason.TARGETS_DIFFER, problem)
        for column, content in ((self._values, reply.values), (self._lower, reply.lower), (self._upper, reply.upper)):
            column[rows] = np.frombuffer(content, self._dtype).reshape(len(rows), *column.shape[1:])
        self.steps[rows] = reply.steps
        self.flags[rows] = np.frombuffer(reply.flags, np.uint8)
        self._refuse_predictions_of_others(rows, sent)
        return [read_row_error(error, self._ids[rows[error.row]], int(rows[error.row])) for error in reply.errors]

    def _refuse_predictions_of_others(self, rows: Rows, sent: NDArray[np.uint64]) -> None:
        """A model that allows for late observations answers one that it has, but for the last, by what follows it."""
        others = rows[(self.steps[rows] > sent) & (self.flags[rows] & np.uint8(RowFlag.REVISED) == 0)]
        for row in others.tolist():
            error = TidegateError(
                Reason.STEP_TOO_OLD, "the step was taken; its prediction was lost with the connection"
            )
            expected = int(self.steps[row]) + 1
            self.fail(RowError(row, self._ids[row], error.code, error.reason, error.message, expected))
        for column in (self._values, self._lower, self._upper):
            column[others] = np.nan
        self.steps[others], self.flags[others] = 0, 0

    def fail(self, error: RowError) -> None:
        """A row has failed for good."""
        self._errors[error.row] = replace(error, message=advised(told(error.reason.name, error.message, {})).message)

    def predictions(self) -> Predictions:
        """All of it."""
        errors = [self._errors[row] for row in sorted(self._errors)]
        return Predictions(self._targets, self._values, self._lower, self._upper, self.steps, self.flags, errors)
