"""What has been asked on a stream and not answered, through one call after another.

Many sessions share a stream. Each message has a sequence number and a future; answers are matched by number, so they
may come in any order. This is the only place that knows what has been asked and not answered, and what was answered and
could still be lost (`kept`). When a call breaks, another is opened with back-off. On it goes out first what the server
may have lost (`replay`), then what is in flight, again: a step that was taken is answered as a duplicate. So callers
only wait; how long is their own business (`Patience`), and so is that no session has two steps in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from tidegate.client.connection import Connection
from tidegate.client.failures import AGAIN, LOST_STEPS, copied, is_lost_connection, unreachable
from tidegate.client.patience import Backoff, Patience
from tidegate.client.streams.asked import Asked, Message, as_asked_once
from tidegate.client.streams.conversation import Conversation, Response
from tidegate.client.streams.kept import Kept
from tidegate.client.streams.replay import give_back
from tidegate.errors import Code, Reason, TidegateError
from tidegate.wire.stubs import prediction_pb2

CLOSE_SECONDS_MAX = 1.0
DURABLE_SECONDS_MAX = 3.0  # that closing waits for checkpoints of what was answered


class PredictionStream:
    """Asks on one stream, which lives from the first message to `close`."""

    def __init__(
        self,
        connection: Connection,
        config: prediction_pb2.StreamConfig,
        routing_key: tuple[tuple[str, str], ...],
    ) -> None:
        self.kept = Kept(connection.allowance.change)
        self._connection = connection
        self._config = prediction_pb2.StreamConfig(checkpoints=True, strict_steps=True)
        self._config.MergeFrom(config)
        self._routing_key = routing_key
        self._epoch = self._sequence = self._responses = 0
        self._in_flight: dict[int, Asked] = {}
        self._conversation: Conversation | None = None
        self._ready = False  # a call is open, and the server has been told what it may have lost
        self._settled = asyncio.Event()
        self._checkpoint = asyncio.Event()
        self._trouble: TidegateError | None = None  # what broke the last call; None once the next one was answered
        self._task: asyncio.Task[None] | None = None
        connection.streams.add(self)

    def name_columns(self, version: str, features: Sequence[str]) -> None:
        """Has values taken by these names, and answers be those of this version, whatever versions sessions are of."""
        self._config.version = version
        self._config.features[:] = features

    async def ask(self, patience: Patience, *messages: Message) -> list[Response]:
        """Sends messages in this order and waits for the answer of each, which may be an error.

        Raises TidegateError when the stream cannot be had; after a lost connection it goes on by itself.
        """
        self._connection.check_open()
        self._blame(patience)
        loop = asyncio.get_running_loop()
        asked = [Asked(message, loop.create_future(), patience) for message in messages]
        for one in asked:
            self._enter(one)
            if self._ready:
                self._send(one)
        self._start()
        return await self._answers(asked)

    def again(self, reason: Reason, session_id: str) -> bool:
        """Whether an observation that failed so had better be sent again, after a moment. One before which the server
        lacks steps is, as long as they are kept: the next checkpoint says whether the server lost them."""
        return reason in AGAIN or (reason in LOST_STEPS and self.kept.holds(session_id))

    async def recovered(self, patience: Patience) -> None:
        """Returns when the server has been told all that it may have lost."""
        while self.kept and not self._ready:
            self._blame(patience)
            self._start()
            await self._settled.wait()

    def forget(self, model: str, ids: Sequence[str]) -> None:
        """What is kept of these sessions is of no use any more, if they are of this model."""
        if model == self._config.model and self.kept:
            for name in ids:
                self.kept.forget(name)

    async def close(self) -> None:
        """Ends the call: when all is durable, if that does not take too long; politely, if nothing is in flight."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DURABLE_SECONDS_MAX):
                while self.kept and self._ready:
                    self._checkpoint.clear()
                    await self._checkpoint.wait()
        if self._task is not None and self._conversation is not None and not self._in_flight:
            self.kept.clear()
            self._conversation.finish()
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS_MAX)
        await self.abort()

    async def abort(self) -> None:
        """Ends it at once."""
        task, self._task = self._task, None
        try:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        finally:
            self._fail(TidegateError(Reason.CANCELLED, "the client was closed"))
            self._give_up()

    def _start(self) -> None:
        if (self._in_flight or self.kept) and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """One call after another, as long as there is something to ask or to give back."""
        backoff = Backoff()
        while True:
            before = self._responses
            error = await self._live()
            self._broke(unreachable(error))
            if not self._goes_on(error):
                return
            if self._responses > before:
                backoff = Backoff()
            await asyncio.sleep(backoff.next())

    async def _live(self) -> TidegateError:
        """One call; returns what ended it."""
        try:
            call = self._connection.predictions.StreamPredict(metadata=self._routing_key)
        except TidegateError as closed:
            return closed
        self._conversation = Conversation(call, self._config)
        self._epoch += 1
        tending = asyncio.create_task(self._tend())
        tending.add_done_callback(lambda _: call.cancel())  # it ends with the call, or failed
        try:
            return await self._conversation.run(self._hand_out)
        finally:
            self._conversation, self._ready = None, False
            self._settled.clear()  # before anything else runs: who waits for it must wait, not turn in circles
            tending.cancel()
            await asyncio.wait([tending])
            if not tending.cancelled():
                tending.result()

    async def _tend(self) -> None:
        """Gives back what the server may have lost, sends again what is in flight, and sees to later losses."""
        await give_back(self.kept, self._exchange)
        in_flight, self._in_flight = self._in_flight, {}
        for asked in in_flight.values():
            self._enter(asked)
            self._send(asked)
        self._ready = True
        self._settled.set()
        backoff = Backoff()
        while True:
            if self.kept.doubted:
                await asyncio.sleep(backoff.next())
                await give_back(self.kept, self._exchange)
                self._checkpoint.set()  # what is settled may be durable already
            else:
                backoff = Backoff()
                self._checkpoint.clear()
                await self._checkpoint.wait()

    async def _exchange(self, messages: Sequence[Message]) -> tuple[list[Response], int]:
        """Asks on the call that is open, and on no other; also returns the sequence of the last message."""
        loop = asyncio.get_running_loop()
        asked = [Asked(message, loop.create_future()) for message in messages]
        for one in asked:
            self._enter(one)
            self._send(one)
        return await self._answers(asked), asked[-1].sequence

    def _enter(self, asked: Asked) -> None:
        """Numbers a message and remembers it."""
        self._sequence += 1
        asked.sequence = self._sequence
        self._in_flight[self._sequence] = asked

    def _send(self, asked: Asked) -> None:
        assert self._conversation is not None
        request = asked.message.request(self._epoch)
        request.sequence = asked.sequence
        asked.sent += 1
        self._conversation.send(request)

    async def _answers(self, asked: Sequence[Asked]) -> list[Response]:
        try:
            return await asyncio.gather(*(one.answer for one in asked))
        finally:
            for one in asked:
                self._in_flight.pop(one.sequence, None)

    def _hand_out(self, response: Response) -> None:
        """Gives an answer to whoever asked; one that came too late has nobody."""
        self._connection.reached, self._trouble = True, None
        self._responses += 1
        if response.HasField("checkpoint"):
            lagging = [session.session_id for session in response.checkpoint.lagging]
            self.kept.checkpoint(response.checkpoint.durable_sequence, lagging)
            self._checkpoint.set()
            return
        asked = self._in_flight.pop(response.sequence, None)
        if asked is None or asked.answer.done():
            return
        if asked.sent > 1:
            as_asked_once(response)
        rows = asked.message.answered(response)
        if rows is not None:
            self.kept.add(rows, response.sequence)
        asked.answer.set_result(response)

    def _broke(self, error: TidegateError) -> None:
        """A call is over."""
        self._trouble = error
        self._connection.breaks += 1
        self._settled.clear()
        self._checkpoint.set()  # who waits for one waits in vain
        self.kept.broken()
        for asked in self._in_flight.values():
            if asked.patience is not None:
                asked.patience.blame(error)

    def _goes_on(self, error: TidegateError) -> bool:
        """Whether another call is opened after this end."""
        closed = self._connection.closed
        if self._connection.reached and not closed and is_lost_connection(error):
            return bool(self._in_flight or self.kept)
        self._fail(error if closed else unreachable(error))
        if error.code is Code.RESOURCE_EXHAUSTED and self.kept:  # too many streams, say: it may be had later
            return True
        self._give_up()
        return False

    def _fail(self, error: TidegateError) -> None:
        in_flight, self._in_flight = self._in_flight, {}
        for asked in in_flight.values():
            if not asked.answer.done():
                asked.answer.set_exception(copied(error))

    def _give_up(self) -> None:
        """Nobody will ever take what is kept."""
        self.kept.clear()
        self._settled.set()

    def _blame(self, patience: Patience) -> None:
        if self._trouble is not None:
            patience.blame(self._trouble)
