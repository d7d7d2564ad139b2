"""Rewinding through a real server, the client and the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client, Reason, TidegateError
from tidegate.cli import main


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A model that keeps three steps."""
    models = tmp_path_factory.mktemp("rewind") / "models"
    random_package(models, rewind_steps=3)
    with RunningServer(models) as running:
        yield running


def test_a_wrong_reading_is_taken_back(server: RunningServer) -> None:
    """After a rewind the client goes on numbering from there, and predictions are as if nothing had been."""
    with Client(server.grpc) as client:
        about = client.model("random").description
        assert about is not None
        assert about.rewind_steps == 3
        good, bad = client.session("random", "good"), client.session("random", "bad")
        for session in (good, bad):
            session.step([0.1, 0.2, 0.3, 0.4])
        bad.step([9.0] * 4)
        bad.step([9.0] * 4)
        assert bad.rewind(1).step == 1
        one, two = (session.step([0.5, 0.6, 0.7, 0.8]) for session in (good, bad))
        assert (two.step, two.values.tobytes()) == (one.step, one.values.tobytes())
        forked = bad.fork("forked", step=1).step([0.5, 0.6, 0.7, 0.8])
        assert forked.values.tobytes() == one.values.tobytes()
        with pytest.raises(TidegateError) as caught:
            bad.rewind(7)
        assert caught.value.reason is Reason.STEP_NOT_RETAINED


def test_by_command(server: RunningServer) -> None:
    """`tidegate sessions rewind` and `fork --step`."""
    with Client(server.grpc) as client:
        session = client.session("random", "by-hand")
        for _ in range(3):
            session.step([0.1] * 4)
    runner = CliRunner()
    for command in (["fork", "random", "by-hand", "earlier", "--step", "1"], ["rewind", "random", "by-hand", "2"]):
        done = runner.invoke(main, ["sessions", *command, "--address", server.grpc])
        assert done.exit_code == 0, done.output
    with Client(server.grpc) as client:
        assert client.session("random", "by-hand").info().step == 2
        assert client.session("random", "earlier").info().step == 1
    done = runner.invoke(main, ["sessions", "rewind", "random", "by-hand", "5", "--address", server.grpc])
    assert done.exit_code == 1
    assert "STEP_NOT_RETAINED" in done.output
