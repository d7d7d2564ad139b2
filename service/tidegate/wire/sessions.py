"""SessionService: each call is a command to the engine, and its answer as a message."""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from tidegate.checkpoints import Key
from tidegate.engine import commands
from tidegate.engine.memory.record import read_heading
from tidegate.errors import MEANINGS, Reason, TidegateError
from tidegate.model.frequency import NO_TIME
from tidegate.wire import codec
from tidegate.wire.frontend import FrontEnd
from tidegate.wire.guard import Context, Guard, Handlers, UnaryHandler
from tidegate.wire.stubs import session_pb2 as pb
from tidegate.wire.stubs import types_pb2 as types

PAGE_SIZE, PAGE_SIZE_MAX = 100, 1000
MIGRATED_AT_ONCE = 256  # sessions: live steps wait until these have taken what they keep
TENANT = ""
_CURSOR = struct.Struct("<IQI")  # slab, slot, hash of the query and the process
Ids = list[bytes]
OfMany = commands.OpenSessions | commands.ResetSessions | commands.CloseSessions | commands.MigrateSessions


class SessionService:
    """Open, get, list, reset, close, fork and migrate, one or many at once."""

    def __init__(self, front: FrontEnd, guard: Guard) -> None:
        self._front = front
        self._host = front.host
        self._guard = guard
        self._salt = secrets.token_hex(8)  # a token of another process means other slots

    def handlers(self) -> Handlers:
        """By method name, for grpc's generic handler."""
        methods: dict[str, UnaryHandler] = {
            "OpenSession": self.open,
            "BatchOpenSessions": self.open_many,
            "GetSession": self.get,
            "ListSessions": self.list,
            "ResetSession": self.reset,
            "BatchResetSessions": self.reset_many,
            "CloseSession": self.close,
            "BatchCloseSessions": self.close_many,
            "ForkSession": self.fork,
            "RewindSession": self.rewind,
            "ExportSession": self.export,
            "ImportSession": self.take_in,
            "BatchMigrateSessions": self.migrate_many,
        }
        return self._guard.handlers(methods)

    async def open(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.OpenSessionRequest, message)
        ids = [request.session_id.encode()]
        result = await self._bulk(commands.OpenSessions(TENANT, request.model, request.version, ids))
        _raise_single(result)
        session = await self._session(request.model, request.session_id)
        return pb.OpenSessionResponse(session=session, created=bool(result.done[0])).SerializeToString()

    async def open_many(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.BatchOpenSessionsRequest, message)
        ids = self._ids(request.session_ids)
        result = await self._bulk(commands.OpenSessions(TENANT, request.model, request.version, ids))
        return pb.BatchOpenSessionsResponse(
            created=result.done.astype("u1").tobytes(), steps=result.steps.tolist(), errors=_errors(result)
        ).SerializeToString()

    async def get(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.GetSessionRequest, message)
        session = await self._session(request.model, request.session_id)
        return pb.GetSessionResponse(session=session).SerializeToString()

    async def list(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.ListSessionsRequest, message)
        wanted = _filter(request.model, request.filter)
        mark = binascii.crc32(f"{self._salt}\n{request.model}\n{request.filter}".encode())
        size = min(request.page_size or PAGE_SIZE, PAGE_SIZE_MAX)
        command = commands.ListSessions(TENANT, wanted, _cursor(request.page_token, mark), size)
        page = cast(commands.Page, await self._host.call(command))
        token = base64.urlsafe_b64encode(_CURSOR.pack(*page.cursor, mark)).decode() if page.cursor else ""
        return pb.ListSessionsResponse(
            sessions=[_session(info) for info in page.sessions], next_page_token=token
        ).SerializeToString()

    async def reset(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.ResetSessionRequest, message)
        command = commands.ResetSessions(TENANT, request.model, [request.session_id.encode()])
        _raise_single(await self._bulk(command, changed=True))
        session = await self._session(request.model, request.session_id)
        return pb.ResetSessionResponse(session=session).SerializeToString()

    async def reset_many(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.BatchResetSessionsRequest, message)
        command = commands.ResetSessions(TENANT, request.model, self._ids(request.session_ids))
        result = await self._bulk(command, changed=True)
        return pb.BatchResetSessionsResponse(done=int(result.done.sum()), errors=_errors(result)).SerializeToString()

    async def close(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.CloseSessionRequest, message)
        session = await self._session(request.model, request.session_id)
        command = commands.CloseSessions(TENANT, request.model, [request.session_id.encode()])
        _raise_single(await self._bulk(command, changed=True))
        return pb.CloseSessionResponse(session=session).SerializeToString()

    async def close_many(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.BatchCloseSessionsRequest, message)
        command = commands.CloseSessions(TENANT, request.model, self._ids(request.session_ids))
        result = await self._bulk(command, changed=True)
        return pb.BatchCloseSessionsResponse(done=int(result.done.sum()), errors=_errors(result)).SerializeToString()

    async def migrate_many(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.BatchMigrateSessionsRequest, message)
        ids, response = self._ids(request.session_ids), pb.BatchMigrateSessionsResponse()
        for start in range(0, max(1, len(ids)), MIGRATED_AT_ONCE):
            part = ids[start : start + MIGRATED_AT_ONCE]
            command = commands.MigrateSessions(TENANT, request.model, request.version, part)
            result = cast(commands.Migrated, await self._bulk(command, changed=True))
            response.ways.extend(result.ways.tolist())
            response.replayed_steps.extend(result.replayed.tolist())
            result.errors = [(start + row, reason) for row, reason in result.errors]
            response.errors.extend(_errors(result))
        return response.SerializeToString()

    async def fork(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.ForkSessionRequest, message)
        step = request.step if request.HasField("step") else None
        ids = request.session_id.encode(), request.new_session_id.encode()
        command = commands.ForkSession(TENANT, request.model, *ids, step)
        info = cast(commands.SessionInfo, await self._call(command, request.model, *ids, changed=True))
        return pb.ForkSessionResponse(session=_session(info)).SerializeToString()

    async def rewind(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.RewindSessionRequest, message)
        command = commands.RewindSession(TENANT, request.model, request.session_id.encode(), request.step)
        info = cast(commands.SessionInfo, await self._call(command, request.model, command.session_id, changed=True))
        return pb.RewindSessionResponse(session=_session(info)).SerializeToString()

    async def export(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.ExportSessionRequest, message)
        command = commands.ExportSession(TENANT, request.model, request.session_id.encode())
        found = cast(commands.Export, await self._call(command, request.model, command.session_id))
        return pb.ExportSessionResponse(content=found.content, session=_session(found.info)).SerializeToString()

    async def take_in(self, message: bytes, _: Context) -> bytes:
        request = codec.parse(pb.ImportSessionRequest, message)
        command = commands.ImportSession(TENANT, request.content, request.session_id.encode(), request.version)
        heading = read_heading(request.content)
        named = request.session_id or heading.session_id
        info = cast(commands.SessionInfo, await self._call(command, heading.model, named.encode(), changed=True))
        return pb.ImportSessionResponse(session=_session(info)).SerializeToString()

    async def _session(self, model: str, session_id: str) -> pb.Session:
        command = commands.GetSession(TENANT, model, session_id.encode())
        return _session(cast(commands.SessionInfo, await self._call(command, model, command.session_id)))

    async def _call(self, command: commands.Command, model: str, *ids: bytes, changed: bool = False) -> object:
        """A command about sessions that are brought here first, if they live; raises TidegateError."""
        keys = [Key(TENANT, model, session_id) for session_id in ids]
        async with self._host.visit(keys, changed) as refused:
            for reason in refused.values():
                raise TidegateError(reason)
            return await self._host.call(command)

    async def _bulk(self, command: OfMany, changed: bool = False) -> commands.BulkResult:
        """The same for many: those that cannot be had are named in the result."""
        keys = [Key(TENANT, command.model, session_id) for session_id in command.ids]
        async with self._host.visit(keys, changed) as refused:
            reasons = {key.session_id: reason for key, reason in refused.items()}
            ids = [b"" if session_id in reasons else session_id for session_id in command.ids]
            result = cast(commands.BulkResult, await self._host.call(replace(command, ids=ids)))
        result.errors = [(row, reasons.get(command.ids[row], reason)) for row, reason in result.errors]
        return result

    def _ids(self, session_ids: Sequence[str]) -> Ids:
        limit = self._front.limits.batch_message_rows_max
        if len(session_ids) > limit:
            raise TidegateError(Reason.BAD_BATCH, f"{len(session_ids)} session ids in one call; at most {limit}")
        return [session_id.encode() for session_id in session_ids]


def _session(info: commands.SessionInfo) -> pb.Session:
    state = pb.SESSION_STATE_QUARANTINED if info.diverged else pb.SESSION_STATE_OPEN
    session = pb.Session(
        model=info.model,
        version=info.version,
        session_id=info.session_id.decode(),
        step=max(0, info.step),  # whatever a store held: who is to close a session must see it
        steps_seen=max(0, info.steps_seen),
        last_active_time=codec.timestamp(int((time.time() - info.idle_seconds) * 1e9)),
        state=state,
    )
    if info.event_time != NO_TIME:
        session.last_event_time.CopyFrom(codec.timestamp(info.event_time))
    return session


def _raise_single(result: commands.BulkResult) -> None:
    for _, reason in result.errors:
        raise TidegateError(reason)


def _errors(result: commands.BulkResult) -> Iterable[types.RowError]:
    for row, reason in sorted(result.errors):
        meaning = MEANINGS[reason]
        message = f"{meaning.problem}. {meaning.hint}"
        yield types.RowError(row=row, code=int(meaning.code), reason=reason.name, message=message)


def _cursor(token: str, mark: int) -> tuple[int, int]:
    if not token:
        return 0, 1
    try:
        slab, slot, theirs = _CURSOR.unpack(base64.urlsafe_b64decode(token))
    except (binascii.Error, struct.error, ValueError):
        raise TidegateError(Reason.BAD_PAGE_TOKEN) from None
    if theirs != mark:
        raise TidegateError(Reason.BAD_PAGE_TOKEN, "the page token is of another query")
    return slab, slot


def _filter(model: str, text: str) -> commands.SessionFilter:
    """Reads `id=a*`, `version=1`, `state=OPEN`, joined by AND; raises BAD_FILTER."""
    fields: dict[str, str] = {}
    for term in text.split(" AND ") if text.strip() else []:
        name, equals, value = (part.strip() for part in term.partition("="))
        if not equals or not value or name in fields or name not in ("id", "version", "state"):
            raise TidegateError(Reason.BAD_FILTER, f"the filter's term {term.strip()!r} is not understood")
        fields[name] = value
    states = {"": None, "OPEN": False, "QUARANTINED": True}
    if fields.get("state", "") not in states:
        raise TidegateError(Reason.BAD_FILTER, f"state {fields['state']!r} is not OPEN or QUARANTINED")
    named = fields.get("id", "")
    return commands.SessionFilter(
        model=model,
        version=fields.get("version", ""),
        session_id=b"" if named.endswith("*") else named.encode(),
        id_prefix=named[:-1].encode() if named.endswith("*") else b"",
        diverged=states[fields.get("state", "")],
    )
