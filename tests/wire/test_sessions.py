"""SessionService: every call but the lists, one session at a time and in bulk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import grpc
import pytest

from tests.wire.clients import Client, batch, check_text, observation, refused
from tidegate.wire.stubs import session_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

X = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture
def prefix() -> str:
    """Begins the ids of one test's sessions."""
    return f"{uuid4().hex}/"


async def opened(client: Client, name: str, model: str = "random", **fields: Any) -> pb.OpenSessionResponse:
    answer = await client.sessions.OpenSession(pb.OpenSessionRequest(model=model, session_id=name, **fields))
    assert isinstance(answer, pb.OpenSessionResponse)
    return answer


async def got(client: Client, name: str, model: str = "random") -> pb.Session:
    session = (await client.sessions.GetSession(pb.GetSessionRequest(model=model, session_id=name))).session
    assert isinstance(session, pb.Session)
    return session


def row_errors(errors: Sequence[types.RowError]) -> list[tuple[int, str]]:
    """Row and reason of each; their texts are looked at on the way."""
    for error in errors:
        check_text(error.reason, error.code, error.message)
    return [(error.row, error.reason) for error in errors]


class TestOne:
    async def test_open_creates_once(self, client: Client, prefix: str) -> None:
        """Opening again returns the session that lives, as it is, and creates nothing."""
        first = await opened(client, prefix)
        await client.predict(observation(prefix, X))
        again = await opened(client, prefix, version="2")
        assert (first.created, again.created) == (True, False)
        assert (first.session.step, again.session.step) == (0, 1)
        assert again.session.version == "1"

    async def test_open_takes_the_version_asked_for(self, client: Client, prefix: str) -> None:
        """A version, an alias, or the pin."""
        for name, asked, version in (("a", "", "1"), ("b", "2", "2"), ("c", "canary", "2")):
            assert (await opened(client, prefix + name, version=asked)).session.version == version

    async def test_a_session_says_all_there_is(self, client: Client, prefix: str) -> None:
        """GetSession tells model, version, id, numbering, times and state; no event time before there was one."""
        before = time.time()
        await opened(client, prefix, "station")
        session = await got(client, prefix, "station")
        assert not session.HasField("last_event_time")
        at = datetime(2015, 6, 1, tzinfo=UTC)
        await client.predict(observation(prefix, [1, 2, 3], 1, event_time=at), "station")
        session = await got(client, prefix, "station")
        assert (session.model, session.version, session.session_id) == ("station", "1", prefix)
        assert (session.step, session.steps_seen, session.state) == (1, 1, pb.SESSION_STATE_OPEN)
        assert session.last_event_time.ToDatetime(UTC) == at
        assert before <= session.last_active_time.ToDatetime(UTC).timestamp() <= time.time()

    async def test_one_id_is_a_session_in_each_model(self, client: Client, prefix: str) -> None:
        """Sessions are named by model and id: the same id in two models is two sessions."""
        await client.predict(observation(prefix, X))
        await client.predict(observation(prefix, [1, 2, 3]), "station")
        await client.predict(observation(prefix, [1, 2, 3]), "station")
        assert [(await got(client, prefix, model)).step for model in ("random", "station")] == [1, 2]

    async def test_reset_keeps_the_numbering(self, client: Client, prefix: str) -> None:
        """After a reset steps_seen is 0 and the next step is numbered on; a retry of the reset changes nothing."""
        first = (await client.predict(observation(prefix, X))).prediction
        await client.predict(observation(prefix, X))
        for _ in range(2):
            answer = await client.sessions.ResetSession(pb.ResetSessionRequest(model="random", session_id=prefix))
            assert (answer.session.step, answer.session.steps_seen) == (2, 0)
        again = (await client.predict(observation(prefix, X, 3))).prediction
        assert list(again.values) == list(first.values)

    async def test_close_returns_the_end(self, client: Client, prefix: str) -> None:
        """CloseSession tells how the session stood; then it is gone, and its id starts anew."""
        await client.predict(observation(prefix, X))
        request = pb.CloseSessionRequest(model="random", session_id=prefix)
        assert (await client.sessions.CloseSession(request)).session.step == 1
        assert (await refused(client.sessions.CloseSession(request))).reason == "SESSION_NOT_FOUND"
        assert (await refused(got(client, prefix))).reason == "SESSION_NOT_FOUND"
        answer = (await client.predict(observation(prefix, X, 1))).prediction
        assert (answer.created, answer.step) == (True, 1)

    async def test_a_fork_goes_its_own_way(self, client: Client, prefix: str) -> None:
        """A fork predicts bit for bit as its original would, and neither feels the other's steps."""
        for step in range(3):
            await client.predict(observation(prefix, [step, 2, 3, 4]))
        fork = pb.ForkSessionRequest(model="random", session_id=prefix, new_session_id=prefix + "copy")
        copy = (await client.sessions.ForkSession(fork)).session
        assert (copy.session_id, copy.step, copy.steps_seen, copy.version) == (prefix + "copy", 3, 3, "1")
        await client.predict(observation(prefix + "copy", [9, 9, 9, 9], 4))
        other = pb.ForkSessionRequest(model="random", session_id=prefix, new_session_id=prefix + "other")
        await client.sessions.ForkSession(other)
        ours = (await client.predict(observation(prefix, X, 4))).prediction
        theirs = (await client.predict(observation(prefix + "other", X, 4))).prediction
        assert list(ours.values) == list(theirs.values)
        assert [(await got(client, prefix + name)).step for name in ("", "copy", "other")] == [4, 4, 4]

    async def test_a_fork_answers_a_retry_of_the_last_step(self, client: Client, prefix: str) -> None:
        """The last reply is part of what is copied."""
        once = (await client.predict(observation(prefix, X, 1))).prediction
        fork = pb.ForkSessionRequest(model="random", session_id=prefix, new_session_id=prefix + "copy")
        await client.sessions.ForkSession(fork)
        again = (await client.predict(observation(prefix + "copy", X, 1))).prediction
        assert (again.duplicate, list(again.values)) == (True, list(once.values))

    async def test_a_fork_needs_a_free_id(self, client: Client, prefix: str) -> None:
        """An id that lives is SESSION_EXISTS, also the session's own; an unknown original is SESSION_NOT_FOUND."""
        await opened(client, prefix)

        async def fork(source: str, target: str) -> tuple[str, grpc.StatusCode]:
            request = pb.ForkSessionRequest(model="random", session_id=source, new_session_id=target)
            error = await refused(client.sessions.ForkSession(request))
            return error.reason, error.code

        assert await fork(prefix, prefix) == ("SESSION_EXISTS", grpc.StatusCode.ALREADY_EXISTS)
        assert await fork(prefix + "none", prefix + "new") == ("SESSION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        assert await fork(prefix, "") == ("BAD_SESSION_ID", grpc.StatusCode.INVALID_ARGUMENT)


class TestMany:
    async def test_many_are_opened_in_one_call(self, client: Client, prefix: str) -> None:
        """Each id says whether it was created and where it stands; bad ones fail alone; an id twice is one session."""
        await client.predict(observation(prefix + "old", X))
        ids = [prefix + "new", prefix + "old", "", prefix + "new", "x" * 257]
        answer = await client.sessions.BatchOpenSessions(pb.BatchOpenSessionsRequest(model="random", session_ids=ids))
        assert answer.created == bytes([1, 0, 0, 0, 0])
        assert list(answer.steps) == [0, 1, 0, 0, 0]
        assert row_errors(answer.errors) == [(2, "BAD_SESSION_ID"), (4, "BAD_SESSION_ID")]
        again = await client.sessions.BatchOpenSessions(pb.BatchOpenSessionsRequest(model="random", session_ids=ids))
        assert again.created == bytes(5)

    async def test_many_are_reset_and_closed_in_one_call(self, client: Client, prefix: str) -> None:
        """Unknown ids fail alone; the others are reset, then closed."""
        ids = [prefix + "a", prefix + "none", prefix + "b"]
        await client.predict(batch([ids[0], ids[2]], [X, X]))
        reset = await client.sessions.BatchResetSessions(pb.BatchResetSessionsRequest(model="random", session_ids=ids))
        assert (reset.done, row_errors(reset.errors)) == (2, [(1, "SESSION_NOT_FOUND")])
        assert [(await got(client, name)).steps_seen for name in (ids[0], ids[2])] == [0, 0]
        closed = await client.sessions.BatchCloseSessions(pb.BatchCloseSessionsRequest(model="random", session_ids=ids))
        assert (closed.done, row_errors(closed.errors)) == (2, [(1, "SESSION_NOT_FOUND")])
        closed = await client.sessions.BatchCloseSessions(pb.BatchCloseSessionsRequest(model="random", session_ids=ids))
        assert (closed.done, len(closed.errors)) == (0, 3)

    async def test_an_id_twice_in_a_bulk_close_is_one_session(self, client: Client, prefix: str) -> None:
        """Naming a session twice closes it once and harms nothing."""
        await opened(client, prefix)
        request = pb.BatchCloseSessionsRequest(model="random", session_ids=[prefix, prefix])
        assert not (await client.sessions.BatchCloseSessions(request)).errors
        assert (await refused(got(client, prefix))).reason == "SESSION_NOT_FOUND"

    @pytest.mark.parametrize("method", ["BatchOpenSessions", "BatchResetSessions", "BatchCloseSessions"])
    async def test_bulk_calls_are_limited_and_need_a_model(self, client: Client, method: str) -> None:
        """More ids than rows of a batch are refused as a whole; so is an unknown model; no ids are nothing to do."""
        call = getattr(client.sessions, method)
        request = getattr(pb, f"{method}Request")
        assert (await refused(call(request(model="random", session_ids=["x"] * 16_385)))).reason == "BAD_BATCH"
        assert (await refused(call(request(model="none", session_ids=["x"])))).reason == "MODEL_NOT_FOUND"
        assert not (await call(request(model="random"))).errors
