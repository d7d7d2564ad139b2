"""Forked processes, where gRPC's asynchronous API cannot run once the process that they came from has used it.

Its threads are not in the child: what is called there waits for ever, or crashes, also after the channel was closed.
So the first channel is remembered with its process, and a child of that is refused at once and told what to do.

Worse, gRPC's own handlers, called at a fork, start threads in the child which crash it now and then although it never
calls gRPC: one in eight here (a data loader's workers, say), none without them. They are only of use to the synchronous
API, to those who ask for them by GRPC_ENABLE_FORK_SUPPORT=1 (gRPC's doc/fork_support.md). gRPC reads the variable when
it is imported; this module imports it without the handlers, if nobody did before or set the variable himself.
"""

from __future__ import annotations

import os

from tidegate.errors import Reason, TidegateError

_HANDLERS = "GRPC_ENABLE_FORK_SUPPORT"

if _HANDLERS not in os.environ:
    os.environ[_HANDLERS] = "0"
    import grpc  # noqa: F401

    del os.environ[_HANDLERS]  # nothing is passed on to other programs

_process: int | None = None  # the one that uses gRPC


def claim_grpc() -> None:
    """Called before gRPC is used. Raises CANCELLED in a process forked from one that has used it."""
    global _process  # noqa: PLW0603
    if was_forked():
        raise TidegateError(
            Reason.CANCELLED,
            "this process was forked from one that has used a client, and gRPC cannot run here; start processes with "
            'multiprocessing.get_context("spawn"), or make the first client after the fork',
        )
    _process = os.getpid()


def was_forked() -> bool:
    """Whether another process has used gRPC, and this one was forked from it."""
    return _process not in (None, os.getpid())
