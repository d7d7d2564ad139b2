"""Answers that the server cannot put together, for want of memory, say: their call's trouble alone, told at once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from tests.wire.clients import Client, Stream, batch, observation, refused, until
from tests.wire.inprocess import gate, in_process
from tidegate.errors import Reason, TidegateError
from tidegate.wire.frontend import Call, FrontEnd

VALUES = [1, 2, 3, 4]


def fails(*_: object, error: Exception | None = None) -> NoReturn:
    raise error or MemoryError


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


async def test_a_refusal(models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One whose text is no text to a protobuf is INTERNAL, with its details, and never without."""
    caplog.set_level(logging.CRITICAL, "tidegate")  # such a text in a report is too much for what runs the tests
    async with in_process(models) as running, Client(running.grpc) as client:
        error = TidegateError(Reason.BAD_OBSERVATION, "\ud800")
        monkeypatch.setattr(FrontEnd, "open", lambda _: fails(error=error))
        refusal = await refused(client.predict(observation("unlucky", VALUES)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert (await refused(client.stream().rest())).reason == "INTERNAL"


async def test_one_of_streams_that_are_stepped_together(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three streams are one step. The answer to one cannot be built: the others have theirs."""
    async with in_process(models) as running, Client(running.grpc) as client:
        streams: list[Stream] = []
        for number in range(3):  # one after the other: so are their calls' numbers
            streams.append(stream := client.stream())
            await stream.ask(batch([f"{number}-a", f"{number}-b"], [VALUES, VALUES], aliases=[0, 1]))
            await stream.ask(batch([], [VALUES, VALUES], aliases=[0, 1]))
        answer_whole, unlucky = Call.answer_whole, sorted(running.server.front._calls)[1]

        def answer(call: Call, *arguments: Any) -> None:
            if call.number == unlucky:
                fails()
            answer_whole(call, *arguments)

        monkeypatch.setattr(Call, "answer_whole", answer)
        with gate(running.lane()) as held:
            busy = asyncio.ensure_future(client.predict(observation("busy", VALUES)))
            await held.taken()
            for stream in streams:
                await stream.send(batch([], [VALUES, VALUES], aliases=[0, 1]))
            await until(lambda: running.server.host.engine.inbox.rows == 7, "all rows are in the inbox")
            held.open()
            await busy
            refusal = await refused(streams[1].rest())
            for stream in (streams[0], streams[2]):
                assert (await stream.receive()).batch.steps == [3, 3]
            assert held.rows == [1, 6]
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        for stream in (streams[0], streams[2]):
            await stream.finish()
        await until(lambda: running.at_rest, "rest")
