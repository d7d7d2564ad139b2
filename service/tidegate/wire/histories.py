"""History messages to columns, and their answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.histories.history import History
from tidegate.engine.queues.block import Scope
from tidegate.engine.replies import Replies
from tidegate.errors import Reason, TidegateError
from tidegate.model.frequency import NO_TIME
from tidegate.model.manifest import FEATURES_MAX
from tidegate.wire import codec
from tidegate.wire.status import row_error
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

_DTYPES = {types.DTYPE_UNSPECIFIED: "<f4", types.DTYPE_FLOAT32: "<f4", types.DTYPE_FLOAT64: "<f8"}


def history_of(message: types.History, scope: Scope, steps_max: int) -> History:
    """Checks a history's columns against each other; raises BAD_HISTORY, naming the column, and BAD_OBSERVATION, naming
    the row, for infinity."""
    steps = message.steps
    if not 0 < steps <= steps_max:
        raise _bad(f"steps is {steps}, must be 1 to {steps_max}")
    if message.first_step > codec.STEP_MAX - steps:
        raise _bad(f"a step is above {codec.STEP_MAX}")
    times = np.array(message.event_times_unix_ns, np.int64)
    if len(times) not in (0, steps):
        raise _bad(f"event_times_unix_ns has {len(times)} entries for {steps} steps")
    values = _numbers(message, "values", message.values)
    future = _numbers(message, "future_covariates", message.future_covariates) if message.future_covariates else None
    _check_finite(values)
    if future is not None:
        _check_finite(future)
    return History(
        scope=scope,
        first_step=message.first_step,
        times=times if len(times) else np.full(steps, NO_TIME, np.int64),
        values=values,
        future=future,
        reset=message.reset,
        exact=message.exact,
    )


def answer_of(
    sequence: int, replies: Replies, place: int, session_id: bytes, view: codec.View
) -> pb.StreamPredictResponse:
    """The prediction of the last step; an error names the row that it is of."""
    reason, row = Reason(int(replies.outcome[place])), int(replies.row[place])
    if reason is Reason.OK or not row:
        return codec.single(sequence, replies, place, session_id, view)
    error = row_error(reason, int(replies.expected[place]))
    return codec.stream_error(sequence, _of_row(row, reason, error.problem, **error.variables))


def _numbers(message: types.History, name: str, content: bytes) -> NDArray[np.float64]:
    """A matrix [steps, columns] of the message's type."""
    if message.dtype not in _DTYPES:
        raise _bad(f"dtype {message.dtype} is not known")
    dtype = np.dtype(_DTYPES[message.dtype])
    row_bytes, rest = divmod(len(content), message.steps)
    if rest or row_bytes % dtype.itemsize or not row_bytes:
        raise _bad(f"{name} has {len(content)} bytes: no whole number of {dtype.name} for each of {message.steps} rows")
    if row_bytes > FEATURES_MAX * dtype.itemsize:
        raise _bad(f"{name} has {row_bytes // dtype.itemsize} columns; at most {FEATURES_MAX}")
    return np.frombuffer(content, dtype).reshape(message.steps, -1).astype(np.float64)


def _check_finite(values: NDArray[np.float64]) -> None:
    """Raises BAD_OBSERVATION, which names the first row that is not."""
    rows, columns = np.nonzero(np.isinf(values))
    if len(rows):
        raise _of_row(int(rows[0]), Reason.BAD_OBSERVATION, f"value {columns[0]}, from 0, is infinite")


def _of_row(row: int, reason: Reason, problem: str, **variables: str) -> TidegateError:
    return TidegateError(reason, f"row {row} of the history, from 0: {problem}", row=row, **variables)


def _bad(problem: str) -> TidegateError:
    return TidegateError(Reason.BAD_HISTORY, problem)
