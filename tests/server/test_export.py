"""Moving a session by hand: exported from one server, imported into another, it goes on to the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.identity.feeds import DERIVED, derived_package
from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client, Reason, TidegateError
from tidegate.cli import main

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-01-01T00", "ns")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Two servers of the same packages, and of versions of `versioned` that differ: 2 like 1, 3 of another shape."""
    folder = tmp_path_factory.mktemp("export")
    for name in DERIVED:
        derived_package(folder / "one", name)
    random_package(folder / "one", "versioned", "1")
    shutil.copytree(folder / "one", folder / "two")
    shutil.rmtree(folder / "two" / "versioned" / "1")
    random_package(folder / "two", "versioned", "2", seed=1)
    random_package(folder / "two", "versioned", "3", hidden=16)
    with RunningServer(folder / "one") as one, RunningServer(folder / "two") as two:
        yield one, two


@pytest.mark.parametrize("model", DERIVED)
def test_goes_on_elsewhere(servers: tuple[RunningServer, RunningServer], model: str) -> None:
    """After the move, the same predictions and forecast, byte for byte, and the retry of the last step is known."""
    random = np.random.default_rng(0)
    feed = random.normal(3.0, 2.0, (20, 3)).tolist()
    with Client(servers[0].grpc) as here, Client(servers[1].grpc) as there:
        stays = here.session(model, "mover")
        for step, values in enumerate(feed[:10]):
            stays.step(values, time=START + step * HOUR)
        moved_info = there.import_session(stays.export())
        assert (moved_info.step, moved_info.id, moved_info.steps_seen) == (10, "mover", 10)
        moved = there.session(model, "mover")
        assert moved.forecast(5).values.tobytes() == stays.forecast(5).values.tobytes()
        for step, values in enumerate(feed[10:], start=10):
            one, two = (session.step(values, time=START + step * HOUR) for session in (stays, moved))
            assert (two.step, two.values.tobytes()) == (one.step, one.values.tobytes())


def test_into_another_version(servers: tuple[RunningServer, RunningServer]) -> None:
    """Where the package is not loaded the import says so; a version with the same state shape goes on with it when
    named; one of another shape does not."""
    with Client(servers[0].grpc) as here, Client(servers[1].grpc) as there:
        session = here.session("versioned", "v")
        session.step([0.1] * 4)
        content = session.export()
        for version in ("", "3"):
            with pytest.raises(TidegateError) as caught:
                there.import_session(content, version=version)
            assert caught.value.reason is Reason.PACKAGE_MISMATCH
        assert list(there.sessions(model="versioned")) == []
        assert there.import_session(content, version="2").version == "2"
        assert there.session("versioned", "v").step([0.1] * 4).step == 2


def test_what_is_refused(servers: tuple[RunningServer, RunningServer]) -> None:
    """Tampered and truncated bytes, and an id that lives, are refused; the server is as it was."""
    with Client(servers[0].grpc) as client:
        session = client.session("words", "w")
        session.step([1.0, 0.0, 0.0])
        content = session.export()
        before = len(list(client.sessions()))
        changed = content[:200] + bytes([content[200] ^ 1]) + content[201:]
        for wrong, reason in (
            (changed, Reason.BAD_EXPORT),
            (content[:-1], Reason.BAD_EXPORT),
            (b"", Reason.BAD_EXPORT),
            (content, Reason.SESSION_EXISTS),
        ):
            with pytest.raises(TidegateError) as caught:
                client.import_session(wrong)
            assert caught.value.reason is reason
        with pytest.raises(TidegateError) as caught:
            client.import_session(content, id="x" * 257)
        assert caught.value.reason is Reason.BAD_SESSION_ID
        assert len(list(client.sessions())) == before
        assert client.import_session(content, id="copy").id == "copy"


def test_by_command(servers: tuple[RunningServer, RunningServer], tmp_path: Path) -> None:
    """`tidegate sessions export` writes a file, its owner's alone, that `tidegate sessions import` takes."""
    with Client(servers[0].grpc) as client:
        client.session("quantiles", "by-hand").step([1.0, 2.0, 3.0])
    file, runner = tmp_path / "session.tgs", CliRunner()
    command = ["sessions", "export", "quantiles", "by-hand", str(file), "--address", servers[0].grpc]
    done = runner.invoke(main, command)
    assert done.exit_code == 0, done.output
    assert file.stat().st_mode & 0o777 == 0o600
    done = runner.invoke(main, ["sessions", "import", str(file), "--address", servers[1].grpc])
    assert done.exit_code == 0, done.output
    with Client(servers[1].grpc) as client:
        assert client.session("quantiles", "by-hand").info().step == 1
