"""The shorter demos by name, and what each of them needs: a server, a client, and an orderly end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tidegate.client import AsyncClient
from tidegate.demo import airports, dinner, storybook
from tidegate.demo.child import Server, run_in_order
from tidegate.demo.stage import Stage

Play = Callable[[AsyncClient, Stage], Awaitable[bool]]


def _storybook(model: str) -> Play:
    return lambda client, stage: storybook.tell(client, model, stage)


PLAYS: dict[str, Play] = {
    "weather-us": airports.show,
    "dinner": dinner.show,
    **{model: _storybook(model) for model in (storybook.MODEL, storybook.CONTRAST)},
}


def run_play(name: str, *, keep: bool) -> int:
    """Runs one of PLAYS; 0 when it showed what it says and the server drained cleanly, else 1."""
    return run_in_order(perform(PLAYS[name], keep))


async def perform(play: Play, keep: bool) -> int:
    """Server up, the play, server down."""
    stage, server = Stage(), Server()
    try:
        await server.start()
        async with AsyncClient(server.grpc) as client:
            good = await play(client, stage)
        if keep:
            stage.say(f"\nthe server stays until Ctrl-C: try `tidegate sessions list --address {server.grpc}`")
            await server.interrupted()
    finally:
        code = await server.stop()
    stage.say("")
    if not good:
        stage.say("This is not what the demo should show.", "red")
    stage.say("the server " + ("drained and exited cleanly" if code == 0 else f"ended badly (exit {code})"))
    return 0 if good and code == 0 else 1
