"""Corrections by the client: what comes late takes its place, and the client numbers on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client, Reason, TidegateError
from tidegate.client import Session

START = datetime(2024, 5, 1, tzinfo=UTC)
ROWS = [[float(hour), -float(hour), 0.5, 0.0] for hour in range(6)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hourly models, one of which takes late observations."""
    folder = tmp_path_factory.mktemp("late") / "models"
    random_package(folder, "late", frequency="h", rewind_steps=4, lateness_steps=4)
    random_package(folder, "prompt", frequency="h")
    return folder


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


def at(hour: int) -> datetime:
    return START + timedelta(hours=hour)


def stepped(client: Client, rows: list[list[float]]) -> Session:
    session = client.session("late", uuid.uuid4().hex)
    for hour, row in enumerate(rows):
        session.step(row, time=at(hour))
    return session


def test_a_correction(client: Client) -> None:
    """The session is, to the bit, as if the right values had come at once; said again it changes nothing, and the next
    step has the next number."""
    session, other = stepped(client, [*ROWS[:3], [9.0] * 4, *ROWS[4:]]), stepped(client, ROWS)
    for _ in range(2):
        found = session.step(ROWS[3], time=at(3), late=True)
        assert found.step == 6
    found = session.step(ROWS[0], time=at(6))
    assert (found.step, found.revised) == (7, False)
    assert found.values.tobytes() == other.step(ROWS[0], time=at(6)).values.tobytes()


def test_the_prediction_is_revised(client: Client) -> None:
    """A correction is answered by what the session predicts now."""
    session, other = stepped(client, [*ROWS[:5], [9.0] * 4]), stepped(client, ROWS[:5])
    found = session.step(ROWS[5], time=at(5), late=True)
    assert (found.step, found.revised) == (6, True)
    assert found.values.tobytes() == other.step(ROWS[5], time=at(5)).values.tobytes()


def test_what_cannot_be_late(client: Client) -> None:
    """Without a time, or for a model that takes none, nothing is sent; one that is too late has no place. The session
    goes on."""
    session = stepped(client, ROWS)
    for asked, time, reason, said in (
        (session, None, Reason.BAD_OBSERVATION, "needs its time"),
        (client.session("prompt", "p"), at(1), Reason.BAD_OBSERVATION, "takes nothing late"),
        (session, at(0), Reason.TIME_NOT_INCREASING, "not later than the last"),
    ):
        with pytest.raises(TidegateError, match=said) as refused:
            asked.step([9.0] * 4, time=time, late=True)
        assert refused.value.reason is reason
    assert session.step(ROWS[0], time=at(6)).step == 7
