"""The inbox: order within a stream, rows gathered by scope, batches that go together, and the alias table."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engine.queues.block import AliasTable, Block, Scope
from tidegate.engine.queues.gathered import Batches
from tidegate.engine.queues.inbox import SPARES_MAX, Inbox
from tidegate.model.frequency import NO_TIME

SCOPES = [Scope("", "a"), Scope("", "b"), Scope("", "b", must_exist=True)]


def add_row(inbox: Inbox, scope: Scope, request: int, width: int = 2) -> None:
    values = [float(request)] * width
    inbox.add_row(scope, request, b"s%d" % request, request, NO_TIME, values, request % 2 == 0, 1.0, 2.0)


def add_block(inbox: Inbox, scope: Scope, request: int, rows: int) -> None:
    inbox.add_block(
        Block(
            scope=scope,
            request=np.full(rows, request, np.int64),
            row=np.arange(rows, dtype=np.int32),
            ids=[b"s%d" % request] * rows,
            step=np.full(rows, request, np.int64),
            time=np.full(rows, NO_TIME, np.int64),
            values=np.full((rows, 2), float(request)),
            reset=np.full(rows, request % 2 == 0),
            deadline=np.full(rows, 1.0),
            arrived=np.full(rows, 2.0),
        )
    )


def add_batch(inbox: Inbox, scope: Scope, request: int, rows: int, table: AliasTable, width: int = 2) -> None:
    """By alias: alias `10 * request + row` of the stream, which nobody else uses."""
    inbox.add_block(
        Block(
            scope=scope,
            request=np.full(rows, request, np.int64),
            row=np.arange(rows, dtype=np.int32),
            ids=(),
            step=np.full(rows, request, np.int64),
            time=np.full(rows, NO_TIME, np.int64),
            values=np.full((rows, width), float(request)),
            reset=np.full(rows, request % 2 == 0),
            deadline=np.full(rows, 1.0),
            arrived=np.full(rows, 2.0),
            aliases=10 * request + np.arange(rows),
            table=table,
            messages=(rows,),
        )
    )


@given(
    messages=st.lists(
        st.tuples(
            st.sampled_from(SCOPES),
            st.sampled_from(["row", "row", "wide row", "block", "batch", "batch"]),
            st.integers(1, 4),
        ),
        max_size=30,
    ),
    left=st.sets(st.sampled_from(["a", "b"])),
)
def test_all_rows_in_order(messages: list[tuple[Scope, str, int]], left: set[str]) -> None:
    """Every row comes out once with its own columns, and those of one scope in the order in which they came; those of
    models that are left for later no sooner than that."""
    inbox, sent, tables = Inbox(1000), dict[Scope, list[tuple[int, int]]](), [AliasTable() for _ in range(3)]
    for request, (scope, kind, rows) in enumerate(messages):
        if kind == "block":
            add_block(inbox, scope, request, rows)
        elif kind == "batch":
            add_batch(inbox, scope, request, rows, tables[request % len(tables)])
        else:
            add_row(inbox, scope, request, width=2 if kind == "row" else 3)
        sent.setdefault(scope, []).extend((request, row) for row in range(rows if "b" in kind else 1))
    total = sum(map(len, sent.values()))
    assert inbox.rows == total
    assert bool(inbox) == bool(total)
    got = dict[Scope, list[tuple[int, int]]]()
    first = inbox.take(but=left)
    assert not left & {block.scope.model for block in first}
    for block in first + inbox.take():
        assert block.values.shape[0] == len(block) == len(block.ids if block.aliases is None else block.aliases)
        got.setdefault(block.scope, []).extend(zip(block.request.tolist(), block.row.tolist(), strict=True))
        for place, request in enumerate(block.request.tolist()):
            if block.aliases is None:
                assert block.ids[place] == b"s%d" % request
            else:
                assert block.table is tables[request % len(tables)]
                assert block.aliases[place] == 10 * request + block.row[place]
            assert block.step[place] == request
            assert (block.values[place] == request).all()
            assert block.reset[place] == (request % 2 == 0)
    assert got == sent
    assert not inbox
    assert inbox.take() == []
    assert inbox.rows == total
    inbox.done(total)
    assert inbox.rows == 0


@given(
    messages=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 5, 9, 300]), st.integers(2, 3)), max_size=30),
    ways=st.lists(st.sampled_from(["answered", "taken", "spread"]), min_size=1, max_size=9),
    together=st.sampled_from([8, 64]),
    fits=st.lists(st.sampled_from([None, 4, 16]), min_size=1, max_size=9),
)
def test_batches_that_go_together(
    messages: list[tuple[int, int, int]], ways: list[str], together: int, fits: list[int | None]
) -> None:
    """Batches by alias that follow each other come out together: of streams that differ, of one width, no more rows
    than go together by now, or one alone; each once, in order, with its own columns, also in columns that were used
    before."""
    inbox, tables, sent = Inbox(10_000, together), [AliasTable() for _ in range(4)], list[int]()
    got: list[tuple[int, int]] = []
    held: list[tuple[Block, int]] = []
    for turn, way in enumerate((*ways, "answered")):
        last, fit = turn == len(ways), fits[turn % len(fits)]
        most = min(together, fit or together)
        inbox.gather(most)
        for stream, rows, width in messages[len(sent) :] if last else messages[len(sent) : len(sent) + 5]:
            add_batch(inbox, SCOPES[0], len(sent), rows, tables[stream], width)
            sent.append(rows)
        while (found := inbox.oldest()) is not None:
            assert isinstance(found, Batches)
            assert len({id(block.table) for block in found.blocks()}) == len(found.messages)
            assert len(found) == sum(found.messages) <= max(most, found.messages[0])
            first = len(got)
            for block, rows in zip(found.blocks(), found.messages, strict=True):
                request = len(got)
                assert (block.request == request).all()
                assert (block.values == request).all()
                assert block.table is tables[messages[request][0]]
                got.append((request, rows))
            whole = found.block()
            assert whole.messages == tuple(rows for _, rows in got[first:])
            if way == "answered":
                inbox.answered(found)
            elif way == "taken":
                inbox.take_oldest()
                inbox.done(len(whole))
                held += [(whole, first)]
            else:
                inbox.spread()
                for request in range(first, len(got)):
                    block = inbox.oldest()  # type: ignore[assignment]
                    assert isinstance(block, Block)
                    assert block.request.tolist() == [request] * got[request][1]
                    inbox.take_oldest()
                    inbox.done(len(block))
                    held.append((block, request))
    assert got == list(enumerate(sent))
    assert inbox.rows == 0
    for block, first in held:  # nobody has written to what was taken
        assert block.request.tolist() == [first + n for n, rows in enumerate(block.messages) for _ in range(rows)]
    assert len(inbox._spares) <= SPARES_MAX


def test_batches_find_their_sessions_when_they_are_stepped() -> None:
    """Not when they came: a binding may lie between. An alias that nobody has bound is said."""
    inbox, tables = Inbox(100), [AliasTable(), AliasTable()]
    for request, table in enumerate(tables):
        add_batch(inbox, SCOPES[0], request, 2, table)
    for request, table in enumerate(tables):
        table.bind(10 * request + np.arange(2), [b"a", b"b"])
        table.refs[10 * request :] = 7 + request
    batches = inbox.quick(1)
    assert isinstance(batches, Batches)
    refs = batches.known()
    assert refs is not None
    assert refs.tolist() == [7, 7, 8, 8]
    add_batch(inbox, SCOPES[0], 2, 1, AliasTable())
    assert inbox.quick(1) is batches
    assert batches.known() is None


def test_single_observations_share_a_block() -> None:
    """Observations of many streams that arrive between two iterations are one block for each scope."""
    inbox = Inbox(1000)
    for request in range(64):
        add_row(inbox, SCOPES[request % 2], request)
    assert [len(block) for block in inbox.take()] == [32, 32]


def test_full() -> None:
    """The inbox is full until enough of what it took has been answered."""
    inbox = Inbox(3)
    add_block(inbox, SCOPES[0], 1, 2)
    was_full = [inbox.rows >= inbox.rows_max]
    for act in (lambda: add_row(inbox, SCOPES[0], 2), inbox.take, lambda: inbox.done(1)):
        act()
        was_full.append(inbox.rows >= inbox.rows_max)
    assert was_full == [False, True, True, False]


class TestAliasTable:
    """A stream's numbers for its sessions."""

    @given(
        binds=st.lists(
            st.lists(st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=2)), min_size=1, max_size=6),
            max_size=10,
        )
    )
    def test_last_binding_wins(self, binds: list[list[tuple[int, bytes]]]) -> None:
        """An alias names what it was bound to last; a new binding forgets the reference of the old one."""
        table, wanted = AliasTable(), dict[int, bytes]()
        for pairs in binds:
            table.refs[:] = 99
            aliases, ids = [alias for alias, _ in pairs], [session for _, session in pairs]
            table.bind(np.array(aliases, np.int64), ids)
            wanted.update(pairs)
            assert not table.refs[aliases].any()
        for alias in range(41):
            bound = table.ids[alias] if alias < len(table.ids) else None
            assert bound == wanted.get(alias)

    def test_size_follows_the_largest_alias(self) -> None:
        """Naming sessions one at a time takes room for them, not for powers of their number."""
        table = AliasTable()
        for alias in range(2000):
            table.bind(np.array([alias]), [b"s"])
        assert len(table.ids) == 2000
        assert 2000 <= len(table.refs) <= 4096


def test_small_batches_that_do_not_go_together() -> None:
    """Each has room for about its rows: the inbox is limited by rows, and there may be as many batches."""
    inbox, tables = Inbox(1000), [AliasTable(), AliasTable()]
    for number in range(20):
        scope = Scope("", f"m{number % 2}")
        into = inbox.batches(scope, tables[number % 2])
        if not into.has_room(1, 3):
            into = inbox.more_batches(scope, 3)
        into.room(1)
        assert into.capacity <= 8
        inbox.added(into, 1, tables[number % 2])
