"""Signals that end a program, and the exit status of one that they have ended."""

from __future__ import annotations

import signal

ENDS = (signal.SIGTERM, signal.SIGHUP)  # the latter when a terminal is closed
SIGNALLED = 128  # and the signal's number: the exit status of what a signal ended, as shells have it
