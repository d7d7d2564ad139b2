"""A session's bits are its own: whatever shares its batch, however the batch is split between threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.harness import DEVICES, InProcess
from tests.identity.feeds import DERIVED, GAPS, Feed, derived_package, make_feeds, make_package
from tidegate.engine.step import stepper
from tidegate.engine.step.crew import Crew
from tidegate.engine.step.stepper import TILE_ROWS, TorchStepper
from tidegate.errors import Reason

SESSIONS = 400
Told = dict[str, list[bytes]]


def one_by_one(engine: InProcess, feeds: list[Feed], model: str = "model") -> Told:
    """One session after another, one observation at a time."""
    told = Told()
    for feed in feeds:
        answers = [
            engine.ask(feed.name, list(map(float, values)), step, scope=model)
            for step, values in zip(feed.steps.tolist(), feed.values, strict=True)
        ]
        assert {answer.reason for answer in answers} == {Reason.OK}
        told[feed.name] = [answer.bits for answer in answers]
    return told


def together(engine: InProcess, feeds: list[Feed], seed: int, model: str = "model") -> Told:
    """Each session's next step in batches of random size and order."""
    random, told = np.random.default_rng(seed), Told()
    for step in range(max(len(feed.steps) for feed in feeds)):
        going = [feed for feed in feeds if step < len(feed.steps)]
        random.shuffle(going)
        while going:
            rows = [going.pop() for _ in range(min(len(going), int(random.integers(1, SESSIONS))))]
            answers = engine.ask_batch(
                [feed.name for feed in rows],
                [feed.values[step] for feed in rows],
                steps=[feed.steps[step] for feed in rows],
                scope=model,
            )
            for feed, answer in zip(rows, answers, strict=True):
                assert answer.reason is Reason.OK
                told.setdefault(feed.name, []).append(answer.bits)
    return told


def test_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch of more than one tile is split between all threads, at whole tiles: the bytes are those of sessions
    that are stepped alone. The cell is torch's."""
    splits: set[tuple[int, ...]] = set()
    split = TorchStepper._split

    def spy(self: TorchStepper, padded: int) -> list[int]:
        bounds = split(self, padded)
        assert all(bound % TILE_ROWS == 0 for bound in bounds)
        splits.add(tuple(bounds))
        return bounds

    make_package(tmp_path, "model", 33, 7, gaps=GAPS, cell="gru", head={"hidden": [24]})
    feeds = make_feeds(SESSIONS, 8, seed=33)
    wanted = one_by_one(InProcess(tmp_path), feeds)
    monkeypatch.setattr(stepper, "THREAD_SECONDS_MIN", 1e-9)
    monkeypatch.setattr(TorchStepper, "_split", spy)
    for threads in (1, 2, 3, 8):
        splits.clear()
        assert together(InProcess(tmp_path, threads=threads), feeds, seed=threads) == wanted
        assert {len(bounds) - 1 for bounds in splits} == set(range(1, threads + 1))


@pytest.mark.parametrize("kind", ["large", *DERIVED])
def test_crews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The same where all of a step is C: whoever is free takes a share, whatever the package derives."""
    shared, post = 0, Crew.post

    def spy(self: Crew, rows: int, share: int, bell: int) -> None:
        nonlocal shared
        shared += share < rows
        post(self, rows, share, bell)

    if kind == "large":
        make_package(tmp_path, kind, 256, 2, gaps=GAPS, cell="lstm_peephole")
    else:
        derived_package(tmp_path, kind)
    feeds = make_feeds(SESSIONS // 2, 3, seed=5)
    wanted = one_by_one(InProcess(tmp_path), feeds, kind)
    monkeypatch.setattr(stepper, "THREAD_SECONDS_MIN", 1e-9)
    monkeypatch.setattr(Crew, "post", spy)
    for threads in (2, 3, 8):
        shared = 0
        assert together(InProcess(tmp_path, threads=threads), feeds, threads, kind) == wanted
        assert shared > 10


@pytest.mark.parametrize("device", DEVICES)
def test_devices(tmp_path: Path, device: str) -> None:
    """On every device: alone or together, the same bytes."""
    make_package(tmp_path, "model", 64, 4, gaps=GAPS)
    feeds = make_feeds(SESSIONS, 5, seed=0)
    assert together(InProcess(tmp_path, device), feeds, seed=1) == one_by_one(InProcess(tmp_path, device), feeds)


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    """However many rows go through the kernel at once, the bytes are the same."""
    make_package(tmp_path, "model", 33, 7, gaps=GAPS)
    feeds = make_feeds(SESSIONS, 8, seed=0)
    wanted = together(InProcess(tmp_path), feeds, seed=1)
    monkeypatch.setattr(stepper, "PIECE_ROWS", pieces * TILE_ROWS)
    assert together(InProcess(tmp_path), feeds, seed=2) == wanted


@pytest.mark.parametrize("distance", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("device", DEVICES)
def test_numbers_at_the_edge(tmp_path: Path, device: str, distance: int) -> None:
    """Finite numbers whose sum is not: whether a step is taken does not depend on neighbours that cancel them."""
    make_package(tmp_path, "model", 8, 3, cell="rnn_tanh")
    large = 0.4 * float(np.finfo(np.float32).max)
    rows = np.full((TILE_ROWS, 4), 0.5)
    rows[0], rows[distance] = large, -large
    names = [f"s{row}" for row in range(TILE_ROWS)]
    shared = InProcess(tmp_path, device).ask_batch(names, rows, scope="model")
    alone = InProcess(tmp_path, device)
    for row in (0, distance):
        answer = alone.ask(names[row], list(rows[row]), scope="model")
        assert (answer.reason, answer.bits) == (shared[row].reason, shared[row].bits)
        assert answer.reason is Reason.OK
