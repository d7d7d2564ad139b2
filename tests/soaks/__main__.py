"""`python -m tests.soaks crash replicas …`: runs soaks, prints what they measured."""

from __future__ import annotations

import importlib
import logging
import sys
import time

NAMES = ("crash", "unreplayed", "replicas", "outage", "residency", "cost")


def main() -> None:
    """The command: all of them, or those that are named."""
    logging.basicConfig(level=logging.WARNING)
    for name in sys.argv[1:] or NAMES:
        began = time.monotonic()
        lines = importlib.import_module(f"tests.soaks.{name}").main()
        print(f"{name} ({time.monotonic() - began:.0f} s)", *lines, sep="\n  ", flush=True)  # noqa: T201


main()
