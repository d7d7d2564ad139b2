"""Answers keep the order of the requests, however long their rows take."""

from __future__ import annotations

import numpy as np

from tests.servers import RunningServer
from tests.wire.clients import Client, batch, observation


async def test_answers_come_in_the_order_of_the_requests(server: RunningServer) -> None:
    """A message whose rows take several iterations is answered before a later one that took fewer."""
    async with Client(server.grpc) as client:
        stream = client.stream()
        values = np.ones((4, 4))
        for _ in range(20):
            await stream.send(batch(["long", "long", "long", "short"], values))
            await stream.send(observation("short", values[0]))
            await stream.send(batch(["short"], values[:1], aliases=[1, 2]))  # refused at once: two aliases, one row
        answers = await stream.finish()
        assert [answer.sequence for answer in answers] == sorted(answer.sequence for answer in answers)
        assert len(answers) == 60
        kinds = [answer.WhichOneof("payload") for answer in answers]
        assert kinds == ["batch", "prediction", "error"] * 20
