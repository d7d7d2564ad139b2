"""Single observations against what a user could take instead: forty lines of asyncio, Triton's sequence batcher."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tests.benchmarks import gload, messages
from tests.benchmarks.gload import BenchmarkError, Target
from tests.benchmarks.ours import LARGE, MODEL, SMALL, Ours, Size
from tests.benchmarks.paired import STREAMS, compared, in_turn
from tests.benchmarks.programs import Batcher, Triton, write_peer_messages
from tests.benchmarks.report import Budget, Finding
from tests.benchmarks.scenario import PeerMissingError, Run, Settings

TRITON_LIVES = 5  # it sometimes dies under load


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

    def run(self, settings: Settings, peer: str, about: str, theirs: Target, budget: Budget | None) -> list[Finding]:
        """Our single observations beside a peer's, which is up and warm."""
        path = settings.folder / f"observation-{self.streams}"
        messages.write_observations(path, MODEL, self.streams)
        with Ours(settings.folder, self.cores(settings), self.size) as ours:
            pairs = in_turn(settings, ours.target(path), theirs, self.streams)
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
            theirs = peer.target(settings.folder / "peers" / "raw")
            return contest.run(settings, f"batcher-{kind}", about, theirs, budget)

    return run


def triton(contest: Contest, budget: Budget | None) -> Run:
    """Against Triton's sequence batcher."""

    def run(settings: Settings) -> list[Finding]:
        measure = partial(contest.run, settings, "triton", "Triton's sequence batcher", budget=budget)
        return with_triton(settings, contest.cores(settings), contest.size, measure)

    return run


def with_triton(
    settings: Settings, cores: Sequence[int], size: Size, measure: Callable[[Target], list[Finding]]
) -> list[Finding]:
    """Measures with Triton up and warm: all of it again with another one when that one dies."""
    venv = settings.triton_venv
    if venv is None:
        raise PeerMissingError(
            "--triton-venv names no environment with Triton's server; README.md says how to make one"
        )
    write_peer_messages(settings.folder / "peers", str(venv / "bin" / "python"))
    for _ in range(TRITON_LIVES):
        with Triton(cores, venv, size) as peer:
            theirs = peer.target(settings.folder / "peers" / "triton")
            try:
                gload.run(theirs, 1, 1, 0.5)  # a burst on a cold server kills it
                return measure(theirs)
            except BenchmarkError:
                if not peer.ended():
                    raise
                print("  Triton died and is started again", flush=True)
    raise BenchmarkError(f"Triton died under load {TRITON_LIVES} times")


def need_ort() -> None:
    """Raises PeerMissingError where ONNX Runtime's peers cannot be made."""
    if not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx")):
        raise PeerMissingError("onnxruntime and onnx are not installed beside Tidegate: pip install onnxruntime onnx")
