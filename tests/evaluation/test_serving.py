"""The server of an evaluation: it is there for as long as it is needed, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.packages import random_package

EVALUATION = """
import signal, sys
from pathlib import Path
from tidegate.training.evaluation.serving import served
for number in signal.SIGTERM, signal.SIGHUP:
    signal.signal(number, signal.SIG_DFL)  # also where tests run under nohup
with served(Path(sys.argv[1]), "sites", "1") as address:
    print(address, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_evaluation_that_is_ended_takes_its_server_along(tmp_path: Path, number: signal.Signals) -> None:
    """Ended by a signal in the middle, it leaves no process and no temporary folder, and says what ended it."""
    random_package(tmp_path / "models", "sites")
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "-c", EVALUATION, str(tmp_path / "models")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(folder)}) as evaluation:
        assert evaluation.stdout is not None
        assert evaluation.stdout.readline()
        (server,) = psutil.Process(evaluation.pid).children()
        try:
            evaluation.send_signal(number)
            assert evaluation.wait() == 128 + number
            assert not server.is_running()
            assert list(folder.iterdir()) == []
        finally:
            if server.is_running():
                server.kill()
