"""Waits for what another process or thread does, which can only be asked again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 60.0  # what a test waits for comes long before, or never


def wait_for(happened: Callable[[], bool], otherwise: Callable[[], str] = lambda: "it never came") -> None:
    """Returns when it has happened; raises AssertionError, with what else there is to say, when it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.01)
