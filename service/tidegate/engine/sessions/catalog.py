"""The catalog: which versions of which models are loaded, as lanes, and the slabs that hold their sessions.

A version that leaves the repository is retired: it takes no new session and goes when its last one has ended.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from tidegate.config import Durability, Limits
from tidegate.engine.memory.columns import Schema, session_schema
from tidegate.engine.memory.slab import Slab
from tidegate.engine.memory.slots import SLABS_MAX, SLOTS_MAX
from tidegate.engine.queues.block import Scope
from tidegate.engine.queues.lane import Lane
from tidegate.engine.step.native_stepper import build_stepper
from tidegate.engine.step.stepper import Stepper
from tidegate.errors import PackageError, Reason, TidegateError
from tidegate.model.package import Package
from tidegate.model.repository import Snapshot
from tidegate.model.slot_kernel import KernelChoice

PROBLEMS_TOLD = 3  # to who asks for a version that is not there

Steppers = dict[str, Stepper | str]  # by the package's fingerprint; a string says why there is none

log = logging.getLogger(__name__)


@dataclass
class Entry:
    """One model: its loaded versions, what was refused and why, what else is wrong in its folder, its aliases and
    default."""

    lanes: dict[str, Lane] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    default_version: str | None = None


@dataclass
class Changes:
    """What a reload did; entries are "model/version", those refused with ": field: problem"."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Catalog:
    """Lanes by number and by name. Only the engine changes it."""

    def __init__(
        self,
        limits: Limits,
        state_bytes_max: int,
        device: str,
        threads: int = 1,
        durability_of: Callable[[str], Durability] = lambda _: Durability.NONE,
        kernel: KernelChoice = "auto",
        tf32: bool = False,
    ) -> None:
        self.models: dict[str, Entry] = {}
        self.slabs: list[Slab] = []
        self.lanes: dict[int, Lane] = {}
        self.limits = limits
        self.state_bytes_max = state_bytes_max
        self._device = device
        self._threads = threads
        self._kernel: KernelChoice = kernel
        self._tf32 = tf32
        self._durability_of = durability_of  # by model
        self._slab_of: dict[Schema, Slab] = {}
        self._numbers = 0

    def known(self) -> dict[tuple[str, str], str]:
        """Fingerprints of the loaded versions that are not retired, by (model, version)."""
        return {
            (lane.model, lane.version): lane.package.fingerprint for lane in self.lanes.values() if not lane.retired
        }

    def durable(self, model: str) -> bool:
        """Whether sessions of the model live on in the store."""
        return model in self.models and self._durability_of(model) is not Durability.NONE

    def resolve(self, model: str, version: str = "") -> Lane:
        """The lane for new sessions; raises TidegateError MODEL_NOT_FOUND or VERSION_NOT_FOUND."""
        entry = self.models.get(model)
        if entry is None:
            served = ", ".join(sorted(self.models)) or "none"
            raise TidegateError(Reason.MODEL_NOT_FOUND, f"there is no model {model!r}; served: {served}")
        wanted = entry.aliases.get(version, version) or entry.default_version or ""
        lane = entry.lanes.get(wanted)
        if lane is None or lane.retired:
            good = [name for name, lane in entry.lanes.items() if not lane.retired]
            missing = f"version or alias {version!r}" if version else "default version"
            raise TidegateError(
                Reason.VERSION_NOT_FOUND,
                f"{model} has no {missing}; "
                f"versions: {', '.join(good) or 'none'}; aliases: {', '.join(entry.aliases) or 'none'}"
                + "".join(f"; {problem}" for problem in entry.problems[:PROBLEMS_TOLD]),
            )
        return lane

    def about(self, scope: Scope) -> Lane:
        """The lane that a stream's config is checked against: that for new sessions or, where it does not fit, another
        one, on which the stream's sessions may still live (a retired one, say); raises TidegateError if none fits."""
        try:
            lane = self.resolve(scope.model, scope.version)
            lane.layout(scope)
        except TidegateError:
            lanes = [lane for lane in self.lanes.values() if lane.model == scope.model]
            for lane in reversed(lanes):
                if scope.version in ("", lane.version):
                    with contextlib.suppress(TidegateError):
                        lane.layout(scope)
                        return lane
            raise
        return lane

    def prepare(self, snapshot: Snapshot, known: Collection[str] = ()) -> Steppers:
        """Builds the steppers of versions whose fingerprints are not known. Slow, and reads nothing that changes: runs
        beside the loop."""
        steppers: Steppers = {}
        for _, package in _packages(snapshot):
            if package.fingerprint not in known:
                try:
                    steppers[package.fingerprint] = build_stepper(
                        package, self._device, self._threads, self._kernel, self._tf32
                    )
                except PackageError as error:
                    steppers[package.fingerprint] = str(error)
                except Exception as error:  # a device without room, say: this version is refused, the rest is served
                    log.exception("no stepper for %s/%s", package.manifest.name, package.manifest.version)
                    steppers[package.fingerprint] = f"stepper: cannot be built ({type(error).__name__})"
        return steppers

    def install(self, snapshot: Snapshot, steppers: Steppers) -> Changes:
        """Takes over what the repository holds now."""
        changes = Changes()
        for name in self.models.keys() - snapshot.models.keys():
            self.models[name].refused, self.models[name].problems = {}, ()
        for name, listing in snapshot.models.items():
            entry = self.models.setdefault(name, Entry())
            entry.refused, entry.problems = dict(listing.refused), listing.problems
            for package in listing.versions.values():
                self._load(entry, package, steppers, changes)
            entry.aliases, entry.default_version = dict(listing.aliases), listing.default_version
            changes.refused += [f"{name}/{version}: {problem}" for version, problem in entry.refused.items()]
            changes.refused += [f"{name}/{problem}" for problem in listing.problems]
        present = {key for key, _ in _packages(snapshot)}
        present |= {(name, version) for name, listing in snapshot.models.items() for version in listing.kept}
        for lane in list(self.lanes.values()):
            if not lane.retired and (lane.model, lane.version) not in present:
                self._retire(lane, changes)
        self.drop_unused()
        return changes

    def drop_unused(self) -> None:
        """Forgets retired versions without sessions or queued rows, and models without anything."""
        for number, lane in list(self.lanes.items()):
            if lane.retired and not lane.sessions and not len(lane.queue) and not lane.queue.holding:
                del self.lanes[number]
                entry = self.models[lane.model]
                if entry.lanes.get(lane.version) is lane:
                    del entry.lanes[lane.version]
        served = {lane.model for lane in self.lanes.values()}
        for name, entry in list(self.models.items()):
            if name not in served and not entry.refused:
                del self.models[name]

    def _load(self, entry: Entry, package: Package, steppers: Steppers, changes: Changes) -> None:
        version, name = package.manifest.version, package.manifest.name
        current = entry.lanes.get(version)
        if current is not None and current.package.fingerprint == package.fingerprint:
            if current.retired:
                current.retired = False
                changes.added.append(f"{name}/{version}")
            return
        stepper = steppers.get(package.fingerprint, "stepper: was not prepared; reload again")
        slab = self._slab(package)
        if isinstance(stepper, str) or isinstance(slab, str):
            entry.refused[version] = stepper if isinstance(stepper, str) else str(slab)
            return
        lane = Lane(self._numbers, package, stepper, slab, self._durability_of(name))
        self._numbers += 1
        entry.lanes[version] = self.lanes[lane.number] = lane
        changes.added.append(f"{name}/{version}")

    def _retire(self, lane: Lane, changes: Changes) -> None:
        lane.retired = True
        changes.removed.append(f"{lane.model}/{lane.version}")
        entry = self.models[lane.model]
        if entry.default_version == lane.version:
            entry.default_version = None

    def _slab(self, package: Package) -> Slab | str:
        """The slab for the package's state shape, made at first use; or why there is none."""
        schema = session_schema(package)
        slab = self._slab_of.get(schema)
        if slab is None:
            if len(self.slabs) == SLABS_MAX:
                return f"model.json: its state shape is one too many; at most {SLABS_MAX} while a server runs"
            try:
                slab = Slab(len(self.slabs), schema, self._capacity(schema), self._device)
            except (OSError, MemoryError, RuntimeError) as error:
                return f"model.json: no memory for its sessions ({type(error).__name__})"
            self._slab_of[schema] = slab
            self.slabs.append(slab)
        return slab

    def _capacity(self, schema: Schema) -> int:
        """Rows to reserve. On CUDA, where they are paid at once, half of what earlier slabs have left."""
        budget = self.state_bytes_max
        if self._device != "cpu":
            budget = (budget - sum(slab.slots.capacity * slab.row_bytes for slab in self.slabs)) // 2
        return max(2, min(self.limits.sessions_max, budget // schema.row_bytes, SLOTS_MAX - 1) + 1)


def _packages(snapshot: Snapshot) -> Iterator[tuple[tuple[str, str], Package]]:
    for name, listing in snapshot.models.items():
        for version, package in listing.versions.items():
            yield (name, version), package
