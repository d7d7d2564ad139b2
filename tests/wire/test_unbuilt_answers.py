"""Answers that the server fails to put together, for want of memory, say: their stream's trouble alone."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from tests.wire.clients import Client, observation, until
from tests.wire.inprocess import in_process
from tidegate.native import library
from tidegate.wire.frontend import FrontEnd


@pytest.mark.skipif(library() is None, reason="the C parts are not built")
async def test_answers_that_cannot_be_built(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their stream is given up and ends with its client's last message; the log says so, and other streams go on."""
    async with in_process(models) as running, Client(running.grpc) as client:
        unlucky, other = client.stream(), client.stream()
        for stream, name in ((unlucky, "unlucky"), (other, "other")):
            for _ in range(3):
                await stream.predict(observation(name, [1, 2, 3, 4]))

        def fails(*_: object) -> NoReturn:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(FrontEnd, "_deliver_singles", fails)
            await unlucky.send(observation("unlucky", [1, 2, 3, 4]))
            await until(lambda: "answers could not be built" in caplog.text, "the answer has failed")
        assert (await other.predict(observation("other", [1, 2, 3, 4]))).step == 4
        assert await unlucky.finish() == []
        await other.finish()
        await until(lambda: running.at_rest, "rest")
        assert not running.server.front._calls
