"""Giving back to a server what it lost: the rounds of a `Recovery`, as messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from tidegate.client.columns import Columns, gather, split, to_message
from tidegate.client.conversation import Request, Response
from tidegate.client.failures import RowError, every_row, from_status, read_row_error
from tidegate.client.kept import Kept
from tidegate.client.recovery import Recovery

# Sends messages and waits for their answers; returns the sequence of the last one too.
Exchange = Callable[[Sequence["Replayed"]], Awaitable[tuple[list[Response], int]]]


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
    names = set(kept.doubted)
    recovery = Recovery(kept.rows_of(names))
    last = 0
    while places := recovery.round():
        messages = [Replayed(rows.take(part)) for rows in gather(places) for part in split(rows)]
        answers, last = await exchange(messages)
        recovery.learn(failures(messages, answers))
    for name in recovery.lost:
        kept.forget(name)
    kept.settle(names - recovery.waiting, last)


def failures(messages: Sequence[Replayed], answers: Sequence[Response]) -> list[RowError]:
    """What failed of a round, by its place in the round."""
    found: list[RowError] = []
    at = 0
    for message, answer in zip(messages, answers, strict=True):
        ids = message.rows.ids
        if answer.HasField("error"):
            errors = every_row(from_status(answer.error), ids)
        else:
            errors = [read_row_error(error, ids[error.row], error.row) for error in answer.batch.errors]
        found += [replace(error, row=at + error.row) for error in errors]
        at += len(ids)
    return found
