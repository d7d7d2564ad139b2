"""How long rows take, as the metrics have it, where they wait for the store."""

from __future__ import annotations

from tests.durability.site import Site, seen, stepped
from tidegate.config import Durability as Level
from tidegate.metrics import ColumnHistogram

SLOW_SECONDS = 2.0  # what the store takes


def counted(histogram: ColumnHistogram) -> tuple[int, float]:
    """Of how many rows, and their seconds in all."""
    buckets, seconds = histogram.buckets()
    return int(buckets[-1][1]), seconds


async def test_an_answer_that_is_held_counts_when_it_is_let_go(site: Site) -> None:
    """At durability `step` the time until a row is answered is not over before it is durable."""
    replica = await site.replica(Level.STEP)
    end_to_end = replica.metrics.end_to_end
    await stepped(replica, "k", 1)
    before, _ = counted(end_to_end)
    replica.send("k", 2, seen(2))
    await replica.settle()
    assert counted(end_to_end) == (before, 0.0)
    site.clock.seconds += SLOW_SECONDS
    await replica.turn()
    assert counted(end_to_end) == (before + 1, SLOW_SECONDS)


async def test_a_row_that_waits_for_its_session_counts_from_its_arrival(site: Site) -> None:
    """And not from when the store has said where its session is."""
    replica = await site.replica()
    request = replica.send("k", 1, seen(1))
    await replica.settle()
    site.clock.seconds += SLOW_SECONDS
    await replica.turn()
    assert replica.told(request) is not None
    for histogram in (replica.metrics.end_to_end, replica.metrics.queue_wait):
        assert counted(histogram) == (1, SLOW_SECONDS)
