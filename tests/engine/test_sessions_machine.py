"""Sessions under every kind of event, against one plain session each.

Messages queue in the inbox and commands come in between, as from many clients; then the engine runs to quiet and every
reply is compared: its reason, numbers and flags with the plain rules, its values with the float64 reference. In the end
each session's observations are taken once more, alone, by a second engine: every reply must come out to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.engine.feeds import LIMITS, MODELS, NAMES, NUMBERS, SKETCHES, WIDTHS, Sketch, shared
from tests.engine.harness import DEVICES, Answer, InProcess, in_order
from tests.engine.plain import HOUR, HUGE, Expected, PlainModel, PlainSession, Row, Values
from tidegate.engine import commands
from tidegate.engine.queues.block import AliasTable, Scope
from tidegate.errors import Reason, TidegateError
from tidegate.model import reference
from tidegate.model.frequency import NO_TIME

IDLE = LIMITS.idle_seconds_max
TOLERANCE = 1e-5  # in training units
UNBOUND = 9  # an alias that no message binds


@dataclass
class Message:
    """What waits in the engine's inbox: its rows as the plain model sees them."""

    request: int
    model: str
    rows: list[Row]
    aliases: list[int] | None = None
    bind: bool = False
    must_exist: bool = False
    single: bool = False


class SessionsMachine(RuleBasedStateMachine):
    """Clients, operators and time against one engine."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.packages = shared(device)
        self.engine = InProcess(self.packages.snapshot, device, LIMITS, steppers=self.packages.steppers)
        listings = self.packages.snapshot.models
        self.plain = {model: PlainModel(listings[model].versions["1"]) for model in MODELS}
        self.waiting: list[Message] = []
        self.tables = {model: AliasTable() for model in MODELS}
        self.bound: dict[str, dict[int, str]] = {model: {} for model in MODELS}
        self.replayed = InProcess(self.packages.snapshot, device, LIMITS, steppers=self.packages.steppers)

    # What clients send.

    @rule(model=st.sampled_from(MODELS), sketch=SKETCHES, must_exist=st.sampled_from([False, False, False, True]))
    def observation(self, model: str, sketch: Sketch, must_exist: bool) -> None:
        row = self._row(model, sketch)
        scope = Scope("", model, must_exist=must_exist)
        values = [math.nan if x is None else x for x in row.values]
        time = NO_TIME if row.time is None else row.time
        request = self.engine.send(row.session, values, row.step, time, row.reset, scope)
        self.waiting.append(Message(request, model, [row], must_exist=must_exist, single=True))

    @rule(
        model=st.sampled_from(MODELS),
        sketches=st.lists(SKETCHES, min_size=1, max_size=6),
        naming=st.sampled_from(["ids", "aliases", "both"]),
        unbound=st.booleans(),
        wrong_width=st.sampled_from([False] * 9 + [True]),
    )
    def batch(self, model: str, sketches: list[Sketch], naming: str, unbound: bool, wrong_width: bool) -> None:
        rows = [self._row(model, sketch) for sketch in sketches]
        if wrong_width:
            rows = [Row(row.session, (*row.values, 0.0), row.step, row.time, row.reset) for row in rows]
        self._send(model, rows, naming, rows[:-1] if unbound and naming == "aliases" else rows)

    def _send(self, model: str, rows: list[Row], naming: str, bound: list[Row]) -> None:
        """One message; rows beyond the bound ones come under an alias that nobody has named."""
        aliases = [NAMES.index(row.session) for row in bound] + [UNBOUND] * (len(rows) - len(bound))
        request = self.engine.send_batch(
            [] if naming == "aliases" else [row.session for row in rows],
            [[math.nan if x is None else x for x in row.values] for row in rows],
            steps=[row.step for row in rows],
            times=[NO_TIME if row.time is None else row.time for row in rows],
            resets=[row.reset for row in rows],
            scope=model,
            aliases=None if naming == "ids" else aliases,
            table=self.tables[model],
        )
        numbered = None if naming == "ids" else aliases
        self.waiting.append(Message(request, model, rows, numbered, bind=naming == "both"))

    @rule(
        model=st.sampled_from(MODELS),
        name=st.sampled_from(NAMES),
        values=st.lists(st.lists(NUMBERS | st.just(math.nan), min_size=3, max_size=3), min_size=1, max_size=8),
        timed=st.booleans(),
        numbered=st.booleans(),
        skipped=st.sampled_from([(0, 0), (0, 0), (0, 1), (1, 0), (3, 0), (0, 3), (1, 2), (4, 0)]),
        at=st.integers(0, 7),
        ending=st.sampled_from(["", "", "again", "huge", "huge again", "huge next reset", "huge reset next"]),
    )
    def stretch(
        self,
        model: str,
        name: str,
        values: list[list[float]],
        timed: bool,
        numbered: bool,
        skipped: tuple[int, int],
        at: int,
        ending: str,
    ) -> None:
        """A feed: steps in order, perhaps with some missing on the way, by number, by time or by both, and an end."""
        session = self.plain[model].sessions.get(name, PlainSession())
        ahead = self._ahead(model, name)
        steps, hours = np.arange(1, len(values) + 1) + ahead, np.arange(1, len(values) + 1) + ahead
        steps[at:] += skipped[0]
        hours[at:] += skipped[1]
        base = 1000 * HOUR if session.time is None else session.time
        rows = [
            Row(
                name,
                tuple(None if math.isnan(x) else x for x in line[: WIDTHS[model]]),
                session.step + int(step) if numbered else 0,
                base + int(hour) * HOUR if timed else None,
            )
            for line, step, hour in zip(values, steps, hours, strict=True)
        ]
        last = rows[-1]
        after = replace(last, step=last.step and last.step + 1, time=last.time and last.time + HOUR)
        ends = {
            "again": last,
            "huge": replace(after, values=(HUGE, *last.values[1:])),
            "next": after,
            "reset": replace(after, reset=True),
        }
        rows += [ends[end] for end in ending.split()]
        self._send(model, rows, "ids", rows)

    @rule(
        name=st.sampled_from(NAMES),
        values=st.lists(NUMBERS | st.just(math.nan), min_size=3, max_size=3),
        back=st.integers(0, 4),
        numbered=st.booleans(),
        timed=st.booleans(),
        again=st.booleans(),
        huge=st.sampled_from([False] * 9 + [True]),
    )
    def late(
        self, name: str, values: list[float], back: int, numbered: bool, timed: bool, again: bool, huge: bool
    ) -> None:
        """Late by some steps: by number, by time or by both; or one that was taken, again."""
        session = self.plain["late"].sessions.get(name, PlainSession())
        step = max(0, session.step + self._ahead("late", name) - back) if numbered else 0
        time = session.time - back * HOUR if timed and session.time is not None else None
        row = Row(
            name,
            (
                HUGE if huge else None if math.isnan(values[0]) else values[0],
                *(None if math.isnan(x) else x for x in values[1:]),
            ),
            step,
            time,
        )
        if again and back < len(session.taken):
            row = session.taken[-1 - back].row
        self._send("late", [row], "ids", [row])

    @rule()
    def run(self) -> None:
        """Everything that waits is admitted, then stepped; each reply is what the plain model says."""
        messages, self.waiting = self._as_blocks(self.waiting), []
        answers = self.engine.run()
        assert len(answers) == len(messages)
        opened = [self._admit(message) for message in messages]
        for message, created in zip(messages, opened, strict=True):
            replies = in_order(answers[message.request])
            assert len(replies) == len(message.rows)
            for place, row in enumerate(message.rows):
                expected = self._expect(message, place, row, created)
                self._compare(message.model, expected, replies[place])
                session = self.plain[message.model].sessions.get(row.session, PlainSession())
                if expected.reason == "OK" and len(session.bits) < len(session.history):
                    session.bits.append(replies[place].bits)

    # What operators ask.

    @rule(
        what=st.sampled_from(["open", "open", "reset", "close", "fork", "fork", "wait", "sweep"]),
        model=st.sampled_from(MODELS),
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        new_name=st.sampled_from([*NAMES, ""]),
        seconds=st.sampled_from([1.0, 1.0, 40.0, 60.0, 101.0]),
    )
    def command(self, what: str, model: str, names: list[str], new_name: str, seconds: float) -> None:
        """Commands overtake rows that are not admitted yet."""
        match what:
            case "open":
                self._open_sessions(model, [*names, new_name])
            case "reset":
                self._reset_sessions(model, names)
            case "close":
                self._close_sessions(model, names[:1])
            case "fork":
                self._fork(model, names[0], new_name)
            case "wait":
                self.engine.clock.seconds += seconds
            case _:
                self._sweep()

    def _open_sessions(self, model: str, names: list[str]) -> None:
        result = self._bulk(commands.OpenSessions("", model, "", [name.encode() for name in names]))
        plain, room = self.plain[model], self._room()
        lived = [name in plain.sessions for name in names]
        opened = plain.open([name for name in names if name], self.engine.clock.seconds, room)
        for place, name in enumerate(names):
            created = name in opened and names.index(name) == place
            assert result.done[place] == created
            assert (place, Reason.BAD_SESSION_ID) in result.errors if not name else True
            assert ((place, Reason.SESSION_LIMIT) in result.errors) == (bool(name) and name not in plain.sessions)
            assert result.steps[place] == (plain.sessions[name].step if lived[place] else 0)

    def _reset_sessions(self, model: str, names: list[str]) -> None:
        result = self._bulk(commands.ResetSessions("", model, [name.encode() for name in names]))
        for session in self._found(model, names, result):
            session.to_zero()

    def _close_sessions(self, model: str, names: list[str]) -> None:
        result = self._bulk(commands.CloseSessions("", model, [name.encode() for name in names]))
        self._found(model, names, result)
        for name in names:
            self.plain[model].sessions.pop(name, None)

    def _fork(self, model: str, name: str, new_name: str) -> None:
        sessions = self.plain[model].sessions
        wanted = None
        if name not in sessions:
            wanted = Reason.SESSION_NOT_FOUND
        elif not new_name:
            wanted = Reason.BAD_SESSION_ID
        elif new_name in sessions:
            wanted = Reason.SESSION_EXISTS
        elif not self._room():
            wanted = Reason.SESSION_LIMIT
        command = commands.ForkSession("", model, name.encode(), new_name.encode())
        if wanted is not None:
            with pytest.raises(TidegateError) as error:
                self.engine.execute(command)
            assert error.value.reason is wanted
            return
        self.engine.execute(command)
        self.plain[model].fork(name, new_name, self.engine.clock.seconds)

    def _sweep(self) -> None:
        closed = sum(plain.sweep(self.engine.clock.seconds, IDLE) for plain in self.plain.values())
        assert self.engine.execute(commands.Sweep()) == closed

    # What always holds.

    @invariant()
    def sessions_are_those_of_the_plain_model(self) -> None:
        """Every session is as its plain twin; nothing else is resident."""
        if self.waiting:
            return
        for model, plain in self.plain.items():
            for name in NAMES:
                session = plain.sessions.get(name)
                command = commands.GetSession("", model, name.encode())
                if session is None:
                    with pytest.raises(TidegateError, match="SESSION_NOT_FOUND"):
                        self.engine.execute(command)
                    continue
                info = self.engine.execute(command)
                assert isinstance(info, commands.SessionInfo)
                assert info.step == session.step
                assert info.steps_seen == session.steps_seen
                assert info.diverged == session.diverged
                assert info.idle_seconds == self.engine.clock.seconds - session.active_at
                assert info.event_time == (NO_TIME if session.time is None else session.time)
        assert len(self.engine.sessions) == sum(len(plain.sessions) for plain in self.plain.values())
        assert self.engine.inbox.rows == 0

    def teardown(self) -> None:
        """Each session's rows since its state was zero, alone, one session after another: the same bytes."""
        self.run()
        for model, plain in self.plain.items():
            for session in plain.sessions.values():
                self._replay(model, session)

    def _replay(self, model: str, session: PlainSession) -> None:
        for place, (row, bits) in enumerate(zip(session.history, session.bits, strict=True)):
            answer = self.replayed.ask(
                "replayed",
                [math.nan if x is None else x for x in row.values],
                row.step,
                NO_TIME if row.time is None else row.time,
                reset=place == 0,
                scope=model,
            )
            assert answer.bits == bits or not bits
        self.replayed.execute(commands.CloseSessions("", model, [b"replayed"]))

    # How it is told.

    def _row(self, model: str, sketch: Sketch) -> Row:
        """A row near to what its session has seen; rows that wait count as taken."""
        session = self.plain[model].sessions.get(sketch.name, PlainSession())
        if sketch.again and session.last is not None:
            last = session.last
            other = tuple(1.25 if x is None else x + 1.0 for x in last.values)
            return replace(last, values=other) if sketch.spoil else last
        ahead = self._ahead(model, sketch.name)
        step = 0 if sketch.step is None else max(0, session.step + ahead + sketch.step)
        time = None
        if sketch.hours is not None:
            base = 1000 * HOUR if session.time is None else session.time
            time = base + int((ahead + sketch.hours) * HOUR)
        values: Values = tuple(None if math.isnan(x) else x for x in sketch.values[: WIDTHS[model]])
        if sketch.spoil == "huge":
            values = (HUGE, *values[1:])
        elif sketch.spoil == "infinite":
            values = (*values[:-1], -math.inf)
        return Row(sketch.name, values, step, time, sketch.reset)

    def _ahead(self, model: str, name: str) -> int:
        """How many rows of that session wait."""
        return sum(row.session == name for message in self.waiting if message.model == model for row in message.rows)

    def _room(self) -> int:
        return LIMITS.sessions_max - sum(len(plain.sessions) for plain in self.plain.values())

    def _bulk(self, command: commands.Command) -> commands.BulkResult:
        result = self.engine.execute(command)
        assert isinstance(result, commands.BulkResult)
        return result

    def _found(self, model: str, names: list[str], result: commands.BulkResult) -> list[PlainSession]:
        """The sessions that live; the result must say so, and their steps."""
        sessions = self.plain[model].sessions
        for place, name in enumerate(names):
            assert result.done[place] == (name in sessions)
            assert ((place, Reason.SESSION_NOT_FOUND) in result.errors) == (name not in sessions)
            assert result.steps[place] == (sessions[name].step if name in sessions else 0)
        return [sessions[name] for name in names if name in sessions]

    def _as_blocks(self, messages: list[Message]) -> list[Message]:
        """Messages in the order in which their rows are admitted: singles of one kind go together, ahead of a batch."""
        ordered: list[Message] = []
        singles: dict[tuple[str, bool], list[Message]] = {}
        for message in messages:
            if message.single:
                singles.setdefault((message.model, message.must_exist), []).append(message)
            else:
                ordered += [single for group in singles.values() for single in group]
                singles.clear()
                ordered.append(message)
        return ordered + [single for group in singles.values() for single in group]

    def _admit(self, message: Message) -> dict[int, str]:
        """Opens the sessions that the message's rows begin; what is refused before it meets a session, by row."""
        plain, refused = self.plain[message.model], dict[int, str]()
        names = self._names(message)
        for place, row in enumerate(message.rows):
            name = names[place]
            if name is not None and name in plain.sessions:
                continue
            if name is None:
                refused[place] = "UNKNOWN_ALIAS"
            elif any(x is not None and math.isinf(x) for x in row.values):
                refused[place] = "BAD_OBSERVATION"
            elif message.must_exist or not (row.step <= 1 or row.reset):
                refused[place] = "SESSION_NOT_FOUND"
            elif len(row.values) != WIDTHS[message.model]:
                refused[place] = "BAD_OBSERVATION"
            elif plain.open([name], self.engine.clock.seconds, self._room()):
                refused[place] = "CREATED"
            else:
                refused[place] = "SESSION_LIMIT"
        return refused

    def _names(self, message: Message) -> list[str | None]:
        bound = self.bound[message.model]
        if message.aliases is None or message.bind:
            if message.aliases is not None:
                bound.update(zip(message.aliases, (row.session for row in message.rows), strict=True))
            return [row.session for row in message.rows]
        return [bound.get(alias) for alias in message.aliases]

    def _expect(self, message: Message, place: int, row: Row, admitted: dict[int, str]) -> Expected:
        verdict = admitted.get(place, "")
        if verdict not in ("", "CREATED"):
            return Expected(verdict)
        return self.plain[message.model].step(row, verdict == "CREATED", self.engine.clock.seconds)

    def _compare(self, model: str, expected: Expected, answer: Answer) -> None:
        assert answer.reason.name == expected.reason
        if expected.reason != "OK":
            assert np.isnan(answer.values).all()
            assert (answer.step, answer.expected) == (0, expected.expected)
            return
        assert expected.scaled is not None
        assert np.abs(self._scaled(model, answer.values) - expected.scaled).max() < TOLERANCE
        assert answer.step == expected.step
        assert answer.steps_seen == expected.steps_seen
        assert {flag.name for flag in answer.flags} == expected.flags
        assert answer.imputed == expected.imputed
        assert answer.gap == expected.gap
        assert answer.valid_time == (NO_TIME if expected.valid_time is None else expected.valid_time)

    def _scaled(self, model: str, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A prediction in training units."""
        plain = self.plain[model]
        row = np.zeros((1, WIDTHS[model]))
        row[0, plain.targets] = raw
        return reference.scale(plain.package, row)[0, plain.targets]


def run_sessions(device: str, examples: int) -> None:
    machine = partial(SessionsMachine, device)  # whatever makes a machine will do
    patient = settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
    run_state_machine_as_test(machine, settings=patient)  # type: ignore[arg-type]


@pytest.mark.timeout(900)  # it takes a minute of a core's time: several where others share the core
@pytest.mark.parametrize("device", DEVICES)
def test_sessions(device: str) -> None:
    """No history of events makes a session other than its plain twin."""
    run_sessions(device, 200)


@pytest.mark.soak
@pytest.mark.parametrize("device", DEVICES)
def test_many_sessions(device: str) -> None:
    """The same in two thousand examples."""
    run_sessions(device, 2000)
