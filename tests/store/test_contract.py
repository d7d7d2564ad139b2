"""The contract of a store, over every store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.places import Place, checkpoint, everything, put
from tidegate.checkpoints import Checkpoint, Key
from tidegate.store.protocol import PAGE_ROWS, Claim, Renewal, Store, opened, sealed

ODD_IDS = (b"", b"\xff\xfe", b"\x00", b"a\x00b", b"1:a,", b"{}", b"*?[a]", b"a:b\r\n", bytes(range(256)))


async def test_what_is_saved_is_found(store: Store) -> None:
    """Rows come back as they went in, one an id asked for, in that order; bytes are any bytes."""
    rows = [
        checkpoint(b"one", content=bytes(range(256))),
        checkpoint(b"zwei\n", step=2**62, layout=b"b"),
        Checkpoint(Key("other", "m", b"one"), "2", "0" * 64, 5, b"", b""),
        Checkpoint(Key("", "größe", b"one"), "ä", "", 0, bytes(range(256)), b"\x00"),
    ]
    epochs = await put(store, rows)
    assert min(epochs) > 0
    asked = [rows[2].key, Key("t", "m", b"none"), rows[0].key, rows[3].key, rows[1].key]
    found = await store.claim(asked)
    assert [claim.checkpoint for claim in found] == [rows[2], None, rows[0], rows[3], rows[1]]
    assert [claim.owner for claim in found] == [""] * 5
    assert await everything(store) == sorted(rows, key=lambda row: row.key)
    assert store.damaged == 0


async def test_ids_are_any_bytes(store: Store) -> None:
    """No id is taken for another, or for one of another tenant or model, however they are put together."""
    keys = [Key("t", "m", name) for name in ODD_IDS]
    keys += [
        Key("", "tm", b"a"),
        Key("t", "m", b"ma"),
        Key("t", "mm", b"a"),
        Key("tm", "", b"a"),
        Key("t1:m,", "", b""),
    ]
    rows = [Checkpoint(key, "1", "f", number, b"a", b"%d" % number) for number, key in enumerate(keys)]
    await put(store, rows)
    assert [claim.checkpoint for claim in await store.claim(keys)] == rows
    assert await everything(store) == sorted(rows, key=lambda row: row.key)


async def test_a_later_one_replaces(store: Store) -> None:
    """There is one row a key: the last that was saved."""
    [first] = await put(store, [checkpoint(b"a", 1)])
    assert await put(store, [checkpoint(b"a", 3, b"other", b"new"), checkpoint(b"b", 1)])
    assert await everything(store) == [checkpoint(b"a", 3, b"other", b"new"), checkpoint(b"b", 1)]
    assert await store.save([checkpoint(b"a", 4)], [first]) == []
    assert [row.step for row in await everything(store)] == [4, 1]


async def test_a_row_held_keeps_its_epoch_and_one_released_gets_another(store: Store) -> None:
    """So a save of before the release is told from one of after it, and refused."""
    row = checkpoint(b"a", 1)
    [epoch] = await put(store, [row])
    assert await store.claim([row.key]) == [Claim(epoch, row)]
    await store.release([row.key], [epoch])
    assert await store.save([checkpoint(b"a", 2)], [epoch]) == [row.key]
    [again] = await store.claim([row.key])
    assert again.checkpoint == row
    assert again.epoch not in (0, epoch)
    assert await store.save([checkpoint(b"a", 2)], [epoch]) == [row.key]
    assert await store.lost([row.key], [epoch]) == [row.key]
    await store.release([row.key], [epoch])  # of no effect
    assert await store.lost([row.key], [again.epoch]) == []
    assert await store.save([checkpoint(b"a", 3)], [again.epoch]) == []
    assert await everything(store) == [checkpoint(b"a", 3)]


async def test_one_refused_keeps_no_other_back(store: Store) -> None:
    """Of one call all rows are saved, released and found lost but those whose epoch is past."""
    rows = [checkpoint(name) for name in (b"a", b"b", b"c")]
    keys = [row.key for row in rows]
    epochs = await put(store, rows)
    await store.release(keys[1:2], epochs[1:2])
    assert await store.lost([*keys, Key("t", "m", b"never")], [*epochs, 1]) == [keys[1]]
    later = [checkpoint(row.key.session_id, 2) for row in rows]
    assert await store.save(later, epochs) == [keys[1]]
    assert await everything(store) == [later[0], rows[1], later[2]]
    await store.release(keys, epochs)
    assert sorted(await store.lost(keys, epochs)) == keys


async def test_a_name_that_was_never_saved_is_forgotten(store: Store) -> None:
    """A claim without a checkpoint leaves nothing once it is released, and is no row of a scan."""
    key = Key("t", "m", b"a")
    [claim] = await store.claim([key])
    assert claim == Claim(claim.epoch, None)
    assert await everything(store) == []
    assert await store.lost([key], [claim.epoch]) == []
    await store.release([key], [claim.epoch])
    assert await everything(store) == []
    assert (await store.claim([key]))[0].checkpoint is None


async def test_what_is_deleted_is_gone(store: Store) -> None:
    """Deleting twice, or what never was, is no error; a row that nobody holds stays."""
    rows = [checkpoint(name) for name in (b"a", b"b", b"c")]
    epochs = await put(store, rows)
    await store.release([rows[2].key], epochs[2:])
    assert await store.delete([rows[0].key, Key("t", "m", b"never"), rows[2].key]) == [rows[2].key]
    assert await store.delete([rows[0].key]) == []
    assert await everything(store) == rows[1:]
    assert (await store.claim([rows[0].key]))[0].checkpoint is None


async def test_nothing_asked_for(store: Store) -> None:
    """Empty calls are no error."""
    assert await store.claim([]) == []
    assert await store.save([], []) == []
    assert await store.lost([], []) == []
    await store.release([], [])
    assert await store.delete([]) == []
    assert await store.expire() == 0
    assert await store.renew() == Renewal()


async def test_a_row_that_is_not_there_is_made(store: Store) -> None:
    """A save without a claim before is taken, and the row is held by it."""
    assert await store.save([checkpoint(b"a")], [7]) == []
    assert await store.save([checkpoint(b"b")], [7]) == []
    assert await store.claim([checkpoint(b"a").key]) == [Claim(7, checkpoint(b"a"))]
    assert await store.lost([checkpoint(b"b").key], [7]) == []


async def test_the_time_of_activity_comes_along(store: Store) -> None:
    """With what is claimed and with what is read; the last one that was saved."""
    row = checkpoint(b"a")._replace(active_at=1_700_000_000)
    [epoch] = await put(store, [row])
    later = checkpoint(b"a", 2)._replace(active_at=1_700_000_009)
    assert await store.save([later], [epoch]) == []
    assert [found.active_at for found in await everything(store)] == [1_700_000_009]
    assert (await store.claim([row.key]))[0].checkpoint == later


async def test_a_damaged_row_is_told_and_touches_no_other(store: Store, place: Place) -> None:
    """It is counted each time it is met, is this replica's once claimed, and is whole after the next save."""
    rows = [checkpoint(name) for name in (b"a", b"b", b"c")]
    epochs = await put(store, rows)
    await store.release([row.key for row in rows], epochs)
    await place.damage(rows[1].key)
    assert await everything(store) == [rows[0], rows[2]]
    assert store.damaged == 1
    claims = await store.claim([row.key for row in rows])
    assert [(claim.checkpoint, claim.damaged) for claim in claims] == [(rows[0], False), (None, True), (rows[2], False)]
    assert store.damaged == 2
    assert await store.save([rows[1]], [claims[1].epoch]) == []
    assert await everything(store) == rows


async def test_ten_thousand_rows(store: Store) -> None:
    """A call takes as many as come, and a scan gives them all in pages of no more than the limit."""
    rows = [checkpoint(b"%05d" % number, number, content=b"x" * 100) for number in range(10_000)]
    keys = [row.key for row in rows]
    epochs = await put(store, rows)
    pages = [page async for page in store.scan()]
    assert max(map(len, pages)) <= PAGE_ROWS
    assert await everything(store) == rows
    assert await store.lost(keys, epochs) == []
    await store.release(keys, epochs)
    assert [claim.checkpoint for claim in await store.claim(keys)] == rows
    await store.delete(keys[1:])
    assert await everything(store) == rows[:1]


async def test_rows_past_their_time_are_forgotten(place: Place) -> None:
    """What was released is forgotten after its time; what is held is not, nor what was claimed again."""
    store = place.store(stored=4)
    await store.start()
    rows = [checkpoint(name) for name in (b"a", b"b", b"c")]
    epochs = await put(store, rows)
    await store.release([row.key for row in rows[1:]], epochs[1:])
    assert (await store.claim([rows[2].key]))[0].checkpoint == rows[2]
    await place.passes(5)
    await store.expire()
    assert await everything(store) == [rows[0], rows[2]]
    assert await store.lost([rows[0].key], epochs[:1]) == []
    await store.stop()


@given(place=st.integers(0, 22), bit=st.integers(0, 7))
def test_any_changed_bit_is_seen(place: int, bit: int) -> None:
    """A checksum over content and key: no change of what is stored passes, and no row passes for another's."""
    row = checkpoint(b"a")
    stored = bytearray(sealed(row))
    assert len(stored) == 23
    fields = row.key, row.version, row.fingerprint, row.step, row.layout
    assert opened(*fields, bytes(stored)) == row
    stored[place] ^= 1 << bit
    assert opened(*fields, bytes(stored)) is None
    assert opened(Key("t", "m", b"b"), *fields[1:], sealed(row)) is None
    assert opened(row.key, row.version, row.fingerprint, row.step + 1, row.layout, sealed(row)) is None


@pytest.mark.parametrize("short", [b"", b"x"])
def test_what_is_too_short_is_damaged(short: bytes) -> None:
    """Nothing at all, too, is no checkpoint."""
    row = checkpoint(b"a")
    assert opened(row.key, row.version, row.fingerprint, row.step, row.layout, short) is None
