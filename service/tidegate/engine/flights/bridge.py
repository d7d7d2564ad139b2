"""Bridging: the steps that are missing before an observation are taken with the session's own predictions.

Each is a step like any other, of the rows that miss one more, so that a bridged session's bits are its own too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.judgement.feedback import Feedback
from tidegate.engine.step.stepper import Memory, StepBatch, Stepper, StepResult
from tidegate.model.ages import older
from tidegate.model.frequency import Frequency, Times


@dataclass
class Gap:
    """What lies before a batch's rows: steps int64 [n] that are missing; the last observation float64 [n, features],
    its time int64 [n] and the reply to it float64 [n, outputs], all raw; predicted bool [n, targets]: values of the
    batch's own observation that are predictions themselves; ages uint16 [n, targets] as they were before."""

    steps: NDArray[np.int64]
    observation: NDArray[np.float64]
    time: Times
    reply: NDArray[np.float64]
    predicted: NDArray[np.bool_]
    ages: NDArray[np.uint16]


def step_over(
    stepper: Stepper, batch: StepBatch, gap: Gap, memory: Memory, feedback: Feedback, frequency: Frequency
) -> StepResult:
    """Takes the missing steps, then the batch's own; a row that is not finite on the way is not finite in the end."""
    reply, finite, seconds = gap.reply.copy(), np.ones(len(batch), bool), 0.0
    for done in range(int(gap.steps.max(initial=0))):
        rows = np.flatnonzero((gap.steps > done) & finite)
        if not len(rows):  # those that miss more are not finite any more
            break
        stand_ins = feedback.stand_ins(reply[rows])
        missing = replace(
            batch.take(rows),
            lies=None,
            inputs=feedback.observations(gap.observation[rows], stand_ins),
            seen=batch.seen[rows] + done,
            time=frequency.add(gap.time[rows], done + 1),
            ages=older(gap.ages[rows], done + 1),
        )
        result = stepper.launch(missing, memory).collect()
        reply[rows], finite[rows], seconds = result.values, result.finite, seconds + result.seconds
    inputs = batch.inputs.copy()
    stands_in = gap.predicted & (gap.steps > 0)[:, None]
    inputs[:, feedback.targets] = np.where(stands_in, feedback.stand_ins(reply), inputs[:, feedback.targets])
    last = stepper.launch(replace(batch, lies=None, inputs=inputs, seen=batch.seen + gap.steps), memory).collect()
    return StepResult(last.values, last.finite & finite, last.seconds + seconds)
