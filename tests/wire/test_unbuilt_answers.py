"""Answers that the server cannot put together, for want of memory, say: their call's trouble alone, told at once."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import grpc
import pytest

from tests.wire.clients import Client, Stream, observation, refused, until
from tests.wire.inprocess import in_process
from tidegate.wire.frontend import FrontEnd

VALUES = [1, 2, 3, 4]


def fails(*_: object) -> NoReturn:
    raise MemoryError


async def begun(client: Client, name: str) -> Stream:
    """A stream on which a session has taken three steps."""
    stream = client.stream()
    for _ in range(3):
        await stream.predict(observation(name, VALUES))
    return stream


@pytest.mark.parametrize("ended", [False, True], ids=["open", "half-closed"])
@pytest.mark.parametrize(
    ("where", "step"), [("tidegate.wire.frontend.FrontEnd._deliver", 0), ("tidegate.wire.codec.single", 9)]
)
async def test_a_stream(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str, step: int, ended: bool
) -> None:
    """It ends with INTERNAL, without a word from its client; the log says why, other streams go on, and the session
    has its step. In the answers to a batch as a whole, or in one that is not plain (a step that nobody waits for)."""
    async with in_process(models) as running, Client(running.grpc) as client:
        unlucky, other = await begun(client, "unlucky"), await begun(client, "other")
        with monkeypatch.context() as patch:
            patch.setattr(where, fails)
            await unlucky.send(observation("unlucky", VALUES, step))
            if ended:
                await unlucky.call.done_writing()
            refusal = await refused(unlucky.rest())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "could not be built" in caplog.text
        assert (await other.predict(observation("other", VALUES))).step == 4
        await other.finish()
        again = await client.predict(observation("unlucky", VALUES))
        assert again.prediction.step == (4 if step else 5)
        await until(lambda: running.at_rest, "rest")
        assert not running.server.front._calls


async def test_a_unary_call(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_process(models) as running, Client(running.grpc) as client:
        with monkeypatch.context() as patch:
            patch.setattr(FrontEnd, "_deliver", fails)
            refusal = await refused(client.predict(observation("unlucky", VALUES)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert (await client.predict(observation("unlucky", VALUES))).prediction.step == 2
        await until(lambda: running.at_rest, "rest")
