"""Signals that end a program, the exit status of one that they have ended, and how an event loop answers them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

ENDS = (signal.SIGTERM, signal.SIGHUP)  # the latter when a terminal is closed
SIGNALLED = 128  # and the signal's number: the exit status of what a signal ended, as shells have it


@contextmanager
def answered(answers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """The running loop answers these signals; from then on they are ignored. They ask for nothing more, and would end
    the process, with a status that is not ours, while Python closes: a closed loop leaves them to their defaults."""
    loop = asyncio.get_running_loop()
    for number, answer in answers.items():
        loop.add_signal_handler(number, answer)
    try:
        yield
    finally:
        for number in answers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
