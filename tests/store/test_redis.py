"""What is Redis's own: a server that is gone, hangs or comes back, its data by name, and the setting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from tests.services import RunningRedis
from tests.store.places import RedisPlace, checkpoint, everything, put
from tidegate.checkpoints import Key
from tidegate.store import redis as redis_store
from tidegate.store.protocol import Renewal, Store, StoreError, Terms
from tidegate.store.redis import RedisStore
from tidegate.store.redis_keys import Keys, address

PATIENCE_SECONDS = 60.0  # what should be over in a few seconds

CALLS: dict[str, Callable[[Store], Coroutine[Any, Any, object]]] = {
    "renew": lambda store: store.renew(),
    "claim": lambda store: store.claim([checkpoint(b"a").key]),
    "save": lambda store: store.save([checkpoint(b"a", 2)], [1]),
    "lost": lambda store: store.lost([checkpoint(b"a").key], [1]),
    "release": lambda store: store.release([checkpoint(b"a").key], [1]),
    "delete": lambda store: store.delete([checkpoint(b"a").key]),
    "scan": everything,
}


@pytest.fixture
def place(redis_server: RunningRedis) -> RedisPlace:
    return RedisPlace(redis_server)


@pytest.fixture
async def store(place: RedisPlace) -> AsyncIterator[Store]:
    """An open one."""
    store = place.store()
    await store.start()
    yield store
    await store.stop()


@contextmanager
def stopped(server: RunningRedis) -> Iterator[None]:
    """It runs again afterwards, with the data it had."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server: RunningRedis) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


async def renewed(store: Store) -> Renewal:
    """The first renewal that is answered: a connection from before a restart may fail first."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(StoreError):
                return await store.renew()


async def test_a_redis_that_is_gone_is_an_error_of_each_call(store: Store, redis_server: RunningRedis) -> None:
    """Which names it; and the store works as before when it is back, with all it had."""
    row = checkpoint(b"a")
    [epoch] = await put(store, [row])
    with stopped(redis_server):
        for call in CALLS.values():
            with pytest.raises(StoreError, match=f"redis://{redis_server.address}/0: "):
                await call(store)
    assert await store.renew() == Renewal()
    assert await store.save([checkpoint(b"a", 2)], [epoch]) == []
    assert await everything(store) == [checkpoint(b"a", 2)]


async def test_a_redis_that_hangs_is_an_error_in_time(store: Store, redis_server: RunningRedis) -> None:
    """All at once, so that the test takes one wait; what was asked is not answered to who asks next."""
    row = checkpoint(b"a")
    [epoch] = await put(store, [row])
    with frozen(redis_server):
        async with asyncio.timeout(PATIENCE_SECONDS):
            found = await asyncio.gather(
                *(CALLS[name](store) for name in ("renew", "lost", "scan")), return_exceptions=True
            )
    assert [type(answer) for answer in found] == [StoreError] * 3
    assert await store.lost([row.key], [epoch]) == []
    assert (await store.claim([row.key]))[0].checkpoint == row


async def test_one_that_cannot_be_reached_does_not_start(place: RedisPlace, redis_server: RunningRedis) -> None:
    """But for the error, as if nothing was tried: it starts when the Redis is there."""
    store = place.store()
    with stopped(redis_server):
        with pytest.raises(StoreError, match="redis://"):
            await store.start()
        with pytest.raises(StoreError, match="redis://"):
            await store.stop()
    await store.start()
    await store.stop()


async def test_what_was_saved_outlives_a_crash(store: Store, redis_server: RunningRedis) -> None:
    """Of the Redis; and who held a row holds it still."""
    [epoch] = await put(store, [checkpoint(b"a")])
    redis_server.kill()
    redis_server.start()
    assert await renewed(store) == Renewal()
    assert await everything(store) == [checkpoint(b"a")]
    assert await store.lost([checkpoint(b"a").key], [epoch]) == []


async def test_one_that_comes_back_empty_is_lost(store: Store, redis_server: RunningRedis) -> None:
    """It is told once; the script, which went too, is sent again."""
    [epoch] = await put(store, [checkpoint(b"a")])
    redis_server.stop()
    redis_server.wipe()
    redis_server.start()
    assert await renewed(store) == Renewal(lost=True)
    assert await store.save([checkpoint(b"a")], [epoch]) == []
    assert await everything(store) == [checkpoint(b"a")]
    assert await store.renew() == Renewal()


async def test_a_full_redis_is_an_error(store: Store, redis_server: RunningRedis) -> None:
    """Nothing of the call is saved, and it goes on when there is room."""
    [epoch] = await put(store, [checkpoint(b"a")])
    async with Redis.from_url(redis_server.url) as redis:
        await redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreError, match="maxmemory"):
                await store.save([checkpoint(b"a", 2), checkpoint(b"b")], [epoch, 1])
            assert await everything(store) == [checkpoint(b"a")]
        finally:
            await redis.config_set("maxmemory", 0)
    assert await store.save([checkpoint(b"a", 2)], [epoch]) == []


async def test_calls_are_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows and by bytes; the answers are those of one call, refusals included, and layouts are kept once."""
    monkeypatch.setattr(redis_store, "ROWS", 3)
    monkeypatch.setattr(redis_store, "BYTES", 250)
    rows = [checkpoint(b"%02d" % number, layout=b"%d" % (number % 4), content=bytes(100)) for number in range(10)]
    rows[4] = checkpoint(b"04", content=bytes(1000))
    rows[7] = checkpoint(b"07", content=b"")
    keys = [row.key for row in rows]
    epochs = await put(store, rows)
    gone = [keys[place] for place in (0, 5, 9)]
    await store.release(gone, [epochs[place] for place in (0, 5, 9)])
    assert await store.lost(keys, epochs) == gone
    assert await store.save(rows, epochs) == gone
    assert [claim.checkpoint for claim in await store.claim(keys)] == rows
    await store.delete(keys)
    assert await everything(store) == []


async def test_a_renewal_hears_of_so_many_rows_at_most(place: RedisPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next of the rest, each once."""
    monkeypatch.setattr(redis_store, "WANTED_ROWS", 4)
    a, b = place.store("a"), place.store("b")
    await a.start()
    await b.start()
    keys = [checkpoint(b"%d" % number).key for number in range(6)]
    await a.claim(keys)
    await b.claim(keys)
    parts = [(await a.renew()).wanted for _ in range(3)]
    assert [len(part) for part in parts] == [4, 2, 0]
    assert sorted([*parts[0], *parts[1]]) == keys
    await a.stop()
    await b.stop()


async def test_prefixes_are_places_of_their_own(redis_server: RunningRedis) -> None:
    """Whether they come by the URL or by name; "p" is not the beginning of "p2"."""
    terms = Terms("a")
    stores = [
        RedisStore(f"{redis_server.url}?prefix=p", terms),
        RedisStore(redis_server.url, terms, "p2"),
        RedisStore(redis_server.url, terms),
    ]
    for number, store in enumerate(stores):
        await store.start()
        assert await everything(store) == []
        await put(store, [checkpoint(b"a", number)])
    assert [(await everything(store))[0].step for store in stores] == [0, 1, 2]
    again = RedisStore(redis_server.url, terms, "p")
    assert await everything(again) == [checkpoint(b"a", 0)]
    for store in [*stores, again]:
        await store.stop()


@pytest.mark.parametrize("field", ["version", "fingerprint", "step", "layout", "content"])
@pytest.mark.parametrize("value", [b"\xff\xfe", b"17", None])
async def test_no_field_goes_bad_unseen(store: Store, place: RedisPlace, field: str, value: bytes | None) -> None:
    """Whatever it became: other rows are read, and it counts as damaged (without any content: as never saved)."""
    rows = [checkpoint(b"a"), checkpoint(b"b")]
    epochs = await put(store, rows)
    async with Redis.from_url(place.server.url) as redis:
        name = Keys(place.prefix).session(rows[0].key)
        await (redis.hdel(name, field) if value is None else redis.hset(name, field, value))
    assert await everything(store) == rows[1:]
    [claim] = await store.claim([rows[0].key])
    assert claim.epoch == epochs[0]
    assert claim.checkpoint is None
    assert claim.damaged == (field != "content" or value is not None)


async def test_a_row_and_a_layout_are_named_as_is_written_down(store: Store, place: RedisPlace) -> None:
    """An operator finds them: two rows of one layout, which is there once."""
    await put(store, [checkpoint(b"a"), checkpoint(b"b")])
    async with Redis.from_url(place.server.url) as redis:
        base = b"{%s}:" % place.prefix.encode()
        kinds = sorted([name.removeprefix(base) async for name in redis.scan_iter(match=base + b"*")])
        assert [name.partition(b":")[0] for name in kinds] == [b"generation", b"layout", b"lease", b"s", b"s"]
        assert kinds[2:] == [b"lease:a", b"s:1:t,1:m,a", b"s:1:t,1:m,b"]
        assert 0 < await redis.pttl(base + b"s:1:t,1:m,a") <= 1.1e6 * 1000


async def test_a_name_that_was_never_saved_leaves_no_key(store: Store, place: RedisPlace) -> None:
    """Once it is released: names that clients make up do not fill the store."""
    key = checkpoint(b"a").key
    [claim] = await store.claim([key])
    async with Redis.from_url(place.server.url) as redis:
        assert await redis.exists(Keys(place.prefix).session(key)) == 1
        await store.release([key], [claim.epoch])
        assert await redis.exists(Keys(place.prefix).session(key)) == 0


async def test_a_password_is_not_told(redis_server: RunningRedis) -> None:
    """Not one that is wrong, and not one that is not escaped as it should be."""
    for secret in ("secret", "sec/ret", "sec?ret", "sec@ret", "sec#ret"):
        with pytest.raises(StoreError) as refused:  # noqa: PT012 - construction refuses some, the start others
            store = RedisStore(f"redis://me:{secret}@{redis_server.address}/0", Terms("a"))
            try:
                await store.start()
            finally:
                await store._redis.aclose()
        assert str(refused.value).startswith(f"redis://{redis_server.address}/0: ")
        assert "sec" not in str(refused.value)
        assert "ret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://h/0?decode_responses=1", "option"),
        ("redis://h/0?socket_timeout=", "option"),
        ("redis://h/0?prefix=", "prefix"),
        ("redis://h/0?prefix=a*", "prefix"),
        ("redis://h/0?prefix=%7B", "prefix"),
        ("redis://h:port/0", "redis://h:port/0: "),
        ("unix:///a?db=x", "unix:///a: "),
        ("http://h", "http://h: is not redis://"),
    ],
)
def test_a_wrong_url_is_refused(url: str, problem: str) -> None:
    """At once, and it says why."""
    with pytest.raises(StoreError, match=problem):
        RedisStore(url, Terms("a"))


def test_a_url_is_taken_apart() -> None:
    """What redis-py understands goes to it."""
    found = address("rediss://u:p@h:1/2?ssl_ca_certs=%2Fa&prefix=x")
    assert (found.shown, found.prefix) == ("rediss://h:1/2", "x")
    assert found.url == "rediss://u:p@h:1/2?ssl_ca_certs=%2Fa"
    assert address("redis://h", "y").prefix == "y"
    assert address("redis://h?prefix=x", "y").prefix == "y"
    assert address("redis://h").prefix == "tidegate"


@given(keys=st.sets(st.tuples(st.text("a1:,", max_size=3), st.text("a1:,", max_size=3), st.binary(max_size=3))))
def test_keys_do_not_collide(keys: set[tuple[str, str, bytes]]) -> None:
    """Each session has a key, from which its names can be read again."""
    names = Keys("p")
    made = {names.session(Key(*key)) for key in keys}
    assert len(made) == len(keys)
    assert {names.parsed(name) for name in made} == keys


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[RunningRedis]:
    """One whose settings a test may change. It is killed: a Redis that has just turned its log on does not stop."""
    if RunningRedis.missing():
        pytest.skip("redis-server is not installed: make services")
    running = RunningRedis(tmp_path)
    yield running
    running.kill()


async def warnings(caplog: pytest.LogCaptureFixture, url: str) -> list[str]:
    """What a store warns of at its start."""
    caplog.clear()
    store = RedisStore(url, Terms("a"))
    await store.start()
    await store.stop()
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


async def test_a_redis_that_keeps_no_promise(careless: RunningRedis, caplog: pytest.LogCaptureFixture) -> None:
    """The setting by which it may forget is named; one that is as it should be is not, and a Redis that does not tell
    is taken."""
    assert await warnings(caplog, careless.url) == []
    async with Redis.from_url(careless.url) as redis:
        await redis.acl_setuser("quiet", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-info"])
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        (said,) = await warnings(caplog, careless.url)
        assert said.startswith(f"{careless.url}: maxmemory-policy is allkeys-lru: ")
        await redis.config_set("appendonly", "no")
        _, said = await warnings(caplog, careless.url)
        assert said.startswith(f"{careless.url}: appendonly is no: ")
    assert await warnings(caplog, f"redis://quiet:secret@{careless.address}/0") == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hunter2@h/0?ssl_ca_certs=/ca.pem",
        "unix://u:hunter2@/socket?ssl_ca_certs=/ca.pem",
        "rediss://u:hunter2@h/0?ssl_colour=red",
        "rediss://u:hunter2@h/0?ssl_cert_reqs=red",
    ],
)
def test_options_of_tls_that_do_not_fit(url: str) -> None:
    """Where there is no TLS, or no such option or value: one line, without the password."""
    with pytest.raises(StoreError, match="has an ssl_… option that does not fit") as refused:
        RedisStore(url, Terms("a"))
    assert "hunter2" not in str(refused.value)
