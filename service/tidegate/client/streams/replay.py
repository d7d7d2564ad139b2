"""Giving back to a server what it lost: the rounds of a `Recovery`, as messages.

A long stretch of a session goes out as an exact history, which leaves the session to the bit as its rows did, and holds
up nobody else's steps meanwhile. Short ones of many sessions are cheaper as rows of a batch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tidegate.client.failures import RowError, every_row, from_status, read_row_error, with_texts
from tidegate.client.streams.columns import Columns, gather, split, to_message
from tidegate.client.streams.conversation import Request, Response
from tidegate.client.streams.histories import Past, runs
from tidegate.client.streams.kept import Kept
from tidegate.client.streams.recovery import Recovery

HISTORY_ROWS_MIN = 16  # of a session; fewer go out as rows of a batch

# Sends messages and waits for their answers; returns the sequence of the last one too.
Exchange = Callable[[Sequence["Replayed | Past"]], Awaitable[tuple[list[Response], int]]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Rows that the server may have lost. Their predictions were handed out long ago."""

    rows: Columns

    def request(self, epoch: int) -> Request:
        """By their ids: aliases are the callers' business."""
        del epoch
        return Request(batch=to_message(self.rows, None, naming=True))

    def answered(self, response: Response) -> None:
        """They are kept already."""


async def give_back(kept: Kept, exchange: Exchange) -> None:
    """Sends what the server lacks of the sessions in doubt. Those that it cannot take now stay in doubt."""
    names = kept.ask()
    recovery = Recovery(kept.rows_of(names))
    last = 0
    while places := recovery.round():
        messages = [message for rows in gather(places) for message in _messages(rows)]
        answers, last = await exchange(messages)
        recovery.learn(failures(messages, answers))
    for name in recovery.lost:
        kept.forget(name)
    kept.settle(names - recovery.waiting, last)


def _messages(rows: Columns) -> Iterator[Replayed | Past]:
    """The rows in their order, as few messages."""
    start = 0
    for run in [run for run in runs(rows) if run.stop - run.start >= HISTORY_ROWS_MIN] + [slice(len(rows), len(rows))]:
        before = rows.take(slice(start, run.start))
        yield from (Replayed(before.take(part)) for part in split(before))
        long = rows.take(run)
        yield from (Past(long.take(part), exact=True) for part in split(long))
        start = run.stop


def failures(messages: Sequence[Replayed | Past], answers: Sequence[Response]) -> list[RowError]:
    """What failed of a round, by its place in the round."""
    found: list[RowError] = []
    at = 0
    for message, answer in zip(messages, answers, strict=True):
        ids = message.rows.ids
        if answer.HasField("error"):
            errors = every_row(from_status(answer.error), ids)
        else:
            told = with_texts(answer.batch.errors)
            errors = [read_row_error(error, ids[error.row], error.row) for error in told]
        found += [replace(error, row=at + error.row) for error in errors]
        at += len(ids)
    return found
