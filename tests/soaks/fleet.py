"""Many sessions that stream at once, by single observations and by batches, and what an uninterrupted run predicts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.engine.harness import InProcess
from tests.packages import random_package
from tidegate import AsyncClient
from tidegate.config import Limits

MODEL, FEATURES = "random", 4
BATCH_SESSIONS = 50  # stepped by one message


def make_model(folder: Path) -> None:
    """The model that all soaks serve: an LSTM of 32."""
    random_package(folder, MODEL, hidden=32, features=FEATURES, targets=FEATURES)


def observed(session: str, step: int) -> NDArray[np.float32]:
    """What a session observes at a step: the same in every run."""
    seed = [int.from_bytes(session.encode(), "little") % 2**63, step]
    return np.random.default_rng(seed).normal(size=FEATURES).astype(np.float32)


@dataclass
class Told:
    """What clients were told: the values' bytes of each session, in the order in which they came, with their steps."""

    answers: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)

    def note(self, session: str, step: int, values: NDArray[np.floating]) -> None:
        self.answers.setdefault(session, []).append((step, values.astype(np.float32).tobytes()))

    @property
    def steps(self) -> int:
        return sum(map(len, self.answers.values()))

    def standing(self) -> dict[str, int]:
        """How many answers each session has had."""
        return {session: len(answers) for session, answers in self.answers.items()}

    def faults(self, models: Path) -> list[str]:
        """Where it is not every prediction once, in order, with the bytes of a run without a fault."""
        found = []
        for session, answers in self.answers.items():
            steps = [step for step, _ in answers]
            if steps != list(range(1, len(steps) + 1)):
                wrong = next(place for place, step in enumerate(steps, 1) if step != place)
                found.append(f"{session}: answer {wrong} is of step {steps[wrong - 1]}")
        calm = uninterrupted(models, {session: len(answers) for session, answers in self.answers.items()})
        for session, answers in self.answers.items():
            differing = [step for (step, bits), wanted in zip(answers, calm[session], strict=True) if bits != wanted]
            if differing:
                found.append(f"{session}: {len(differing)} predictions differ, the first at step {differing[0]}")
        return found


def uninterrupted(models: Path, steps: dict[str, int]) -> dict[str, list[bytes]]:
    """The predictions' bytes of each session for so many steps, by an engine in this process."""
    engine = InProcess(models, limits=Limits(sessions_max=1_000_000))
    wanted: dict[str, list[bytes]] = {session: [] for session in steps}
    for step in range(1, max(steps.values(), default=0) + 1):
        going = [session for session, last in steps.items() if step <= last]
        values = np.stack([observed(session, step) for session in going]).astype(np.float64)
        request = engine.send_batch(going, values, steps=[step] * len(going))
        answers = engine.run()[request]
        for row, session in enumerate(going):
            wanted[session].append(answers[row].values.astype(np.float32).tobytes())
    return wanted


class Fleet:
    """Clients, one an address: half of the sessions one observation a message, half in batches, until told to end."""

    def __init__(self, addresses: Sequence[str], sessions: int, timeout_seconds: float = 120.0) -> None:
        self.told = Told()
        self.ending = asyncio.Event()
        self.pause_seconds = 0.0
        self._clients = [AsyncClient(address, timeout_seconds=timeout_seconds) for address in addresses]
        names = [f"s{number}" for number in range(sessions)]
        self.singles, self.batched = names[: sessions // 2], names[sessions // 2 :]

    async def run(self) -> None:
        """Streams until `ending` is set; raises what a client could not get over."""
        async with asyncio.TaskGroup() as group:
            for place, session in enumerate(self.singles):
                group.create_task(self._single(self._clients[place % len(self._clients)], session))
            for start in range(0, len(self.batched), BATCH_SESSIONS):
                part = self.batched[start : start + BATCH_SESSIONS]
                client = self._clients[start // BATCH_SESSIONS % len(self._clients)]
                group.create_task(self._batches(client, part))
        for client in self._clients:
            await client.close()

    async def _single(self, client: AsyncClient, name: str) -> None:
        session, step = client.session(MODEL, name), 0
        while not self.ending.is_set():
            step += 1
            prediction = await session.step(observed(name, step).tolist())
            self.told.note(name, prediction.step, prediction.values)
            await asyncio.sleep(self.pause_seconds)

    async def _batches(self, client: AsyncClient, names: Sequence[str]) -> None:
        step = 0
        async with client.batches(MODEL) as batches:
            while not self.ending.is_set():
                step += 1
                predictions = await batches.step(names, np.stack([observed(name, step) for name in names]))
                if predictions.errors:
                    raise RuntimeError(f"{len(predictions.errors)} rows failed: {predictions.errors[0]}")
                for row, name in enumerate(names):
                    self.told.note(name, int(predictions.steps[row]), predictions.values[row])
                await asyncio.sleep(self.pause_seconds)
