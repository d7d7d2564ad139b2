"""Sessions by name: opening, finding, resetting, closing, forking. Called by the engine alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tidegate.checkpoints import Checkpoint, Key, unix_seconds
from tidegate.config import Durability, Limits
from tidegate.engine.commands import BulkResult, SessionInfo
from tidegate.engine.memory.slab import Slab
from tidegate.engine.memory.slots import Slots, slabs_of, slots_of
from tidegate.engine.queues.lane import Lane
from tidegate.engine.sessions.catalog import Catalog
from tidegate.errors import Reason, TidegateError

SESSION_ID_BYTES_MAX = 256
SWEEP_ROWS = 65_536  # slots looked at in one sweep
SWEEP_CLOSED_MAX = 4_096  # sessions closed in one sweep
Names = dict[bytes, int]


class Sessions:
    """The names of all resident sessions and their references."""

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog = catalog
        self._limits = limits
        self._names: dict[tuple[str, str], Names] = {}
        self._tenants: list[str] = []
        self._swept = (0, 1)  # slab and slot at which the next sweep begins
        self.opened: Counter[str] = Counter()  # by model
        self.closed: Counter[tuple[str, ...]] = Counter()  # by model and reason
        self.on_closed: Callable[[Key], None] | None = None  # told of each session that ends and is in the store
        self.make_room: Callable[[Lane, int], int] = lambda lane, _: self.room(lane)  # others may leave for it
        self.lagging = False  # checkpoints are so late that no new session may depend on them
        self.reserved: dict[Key, int] = {}  # names claimed in the store for sessions to be opened: their epochs

    def __len__(self) -> int:
        return sum(slab.slots.in_use for slab in self._catalog.slabs)

    @property
    def bytes_used(self) -> int:
        """Bytes of session columns in use."""
        return sum(slab.slots.in_use * slab.row_bytes for slab in self._catalog.slabs)

    def names(self, tenant: str, model: str) -> Names:
        """References by id of one tenant's sessions of a model."""
        return self._names.setdefault((tenant, model), {})

    def room(self, lane: Lane) -> int:
        """How many more sessions of that version may be opened."""
        in_bytes = (self._catalog.state_bytes_max - self.bytes_used) // lane.slab.row_bytes
        return max(0, min(self._limits.sessions_max - len(self), in_bytes, lane.slab.slots.free))

    def unopenable(self, tenant: str, lane: Lane, session_id: bytes) -> Reason:
        """Why a new session of that name may not be opened, OK if it may: checkpoints lag too far behind, or the name
        is not known to be free (a session that may be in the store is opened by a claim alone)."""
        if lane.durability is Durability.NONE:
            return Reason.OK
        if self.lagging:
            return Reason.CHECKPOINT_LAG
        claimed = Key(tenant, lane.model, session_id) in self.reserved
        return Reason.OK if claimed else Reason.STORE_UNAVAILABLE

    def check_free(self, tenant: str, lane: Lane, session_id: bytes) -> None:
        """Raises TidegateError where no session of that name may be begun."""
        if session_id in self.names(tenant, lane.model):
            raise TidegateError(Reason.SESSION_EXISTS, f"session {_text(session_id)} lives already")
        if reason := self.unopenable(tenant, lane, session_id):
            raise TidegateError(reason)

    def open(self, tenant: str, lane: Lane, ids: list[bytes], now: float) -> NDArray[np.int64]:
        """Opens new sessions (distinct ids, none resident, no more than there is room) and returns their references."""
        refs = lane.slab.open(ids, lane.number, self._tenant(tenant), now, lane.identify(ids))
        self.names(tenant, lane.model).update(zip(ids, refs.tolist(), strict=True))
        if self.reserved:
            keys = (Key(tenant, lane.model, session_id) for session_id in ids)
            lane.slab.epoch[slots_of(refs)] = [self.reserved.pop(key, 0) for key in keys]
        lane.sessions += len(ids)
        self.opened[lane.model] += len(ids)
        return refs

    def open_many(self, tenant: str, lane: Lane, ids: Sequence[bytes], now: float) -> BulkResult:
        """Opens those that are not resident, in order, while there is room; `done` marks them."""
        names = self.names(tenant, lane.model)
        result = BulkResult(np.zeros(len(ids), bool), np.zeros(len(ids), np.int64))
        fresh: dict[bytes, int] = {}
        refs = np.array([names.get(session_id, 0) for session_id in ids], np.int64)
        result.steps[refs != 0] = self._steps(refs[refs != 0])
        for row in np.flatnonzero(refs == 0).tolist():
            session_id = ids[row]
            if not valid_id(session_id):
                result.errors.append((row, Reason.BAD_SESSION_ID))
            elif reason := self.unopenable(tenant, lane, session_id):
                result.errors.append((row, reason))
            else:
                fresh.setdefault(session_id, row)
        opened = list(fresh)[: self.make_room(lane, len(fresh))]
        self.open(tenant, lane, opened, now)
        result.done[[fresh[session_id] for session_id in opened]] = True
        refused = fresh.keys() - set(opened)
        result.errors += [(row, Reason.SESSION_LIMIT) for row, session_id in enumerate(ids) if session_id in refused]
        return result

    def reset_many(self, tenant: str, model: str, ids: Sequence[bytes]) -> BulkResult:
        """Sets state to zero and lifts quarantines; the numbering of steps stays."""
        result, found = self._find_many(tenant, model, ids)
        for slab, slots in self.by_slab(found):
            slab.reset(slots)
        return result

    def close_many(self, tenant: str, model: str, ids: Sequence[bytes], reason: str = "closed") -> BulkResult:
        """Ends sessions; `steps` are those they had."""
        result, found = self._find_many(tenant, model, ids)
        for slab, slots in self.by_slab(found):
            self._close(slab, slots, reason)
        return result

    def fork(
        self, tenant: str, model: str, session_id: bytes, new_id: bytes, step: int | None, now: float
    ) -> SessionInfo:
        """Copies a session to a free id, as it is or as it was at a retained step."""
        ref = self.find(tenant, model, session_id)
        names = self.names(tenant, model)
        if not valid_id(new_id):
            raise TidegateError(Reason.BAD_SESSION_ID)
        slab, slot = self.place(ref)
        lane = self._catalog.lanes[int(slab.host["version"][slot])]
        self.check_free(tenant, lane, new_id)
        number = _retained(slab, slot, step)
        if not self.room(lane):
            if lane.durability is not Durability.NONE:
                slab.asked_at[slot] = now  # not to be the one that makes room
            if not self.make_room(lane, 1):
                raise TidegateError(Reason.SESSION_LIMIT)
        (names[new_id],) = (copy,) = slab.fork(slot, new_id, now).tolist()
        slab.epoch[self.place(copy)[1]] = self.reserved.pop(Key(tenant, model, new_id), 0)
        if number is not None:
            slab.rewind(self.place(copy)[1], number)
        lane.sessions += 1
        self.opened[model] += 1
        return self.describe(*self.place(copy), now)

    def rewind(self, tenant: str, model: str, session_id: bytes, step: int, now: float) -> SessionInfo:
        """Takes a session back to a retained step: what was stepped after it is as if it had never been."""
        slab, slot = self.place(self.find(tenant, model, session_id))
        number = _retained(slab, slot, step)
        if number is not None:
            slab.rewind(slot, number)
        return self.describe(slab, slot, now)

    def find(self, tenant: str, model: str, session_id: bytes) -> int:
        """A session's reference; raises SESSION_NOT_FOUND, or MODEL_NOT_FOUND for an unknown model."""
        if model not in self._catalog.models:
            self._catalog.resolve(model)
        ref = self.names(tenant, model).get(session_id)
        if ref is None:
            raise TidegateError(Reason.SESSION_NOT_FOUND, f"{model} has no session {_text(session_id)}")
        return ref

    def info(self, tenant: str, model: str, session_id: bytes, now: float) -> SessionInfo:
        """What people see of a session."""
        return self.describe(*self.place(self.find(tenant, model, session_id)), now)

    def sweep(self, now: float) -> int:
        """Closes sessions idle for too long. Looks at a bounded number, and goes on from there next time."""
        scanned = count = 0
        for _ in self._catalog.slabs:
            number, slot = self._swept
            slab = self._catalog.slabs[number]
            taken = slab.slots.taken_from(slot, SWEEP_ROWS - scanned)
            here = taken[slab.epoch[taken] == 0]  # those that are in the store leave for it: see Departures
            idle = here[now - slab.host["active_at"][here] > self._limits.idle_seconds_max]
            idle = idle[: SWEEP_CLOSED_MAX - count]
            self._close(slab, idle, "idle")
            scanned, count = scanned + len(taken), count + len(idle)
            if count == SWEEP_CLOSED_MAX or scanned == SWEEP_ROWS:
                self._swept = number, int((idle if count == SWEEP_CLOSED_MAX else taken)[-1]) + 1
                break
            self._swept = (number + 1) % len(self._catalog.slabs), 1
        return count

    def _find_many(self, tenant: str, model: str, ids: Iterable[bytes]) -> tuple[BulkResult, NDArray[np.int64]]:
        if model not in self._catalog.models:
            self._catalog.resolve(model)
        names = self.names(tenant, model)
        refs = np.array([names.get(session_id, 0) for session_id in ids], np.int64)
        done = refs != 0
        steps = np.zeros(len(refs), np.int64)
        errors = [(row, Reason.SESSION_NOT_FOUND) for row in np.flatnonzero(~done).tolist()]
        steps[done] = self._steps(refs[done])
        return BulkResult(done, steps, errors), refs[done]

    def _steps(self, refs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last step of each."""
        steps = np.zeros(len(refs), np.int64)
        for number in np.unique(slabs_of(refs)).tolist():
            rows = slabs_of(refs) == number
            steps[rows] = self._catalog.slabs[number].host["step"][slots_of(refs[rows])]
        return steps

    def by_slab(self, refs: NDArray[np.int64]) -> Iterator[tuple[Slab, Slots]]:
        """The slots of references that are alive, by slab."""
        for number in np.unique(slabs_of(refs)).tolist():
            yield self._catalog.slabs[number], np.unique(slots_of(refs[slabs_of(refs) == number]))

    def _close(self, slab: Slab, slots: Slots, reason: str) -> None:
        for key, epoch in zip(self.keys(slab, slots), slab.epoch[slots].tolist(), strict=True):
            self.forget(key)
            self.closed[key.model, reason] += 1
            if epoch and self.on_closed is not None:
                self.on_closed(key)
        self.free(slab, slots)

    def keys(self, slab: Slab, slots: Slots) -> Sequence[Key]:
        """Whose the slots are."""
        lanes, host = self._catalog.lanes, slab.host
        versions, tenants = host["version"][slots].tolist(), host["tenant"][slots].tolist()
        return [
            Key(self._tenants[tenant], lanes[version].model, slab.ids[slot] or b"")
            for slot, version, tenant in zip(slots.tolist(), versions, tenants, strict=True)
        ]

    def forget(self, key: Key) -> None:
        """Takes away a session's name; its row is still there for what is queued."""
        names = self.names(key.tenant, key.model)
        del names[key.session_id]
        if not names:
            del self._names[key.tenant, key.model]

    def free(self, slab: Slab, slots: Slots) -> None:
        """Gives back rows of sessions that have no name any more."""
        if len(slots):
            for version, count in Counter(slab.host["version"][slots].tolist()).items():
                self._catalog.lanes[version].sessions -= count
            slab.close(slots)
            self._catalog.drop_unused()

    def checkpoints(self, slab: Slab, slots: Slots) -> Sequence[Checkpoint]:
        """What of sessions goes to the store."""
        packages = {number: lane.package for number, lane in self._catalog.lanes.items()}
        named = {number: (package.manifest.version, package.fingerprint) for number, package in packages.items()}
        layout, row_bytes = slab.schema.layout, slab.schema.travelling_bytes
        content = slab.pack(slots).tobytes()
        active_at = (slab.host["active_at"][slots] + unix_seconds(0.0)).astype(np.int64)
        return [
            Checkpoint(key, *named[version], step, layout, content[row * row_bytes : (row + 1) * row_bytes], active)
            for row, (key, version, step, active) in enumerate(
                zip(
                    self.keys(slab, slots),
                    slab.host["version"][slots].tolist(),
                    slab.host["step"][slots].tolist(),
                    active_at.tolist(),
                    strict=True,
                )
            )
        ]

    def place(self, ref: int) -> tuple[Slab, int]:
        """The slab and the slot of a reference that is alive."""
        refs = np.array([ref], np.int64)
        return self._catalog.slabs[int(slabs_of(refs)[0])], int(slots_of(refs)[0])

    def describe(self, slab: Slab, slot: int, now: float) -> SessionInfo:
        """What people see of the session in a slot."""
        host = slab.host
        lane = self._catalog.lanes[int(host["version"][slot])]
        return SessionInfo(
            model=lane.model,
            version=lane.version,
            session_id=slab.ids[slot] or b"",
            step=int(host["step"][slot]),
            steps_seen=int(host["steps_seen"][slot]),
            event_time=int(host["event_time"][slot]),
            idle_seconds=now - float(host["active_at"][slot]),
            diverged=bool(host["diverged"][slot]),
        )

    def tenant(self, number: int) -> str:
        """A tenant by the number that columns hold."""
        return self._tenants[number]

    def _tenant(self, tenant: str) -> int:
        if tenant not in self._tenants:
            self._tenants.append(tenant)
        return self._tenants.index(tenant)


def _retained(slab: Slab, slot: int, step: int | None) -> int | None:
    """Under which number a step is kept, None for the session as it is; raises STEP_NOT_RETAINED."""
    if step is None or step == int(slab.host["step"][slot]):
        return None
    kept = slab.retained_steps(slot)
    if step not in kept:
        named = f"{min(kept)} to {max(kept)}" if kept else "none"
        raise TidegateError(Reason.STEP_NOT_RETAINED, f"step {step} is not retained; steps that are: {named}")
    return kept[step]


def valid_id(session_id: bytes) -> bool:
    """1 to 256 bytes (that they are UTF-8 is seen to where they are decoded)."""
    return 0 < len(session_id) <= SESSION_ID_BYTES_MAX


def _text(session_id: bytes) -> str:
    return repr(session_id.decode("utf-8", "replace"))
