"""Durability `step` and clients that replay nothing: what was acknowledged is there after every kill."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

import grpc
import grpc.aio

from tests.services import RunningRedis
from tests.soaks.crash import BETWEEN_SECONDS, LAST_SECONDS, patiently
from tests.soaks.fleet import MODEL, Told, make_model, observed
from tests.soaks.servers import Place
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import prediction_pb2_grpc, session_pb2, session_pb2_grpc, types_pb2

STREAMS = 10
AGAIN_SECONDS = 0.2


class Plain:
    """Streams of a client that keeps nothing: after a break it asks where each session is, and goes on from there."""

    def __init__(self, address: str, sessions: int) -> None:
        self.told = Told()
        self.acknowledged = 0
        self.lost = 0
        self.ending = asyncio.Event()
        self._address = address
        self._names = [f"s{number}" for number in range(sessions)]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for place in range(STREAMS):
                group.create_task(self._serve(self._names[place::STREAMS]))

    async def _serve(self, names: list[str]) -> None:
        last = dict.fromkeys(names, 0)
        while not self.ending.is_set():
            options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
            async with grpc.aio.insecure_channel(self._address, options=options) as channel:
                try:
                    await self._look(channel, last)
                    await self._stream(channel, last)
                except (grpc.RpcError, asyncio.InvalidStateError):
                    await asyncio.sleep(AGAIN_SECONDS)

    async def _look(self, channel: grpc.aio.Channel, last: dict[str, int]) -> None:
        """Where the server is: at what was acknowledged, or one further (the answer was lost on its way)."""
        stub = session_pb2_grpc.SessionServiceStub(channel)
        request = session_pb2.BatchOpenSessionsRequest(model=MODEL, session_ids=list(last))
        response = await stub.BatchOpenSessions(request, wait_for_ready=True, timeout=60)
        if response.errors:
            raise RuntimeError(f"a session cannot be had: {response.errors[0]}")
        for name, step in zip(last, response.steps, strict=True):
            if step < last[name]:
                self.lost += last[name] - step
            last[name] = int(step)

    async def _stream(self, channel: grpc.aio.Channel, last: dict[str, int]) -> None:
        call = prediction_pb2_grpc.PredictionServiceStub(channel).StreamPredict()
        config = pb.StreamConfig(model=MODEL, strict_steps=True)
        await call.write(pb.StreamPredictRequest(config=config))
        while not self.ending.is_set():
            for name, step in last.items():
                values = observed(name, step + 1).tolist()
                observation = types_pb2.Observation(session_id=name, step=step + 1, values=values)
                await call.write(pb.StreamPredictRequest(observation=observation))
            for name in last:
                response = await call.read()
                if response is grpc.aio.EOF:
                    return
                assert response.HasField("prediction"), response
                last[name] = int(response.prediction.step)
                self.acknowledged += 1
        await call.done_writing()


async def killed(store: str, folder: Path, sessions: int, kills: int) -> str:
    """Runs it; returns what was counted, and raises AssertionError where something acknowledged is gone."""
    models = folder / "models"
    make_model(models)
    async with Place(models, "--store", store, "--durability", "step") as place:
        plain = Plain(place.address, sessions)
        run = asyncio.create_task(plain.run())
        for _ in range(kills):
            await patiently(run, random.uniform(*BETWEEN_SECONDS))
            await place.kill()
            await place.start()
        await patiently(run, LAST_SECONDS)
        while plain.acknowledged <= sessions * kills:  # of a few answers it would say little
            await patiently(run, 0.1)
        plain.ending.set()
        await run
    assert plain.lost == 0, f"{plain.lost} acknowledged steps are gone"
    return f"{sessions} sessions, {kills} kills, step: {plain.acknowledged} answers, {plain.lost} lost"


def main(sessions: int = 1000, kills: int = 10) -> list[str]:
    """On SQLite and on real Redis."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines.append("SQLite: " + asyncio.run(killed(f"sqlite:{folder / 'sessions.db'}", folder, sessions, kills)))
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as data,
        RunningRedis(Path(data)) as redis,
    ):
        lines.append("Redis: " + asyncio.run(killed(redis.url, Path(name), sessions, kills)))
    return lines
