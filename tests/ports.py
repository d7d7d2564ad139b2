"""Ports for the servers that tests start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # where Linux says which ports it gives to who asks for any
LOW = 10_000  # below it listen services that have a name
TRIES_MAX = 100
CHOICE = random.SystemRandom()  # a test that seeds `random` in two processes gets two ports


def free_port() -> int:
    """A port of the loopback that nobody listens on. Where there is room it is none that the kernel gives to who asks
    for any: a server that was killed finds it free when it comes again, and not taken by a client's connection."""
    first_given = int(RANGE.read_text().split()[0]) if RANGE.exists() else 0
    for _ in range(TRIES_MAX):
        port = CHOICE.randrange(LOW, first_given) if first_given > LOW else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port in {TRIES_MAX} tries")
