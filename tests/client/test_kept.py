"""What is kept until it is durable, beside a slow obvious one, and how much."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tidegate.client.allowance import Allowance
from tidegate.client.patience import Patience
from tidegate.client.streams.columns import Columns
from tidegate.client.streams.kept import Kept
from tidegate.errors import Reason, TidegateError

NAMES = st.sampled_from(["a", "b", "c", "d"])


def block(*rows: tuple[str, int]) -> Columns:
    """Rows of sessions, by name and step."""
    steps = np.array([step for _, step in rows], np.uint64)
    return Columns([name for name, _ in rows], steps, np.zeros((len(rows), 2)))


def steps_of(kept: Kept, name: str) -> list[int]:
    """The steps that are kept of a session."""
    return [int(columns.steps[row]) for columns, row in kept.rows_of([name])[name]]


class Keeping(RuleBasedStateMachine):
    """Any history of answers, checkpoints, breaks, recoveries and losses, with a list of rows a session beside it.

    A row of the plain one is (step, sequence of its message); what is in doubt has the sequence None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = [0, 0]
        self.kept = Kept(self.weigh)
        self.plain: dict[str, list[tuple[int, int | None]]] = {name: [] for name in "abcd"}
        self.last = dict.fromkeys("abcd", 0)
        self.sequence = self.durable = 0

    def weigh(self, rows: int, size: int) -> None:
        self.weight[0] += rows
        self.weight[1] += size

    @rule(names=st.sets(NAMES, min_size=1))
    def answered(self, names: set[str]) -> None:
        self.sequence += 1
        for name in names:
            self.last[name] += 1
            self.plain[name].append((self.last[name], self.sequence))
        self.kept.add(block(*((name, self.last[name]) for name in sorted(names))), self.sequence)

    @rule(name=NAMES)
    def answered_again(self, name: str) -> None:
        """A call that raised was made again: its rows were kept before."""
        if self.plain[name]:
            self.sequence += 1
            self.plain[name][-1] = (self.last[name], self.sequence)
            self.kept.add(block((name, self.last[name])), self.sequence)

    @rule(back=st.integers(0, 3), lagging=st.sets(NAMES, max_size=2))
    def checkpoint(self, back: int, lagging: set[str]) -> None:
        self.durable = max(self.durable, self.sequence - back)
        self.kept.checkpoint(self.durable, lagging)
        for name, rows in self.plain.items():
            if name in lagging:
                self.plain[name] = [(step, None) for step, _ in rows]
            else:
                self.plain[name] = [row for row in rows if row[1] is None or row[1] > self.durable]

    @rule()
    def broken(self) -> None:
        self.kept.broken()
        self.plain = {name: [(step, None) for step, _ in rows] for name, rows in self.plain.items()}

    @rule(names=st.sets(NAMES, min_size=1))
    def settled(self, names: set[str]) -> None:
        self.sequence += 1
        self.kept.settle(names & self.kept.ask(), self.sequence)
        for name in names:
            rows = self.plain[name]
            if any(sequence is None for _, sequence in rows):
                self.plain[name] = [(step, self.sequence) for step, _ in rows]

    @rule(name=NAMES)
    def forgotten(self, name: str) -> None:
        self.kept.forget(name)
        self.plain[name] = []

    @invariant()
    def nothing_that_can_be_lost_is_missing(self) -> None:
        """Each row that is not durable is kept, in order and once. More may be: a block goes as a whole, and in its
        turn; but nothing of a session that was forgotten."""
        for name, rows in self.plain.items():
            steps = steps_of(self.kept, name)
            assert steps == sorted(set(steps))
            assert {step for step, _ in rows} <= set(steps)
            assert self.kept.holds(name) == bool(steps)

    @invariant()
    def doubt_is_known(self) -> None:
        """What has no sequence is in doubt."""
        for name, rows in self.plain.items():
            if any(sequence is None for _, sequence in rows):
                assert name in self.kept.doubted

    @invariant()
    def it_is_weighed(self) -> None:
        """The allowance hears of what comes and goes."""
        assert self.weight[0] == self.kept.rows
        assert (self.weight[1] > 0) == bool(self.kept)

    def teardown(self) -> None:
        """In the end, when all is settled, a checkpoint of the last message lets everything go."""
        self.kept.settle(self.kept.ask(), self.sequence)
        self.kept.checkpoint(self.sequence)
        assert not self.kept
        assert self.weight == [0, 0]


TestKeeping = Keeping.TestCase


def test_an_answer_behind_its_checkpoint_is_not_kept() -> None:
    """What a checkpoint covered already when it is handed out need not be kept."""
    kept = Kept()
    kept.checkpoint(5)
    kept.add(block(("a", 1)), 5)
    assert not kept
    kept.add(block(("a", 2)), 6)
    assert steps_of(kept, "a") == [2]


def test_what_is_settled_behind_its_checkpoint_is_let_go() -> None:
    """The checkpoint of the message that settled it may be handed out before; there may be no other for long."""
    kept = Kept()
    kept.add(block(("a", 1), ("b", 1)), 1)
    kept.broken()
    kept.checkpoint(5)
    kept.settle(kept.ask() - {"b"}, 4)
    assert steps_of(kept, "a") == [1]  # in one block with what is in doubt
    kept.settle(kept.ask(), 5)
    assert not kept


def test_what_is_lost_while_it_is_given_back_is_asked_for_again() -> None:
    """A checkpoint may name a session whose rows are on their way: the answers, which are older, do not settle it."""
    kept = Kept()
    kept.add(block(("a", 1), ("b", 1)), 1)
    kept.broken()
    names = kept.ask()
    kept.checkpoint(1, ["a"])
    kept.settle(names, 2)
    assert kept.doubted == {"a"}
    kept.settle(kept.ask(), 3)
    assert kept.doubted == set()
    kept.checkpoint(3)
    assert not kept


def test_only_the_sessions_that_lag_stay() -> None:
    """A checkpoint lets go what is not in a block with a session that it names, which is in doubt from then on."""
    kept = Kept()
    kept.add(block(("a", 1)), 1)
    kept.add(block(("b", 1)), 2)
    kept.add(block(("c", 1)), 3)
    kept.checkpoint(3, ["b", "never stepped here"])
    assert (steps_of(kept, "a"), steps_of(kept, "b")) == ([], [1])
    assert kept.doubted == {"b"}


def test_rows_are_copies_of_what_was_sent() -> None:
    """What the caller does to its matrix later is not what is sent again."""
    matrix = np.ones((2, 2))
    columns = Columns(["a", "b"], np.array([1, 1], np.uint64), matrix)
    kept = columns.taken(np.array([0, 1], np.uint64))
    matrix[:] = 7.0
    assert (kept.ids, kept.values.tolist()) == (["b"], [[1.0, 1.0]])


async def test_sending_waits_while_too_much_is_kept() -> None:
    """Above the limit of rows or bytes a call waits, and goes on when a checkpoint made room."""
    for allowance in (Allowance(rows_max=2), Allowance(bytes_max=50)):
        kept = Kept(allowance.change)
        async with Patience(60.0, "somewhere") as patience:
            await allowance.room(patience)
            kept.add(block(("a", 1), ("b", 1)), 1)
            waiting = asyncio.create_task(allowance.room(patience))
            await asyncio.sleep(0)
            assert not waiting.done()
            kept.checkpoint(1)
            await waiting
        assert (allowance.rows, allowance.bytes) == (0, 0)


async def test_no_room_in_time() -> None:
    """A call whose time runs out while it waits for room says that checkpoints lag."""
    allowance = Allowance(rows_max=1)
    allowance.change(1, 10)
    with pytest.raises(TidegateError) as refused:
        async with Patience(0.01, "somewhere") as patience:
            await allowance.room(patience)
    assert refused.value.reason is Reason.CHECKPOINT_LAG
