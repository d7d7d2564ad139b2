"""Corrections by the client: what comes late takes its place, and the client numbers on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.client.proxies import CuttingProxy
from tests.client.test_crashes import SELDOM, running
from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import AsyncClient, Client, Reason, TidegateError
from tidegate.client import Session
from tidegate.client import session as client_session

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


LATE = {"frequency": "h", "rewind_steps": 4, "lateness_steps": 4}


@pytest.mark.parametrize("hour", [1, 2])
@pytest.mark.parametrize("breaks", ["cut", "kill"])
async def test_a_correction_outlives_what_breaks(tmp_path: Path, breaks: str, hour: int) -> None:
    """Of the last step or an earlier one: after a lost connection, and after a crash that lost all of it, the session
    stands, to the bit, as if the right values had come at once."""
    async with (
        running(tmp_path, environment=SELDOM, **LATE) as place,
        CuttingProxy(place.address) as proxy,
        AsyncClient(proxy.address) as client,
        AsyncClient(place.address) as witness,
    ):
        session, other = client.session("random", "late"), witness.session("random", "right")
        for step, row in enumerate(ROWS[:3]):
            await session.step([9.0] * 4 if step == hour else row, time=at(step))
            await other.step(row, time=at(step))
        corrected = await session.step(ROWS[hour], time=at(hour), late=True)
        assert corrected.revised
        if breaks == "cut":
            proxy.cut()
        else:
            await place.restart()
        found = await session.step(ROWS[3], time=at(3))
        assert (found.step, found.revised) == (4, False)
        assert found.values.tobytes() == (await other.step(ROWS[3], time=at(3))).values.tobytes()


async def test_late_and_yet_the_next(tmp_path: Path) -> None:
    """What is called late and comes after the last is the next step, numbered and kept as one: a crash loses none."""
    async with running(tmp_path, environment=SELDOM, **LATE) as place, AsyncClient(place.address) as client:
        session, other = client.session("random", "late"), client.session("random", "right")
        for step, row in enumerate(ROWS[:4]):
            found = await session.step(row, time=at(step), late=step in (1, 3))
            await other.step(row, time=at(step))
            assert (found.step, found.revised) == (step + 1, False)
        await place.restart()
        found = await session.step(ROWS[4], time=at(4))
        assert found.step == 5
        assert found.values.tobytes() == (await other.step(ROWS[4], time=at(4))).values.tobytes()


def test_a_late_one_beyond_a_gap(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no place before the missing steps: the error names both times, and not resync(), which would not help."""
    monkeypatch.setattr(client_session, "EXPLAIN_SECONDS_MAX", 30.0)  # a machine may stand still for a second
    session = stepped(client, ROWS[:2])
    with pytest.raises(TidegateError, match="more intervals than one") as refused:
        session.step(ROWS[2], time=at(7), late=True)
    assert refused.value.reason is Reason.STEP_GAP
    assert "resync" not in str(refused.value)
