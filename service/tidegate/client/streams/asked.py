"""A message on a stream: what is asked, as often as it takes, and who waits for its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from tidegate.client.patience import Patience
from tidegate.client.streams.conversation import Request, Response
from tidegate.client.streams.kept import Rows
from tidegate.client.values.predictions import RowFlag

NOT_DUPLICATE = bytes(flags & ~int(RowFlag.DUPLICATE) for flags in range(256))  # a table for bytes.translate


class Message(Protocol):
    """Something to ask, as often as it takes."""

    def request(self, epoch: int) -> Request:
        """The request for the stream's call number `epoch`: what a server remembers of a stream ends with it."""
        ...

    def answered(self, response: Response) -> Rows | None:
        """Its answer came, on that call; returns the rows that were taken and must be kept until they are durable."""
        ...


@dataclass(slots=True)
class Asked:
    """A message that has no answer yet."""

    message: Message
    answer: asyncio.Future[Response]
    patience: Patience | None = None
    sequence: int = 0
    sent: int = 0  # how often


def as_asked_once(response: Response) -> None:
    """Its caller knows of no second time, so that nothing is a duplicate to it."""
    if response.HasField("prediction"):
        response.prediction.duplicate = False
    elif response.HasField("batch"):
        response.batch.flags = response.batch.flags.translate(NOT_DUPLICATE)
