"""Random scripts of observations, most of them ordinary, and engines that take them.

A script is made before it is run, so that several engines can take the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.engine.harness import Answers, InProcess
from tests.engine.plain import HOUR
from tidegate.engine import commands
from tidegate.engine.queues.block import AliasTable, Block, Scope
from tidegate.engine.replies import STREAM_SHIFT
from tidegate.model.frequency import NO_TIME

SESSIONS, STREAMS = 8, 3
START = 1_700_000_000_000_000_000 // HOUR * HOUR
EDGES = (NO_TIME + 1, -(2**62), 2**62, 2**63 - 1, 2**63 - 32 * 86400 * 10**9, 0, -1)
ODD_VALUES = (np.nan, np.inf, -np.inf, 1e300, -1e300, 3e38, -0.0, 1e-320)


@dataclass(frozen=True)
class Row:
    session: int
    step: int
    time: int
    values: tuple[float, ...]
    reset: bool


@dataclass(frozen=True)
class Op:
    """`kind`: one, batch (by alias), named (a batch by id), run, iterate, wait, close, reset."""

    kind: str
    rows: tuple[Row, ...] = ()
    stream: int = 1


class Writer:
    """Draws a script. Knows about what each session expects, and is now and then wrong about it."""

    def __init__(self, seed: int, width: int, interval: int, odd: float, timed: bool = True) -> None:
        self._random = np.random.default_rng(seed)
        self._width, self._interval, self._odd, self._timed = width, interval, odd, timed
        self._step, self._time = [0] * SESSIONS, [START] * SESSIONS
        self._last: list[Row | None] = [None] * SESSIONS

    def script(self, length: int) -> list[Op]:
        everybody = tuple(self.row(number) for number in range(SESSIONS))
        ops = [Op("named", everybody, stream) for stream in range(1, STREAMS + 1)][:1]
        ops += [Op("named", tuple(self.row(number) for number in range(SESSIONS)), 2), Op("run")]
        for _ in range(length):
            ops += self._next()
        return [*ops, Op("run")]

    def _next(self) -> list[Op]:
        random = self._random
        kind = random.choice(["one", "ones", "batch", "batches", "mixed"], p=[0.3, 0.2, 0.2, 0.15, 0.15])
        count = int(random.integers(1, SESSIONS + 1))
        chosen = random.permutation(SESSIONS)[:count].tolist()
        if self._is_odd():
            chosen += random.integers(0, SESSIONS, 2).tolist()  # some twice
        if kind == "one":
            ops = [Op("one", (self.row(chosen[0]),))]
        elif kind == "ones":
            ops = [Op("one", (self.row(number),), 1 + number % STREAMS) for number in chosen]
        elif kind == "batch":
            ops = [Op("batch", tuple(map(self.row, chosen)), int(random.integers(1, 3)))]
        elif kind == "batches":
            half = len(chosen) // 2
            ops = [
                Op("batch", tuple(map(self.row, part)), stream)
                for stream, part in ((1, chosen[:half]), (2, chosen[half:]))
                if part
            ]
        else:
            ops = [Op("one", (self.row(chosen[0]),), 3), Op("batch", tuple(map(self.row, chosen)), 1)]
            ops += [Op("one", (self.row(chosen[-1]),), 3)] + [Op("named", (self.row(chosen[0]),), 2)] * self._is_odd()
        if self._is_odd():
            ops.append(Op(str(random.choice(["wait", "iterate"]))))
        if self._is_odd():  # after all that was sent: which of rows and commands comes first is nobody's promise
            ops += [Op("run"), Op(str(random.choice(["close", "reset"])), (self.row(chosen[0]),))]
        return [*ops, Op("iterate" if random.random() < 0.2 else "run")]

    def row(self, session: int) -> Row:
        """The session's next observation, or an odd one."""
        random, last = self._random, self._last[session]
        if last is not None and self._is_odd():
            return last  # a retry
        step, time, reset = self._step[session] + 1, self._time[session] + self._interval, False
        values = random.normal(0, 2, self._width)
        if self._is_odd():
            values[random.integers(self._width)] = random.choice(ODD_VALUES)
        if self._is_odd():
            step = max(0, step + int(random.integers(-2, 4)))
        if self._is_odd():
            shift = random.choice([-1.0, 0.0, 0.1, 0.25, 0.2500001, 0.5, 1.0, 1.5, 2.0, -0.3, -0.75])
            time += int(shift * self._interval)
        if self._is_odd():
            reset = True
        self._step[session], self._time[session] = max(step, 1), time
        if self._is_odd() and self._is_odd():
            time = int(random.choice(EDGES))
        if not self._timed or random.random() < 0.1:
            time = NO_TIME
        row = Row(session, step if random.random() < 0.7 else 0, time, tuple(values.tolist()), reset)
        self._last[session] = row
        return row

    def _is_odd(self) -> bool:
        return bool(self._random.random() < self._odd)


class Player:
    """Has an engine take scripts."""

    def __init__(self, engine: InProcess, model: str) -> None:
        self.engine, self.scope = engine, Scope("", model)
        self._tables = [AliasTable() for _ in range(STREAMS + 1)]
        self.answers: Answers = {}
        self._acts: dict[str, Callable[[Op], Any]] = {
            "one": self._one,
            "batch": self._batch,
            "named": self._batch,
            "run": lambda _: self._run(),
            "iterate": lambda _: self.engine.iterate() if self.engine.engine.waiting else None,
            "wait": lambda _: setattr(self.engine.clock, "seconds", self.engine.clock.seconds + 0.125),
            "close": lambda op: self._command(commands.CloseSessions, op),
            "reset": lambda op: self._command(commands.ResetSessions, op),
        }

    def play(self, script: list[Op]) -> None:
        for op in script:
            self._acts[op.kind](op)

    def _run(self) -> None:
        self.answers.update(self.engine.run())

    def _command(self, kind: Any, op: Op) -> None:
        self.engine.execute(kind("", self.scope.model, [b"s%d" % op.rows[0].session]))

    def _one(self, op: Op) -> None:
        (row,) = op.rows
        self.engine.send(f"s{row.session}", row.values, row.step, row.time, row.reset, self.scope, op.stream)

    def _batch(self, op: Op) -> None:
        rows, table, engine = op.rows, self._tables[op.stream], self.engine
        known = op.kind == "batch" and all(row.session < len(table.ids) and table.ids[row.session] for row in rows)
        aliases = np.array([row.session for row in rows])
        count, named = len(rows), op.kind == "named" or not known
        distinct = len(set(aliases.tolist())) == count
        engine.inbox.add_block(
            Block(
                scope=self.scope,
                request=np.full(count, engine._request(op.stream), np.int64),
                row=np.arange(count, dtype=np.int32),
                ids=[b"s%d" % row.session for row in rows] if named else (),
                step=np.array([row.step for row in rows], np.int64),
                time=np.array([row.time for row in rows], np.int64),
                values=np.array([row.values for row in rows]),
                reset=np.array([row.reset for row in rows]),
                deadline=np.full(count, np.inf),
                arrived=np.full(count, engine.clock.seconds),
                aliases=aliases if distinct or not named else None,
                table=table,
                messages=(count,),
            )
        )


def same_requests(engine: InProcess, stream: int) -> list[tuple[int, int]]:
    """In which order the stream's rows were answered."""
    return [entry for entry in engine.order if entry[0] >> STREAM_SHIFT == stream]
