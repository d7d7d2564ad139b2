"""The second part of the contract: stores that replicas share."""

from __future__ import annotations

from tests.store.places import Place, checkpoint, everything, put
from tidegate.store.protocol import Claim, Renewal, Store

Pair = tuple[Store, Store]


async def run_out(place: Place, replica: str) -> None:
    """Lets the lease of a replica run out, as if it was not heard of for long: one of its name renews for a moment."""
    store = place.store(replica, lease=0.05)
    await store.start()
    await place.passes(0.5)
    await store.stop()


async def test_a_held_row_is_its_owners(pair: Pair) -> None:
    """Who asks learns the owner, and the owner that its row is wanted: once a claim."""
    a, b = pair
    assert a.shared
    row = checkpoint(b"a")
    await put(a, [row, checkpoint(b"other")])
    assert await b.claim([row.key]) == [Claim(0, None, "a")]
    assert await a.renew() == Renewal((row.key,))
    assert await a.renew() == Renewal()
    assert await b.claim([row.key]) == [Claim(0, None, "a")]
    assert await b.claim([row.key]) == [Claim(0, None, "a")]
    assert await a.renew() == Renewal((row.key,))
    assert await b.renew() == Renewal()


async def test_a_name_is_taken_by_the_first_who_claims_it(pair: Pair) -> None:
    """Before it is saved, too."""
    a, b = pair
    key = checkpoint(b"a").key
    assert (await a.claim([key]))[0].epoch > 0
    assert await b.claim([key]) == [Claim(0, None, "a")]


async def test_a_released_row_is_the_others(pair: Pair) -> None:
    """With its checkpoint, under another epoch; the first has no say over it any more."""
    a, b = pair
    row = checkpoint(b"a")
    [epoch] = await put(a, [row])
    await a.release([row.key], [epoch])
    [claim] = await b.claim([row.key])
    assert claim.epoch not in (0, epoch)
    assert claim.checkpoint == row
    assert await a.save([checkpoint(b"a", 2)], [epoch]) == [row.key]
    await a.release([row.key], [epoch])
    assert await a.delete([row.key]) == [row.key]
    assert await b.lost([row.key], [claim.epoch]) == []
    assert await everything(b) == [row]
    assert await a.claim([row.key]) == [Claim(0, None, "b")]


async def test_a_lease_that_ran_out_leaves_rows_to_a_successor(pair: Pair, shared_place: Place) -> None:
    """Who was frozen meanwhile overwrites nothing, is told which rows it lost, and holds the others as before."""
    a, b = pair
    rows = [checkpoint(b"a"), checkpoint(b"b")]
    keys = [row.key for row in rows]
    epochs = await put(a, rows)
    await run_out(shared_place, "a")
    [claim] = await b.claim(keys[:1])
    assert claim.checkpoint == rows[0]
    assert claim.epoch > epochs[0]
    assert await a.lost(keys, epochs) == keys[:1]
    assert await a.save([checkpoint(b"a", 9), checkpoint(b"b", 9)], epochs) == keys[:1]
    assert await everything(b) == [rows[0], checkpoint(b"b", 9)]
    assert await b.save([checkpoint(b"a", 2)], [claim.epoch]) == []
    assert await a.renew() == Renewal()
    assert await b.claim(keys[1:]) == [Claim(0, None, "a")]
    assert await everything(a) == [checkpoint(b"a", 2), checkpoint(b"b", 9)]


async def test_renewal_keeps_rows(pair: Pair, shared_place: Place) -> None:
    """A short lease that is renewed for longer holds for longer."""
    a, b = pair
    row = checkpoint(b"a")
    await put(a, [row])
    short = shared_place.store("a", lease=1)
    await short.start()
    await a.renew()
    await shared_place.passes(1.5)
    assert await b.claim([row.key]) == [Claim(0, None, "a")]
    await short.stop()


async def test_a_stopped_replica_holds_nothing(shared_place: Place) -> None:
    """What it did not release is whoever's that claims it, without the wait for its lease."""
    a, b = shared_place.store("a"), shared_place.store("b")
    await a.start()
    await b.start()
    row = checkpoint(b"a")
    await put(a, [row])
    await a.stop()
    [claim] = await b.claim([row.key])
    assert claim.checkpoint == row
    await b.stop()


async def test_a_session_that_ended_with_the_successor_stays_ended(pair: Pair, shared_place: Place) -> None:
    """The frozen replica does not bring it back when it wakes; a new session of that name can be opened."""
    a, b = pair
    row = checkpoint(b"a")
    [epoch] = await put(a, [row])
    await run_out(shared_place, "a")
    await b.claim([row.key])
    assert await b.delete([row.key]) == []
    assert await a.delete([row.key]) == []  # nothing stays
    assert await a.save([checkpoint(b"a", 9)], [epoch]) == [row.key]
    assert await a.lost([row.key], [epoch]) == [row.key]
    assert await everything(a) == []
    [claim] = await b.claim([row.key])
    assert claim == Claim(claim.epoch, None)
    await b.release([row.key], [claim.epoch])
    assert await a.save([checkpoint(b"a", 9)], [epoch]) == [row.key]
    assert (await a.claim([row.key]))[0].epoch > claim.epoch


async def test_an_emptied_store_is_told_once(pair: Pair, shared_place: Place) -> None:
    """Each replica hears that all is lost, saves anew what lives, and goes on with its old epochs."""
    a, b = pair
    rows = [checkpoint(b"a"), checkpoint(b"b")]
    epochs = [*await put(a, rows[:1]), *await put(b, rows[1:])]
    await shared_place.empty()
    assert await a.lost([rows[0].key], epochs[:1]) == []
    assert await a.save(rows[:1], epochs[:1]) == []
    assert await a.renew() == Renewal(lost=True)
    assert await a.renew() == Renewal()
    assert await b.renew() == Renewal(lost=True)
    assert await b.save(rows[1:], epochs[1:]) == []
    assert await b.renew() == Renewal()
    assert await everything(b) == rows
    assert await b.claim([rows[0].key]) == [Claim(0, None, "a")]
    assert await a.save([checkpoint(b"a", 2)], epochs[:1]) == []
    await a.release([rows[0].key], epochs[:1])
    [claim] = await b.claim([rows[0].key])
    assert claim.epoch > epochs[0]


async def test_the_later_claim_wins_in_a_store_that_lost_it(pair: Pair, shared_place: Place) -> None:
    """The store is emptied; the old owner, who was frozen, saves first; its successor still prevails."""
    a, b = pair
    row = checkpoint(b"a")
    [old] = await put(a, [row])
    await run_out(shared_place, "a")
    [claim] = await b.claim([row.key])
    await shared_place.empty()
    assert await a.save([checkpoint(b"a", 8)], [old]) == []
    assert await b.lost([row.key], [claim.epoch]) == []
    assert await b.save([checkpoint(b"a", 9)], [claim.epoch]) == []
    assert await a.save([checkpoint(b"a", 8)], [old]) == [row.key]
    assert await everything(a) == [checkpoint(b"a", 9)]


async def test_what_was_handed_over_is_not_wanted_any_more(pair: Pair) -> None:
    """A row that was asked for and is gone from here meanwhile is not reported."""
    a, b = pair
    row = checkpoint(b"a")
    [epoch] = await put(a, [row])
    await b.claim([row.key])
    await a.release([row.key], [epoch])
    assert (await b.claim([row.key]))[0].checkpoint == row
    assert await a.renew() == Renewal()


async def test_a_claim_in_an_emptied_store_is_a_later_one(pair: Pair, shared_place: Place) -> None:
    """Who held that name before the loss, and comes too late, does not take it back."""
    a, b = pair
    key = checkpoint(b"a").key
    epochs = []
    for _ in range(3):
        [claim] = await a.claim([key])
        epochs.append(claim.epoch)
        await a.save([checkpoint(b"a")], [claim.epoch])
        await a.release([key], [claim.epoch])
    assert sorted(set(epochs)) == epochs
    await shared_place.empty()
    [claim] = await b.claim([key])
    assert claim.epoch > epochs[-1]
    assert await a.save([checkpoint(b"a", 9)], epochs[-1:]) == [key]
    assert await b.lost([key], [claim.epoch]) == []
