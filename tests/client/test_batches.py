"""Many sessions a message, against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tests.waiting import wait_for
from tidegate import Client, Reason, TidegateError
from tidegate.client import Batches, RowFlag
from tidegate.client.streams.columns import Columns, split, to_message
from tidegate.errors import MEANINGS

MODEL = "random"


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


@pytest.fixture
def stream(client: Client) -> Iterator[Batches]:
    with client.batches(MODEL) as stream:
        yield stream


def fresh(count: int) -> list[str]:
    """Ids that nobody has used."""
    run = uuid.uuid4().hex
    return [f"{run}-{index}" for index in range(count)]


def rows(count: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Observations."""
    return np.random.default_rng(seed).standard_normal((count, 4))


def test_batches_equal_single_steps(client: Client, stream: Batches) -> None:
    """A row's predictions are, bit for bit, those of a session stepped alone."""
    ids, alone = fresh(40), [client.session(MODEL, name) for name in fresh(40)]
    for step in range(3):
        matrix = rows(40, step)
        predictions = stream.step(ids, matrix)
        singles = [session.step(row).values for session, row in zip(alone, matrix, strict=True)]
        assert predictions.values.tobytes() == np.stack(singles).tobytes()
        assert predictions.steps.tolist() == [step + 1] * 40
        assert predictions.errors == []
    assert predictions.targets == stream.about.targets == ("x0", "x1", "x2", "x3")


def test_a_failed_row_is_named_and_touches_no_other(stream: Batches) -> None:
    """A bad row is NaN, named with its id and reason, and its session takes its number at the next call."""
    ids, matrix = fresh(5), rows(5)
    matrix[3, 1] = np.inf
    first = stream.step(ids, matrix)
    assert np.isnan(first.values).all(axis=1).tolist() == [False, False, False, True, False]
    assert first.steps.tolist() == [1, 1, 1, 0, 1]
    assert [(e.row, e.id, e.reason) for e in first.errors] == [(3, ids[3], Reason.BAD_OBSERVATION)]
    assert stream.step(ids, rows(5)).steps.tolist() == [2, 2, 2, 1, 2]


def test_created_is_said_once(client: Client, stream: Batches) -> None:
    """The flag that a row began its session comes with its first step, not for sessions that lived."""
    ids = fresh(3)
    client.session(MODEL, ids[1]).step(rows(1)[0])
    created = [(stream.step(ids, rows(3)).flags & RowFlag.CREATED).tolist() for _ in range(2)]
    assert created == [[1, 0, 1], [0, 0, 0]]
    assert stream.step(ids, rows(3)).steps.tolist() == [3, 4, 3]


def test_a_session_in_several_rows(stream: Batches) -> None:
    """The steps of a session that stands in several rows are taken in row order."""
    once, thrice = fresh(2)
    matrix = rows(4)
    together = stream.step([thrice, once, thrice, thrice], matrix)
    assert together.steps.tolist() == [1, 1, 2, 3]
    apart = [stream.step(["apart-" + thrice], matrix[[row]]).values[0] for row in (0, 2, 3)]
    assert together.values[[0, 2, 3]].tobytes() == np.stack(apart).tobytes()


def test_reset_missing_and_times(stream: Batches) -> None:
    """Reset rows begin anew, NaN is imputed and flagged, and a time that does not go on fails its row alone."""
    ids = fresh(2)
    stream.step(ids, rows(2), times=np.array(["2024-01-01", "2024-01-02"], "datetime64[D]"))
    matrix = rows(2)
    matrix[0, 2] = np.nan
    second = stream.step(ids, matrix, reset=[True, False])
    assert second.flags.tolist() == [RowFlag.IMPUTED | RowFlag.RESET, 0]
    day = np.datetime64("2024-01-02")
    third = stream.step(ids, rows(2), times=[day, day])
    assert [(error.row, error.reason) for error in third.errors] == [(1, Reason.TIME_NOT_INCREASING)]


def test_a_large_batch_is_split(stream: Batches) -> None:
    """More rows than one message may hold, under long ids, are all stepped, first with ids and then by aliases."""
    ids = [name * 6 for name in fresh(20_000)]
    matrix = np.tile(rows(100).astype(np.float32), (200, 1))
    for step in (1, 2):
        predictions = stream.step(ids, matrix)
        assert predictions.errors == []
        assert (predictions.steps == step).all()
        assert predictions.values.tobytes() == predictions.values[:100].tobytes() * 200


def test_messages_stay_below_the_limits() -> None:
    """No part has more rows or bytes than a server takes, and the parts are the whole in order."""
    ids = ["ü" * 128] * 40_000
    values, aliases = np.zeros((40_000, 20)), np.arange(40_000, dtype=np.uint32)
    steps, times = np.full(40_000, 2**40, np.uint64), np.full(40_000, 2**62)
    columns = Columns(ids, steps, values, times, np.ones(40_000, np.uint8), values[:, :2])
    parts = list(split(columns))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, 40_000)
    for naming in (True, False):
        messages = [to_message(columns.take(part), aliases[part], naming) for part in parts]
        assert max(message.rows for message in messages) <= 16_384
        assert max(message.ByteSize() for message in messages) < 4 * 1024 * 1024


def test_stolen_steps_fail_until_resync(client: Client, stream: Batches) -> None:
    """A row whose session another client stepped fails with the step expected, again and again, until resync."""
    ids = fresh(2)
    stream.step(ids, rows(2))
    thief = client.session(MODEL, ids[1])
    thief.step(rows(1, 5)[0])
    thief.step(rows(1, 6)[0])
    for _ in range(2):
        (error,) = stream.step(ids, rows(2, 9)).errors
        assert (error.id, error.reason, error.expected_step) == (ids[1], Reason.STEP_TOO_OLD, 4)
    stream.resync(ids)
    assert stream.step(ids, rows(2)).steps.tolist() == [4, 4]


def test_ids_that_cannot_be_are_row_errors(stream: Batches) -> None:
    """An id that no session can have fails its own row."""
    predictions = stream.step(["", *fresh(1)], rows(2))
    assert [(error.row, error.reason) for error in predictions.errors] == [(0, Reason.BAD_SESSION_ID)]
    assert predictions.steps.tolist() == [0, 1]


def test_nothing_and_nonsense(client: Client, stream: Batches) -> None:
    """No rows are no message; a matrix that does not fit is refused before anything is sent."""
    assert stream.step([], np.zeros((0, 4))).values.shape == (0, 4)
    ids = fresh(2)
    with pytest.raises(TidegateError) as refused:
        stream.step(ids, rows(3))
    assert refused.value.reason is Reason.BAD_BATCH
    with pytest.raises(TidegateError) as unknown, client.batches("nope"):
        pass
    assert unknown.value.reason is Reason.MODEL_NOT_FOUND
    assert stream.step(ids, rows(2)).steps.tolist() == [1, 1]


def test_after_a_restart(tmp_path: Path) -> None:
    """A server without a store that comes back has nothing: the next call connects and binds again and finds the state
    gone, and says so; while there is none, calls are UNREACHABLE when their time is over."""
    models = tmp_path / "models"
    random_package(models)
    ids = fresh(3)
    with RunningServer(models) as first:
        client = Client(first.grpc)
        stream, hasty = client.batches(MODEL), Client(first.grpc)
        stream.__enter__()
        session, waiting = client.session(MODEL, "single"), hasty.session(MODEL, "hasty")
        assert stream.step(ids, rows(3)).steps.tolist() == [1, 1, 1]
        for each in (session, waiting):
            each.step(rows(1)[0])
            each.step(rows(1)[0])
        assert first.stop(9) == -9
    with hasty:
        hasty._client._connection.timeout_seconds = 1.0  # what was answered before had all the time that it took
        for step in (hasty.models, lambda: waiting.step(rows(1)[0])):
            with pytest.raises(TidegateError) as lost:
                step()
            assert lost.value.reason is Reason.UNREACHABLE
    with client, RunningServer(models, "--port", first.grpc.rpartition(":")[2]) as second:
        errors = stream.step(ids, rows(3)).errors
        assert [error.reason for error in errors] == [Reason.SESSION_NOT_FOUND] * 3
        assert len({error.message for error in errors}) == 1  # each has the text, which the answer holds once
        assert MEANINGS[Reason.SESSION_NOT_FOUND].problem in errors[-1].message
        stream.resync(ids)
        again = stream.step(ids, rows(3))
        assert again.steps.tolist() == [1, 1, 1]
        assert again.flags.tolist() == [RowFlag.CREATED] * 3
        with pytest.raises(TidegateError) as gone:
            session.step(rows(1)[0])
        assert gone.value.reason is Reason.SESSION_NOT_FOUND
        assert session.resync() is None
        assert session.step(rows(1)[0]).created
        stream.close()
        wait_for(lambda: second.metric("tidegate_streams_open") <= 1.0)  # the server may hear of it a little later
