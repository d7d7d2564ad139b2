"""When steps are recorded, and which recordings are kept. On CPU: what is recorded is done again as it is."""

from __future__ import annotations

import pytest
import torch

from tidegate.engine.step import recordings
from tidegate.engine.step.device_queue import HostQueue, Work
from tidegate.engine.step.recordings import RUNS_BEFORE, Recordings


class RecordingQueue(HostQueue):
    """A line on CPU that records."""

    records = True

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.recorded = self.settled = 0

    def record(self, work: Work) -> Work:
        self.recorded += 1
        return super().record(work)

    def settle(self) -> None:
        self.settled += 1


class UnableQueue(RecordingQueue):
    """One whose device cannot record."""

    def record(self, work: Work) -> Work:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_a_step_is_recorded_when_it_has_come_a_few_times() -> None:
    """Every run does the work once; after RUNS_BEFORE of them it comes from one recording."""
    queue, done = RecordingQueue(), list[int]()
    kept = Recordings(queue, "m", enabled=True)
    for run in range(3 * RUNS_BEFORE):
        kept.run("key", lambda: done.append(1))
        assert (len(done), len(kept)) == (run + 1, int(run >= RUNS_BEFORE))
    assert queue.recorded == 1


def test_keys_are_apart() -> None:
    """A recording is used for its own key alone."""
    kept, done = Recordings(RecordingQueue(), "m", enabled=True), list[str]()
    for _ in range(2 * RUNS_BEFORE):
        kept.run("a", lambda: done.append("a"))
        kept.run("b", lambda: done.append("b"))
    assert done == ["a", "b"] * 2 * RUNS_BEFORE


@pytest.mark.parametrize(("queue", "enabled"), [(HostQueue(torch.device("cpu")), True), (RecordingQueue(), False)])
def test_nothing_is_recorded(queue: HostQueue, enabled: bool) -> None:
    """Neither where the device has no recordings nor for a kernel that cannot be recorded."""
    kept, done = Recordings(queue, "m", enabled), list[int]()
    for _ in range(2 * RUNS_BEFORE):
        kept.run("key", lambda: done.append(1))
    assert (len(done), len(kept)) == (2 * RUNS_BEFORE, 0)


def test_a_recording_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The work is done all the same, each time once; the log says so once."""
    kept, done = Recordings(UnableQueue(), "m", enabled=True), list[int]()
    for _ in range(3 * RUNS_BEFORE):
        kept.run("key", lambda: done.append(1))
        kept.run("other", lambda: done.append(1))
    assert (len(done), len(kept)) == (6 * RUNS_BEFORE, 0)
    assert caplog.text.count("cannot be recorded") == 1


def test_recordings_and_counts_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was used longest ago makes room, when nothing runs any more; counts of steps that do not come
    again are forgotten."""
    monkeypatch.setattr(recordings, "RECORDINGS_MAX", 2)
    monkeypatch.setattr(recordings, "COUNTED_MAX", 8)
    queue = RecordingQueue()
    kept = Recordings(queue, "m", enabled=True)

    def run(key: int, times: int) -> None:
        for _ in range(times):
            kept.run(key, lambda: None)

    for key, times in ((1, RUNS_BEFORE + 1), (2, RUNS_BEFORE + 1), (1, 1), (3, RUNS_BEFORE + 1)):
        run(key, times)
    assert (len(kept), queue.settled, queue.recorded) == (2, 1, 3)
    run(1, 1)
    assert queue.recorded == 3  # it was used after 2, which went
    for key in range(100, 200):
        run(key, 1)
    assert len(kept._runs) <= 8
