"""Numbers and aliases of a batch stream, beside a slow obvious one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.client.streams import roster
from tidegate.client.streams.roster import Roster
from tidegate.errors import Reason, TidegateError

NAMES = st.sampled_from([f"s{index}" for index in range(6)])
CALLS = st.lists(st.lists(st.tuples(NAMES, st.booleans()), min_size=1, max_size=8), max_size=8)


@given(st.lists(st.integers(0, 5), min_size=1))
def test_occurrences_count_from_the_left(aliases: list[int]) -> None:
    """Each row is told how often its alias stood before it."""
    seen: Counter[int] = Counter()
    expected = []
    for alias in aliases:
        expected.append(seen[alias])
        seen[alias] += 1
    assert roster.occurrences(np.array(aliases, np.uint32)).tolist() == expected


@given(CALLS)
def test_numbers_go_up_only_when_a_step_was_taken(calls: list[list[tuple[str, bool]]]) -> None:
    """Over any calls, each session is numbered as one counter a session would, and opened sessions are told once."""
    book, last, begun = Roster(), Counter[str](), set[str]()
    for call in calls:
        ids = [name for name, _ in call]
        aliases = book.aliases(ids)
        new = book.unnumbered(aliases)
        assert {ids[row] for row in new} == {name for name in ids if not book.numbered[aliases[ids.index(name)]]}
        book.number(aliases[new], np.zeros(len(new), np.uint64), np.ones(len(new), bool))
        steps = book.next_steps(aliases, roster.occurrences(aliases))
        expected, counts = [], Counter[str]()
        for name in ids:
            counts[name] += 1
            expected.append(last[name] + counts[name])
        assert steps.tolist() == expected
        # A row fails where it is told to, and where the row before it of its session failed.
        failed, told, taken = set[str](), [], []
        for (name, good), step in zip(call, expected, strict=True):
            if not good:
                failed.add(name)
            taken.append(0 if name in failed else step)
            told.append(name not in failed and name not in begun)
            if name not in failed:
                begun.add(name)
                last[name] = step
        assert book.advance(aliases, np.array(taken, np.uint64)).tolist() == told


@given(st.lists(st.integers(0, 5), min_size=1))
def test_waves_hold_each_session_once(aliases: list[int]) -> None:
    """All rows go out, each wave holds a session at most once and is in row order, and a session's rows keep theirs."""
    waves = [wave.tolist() for wave in roster.waves(roster.occurrences(np.array(aliases, np.uint32)))]
    assert sorted(row for wave in waves for row in wave) == list(range(len(aliases)))
    assert all(wave == sorted(wave) and len({aliases[row] for row in wave}) == len(wave) for wave in waves)
    for alias in set(aliases):
        rows = [row for wave in waves for row in wave if aliases[row] == alias]
        assert rows == sorted(rows)


def test_ids_go_along_until_they_are_bound() -> None:
    """On each call of the stream anew."""
    book = Roster()
    aliases = book.aliases(["a", "b"])
    assert book.naming(aliases, 1)
    book.bound[aliases] = True
    assert not book.naming(aliases, 1)
    assert book.naming(book.aliases(["a", "c"]), 1)
    assert book.naming(aliases[:1], 2)


def test_forgotten_sessions_are_asked_for_again() -> None:
    """After forget(), and only then, a session that was numbered is asked for again; a stranger is no error."""
    book = Roster()
    aliases = book.aliases(["a", "b"])
    book.number(aliases, np.array([3, 4], np.uint64), np.zeros(2, bool))
    assert book.unnumbered(aliases).tolist() == []
    book.forget(["b", "never seen"])
    assert book.unnumbered(aliases).tolist() == [1]


def test_too_many_sessions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More sessions than the server takes aliases are BAD_BATCH; those that are known still go."""
    monkeypatch.setattr(roster, "ALIASES_MAX", 3)
    book = Roster()
    book.aliases(["a", "b", "c"])
    with pytest.raises(TidegateError) as refused:
        book.aliases(["a", "d"])
    assert refused.value.reason is Reason.BAD_BATCH
    assert book.aliases(["c", "a"]).tolist() == [2, 0]
