"""An engine in this process: no sockets, no event loop, and a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tidegate.config import Limits
from tidegate.engine.commands import Command
from tidegate.engine.engine import Engine
from tidegate.engine.queues.block import AliasTable, Block, Scope
from tidegate.engine.queues.inbox import Inbox
from tidegate.engine.replies import STREAM_SHIFT, Replies, RowFlag
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog, Changes, Steppers
from tidegate.engine.step.device import use_one_thread
from tidegate.errors import Reason
from tidegate.metrics import Metrics
from tidegate.model import repository
from tidegate.model.frequency import NO_TIME

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
LIMITS = Limits(sessions_max=4096)
STATE_BYTES_MAX = 1 << 30
ITERATIONS_MAX = 10_000


class VirtualClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def read(self) -> float:
        return self.seconds


@dataclass(frozen=True, eq=False)
class Answer:
    """The reply to one row. `values` float64 [outputs]; `imputed` are places of features."""

    reason: Reason
    values: NDArray[np.float64]
    step: int
    expected: int
    steps_seen: int
    flags: RowFlag
    imputed: tuple[int, ...]
    gap: int
    valid_time: int

    @property
    def bits(self) -> bytes:
        return self.values.tobytes()


Answers = dict[int, dict[int, Answer]]  # by request, then by row


class InProcess:
    """All of a server but its front-end. `send` queues, `run` steps to quiet, `ask` does both for one observation."""

    def __init__(
        self,
        models: Path | repository.Snapshot,
        device: str = "cpu",
        limits: Limits = LIMITS,
        threads: int = 1,
        steppers: Steppers | None = None,
        state_bytes_max: int = STATE_BYTES_MAX,
    ) -> None:
        use_one_thread()
        self.clock = VirtualClock()
        self.catalog = Catalog(limits, state_bytes_max, device, threads)
        self.sessions = Sessions(self.catalog, limits)
        self.inbox = Inbox(limits.inbox_rows_max, limits.batch_rows_max)
        self.metrics = Metrics()
        self.engine = Engine(self.catalog, self.sessions, self.inbox, self.metrics, self.clock.read)
        self.order: list[tuple[int, int]] = []  # (request, row) in the order of the answers
        self.iterations = 0
        self._requests = 0
        self._answers: Answers = {}
        self.install(models, steppers)

    def install(self, models: Path | repository.Snapshot, steppers: Steppers | None = None) -> Changes:
        """Takes over what the repository holds now. Steppers that are given are not built again."""
        snapshot = repository.scan(models, self.catalog.known()) if isinstance(models, Path) else models
        if steppers is None:
            steppers = self.catalog.prepare(snapshot, self.catalog.known().values())
        return self.catalog.install(snapshot, steppers)

    def execute(self, command: Command) -> object:
        return self.engine.execute(command)

    def send(
        self,
        session: str,
        values: Sequence[float],
        step: int = 0,
        time: int = NO_TIME,
        reset: bool = False,
        scope: Scope | str = "random",
        stream: int = 1,
        deadline: float = np.inf,
        future: Sequence[float] = (),
    ) -> int:
        """Queues one observation; returns its request. A scope may be a model's name."""
        request = self._request(stream)
        self.inbox.add_row(
            _scope(scope), request, session.encode(), step, time, values, reset, deadline, self.clock.seconds, future
        )
        return request

    def send_batch(
        self,
        sessions: Sequence[str],
        values: ArrayLike,
        steps: ArrayLike | None = None,
        times: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        scope: Scope | str = "random",
        stream: int = 1,
        aliases: ArrayLike | None = None,
        table: AliasTable | None = None,
    ) -> int:
        """Queues a message of many rows; returns its request. `sessions` may be empty when there are aliases."""
        request, matrix = self._request(stream), np.asarray(values, np.float64)
        rows = len(matrix)
        self.inbox.add_block(
            Block(
                scope=_scope(scope),
                request=np.full(rows, request, np.int64),
                row=np.arange(rows, dtype=np.int32),
                ids=[session.encode() for session in sessions],
                step=np.zeros(rows, np.int64) if steps is None else np.array(steps, np.int64),
                time=np.full(rows, NO_TIME, np.int64) if times is None else np.array(times, np.int64),
                values=matrix,
                reset=np.zeros(rows, bool) if resets is None else np.array(resets, bool),
                deadline=np.full(rows, np.inf),
                arrived=np.full(rows, self.clock.seconds),
                aliases=None if aliases is None else np.array(aliases, np.int64),
                table=AliasTable() if table is None else table,  # as every message of a stream has
                messages=(rows,),
            )
        )
        return request

    def iterate(self) -> None:
        """One pass of the engine."""
        self.iterations += 1
        turn = self.engine.quick()
        if turn is not None:
            self._note(turn.replies)
            return
        flight = self.engine.prepare()
        if flight is not None:
            flight.run()
            self.engine.finish(flight)
        for replies in self.engine.outbox:
            self._note(replies)
        self.engine.outbox.clear()

    def run(self) -> Answers:
        """Iterates until nothing waits; returns what was answered since the last time."""
        before = self.iterations
        while self.engine.waiting:
            self.iterate()
            assert self.iterations - before < ITERATIONS_MAX
        answers, self._answers = self._answers, {}
        return answers

    def ask(
        self,
        session: str,
        values: Sequence[float],
        step: int = 0,
        time: int = NO_TIME,
        reset: bool = False,
        scope: Scope | str = "random",
        future: Sequence[float] = (),
    ) -> Answer:
        """One observation, stepped at once with whatever else waits."""
        request = self.send(session, values, step, time, reset, scope, future=future)
        return self.run()[request][0]

    def ask_batch(self, sessions: Sequence[str], values: ArrayLike, **columns: ArrayLike | AliasTable) -> list[Answer]:
        """One message, stepped at once; answers in the order of its rows."""
        request = self.send_batch(sessions, values, **columns)  # type: ignore[arg-type]
        return in_order(self.run()[request])

    def _request(self, stream: int) -> int:
        self._requests += 1
        return stream << STREAM_SHIFT | self._requests

    def _note(self, replies: Replies) -> None:
        for index in range(len(replies)):
            request, row = int(replies.request[index]), int(replies.row[index])
            answers = self._answers.setdefault(request, {})
            assert row not in answers, "a row was answered twice"
            answers[row] = _answer(replies, index)
            self.order.append((request, row))


def in_order(answers: dict[int, Answer]) -> list[Answer]:
    """A message's answers by row; there must be one for each."""
    return [answers[row] for row in range(len(answers))]


def _scope(scope: Scope | str) -> Scope:
    return Scope(tenant="", model=scope) if isinstance(scope, str) else scope


def _answer(replies: Replies, index: int) -> Answer:
    bits = np.unpackbits(replies.imputed[index], bitorder="little")
    return Answer(
        reason=Reason(int(replies.outcome[index])),
        values=replies.values[index].copy(),
        step=int(replies.step[index]),
        expected=int(replies.expected[index]),
        steps_seen=int(replies.steps_seen[index]),
        flags=RowFlag(int(replies.flags[index])),
        imputed=tuple(np.flatnonzero(bits).tolist()),
        gap=int(replies.gap[index]),
        valid_time=int(replies.valid_time[index]),
    )
