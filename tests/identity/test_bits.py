"""Bit identity through real servers: a session's bytes depend on its own observations alone.

A random permutation of all rows, cut into batches of random size and mixed with single observations on other streams,
gives each session the bytes that it gets alone. In `make test` sixteen configurations (every pair of hidden size, head
and thread count) with 240 sessions each; in `make soak` all forty-eight with two thousand, in a fresh server each.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.identity.feeds import (
    DERIVED,
    GAPS,
    Connection,
    Feed,
    derived_package,
    make_feeds,
    make_package,
    take_alone,
    take_mixed,
)
from tests.servers import RunningServer

HIDDEN, HEADS, THREADS = (32, 33, 64, 256), (1, 4, 7, 20), (1, 2, 3)
ROWS_MAX = 600  # of one batch message
SESSIONS = 240
CELLS = ("lstm", "lstm_peephole", "gru", "rnn_tanh")


def cell_of(hidden: int, targets: int) -> str:
    """LSTMs mostly; each of the other cells at every hidden size and head size once."""
    return CELLS[(HIDDEN.index(hidden) + HEADS.index(targets)) % 4]


def threads_of(hidden: int, targets: int) -> int:
    """The thread count of a pair, so that every pair of hidden size and threads, and of head and threads, is met."""
    return THREADS[(HIDDEN.index(hidden) + HEADS.index(targets)) % 4 % 3]


def batches(server: RunningServer, rows: str) -> float:
    """Steps of the model that took no more rows than said."""
    return server.metric(f'tidegate_batch_rows_bucket{{le="{rows}"}}')


def assert_alone_as_mixed(server: RunningServer, model: str, feeds: list[Feed], seed: int) -> None:
    """The same bytes; alone, every step of the model took one row, and mixed, some took more than 64."""
    steps = sum(len(feed.steps) for feed in feeds)
    with Connection(server.grpc) as connection:
        single, every = batches(server, "1.0"), batches(server, "+Inf")
        alone = take_alone(connection, model, feeds)
        assert batches(server, "1.0") - single == batches(server, "+Inf") - every == steps
        large = batches(server, "+Inf") - batches(server, "64.0")
        mixed = take_mixed(connection, model, feeds, ROWS_MAX, seed)
        assert batches(server, "+Inf") - batches(server, "64.0") > large
    assert alone.keys() == mixed.keys()
    different = [name for name in alone if alone[name] != mixed[name]]
    assert not different, f"{len(different)} of {len(alone)} sessions, such as {different[:5]}"


@pytest.mark.parametrize("threads", THREADS)
def test_covering_configurations(tmp_path: Path, threads: int) -> None:
    """Every pair of hidden size, head and thread count, in one server a thread count: the bytes are the same."""
    models = tmp_path / "models"
    pairs = [pair for pair in itertools.product(HIDDEN, HEADS) if threads_of(*pair) == threads]
    for hidden, targets in pairs:
        make_package(models, f"h{hidden}-t{targets}", hidden, targets, gaps=GAPS, cell=cell_of(hidden, targets))
    with RunningServer(models, "--threads", str(threads)) as server:
        for hidden, targets in pairs:
            feeds = make_feeds(SESSIONS, targets + 1, seed=hidden + targets)
            assert_alone_as_mixed(server, f"h{hidden}-t{targets}", feeds, seed=hidden)


@pytest.mark.parametrize("threads", [1, 2])
def test_derived_inputs_and_heads(tmp_path: Path, threads: int) -> None:
    """Lags, calendar, ids, channels, scaling by session, feedback, every head: the bytes are the same."""
    models = tmp_path / "models"
    for name in DERIVED:
        derived_package(models, name)
    with RunningServer(models, "--threads", str(threads)) as server:
        for seed, name in enumerate(DERIVED):
            assert_alone_as_mixed(server, name, make_feeds(SESSIONS, 3, seed), seed)


@pytest.mark.soak
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("targets", HEADS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_configuration(tmp_path: Path, hidden: int, targets: int, threads: int) -> None:
    """Two thousand sessions of an LSTM in a fresh server."""
    models = tmp_path / "models"
    make_package(models, "lstm", hidden, targets, gaps=GAPS)
    with RunningServer(models, "--threads", str(threads)) as server:
        assert_alone_as_mixed(server, "lstm", make_feeds(2000, targets + 1, seed=threads), seed=hidden + targets)


def test_the_chosen_pairs_cover() -> None:
    """The sixteen configurations of `make test` meet every pair of settings."""
    chosen = [(hidden, targets, threads_of(hidden, targets)) for hidden, targets in itertools.product(HIDDEN, HEADS)]
    for first, second in itertools.combinations(range(3), 2):
        settings = (HIDDEN, HEADS, THREADS)
        met = {(configuration[first], configuration[second]) for configuration in chosen}
        assert met == set(itertools.product(settings[first], settings[second]))
