"""The gRPC front-end's book-keeping: which stream and message a reply belongs to.

Every stream and unary call has a number; the engine's request numbers carry it. Replies come as columns and leave as
messages. A stream's memory is bounded by its window: what was read and is not yet written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tidegate.checkpoints import Key
from tidegate.config import Durability, Limits
from tidegate.engine.commands import CancelStream
from tidegate.engine.flights.quick import Turn
from tidegate.engine.loop import EngineHost
from tidegate.engine.queues.block import AliasTable, Block, Scope
from tidegate.engine.queues.gathered import Singles
from tidegate.engine.replies import STREAM_SHIFT, Replies
from tidegate.engine.sessions.by_name import SESSION_ID_BYTES_MAX
from tidegate.errors import Reason, TidegateError
from tidegate.model.frequency import NO_TIME
from tidegate.model.manifest import FEATURES_MAX
from tidegate.native import library
from tidegate.wire import codec, histories
from tidegate.wire.plain import BatchStream, Plain
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

log = logging.getLogger(__name__)

MESSAGE_MASK = (1 << STREAM_SHIFT) - 1
_UNBUILT = "an answer could not be built"
ALIASES_FREE, ALIAS_SPREAD = 4096, 16  # an alias is below ALIASES_FREE + ALIAS_SPREAD x aliases bound


class Waiting:
    """A message that waits: for its rows, then for its turn. A single observation, if it is neither of those below."""

    answer: bytes | None = None

    def __init__(self, sequence: int, rows: int, session_id: bytes = b"") -> None:
        self.sequence, self.rows, self.session_id = sequence, rows, session_id


class WaitingBatch(Waiting):
    """`reply` is to one whose rows do not all come at once."""

    reply: codec.BatchReply | None = None


class WaitingHistory(Waiting):
    """All of its rows are answered as one."""


class Call:
    """One stream, or one unary call as a stream of one message: what it asked and what it is to be told.

    `messages` and `rows` count what was read and is not yet written.
    """

    def __init__(self, number: int, front: FrontEnd) -> None:
        self.number = number
        self.scope: Scope | None = None
        self._view = codec.View()
        self.messages = self.rows = 0
        self.gone = False  # nobody is there to read the answers
        self.failed = False  # an answer could not be built
        self.reader: asyncio.Task[object] | None = None  # what drain interrupts
        self.send: Callable[[bytes, int], None] = self._keep  # takes a StreamPredictResponse and its rows
        self._kept: deque[tuple[bytes, int]] = deque()
        self._front, self._plain, self._host, self._engine = front, front.plain, front.host, front.host.engine
        self._messages_max, self._rows_max = front.limits.stream_messages_max, front.limits.stream_rows_max
        self._waiting: dict[int, Waiting] = {}
        self._next = 0
        self._width = 0  # values of the last single observation; 0 where the last message was none
        self._singles: Singles | None = None  # where the last one went
        self._aliases = AliasTable()
        self._batches = BatchStream(self._aliases, front.limits.batch_message_rows_max)
        self._named = np.zeros(0, np.bool_)  # by alias: whether it was bound
        self._bound = 0  # how many were
        self._told_of = False  # wants to know how far it is durable
        self._done = self._durable = 0  # sequences up to which it is answered, and was told that it is durable
        self._answered: asyncio.Future[None] | None = None
        self._written: asyncio.Future[None] | None = None

    def configure(self, config: pb.StreamConfig) -> None:
        """Fixes what the call is about; raises BAD_CONFIG, MODEL_NOT_FOUND, VERSION_NOT_FOUND or UNIT_MISMATCH."""
        if self.scope is not None:
            raise TidegateError(Reason.BAD_CONFIG, "a stream's config is fixed by its first message")
        scope = codec.scope_of(config, tenant="")
        lane = self._engine.catalog.about(scope)
        if scope.features:  # who names what comes in knows what goes out by the names of one version
            scope = replace(scope, targets=lane.package.manifest.targets)
        self.scope = self._front.interned(scope)
        self._view = codec.view_of(config, lane.package.manifest)
        self._told_of = config.checkpoints and lane.durability is Durability.INTERVAL

    def observe(self, sequence: int, observation: types.Observation, deadline: float = np.inf) -> None:
        """Queues one observation."""
        most = max(len(observation.values), len(observation.future_covariates))
        if most > FEATURES_MAX:
            raise TidegateError(Reason.BAD_OBSERVATION, f"{most} values; at most {FEATURES_MAX}")
        values = list(observation.values)
        time_ns = NO_TIME
        if observation.HasField("event_time"):
            time_ns = codec.nanoseconds(observation.event_time)
        if observation.step > codec.STEP_MAX:
            raise TidegateError(Reason.BAD_OBSERVATION, f"step is above {codec.STEP_MAX}")
        self._width = len(values)
        session_id = observation.session_id.encode()
        request = self._expect(Waiting(sequence, 1, session_id))
        self._engine.inbox.add_row(
            self._scope(),
            request,
            session_id if len(session_id) <= SESSION_ID_BYTES_MAX else b"",  # which no session has
            observation.step,
            time_ns,
            values,
            observation.reset,
            deadline,
            time.monotonic(),
            list(observation.future_covariates),
            sequence,
        )
        self._host.wake()

    def take(self, message: bytes) -> bool:
        """Queues a message that is like the last one, if it is a plain one (see `plain.py`) and need not wait. Else
        False, and nothing has happened."""
        if self.messages >= self._messages_max or self.rows >= self._rows_max or self.gone or self._engine.full:
            return False
        plain, scope, inbox, now = self._plain, self.scope, self._engine.inbox, time.monotonic()
        if plain is None or scope is None:
            return False
        request = self.number << STREAM_SHIFT | (self._next + 1) & MESSAGE_MASK
        if self._width:
            singles = self._singles
            if singles is None or singles.sealed or singles.shape != (self._width, 0):
                singles = self._singles = inbox.singles(scope, (self._width, 0))
            taken = plain.observation(message, singles, request, now)
            if taken is None:
                return False
            inbox.rows += 1
            waiting = Waiting(taken[0], 1, taken[1])
        else:
            if not self._bound:
                return False
            rows = plain.batch(message, inbox, scope, self._batches, request, now)
            if not rows:
                return False
            waiting = WaitingBatch(self._batches.sequence, rows)
        self._expect(waiting)
        if not self._host.woken:
            self._front.wake()
        return True

    def _aliases_max(self, naming: int = 0) -> int:
        """What aliases must be below, where so many are about to be bound: a table is as long as its largest alias."""
        return min(self._front.limits.aliases_max, ALIASES_FREE + ALIAS_SPREAD * (self._bound + naming))

    def _bind(self, aliases: NDArray[np.int64]) -> None:
        """Counts them, each once, however often it is bound."""
        missing = int(aliases.max()) + 1 - len(self._named)
        if missing > 0:
            self._named = np.pad(self._named, (0, max(missing, len(self._named))))
        fresh = np.unique(aliases[~self._named[aliases]])
        self._named[fresh] = True
        self._bound += len(fresh)
        self._batches.aliases_max = self._aliases_max()

    def observe_batch(self, sequence: int, batch: types.ObservationBatch, deadline: float = np.inf) -> None:
        """Queues a batch; raises BAD_BATCH."""
        limits, self._width = self._front.limits, 0
        fit = len(batch.aliases) <= limits.batch_message_rows_max  # else it is refused, whatever they are
        naming = len(set(batch.aliases)) if batch.session_ids and fit else 0
        columns = codec.batch_columns(batch, limits.batch_message_rows_max, self._aliases_max(naming))
        if naming and columns.aliases is not None:
            self._bind(columns.aliases)
        rows = len(columns.step)
        request = self._expect(WaitingBatch(sequence, rows))
        self._engine.inbox.add_block(
            Block(
                scope=self._scope(),
                request=np.full(rows, request, np.int64),
                row=np.arange(rows, dtype=np.int32),
                ids=columns.ids,
                step=columns.step,
                time=columns.time,
                values=columns.values,
                reset=columns.reset,
                deadline=np.full(rows, deadline),
                arrived=np.full(rows, time.monotonic()),
                future=columns.future,
                aliases=columns.aliases,
                table=self._aliases,
                messages=(rows,),
            )
        )
        self._host.wake()

    def observe_history(self, sequence: int, message: types.History, deadline: float = np.inf) -> None:
        """Queues a history; raises BAD_HISTORY."""
        history = histories.history_of(message, self._scope(), self._front.limits.history_steps_max)
        self._width = 0
        request = self._expect(WaitingHistory(sequence, len(history), message.session_id.encode()))
        key = codec.session_key(message.session_id)
        self._engine.histories.add(request, key, history, deadline, time.monotonic())
        self._host.wake()

    def answer(self, replies: Replies, start: int, stop: int) -> None:
        """Takes the engine's replies to rows of one message."""
        waiting = self._waiting.get(int(replies.request[start]) & MESSAGE_MASK)
        if waiting is None:
            return  # answered already: some of its rows failed on the way
        if isinstance(waiting, WaitingBatch):
            reply = waiting.reply = waiting.reply or codec.BatchReply(waiting.rows, self._view)
            if reply.add(replies, slice(start, stop)):
                waiting.answer = reply.answer(waiting.sequence)
        else:
            answer_of = histories.answer_of if isinstance(waiting, WaitingHistory) else codec.single
            answer = answer_of(waiting.sequence, replies, start, waiting.session_id, self._view)
            waiting.answer = answer.SerializeToString()
        self._release()

    def answer_plainly(self, message: int, answer: bytes, replies: Replies | Turn, row: int) -> None:
        """Takes the whole answer to a single observation, which the row of the replies has more of."""
        if self._view.intervals:
            self.answer(_columns(replies), row, row + 1)
            return
        waiting = self._waiting.get(message)
        if waiting is not None:
            self._pass_on(message, waiting, answer)

    def answer_whole(self, message: int, replies: Replies | Turn, start: int, stop: int, plain: Plain | None) -> None:
        """Takes plain predictions for all rows of a batch, in order. `plain` knows of the replies, if it is there."""
        waiting = self._waiting.get(message)
        if waiting is None:
            return
        view = self._view
        if plain is None or view.intervals:
            answer = codec.BatchReply(waiting.rows, view).whole(waiting.sequence, _columns(replies), slice(start, stop))
        else:
            answer = plain.batch_answer(waiting.sequence, start, stop, view.dtype)
        self._pass_on(message, waiting, answer)

    def refuse(self, sequence: int, error: TidegateError) -> None:
        """Answers a message that never reached the engine."""
        self._front.refused[error.reason.name] += 1
        waiting = Waiting(sequence, 0)
        waiting.answer = codec.stream_error(sequence, error).SerializeToString()
        self._expect(waiting)
        self._release()

    def wrote(self, rows: int) -> None:
        """An answer has left."""
        self.messages -= 1
        self.rows -= rows
        if self._written is not None:
            _tell(self._written)

    def give_up(self) -> None:
        """The peer is gone: nothing that is unwritten will be written."""
        self.gone = True
        _tell(self._written)

    def fail(self) -> None:
        """An answer could not be built: the call ends now, with INTERNAL."""
        self.failed = True
        self.give_up()
        _tell(self._answered)
        if self.reader is not None:
            self.reader.cancel()

    async def next_answer(self) -> tuple[bytes, int]:
        """The next answer and its rows, when there is one; raises INTERNAL when there will be none. For one caller at a
        time."""
        while not self._kept:
            if self.failed:
                raise TidegateError(Reason.INTERNAL)
            self._answered = asyncio.get_running_loop().create_future()
            await self._answered
        return self._kept.popleft()

    async def below(self, messages: int, rows: int) -> None:
        """Returns when less is unwritten than said, or the peer is gone. For one caller at a time."""
        while (self.messages >= messages or self.rows >= rows) and not self.gone:
            self._written = asyncio.get_running_loop().create_future()
            await self._written

    def _expect(self, waiting: Waiting) -> int:
        message = self._next = (self._next + 1) & MESSAGE_MASK
        self._waiting[message] = waiting
        self.messages += 1
        self.rows += waiting.rows
        return self.number << STREAM_SHIFT | message

    def _pass_on(self, message: int, waiting: Waiting, answer: bytes) -> None:
        """Passes on the answer to a message as soon as those before it have theirs, which they mostly have."""
        if message != next(iter(self._waiting)):
            waiting.answer = answer
            return
        del self._waiting[message]
        self._done = waiting.sequence
        self.send(answer, waiting.rows)
        if self._waiting:
            self._release()

    def _release(self) -> None:
        """Passes on what is answered, in the order of the messages: so the steps of a session stay in order too."""
        waiting = self._waiting
        while waiting:
            message, first = next(iter(waiting.items()))
            if first.answer is None:
                break
            del waiting[message]
            self._done = first.sequence
            self.send(first.answer, first.rows)

    @property
    def mark(self) -> int:
        """The sequence up to which it is answered, if that is to be told when it is durable; else 0."""
        return self._done if self._told_of and self._done != self._durable else 0

    def durable(self, sequence: int, lost: Collection[Key]) -> None:
        """All up to there is durable, but for sessions that were lost."""
        self._durable = sequence
        checkpoint = pb.Checkpoint(durable_sequence=sequence)
        for key in lost:
            if self.scope is not None and key[:2] == (self.scope.tenant, self.scope.model):
                checkpoint.lagging.add(session_id=key.session_id.decode())
        self.messages += 1
        self.send(pb.StreamPredictResponse(checkpoint=checkpoint).SerializeToString(), 0)

    def _keep(self, answer: bytes, rows: int) -> None:
        self._kept.append((answer, rows))
        _tell(self._answered)

    def _scope(self) -> Scope:
        if self.scope is None:
            raise TidegateError(Reason.BAD_CONFIG, "the first message has no config")
        return self.scope


def _columns(replies: Replies | Turn) -> Replies:
    """A turn's as columns, which is asked before the next one."""
    return replies.replies if isinstance(replies, Turn) else replies


def _tell(waiter: asyncio.Future[None] | None) -> None:
    """Whoever waits, if anyone does, goes on."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


@dataclass(frozen=True)
class StreamMarks:
    """How far each stream was answered when a pass of checkpoints began."""

    marks: list[tuple[Call, int]]

    def tell(self, lost: Collection[Key]) -> None:
        """It is durable now, but for these sessions."""
        for call, sequence in self.marks:
            if not call.gone:
                call.durable(sequence, lost)


class FrontEnd:
    """All open calls. The engine's host delivers replies here."""

    def __init__(self, host: EngineHost, limits: Limits) -> None:
        self.host = host
        self.limits = limits
        self.draining = False
        native = library()
        self.plain = None if native is None else Plain(native)
        self.streams = 0
        self.unary = 0
        self.refused: Counter[str] = Counter()  # messages of streams, as a whole, by reason
        self.count_unread: Callable[[], int] = lambda: 0  # in bytes: the server of the calls says
        self._calls: dict[int, Call] = {}
        self._scopes: dict[Scope, Scope] = {}
        self._numbers = 0
        self._last: asyncio.Future[None] | None = None  # waits for the last call to end
        host.deliver = self.deliver

    @property
    def answers_waiting(self) -> int:
        """Messages read but not yet answered in full, or answered but not yet written."""
        return sum(call.messages for call in self._calls.values())

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers to unary calls that are not taken."""
        return self.count_unread()

    def admit(self) -> None:
        """Whether a unary call is taken; raises DRAINING or INBOX_FULL."""
        if self.draining:
            raise TidegateError(Reason.DRAINING)
        self.check_unread()

    def check_unread(self) -> None:
        """Whether there is room for another answer to a unary call; raises INBOX_FULL."""
        if self.unread_bytes >= self.limits.unary_bytes_max:
            raise TidegateError(Reason.INBOX_FULL, "too many bytes of answers wait for clients that do not read them")

    def open(self) -> Call:
        """A new call; raises DRAINING."""
        if self.draining:
            raise TidegateError(Reason.DRAINING)
        self._numbers = (self._numbers + 1) & (MESSAGE_MASK >> 1)
        while self._numbers in self._calls:  # once around, and that stream still lives
            self._numbers = (self._numbers + 1) & (MESSAGE_MASK >> 1)
        call = self._calls[self._numbers] = Call(self._numbers, self)
        return call

    def wake(self) -> None:
        """Says that a stream's rows wait: at once, if it is the only one."""
        if self.streams + self.unary == 1:
            self.host.wake_at_once()
        else:
            self.host.wake()

    def close(self, call: Call) -> None:
        """Forgets a call; what it has queued is not stepped, but for what is in flight."""
        del self._calls[call.number]
        if not self._calls:
            _tell(self._last)
        if call.messages:
            self.host.post(CancelStream(call.number))

    def mark(self) -> StreamMarks:
        """How far the streams are answered that want to be told when it is durable."""
        return StreamMarks([(call, mark) for call in self._calls.values() if (mark := call.mark)])

    def interned(self, scope: Scope) -> Scope:
        """One object for equal scopes, so that they are compared by identity."""
        if len(self._scopes) >= 1024:
            self._scopes.clear()
        return self._scopes.setdefault(scope, scope)

    def deliver(self, replies: Replies | Turn) -> None:
        """Hands each message's rows to its call. Raises nothing: calls whose answers cannot be built fail."""
        try:
            if replies.plainly and replies.messages:
                self._deliver_whole(replies)
            else:
                self._deliver(replies)
        except Exception:
            log.exception("answers could not be built")
            for number in set((replies.request >> STREAM_SHIFT).tolist()):
                call = self._calls.get(number)
                if call is not None:
                    call.fail()

    def _deliver(self, replies: Replies | Turn) -> None:
        plain = None if replies.singles is None else self.plain
        if replies.plainly and plain is not None:
            self._deliver_singles(replies, plain)
            return
        replies = _columns(replies)
        cuts = np.flatnonzero(np.diff(replies.request)) + 1
        owners = (replies.request[np.concatenate(([0], cuts))] >> STREAM_SHIFT).tolist() if len(replies) else []
        for owner, (start, stop) in zip(owners, pairwise([0, *cuts.tolist(), len(replies)]), strict=True):
            call = self._calls.get(owner)
            if call is not None:
                try:
                    call.answer(replies, start, stop)
                except Exception:
                    log.exception(_UNBUILT)
                    call.fail()

    def _deliver_singles(self, replies: Replies | Turn, plain: Plain) -> None:
        answers = zip(replies.request.tolist(), plain.predictions(replies), strict=True)
        for row, (request, answer) in enumerate(answers):
            call = self._calls.get(request >> STREAM_SHIFT)
            if call is not None:
                try:
                    call.answer_plainly(request & MESSAGE_MASK, answer, replies, row)
                except Exception:
                    log.exception(_UNBUILT)
                    call.fail()

    def _deliver_whole(self, replies: Replies | Turn) -> None:
        plain = None if replies.singles is None else self.plain
        if plain is not None:
            plain.batch_answers(replies)
        start = 0
        for rows in replies.messages:
            request = int(replies.request[start])
            call = self._calls.get(request >> STREAM_SHIFT)
            if call is not None:
                try:
                    call.answer_whole(request & MESSAGE_MASK, replies, start, start + rows, plain)
                except Exception:  # one stream's answer that cannot be built is not another stream's trouble
                    log.exception(_UNBUILT)
                    call.fail()
            start += rows

    def drain(self) -> None:
        """No new calls; readers stop, so that streams end when what was read is answered."""
        self.draining = True
        for call in self._calls.values():
            if call.reader is not None:
                call.reader.cancel()

    async def ended(self) -> None:
        """Returns when no call is open. Only while draining."""
        while self._calls:
            self._last = asyncio.get_running_loop().create_future()
            await self._last
