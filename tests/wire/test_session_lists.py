"""ListSessions: pages, filters and tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.wire.clients import Client, batch, observation, refused
from tests.wire.inprocess import in_process
from tidegate.wire.stubs import session_pb2 as pb


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Of its own, so that a test can name all the sessions there are."""
    models = tmp_path_factory.mktemp("repository") / "models"
    random_package(models, "first", "1")
    random_package(models, "first", "2", seed=1)
    random_package(models, "second", "1", hidden=16)  # another state shape: another slab
    with RunningServer(models) as running:
        yield running


@pytest.fixture
async def ids(client: Client) -> AsyncIterator[list[tuple[str, str]]]:
    """Sessions of two models in three versions; closed again after the test."""
    groups = {("first", "1"): "one", ("first", "2"): "two", ("second", "1"): "three"}
    for (model, version), stem in groups.items():
        names = [f"{stem}-{index}" for index in range(37)]
        await client.predict(batch(names, np.ones((37, 4))), model, version=version)
    yield [(model, f"{stem}-{index}") for (model, _), stem in groups.items() for index in range(37)]
    for model in ("first", "second"):
        everyone = [name for _, name in await listed(client, model=model)]
        await client.sessions.BatchCloseSessions(pb.BatchCloseSessionsRequest(model=model, session_ids=everyone))


async def all_pages(client: Client, **request: Any) -> list[list[pb.Session]]:
    """All pages of a query."""
    pages: list[list[pb.Session]] = []
    token = ""
    while not pages or token:
        answer = await client.sessions.ListSessions(pb.ListSessionsRequest(page_token=token, **request))
        pages.append(list(answer.sessions))
        token = answer.next_page_token
    return pages


async def listed(client: Client, **request: Any) -> list[tuple[str, str]]:
    pages = await all_pages(client, **request)
    return sorted((session.model, session.session_id) for page in pages for session in page)


@pytest.mark.parametrize("size", [1, 7, 37, 111, 1000])
async def test_pages_together_hold_each_session_once(client: Client, ids: list[tuple[str, str]], size: int) -> None:
    """Whatever the page size, no page is larger, none but the last is empty, and all sessions are listed once."""
    pages = await all_pages(client, page_size=size)
    assert all(0 < len(page) <= size for page in pages[:-1])
    assert sorted((s.model, s.session_id) for page in pages for s in page) == sorted(ids)


async def test_sessions_that_live_throughout_are_listed_once(client: Client, ids: list[tuple[str, str]]) -> None:
    """Closing and opening sessions between pages neither hides nor repeats the others."""
    seen: list[str] = []
    answer = await client.sessions.ListSessions(pb.ListSessionsRequest(model="first", page_size=5))
    for turn in range(100):
        seen += [session.session_id for session in answer.sessions]
        if not answer.next_page_token:
            break
        closed = pb.BatchCloseSessionsRequest(model="first", session_ids=["one-3", "two-30", f"new-{turn - 1}"])
        await client.sessions.BatchCloseSessions(closed)
        await client.predict(observation(f"new-{turn}", [1, 2, 3, 4]), "first")
        request = pb.ListSessionsRequest(model="first", page_size=5, page_token=answer.next_page_token)
        answer = await client.sessions.ListSessions(request)
    lived = {name for model, name in ids if model == "first"} - {"one-3", "two-30"}
    assert {name for name in seen if name in lived} == lived
    assert len([name for name in seen if name in lived]) == len(lived)


async def test_default_and_largest_page_size(client: Client) -> None:
    """0 is a page of 100, and more than 1000 is a page of 1000."""
    names = [f"many-{index}" for index in range(1100)]
    await client.sessions.BatchOpenSessions(pb.BatchOpenSessionsRequest(model="first", session_ids=names))
    assert [len(page) for page in await all_pages(client, page_size=5000)] == [1000, 100]
    assert len((await all_pages(client))[0]) == 100
    await client.sessions.BatchCloseSessions(pb.BatchCloseSessionsRequest(model="first", session_ids=names))


async def test_filters_pick(client: Client, ids: list[tuple[str, str]]) -> None:
    """Model, id, prefix, version and state, and their conjunctions, pick what they say."""
    everyone = {name for _, name in ids}
    assert await listed(client, filter="id=*") == sorted(ids)
    assert {name for _, name in await listed(client, filter="id=two-1*")} == {
        name for name in everyone if name.startswith("two-1")
    }
    assert await listed(client, filter="id=one-3") == [("first", "one-3")]
    assert len(await listed(client, filter="version=1")) == 74
    assert len(await listed(client, model="first", filter="version=1")) == 37
    assert len(await listed(client, model="first", filter=" version = 2 AND id=two-2* ", page_size=3)) == 11
    assert len(await listed(client, filter="state=OPEN")) == 111
    assert await listed(client, filter="state=QUARANTINED") == []
    assert await listed(client, model="none") == []


async def test_a_quarantined_session_is_found(client: Client, ids: list[tuple[str, str]]) -> None:
    """state=QUARANTINED lists the sessions whose last step was not finite, until they are reset."""
    bad = await refused(client.predict(observation("one-0", [1e300] * 4), "first"))
    assert (bad.reason, ("first", "one-0") in ids) == ("SESSION_DIVERGED", True)
    assert await listed(client, filter="state=QUARANTINED") == [("first", "one-0")]
    found = await client.sessions.GetSession(pb.GetSessionRequest(model="first", session_id="one-0"))
    assert found.session.state == pb.SESSION_STATE_QUARANTINED
    await client.sessions.ResetSession(pb.ResetSessionRequest(model="first", session_id="one-0"))
    assert await listed(client, filter="state=QUARANTINED") == []


@pytest.mark.parametrize(
    "wrong", ["id", "id=", "age=3", "id=a AND id=b", "state=CLOSED", "id=a OR id=b AND version", "=a"]
)
async def test_a_filter_that_is_not_understood_is_refused(client: Client, wrong: str) -> None:
    """Anything but the terms that the proto names is BAD_FILTER, and never a list of everything."""
    error = await refused(client.sessions.ListSessions(pb.ListSessionsRequest(filter=wrong)))
    assert (error.reason, error.code) == ("BAD_FILTER", grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("wrong", ["x", "AAAA", "%%%%", "ä", "A" * 1000, "AAAAAAAAAAAAAAAAAAAAAA=="])
async def test_a_token_that_is_none_is_refused(client: Client, wrong: str) -> None:
    """Junk is BAD_PAGE_TOKEN."""
    error = await refused(client.sessions.ListSessions(pb.ListSessionsRequest(page_token=wrong)))
    assert (error.reason, error.code) == ("BAD_PAGE_TOKEN", grpc.StatusCode.INVALID_ARGUMENT)


async def test_a_row_that_no_session_can_have(tmp_path: Path) -> None:
    """It is listed with the others, and may be closed."""
    random_package(tmp_path)
    async with in_process(tmp_path) as running, Client(running.grpc) as client:
        names = ["before", "odd", "after"]
        await client.predict(batch(names, np.ones((3, 4))))
        slab, slot = running.server.sessions.place(running.server.sessions.names("", "random")[b"odd"])
        slab.host["step"][slot] = slab.host["steps_seen"][slot] = -1
        assert [name for _, name in await listed(client)] == sorted(names)
        await client.sessions.CloseSession(pb.CloseSessionRequest(model="random", session_id="odd"))
        assert [name for _, name in await listed(client)] == ["after", "before"]


async def test_a_token_goes_with_its_query(client: Client, ids: list[tuple[str, str]]) -> None:
    """A token of another model or filter is refused; of another page size it is taken."""
    assert ids
    answer = await client.sessions.ListSessions(pb.ListSessionsRequest(model="first", page_size=5))
    token = answer.next_page_token
    for model, wanted in (("second", ""), ("first", "id=one*"), ("", "")):
        other = pb.ListSessionsRequest(model=model, filter=wanted, page_token=token)
        error = await refused(client.sessions.ListSessions(other))
        assert error.reason == "BAD_PAGE_TOKEN"
    request = pb.ListSessionsRequest(model="first", page_size=9, page_token=token)
    assert len((await client.sessions.ListSessions(request)).sessions) == 9


async def test_a_token_goes_with_its_server(
    client: Client, ids: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A token of another process is refused, since slots mean something else there."""
    assert ids
    answer = await client.sessions.ListSessions(pb.ListSessionsRequest(model="first", page_size=5))
    models = tmp_path_factory.mktemp("other") / "models"
    random_package(models, "first")
    with RunningServer(models) as other:
        async with Client(other.grpc) as elsewhere:
            request = pb.ListSessionsRequest(model="first", page_token=answer.next_page_token)
            assert (await refused(elsewhere.sessions.ListSessions(request))).reason == "BAD_PAGE_TOKEN"
