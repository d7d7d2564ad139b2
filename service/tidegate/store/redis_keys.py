"""Names in Redis, and the setting that says where it is.

All keys begin with `{prefix}:`, in braces, so that a cluster keeps them in one place and a script may touch them all.
Two installations with different prefixes share one Redis and see nothing of each other.

  {prefix}:s:<tenant><model><id>   a session: hash of epoch, owner, seized, version, fingerprint, step, layout,
                                   active_at, content
  {prefix}:layout:<digest>         a layout, once for all the sessions that have it
  {prefix}:lease:<replica>         there for as long as the replica's lease runs
  {prefix}:wanted:<replica>        set of session keys that others asked for
  {prefix}:generation              changes when the store is emptied

Tenant and model are netstrings (`5:alpha,`: D. J. Bernstein, 1997), so that no two sessions have one key, whatever
bytes their names are of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from tidegate.checkpoints import Key
from tidegate.store.protocol import StoreError

PREFIX = "tidegate"
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # nothing that a pattern of SCAN, or a hash tag, gives a meaning


@dataclass(frozen=True)
class Address:
    """A URL taken apart: `url` goes to redis-py, `shown` is what messages say: no password, no user, no options."""

    url: str
    shown: str
    prefix: str


def address(url: str, prefix: str | None = None) -> Address:
    """Of `redis://[user:password@]host:port/db?prefix=name`, `rediss://…` (TLS) or `unix:///path?db=0`. Raises
    StoreError where there is an option that is not known: one of redis-py's could undo what this store relies on."""
    scheme, _, rest = url.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"  # cut so that no odd password is left over
    head, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    named = options.pop("prefix", PREFIX)
    prefix = named if prefix is None else prefix
    if any(name != "db" and not name.startswith("ssl_") for name in options):
        raise StoreError(f"{shown}: has an option that is not known. There are prefix, db and ssl_…")
    if not _PREFIX.fullmatch(prefix):
        raise StoreError(f"{shown}: the prefix must be 1 to 64 letters, digits, or any of _ . -")
    return Address(f"{head}?{urlencode(options)}", shown, prefix)


class Keys:
    """The keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.base = b"{%s}:" % prefix.encode()
        self.sessions = self.base + b"s:"

    def session(self, key: Key) -> bytes:
        return self.sessions + _netstring(key.tenant) + _netstring(key.model) + key.session_id

    def parsed(self, key: bytes) -> Key:
        """The other way."""
        tenant, rest = _cut(key[len(self.sessions) :])
        model, session_id = _cut(rest)
        return Key(tenant, model, session_id)

    def layout(self, digest: bytes) -> bytes:
        return self.base + b"layout:" + digest

    def lease(self, replica: str) -> bytes:
        return self.base + b"lease:" + replica.encode()


def _netstring(text: str) -> bytes:
    encoded = text.encode()
    return b"%d:%s," % (len(encoded), encoded)


def _cut(text: bytes) -> tuple[str, bytes]:
    length, _, rest = text.partition(b":")
    end = int(length)
    return rest[:end].decode(), rest[end + 1 :]
