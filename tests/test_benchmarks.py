"""The benchmarks run and write down what they found. How fast anything is, no test says."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.machine import REPOSITORY
from tests.benchmarks.report import Budget, Finding, ratio

RUN_SECONDS_MAX = 240
FOUND: dict[str, dict[str, str | None]] = {  # of these scenarios: the figures, and a raw number that each must have
    "one-session": {"one-session": "echo: p50, ms"},
    "batches": {"batches": "nn.LSTM with slots, predictions a second", "batches-step-share": None},
    "step-64x1": {"step-64x1-256": "reference, us", "step-64x1-1024": "step, us"},
}
NEEDED = shutil.which("gcc") is not None and Path("/usr/include/nghttp2/nghttp2.h").exists()


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What three scenarios write down, measured as briefly as can be."""
    file = tmp_path_factory.mktemp("benchmarks") / "record.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--only", *FOUND, "--runs", "1", "--seconds", "0.3"]
    # A session of its own, so that the servers it starts are stopped with it.
    with subprocess.Popen(
        [*command, "--json", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=REPOSITORY,
        start_new_session=True,
    ) as running:
        try:
            said, _ = running.communicate(timeout=RUN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    assert running.returncode == 0, said.decode()
    return json.loads(file.read_text())


@pytest.mark.skipif(not NEEDED, reason="needs gcc and libnghttp2-dev (make services)")
@pytest.mark.slow
def test_a_record_says_what_was_measured_on_what(record: Any) -> None:
    """Machine, versions, lengths, and each figure beside its budget, with the raw numbers of both sides."""
    assert (record["runs"], record["seconds"]) == (1, 0.3)
    assert {"cpu", "cores", "memory_gib", "load_average"} <= record["machine"].keys()
    assert {"python", "tidegate", "torch", "grpcio", "C parts"} <= record["versions"].keys()
    assert (record["skipped"], record["failed"]) == ({}, {})
    findings = {finding["name"]: finding for finding in record["findings"]}
    raws = {name: raw for names in FOUND.values() for name, raw in names.items()}
    assert findings.keys() == raws.keys()
    for name, finding in findings.items():
        assert math.isfinite(finding["value"])
        assert finding["value"] > 0
        assert finding["kept"] in {True, False}
        assert finding["budget"]["limit"] > 0
        assert raws[name] is None or len(finding["raw"][raws[name]]) == 1
        if finding["unit"] == "times":
            ours, reference = finding["pair"]
            assert finding["value"] == pytest.approx(ours[0] / reference[0])


def test_a_figure_is_the_ratio_of_the_medians() -> None:
    """Not the median of the ratios; and a budget is kept or missed by it."""
    figure = ratio("name", "what", [1, 2, 30], [4, 1, 2], Budget(1.0, at_most=True))
    assert figure.values == [0.25, 2, 15]
    assert figure.record()["value"] == 1.0  # 2 over 2
    assert figure.record()["kept"] is True


def test_the_worst_run_is_the_one_farthest_from_the_budget() -> None:
    """The smallest where the budget is a least, the largest where it is a most."""
    assert Finding("name", "what", [3, 1, 2], budget=Budget(2), worst=True).value == 1
    assert Finding("name", "what", [3, 1, 2], budget=Budget(2, at_most=True), worst=True).value == 3
