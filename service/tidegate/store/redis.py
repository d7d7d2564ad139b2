"""A store in Redis or Valkey, which replicas share. What must be atomic is done by one script, `redis.lua`.

A lease is a key that expires; a row says who owns it, and is anyone's when that one's key is gone. Rows expire by
themselves. What `save` promises is what the Redis is set up for: with `appendfsync always` it outlives a crash, with
`everysec` a second may be lost; and only the `maxmemory-policy` `noeviction` keeps all that was saved.

Every wait has a limit, and nothing is tried twice here: who calls does that, and knows when it is enough.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.protocol import PAGE_ROWS, Claim, Renewal, StoreError, Terms, opened, sealed
from tidegate.store.redis_keys import Keys, address

CONNECT_SECONDS_MAX = 2.0
ANSWER_SECONDS_MAX = 5.0  # for an answer, and for one of the connections to be free
CONNECTIONS_MAX = 4
ROWS = 256  # of one call of the script: no other client waits for longer than these take
BYTES = 4 << 20  # of one call, unless a single row is larger
WANTED_ROWS = 4096  # that one renewal hears of; the next hears of more
_FIELDS = ("version", "fingerprint", "step", "layout", "active_at", "content")

log = logging.getLogger(__name__)

Argument = bytes | str | int
Stored = Sequence[bytes | None]  # what is stored of a row, in the order of _FIELDS


class RedisStore:
    """Checkpoints in the Redis or Valkey at `url`, under `prefix`: that of the URL (`?prefix=`), else "tidegate".
    Raises StoreError where the URL is wrong."""

    shared = True

    def __init__(self, url: str, terms: Terms, prefix: str | None = None) -> None:
        self.damaged = 0
        self._address = address(url, prefix)
        self._keys = Keys(self._address.prefix)
        self._me = terms.replica
        held = terms.held_seconds_max + terms.stored_seconds_max
        times = [_milliseconds(seconds) for seconds in (terms.lease_seconds, held, terms.stored_seconds_max)]
        self._head: list[Argument] = [self._keys.base, terms.replica.encode(), *times]  # arguments of every call
        self._redis = _client(self._address.url, self._address.shown)
        self._script = self._redis.register_script(files(__package__).joinpath("redis.lua").read_bytes())
        self._generation = b""
        self._layouts: dict[bytes, bytes] = {}  # by digest: what is cached can never be wrong

    async def start(self) -> None:
        """Begins the lease; warns of settings of the Redis that break what a store promises."""
        await self.renew()
        for problem in broken_promises(await self._info()):
            log.warning("%s: %s", self._address.shown, problem)

    async def stop(self) -> None:
        """Ends the lease and closes the connections, these in any case."""
        try:
            await self._ask(self._redis.delete(self._keys.lease(self._me)))
        finally:
            await self._redis.aclose()

    async def renew(self) -> Renewal:
        generation, *wanted = await self._call("renew", (), (WANTED_ROWS,))
        lost = self._generation not in (b"", generation)
        self._generation = generation
        return Renewal(tuple(map(self._keys.parsed, wanted)), lost)

    async def claim(self, keys: Sequence[Key]) -> list[Claim]:
        claims = []
        for start in range(0, len(keys), ROWS):
            part = keys[start : start + ROWS]
            answers = await self._call("claim", part)
            await self._learn_layouts(answer[4] for answer in answers if answer[0])
            claims += [self._claimed(key, answer) for key, answer in zip(part, answers, strict=True)]
        return claims

    async def save(self, rows: Sequence[Checkpoint], epochs: Sequence[int]) -> list[Key]:
        lost = []
        for start, end in _parts(rows):
            part, layouts = rows[start:end], dict[bytes, bytes]()
            arguments = list[Argument]()
            for row, epoch in zip(part, epochs[start:end], strict=True):
                digest = _digest(row.layout)
                layouts[digest] = row.layout
                arguments += (epoch, row.version, row.fingerprint, row.step, digest, row.active_at, sealed(row))
            pairs = [entry for pair in layouts.items() for entry in pair]
            places = await self._call("save", [row.key for row in part], (len(layouts), *pairs, *arguments))
            lost += [part[place - 1].key for place in places]
        return lost

    async def lost(self, keys: Sequence[Key], epochs: Sequence[int]) -> list[Key]:
        lost = []
        for start in range(0, len(keys), ROWS):
            part = keys[start : start + ROWS]
            lost += [part[place - 1] for place in await self._call("lost", part, epochs[start : start + ROWS])]
        return lost

    async def release(self, keys: Sequence[Key], epochs: Sequence[int]) -> None:
        for start in range(0, len(keys), ROWS):
            await self._call("release", keys[start : start + ROWS], epochs[start : start + ROWS])

    async def delete(self, keys: Sequence[Key]) -> list[Key]:
        stay = []
        for start in range(0, len(keys), ROWS):
            part = keys[start : start + ROWS]
            stay += [part[place - 1] for place in await self._call("delete", part)]
        return stay

    async def expire(self) -> int:
        """Redis does so by itself."""
        return 0

    async def scan(self) -> AsyncIterator[list[Checkpoint]]:
        """Rows that are written meanwhile may be missing, and a row may come twice, as SCAN has it."""
        cursor, pattern = 0, self._keys.sessions + b"*"
        while True:
            cursor, found = await self._ask(self._redis.scan(cursor, match=pattern, count=ROWS))
            for start in range(0, len(found), PAGE_ROWS):
                yield await self._page(found[start : start + PAGE_ROWS])
            if not cursor:
                return

    async def _info(self) -> Mapping[str, Any]:
        try:
            return dict(await self._redis.info())
        except (RedisError, OSError):  # not every user may ask
            return {}

    async def _page(self, keys: Sequence[bytes]) -> list[Checkpoint]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hmget(key, _FIELDS)
            found: list[Stored] = await self._ask(pipeline.execute())
        await self._learn_layouts(stored[3] for stored in found)
        rows = (
            self._whole(self._keys.parsed(key), stored)
            for key, stored in zip(keys, found, strict=True)
            if stored[-1] is not None
        )
        return [row for row in rows if row is not None]

    def _claimed(self, key: Key, answer: Sequence[Any]) -> Claim:
        epoch, *stored = answer
        if not epoch:
            return Claim(0, owner=stored[0].decode())
        checkpoint = self._whole(key, stored)
        return Claim(epoch, checkpoint, damaged=stored[-1] is not None and checkpoint is None)

    def _whole(self, key: Key, stored: Stored) -> Checkpoint | None:
        """The checkpoint, or None where there is none, or none that is whole."""
        version, fingerprint, step, layout, active_at, content = (field or b"" for field in stored)
        if stored[-1] is None:
            return None
        texts = version.decode("utf-8", "replace"), fingerprint.decode("utf-8", "replace")
        known = self._layouts.get(layout, b"")
        active = int(active_at[:20]) if active_at.isdigit() else 0
        whole = opened(key, *texts, int(step), known, content, active) if step.isdigit() else None
        self.damaged += whole is None
        return whole

    async def _learn_layouts(self, digests: Iterable[bytes | None]) -> None:
        """Has the layouts of these digests at hand; one that the store does not have makes its rows damaged."""
        unknown = sorted({digest for digest in digests if digest is not None} - self._layouts.keys())
        if unknown:
            found = await self._ask(self._redis.mget([self._keys.layout(digest) for digest in unknown]))
            pairs = zip(unknown, found, strict=True)
            self._layouts.update((digest, layout) for digest, layout in pairs if layout is not None)

    async def _call(self, verb: str, keys: Sequence[Key], arguments: Sequence[Argument] = ()) -> Any:
        """Runs the script, which is sent along when this Redis does not know it."""
        names = [self._keys.session(key) for key in keys]
        return await self._ask(self._script(names, (verb, *self._head, *arguments)))

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except (RedisError, OSError) as error:
            raise StoreError(f"{self._address.shown}: {error}") from error


def broken_promises(info: Mapping[str, Any]) -> list[str]:
    """What of a Redis' own INFO breaks what a store promises; nothing where it does not say."""
    problems = []
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problems.append(f"maxmemory-policy is {policy}: sessions are lost when memory is short; set it to noeviction")
    if info.get("aof_enabled", 1) != 1:
        problems.append("appendonly is no: what was saved is lost when it ends; set it to yes, and appendfsync")
    return problems


def _client(url: str, shown: str) -> Redis:
    """One that has not connected yet."""
    problem = "is not redis://HOST:PORT/DB, rediss:// or unix://; write odd characters of a password as %XX"
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=ANSWER_SECONDS_MAX,
            socket_connect_timeout=CONNECT_SECONDS_MAX,
            socket_timeout=ANSWER_SECONDS_MAX,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # of RESP, which every version speaks
        )
        problem = "has an ssl_… option that does not fit: they go with rediss:// alone, and are named as in redis-py"
        pool.connection_class(**pool.connection_kwargs)  # not connected; the pool's own are made when they are needed
    except (ValueError, TypeError, RedisError):  # whose words may hold a part of the password
        raise StoreError(f"{shown}: {problem}") from None
    return Redis.from_pool(pool)


def _parts(rows: Sequence[Checkpoint]) -> Iterator[tuple[int, int]]:
    """Where to cut for calls of at most ROWS and BYTES, each of one row at least."""
    start = size = 0
    for place, row in enumerate(rows):
        if place > start and (place - start == ROWS or size + len(row.content) > BYTES):
            yield start, place
            start, size = place, 0
        size += len(row.content)
    if rows:
        yield start, len(rows)


def _digest(layout: bytes) -> bytes:
    return hashlib.blake2b(layout, digest_size=16).hexdigest().encode()


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
