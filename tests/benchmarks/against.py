"""Single observations against what a user could take instead: forty lines of asyncio, Triton's sequence batcher."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks import messages
from tests.benchmarks.ours import LARGE, MODEL, SMALL, Ours, Size
from tests.benchmarks.paired import STREAMS, Side, compared, in_turn
from tests.benchmarks.programs import Batcher, write_peer_messages
from tests.benchmarks.report import Budget, Finding
from tests.benchmarks.scenario import PeerMissingError, Run, Settings
from tests.benchmarks.triton import Tritons


@dataclass(frozen=True)
class Contest:
    """What both are given: streams, a model of a size, one core or two (and as many threads)."""

    prefix: str
    streams: int
    size: Size
    two_cores: bool = False

    def cores(self, settings: Settings) -> Sequence[int]:
        """For each server in its turn."""
        return settings.cores.both if self.two_cores else (settings.cores.server,)

    def run(self, settings: Settings, peer: str, about: str, theirs: Side, budget: Budget | None) -> list[Finding]:
        """Our single observations beside a peer's, which is up and warm."""
        path = settings.folder / f"observation-{self.streams}"
        messages.write_observations(path, MODEL, self.streams)
        with Ours(settings.folder, self.cores(settings), self.size) as ours:
            pairs = in_turn(settings, ours.target(path).load, theirs, self.streams)
            ours.check()
        cores = "two cores" if self.two_cores else "one core"
        what = f"messages a second against {about}, {self.streams} streams, hidden {self.size}, {cores}"
        return [compared(f"{self.prefix}against-{peer}", what, pairs, "peer", budget)]


SINGLE = Contest("", STREAMS, SMALL)
HEAVY = Contest("large-", 256, LARGE, two_cores=True)


def batcher(contest: Contest, kind: str, about: str, budget: Budget | None) -> Run:
    """Against the forty-line asyncio batcher, on "torch" or "ort"."""

    def run(settings: Settings) -> list[Finding]:
        if kind == "ort":
            need_ort()
        write_peer_messages(settings.folder / "peers")
        with Batcher(contest.cores(settings), kind, contest.size) as peer:
            theirs = peer.target(settings.folder / "peers" / "raw").load
            return contest.run(settings, f"batcher-{kind}", about, theirs, budget)

    return run


def triton(contest: Contest, budget: Budget | None) -> Run:
    """Against Triton's sequence batcher."""

    def run(settings: Settings) -> list[Finding]:
        with Tritons(settings, contest.cores(settings), contest.size) as peer:
            found = contest.run(settings, "triton", "Triton's sequence batcher", peer.load, budget)
        found[0].raw["Triton was started, times"] = [peer.starts]
        return found

    return run


def need_ort() -> None:
    """Raises PeerMissingError where ONNX Runtime's peers cannot be made."""
    if not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx")):
        raise PeerMissingError("onnxruntime and onnx are not installed beside Tidegate: pip install onnxruntime onnx")
