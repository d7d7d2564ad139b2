"""Clients to be killed or frozen: `python -m tests.wire.victims ADDRESS KIND`. Says "ready" when it is in place."""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from tests.wire.clients import Client, Stream, batch, observation

ROWS = 256
STREAMS = 2
KINDS = ("idle", "deaf", "busy")


async def main(address: str, kind: str) -> None:
    """Holds two streams of that kind until it is killed."""
    async with Client(address) as client:
        streams = [client.stream() for _ in range(STREAMS)]
        for stream in streams:
            await stream.predict(observation("victim", [1, 2, 3, 4]))
        print("ready", flush=True)  # noqa: T201
        await asyncio.gather(*(live(stream, kind) for stream in streams))


async def live(stream: Stream, kind: str) -> None:
    """idle: does nothing; deaf: writes and never reads, until flow control holds it; busy: writes and reads."""
    ids = [f"victim-{row}" for row in range(ROWS)]
    while kind != "idle":
        await stream.call.write(stream.request(batch(ids, np.ones((ROWS, 4)))))
        if kind == "busy":
            await stream.receive()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
