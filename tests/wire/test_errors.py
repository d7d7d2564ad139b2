"""What is wrong is refused: with the right code and reason, a text that says what to do, and nobody else touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.servers import RunningServer
from tests.wire.clients import (
    Client,
    Stream,
    at_rest,
    batch,
    check_text,
    config,
    observation,
    read_error,
    refusal_of,
    refused,
    unary,
)
from tidegate.errors import MEANINGS, Code
from tidegate.wire import frontend
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import session_pb2
from tidegate.wire.stubs import types_pb2 as types

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
X = [1.0, 2.0, 3.0, 4.0]
ROWS = np.ones((3, 4))


@pytest.fixture
def name() -> str:
    return uuid4().hex


@pytest.fixture
async def neighbours(server: RunningServer, client: Client, name: str) -> AsyncIterator[None]:
    """A stream on the same channel and one on another go on, answer for answer, while a test does its worst."""
    async with Client(server.grpc) as elsewhere:
        streams = [client.stream(), elsewhere.stream()]
        for stream in streams:
            await stream.predict(observation(f"{name}-{id(stream)}", X, 1))
        yield
        for stream in streams:
            assert (await stream.predict(observation(f"{name}-{id(stream)}", X, 2))).step == 2
            assert await stream.finish() == []


OBSERVATIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "too narrow": ({"values": X[:3]}, "BAD_OBSERVATION", "number"),
    "too wide": ({"values": [*X, 5.0]}, "BAD_OBSERVATION", "number"),
    "empty": ({"values": []}, "BAD_OBSERVATION", "number"),
    "very wide": ({"values": [0.0] * 100_000}, "BAD_OBSERVATION", "number"),
    "infinite": ({"values": [1.0, np.inf, 3.0, 4.0]}, "BAD_OBSERVATION", "infinite"),
    "minus infinite": ({"values": [-np.inf, 2.0, 3.0, 4.0]}, "BAD_OBSERVATION", "infinite"),
    "no session id": ({"session_id": ""}, "BAD_SESSION_ID", "256 bytes"),
    "a session id too long": ({"session_id": "x" * 257}, "BAD_SESSION_ID", "256 bytes"),
    "a session id too long in UTF-8": ({"session_id": "é" * 129}, "BAD_SESSION_ID", "256 bytes"),
    "a step above 2^62": ({"step": 2**62 + 1}, "BAD_OBSERVATION", str(2**62)),
    "the largest step": ({"step": 2**64 - 1}, "BAD_OBSERVATION", str(2**62)),
    "a time before 1677": ({"event_time": Timestamp(seconds=-(2**34))}, "BAD_OBSERVATION", "1677"),
    "a time after 2262": ({"event_time": Timestamp(seconds=2**34)}, "BAD_OBSERVATION", "2262"),
    "a time out of all range": ({"event_time": Timestamp(seconds=2**63 - 1)}, "BAD_OBSERVATION", "2262"),
    "a middle step of no session": ({"step": 2}, "SESSION_NOT_FOUND", "no such session"),
    "a far step of no session": ({"step": 2**62}, "SESSION_NOT_FOUND", "no such session"),
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize(("changed", "reason", "text"), OBSERVATIONS.values(), ids=OBSERVATIONS.keys())
async def test_a_wrong_observation_is_refused_and_opens_nothing(
    client: Client, name: str, changed: dict[str, Any], reason: str, text: str
) -> None:
    """Unary and on a stream alike; the stream goes on, and no session was opened for it."""
    wrong = types.Observation(**{"session_id": name, "values": X, **changed})
    unary = await refused(client.predict(wrong))
    stream = client.stream()
    streamed = refusal_of((await stream.ask(wrong)).error)
    assert unary == streamed
    assert (streamed.reason, streamed.code) == (reason, MISSING if reason.endswith("NOT_FOUND") else INVALID)
    assert text in streamed.message
    assert (await stream.predict(observation(name, X, 1))).created


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("values", [X[:3], [1.0, np.inf, 3.0, 4.0]])
async def test_a_wrong_observation_leaves_its_session_as_it_was(
    client: Client, name: str, values: list[float], step: int
) -> None:
    """A refused observation takes no step, and its answer keeps its place among those of its session."""
    stream = client.stream()
    for payload in (observation(name, X, 1), observation(name, values, step), observation(name, X, 2)):
        await stream.send(payload)
    first, second, third = await stream.finish()
    assert refusal_of(second.error).variables == {"expected_step": "2"}
    assert [first.sequence, second.sequence, third.sequence] == [1, 2, 3]
    assert (third.prediction.step, third.prediction.steps_seen) == (2, 2)


def truncated(rows: types.ObservationBatch) -> None:
    rows.values = rows.values[:-4]


def ragged(rows: types.ObservationBatch) -> None:
    rows.values = rows.values[:-1]


def empty(rows: types.ObservationBatch) -> None:
    rows.values = b""


def one_id_less(rows: types.ObservationBatch) -> None:
    del rows.session_ids[-1]


def no_names(rows: types.ObservationBatch) -> None:
    del rows.session_ids[:]


def no_rows(rows: types.ObservationBatch) -> None:
    rows.rows = 0


def too_many_rows(rows: types.ObservationBatch) -> None:
    rows.rows = 16_385


BATCHES: dict[str, tuple[Callable[[types.ObservationBatch], object], str]] = {
    "values one short": (truncated, "values"),
    "values one byte short": (ragged, "values"),
    "no values": (empty, "values"),
    "one id less": (one_id_less, "session_ids"),
    "no names": (no_names, "session_ids and aliases"),
    "no rows": (no_rows, "rows"),
    "too many rows": (too_many_rows, "rows"),
    "all rows there can be": (lambda rows: setattr(rows, "rows", 2**32 - 1), "rows"),
    "one alias less": (lambda rows: rows.aliases.extend([1, 2]), "aliases"),
    "one alias more": (lambda rows: rows.aliases.extend([1, 2, 3, 4]), "aliases"),
    "values wider than any model": (lambda rows: setattr(rows, "values", bytes(3 * 4 * 4097)), "at most 4096"),
    "an alias too large": (lambda rows: rows.aliases.extend([1, 2, 2_097_152]), "alias 2097152"),
    "one step less": (lambda rows: rows.steps.extend([1, 1]), "steps"),
    "a step above 2^62": (lambda rows: rows.steps.extend([1, 1, 2**62 + 1]), "step"),
    "one time more": (lambda rows: rows.event_times_unix_ns.extend([1] * 4), "event_times_unix_ns"),
    "one reset less": (lambda rows: setattr(rows, "reset", b"\0\0"), "reset"),
    "an unknown dtype": (lambda rows: setattr(rows, "dtype", 9), "dtype"),
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize(("spoil", "text"), BATCHES.values(), ids=BATCHES.keys())
async def test_a_batch_whose_columns_do_not_fit_is_refused_as_a_whole(
    client: Client, name: str, spoil: Callable[[types.ObservationBatch], object], text: str
) -> None:
    """BAD_BATCH names the column; no row was stepped, and the stream goes on."""
    ids = [f"{name}-{row}" for row in range(3)]
    rows = batch(ids, ROWS)
    spoil(rows)
    stream = client.stream()
    error = refusal_of((await stream.ask(rows)).error)
    assert (error.reason, error.code) == ("BAD_BATCH", INVALID)
    assert text in error.message
    good = await stream.predict_batch(batch(ids, ROWS))
    assert list(good.steps) == [1, 1, 1]
    if rows.session_ids:
        assert (await refused(client.predict(rows))).reason == "BAD_BATCH"


@pytest.mark.parametrize("width", [1, 3, 5, 4096])
async def test_a_batch_of_another_width_fails_row_by_row(client: Client, name: str, width: int) -> None:
    """Whole rows of a wrong width are BAD_OBSERVATION each; new sessions are not opened, living ones not stepped."""
    stream = client.stream()
    await stream.predict(observation(name, X))
    rows = await stream.predict_batch(batch([name, name + "-new"], np.ones((2, width))))
    assert [(error.row, error.reason, error.expected_step) for error in rows.errors] == [
        (0, "BAD_OBSERVATION", 2),
        (1, "BAD_OBSERVATION", 0),
    ]
    check_text(rows.errors[0].reason, rows.errors[0].code, rows.errors[0].message)
    good = await stream.predict_batch(batch([name, name + "-new"], ROWS[:2]))
    assert list(good.steps) == [2, 1]


async def test_a_text_stands_once(client: Client, name: str) -> None:
    """The first row of each reason says what to do, in whatever pieces rows are answered; so rows that fail cost an
    answer little more than others."""
    ids = [name, "", name + "-new", name, "", name + "-new", name]
    steps = [1, 1, 9, 1, 1, 9, 7]
    values = np.ones((7, 4))
    values[3] = 2.0
    rows = await client.stream().predict_batch(batch(ids, values, steps=steps))
    assert [(error.row, error.reason, bool(error.message)) for error in rows.errors] == [
        (1, "BAD_SESSION_ID", True),
        (2, "SESSION_NOT_FOUND", True),
        (3, "STEP_CONFLICT", True),
        (4, "BAD_SESSION_ID", False),
        (5, "SESSION_NOT_FOUND", False),
        (6, "STEP_GAP", True),
    ]
    for error in rows.errors:
        if error.message:
            check_text(error.reason, error.code, error.message)
    answer = await client.stream().predict_batch(batch(["x"] * 16_384, np.ones((16_384, 1))))
    assert len(answer.errors) == 16_384
    assert [error.row for error in answer.errors if error.message] == [0]


async def test_aliases_far_apart(client: Client, name: str) -> None:
    """A table is as long as its largest alias: how far that may be grows with the aliases that are bound, of which one
    that is bound again and again counts once."""
    stream, free, spread = client.stream(), frontend.ALIASES_FREE, frontend.ALIAS_SPREAD
    for _ in range(3):
        await stream.predict_batch(batch([name] * 3, ROWS, aliases=[0, 0, 0]))
    for given in ([name], []):  # bound and used
        most = free + spread * (2 if given else 1) - 1
        error = refusal_of((await stream.ask(batch(given, ROWS[:1], aliases=[most + 1]))).error)
        assert (error.reason, f"alias {most + 1} is not below" in error.message) == ("BAD_BATCH", True)
    await stream.predict_batch(batch([name], ROWS[:1], aliases=[free + 2 * spread - 1]))
    await stream.predict_batch(batch([name], ROWS[:1], aliases=[free + 3 * spread - 1]))


async def test_unknown_aliases_fail_alone(client: Client, name: str) -> None:
    """A row whose alias was never bound is UNKNOWN_ALIAS, also before any was bound; the others are stepped."""
    stream = client.stream()
    rows = await stream.predict_batch(batch([], ROWS[:1], aliases=[0]))
    assert [error.reason for error in rows.errors] == ["UNKNOWN_ALIAS"]
    await stream.predict_batch(batch([name], ROWS[:1], aliases=[4]))
    rows = await stream.predict_batch(batch([], ROWS, aliases=[3, 4, 1000]))
    assert [(error.row, error.reason) for error in rows.errors] == [(0, "UNKNOWN_ALIAS"), (2, "UNKNOWN_ALIAS")]
    check_text("UNKNOWN_ALIAS", rows.errors[0].code, rows.errors[0].message)
    assert list(rows.steps) == [0, 2, 0]
    other = await client.stream().predict_batch(batch([], ROWS[:1], aliases=[4]))
    assert [error.reason for error in other.errors] == ["UNKNOWN_ALIAS"]


CONFIGS: dict[str, tuple[pb.StreamConfig, str, str]] = {
    "no model": (pb.StreamConfig(), "BAD_CONFIG", "names no model"),
    "unknown model": (config("none"), "MODEL_NOT_FOUND", "served: random, station"),
    "unknown version": (config(version="9"), "VERSION_NOT_FOUND", "versions: 1, 2; aliases: canary"),
    "unknown on_missing": (config(on_missing=9), "BAD_CONFIG", "on_missing 9"),
    "a feature missing": (config(features=["x0", "x1", "x2"]), "BAD_CONFIG", "x3"),
    "a feature twice": (config(features=["x0", "x1", "x2", "x2"]), "BAD_CONFIG", "x3"),
    "an unknown feature": (config(features=["x0", "x1", "x2", "x3", "y"]), "BAD_CONFIG", "y"),
    "too many features": (config(features=["x0"] * 5000), "BAD_CONFIG", "5000 features or units; at most 4096"),
    "too many units": (config(units=[""] * 5000), "BAD_CONFIG", "5000 features or units; at most 4096"),
    "too few units": (config("station", units=["degC"]), "BAD_CONFIG", "3, not 1"),
    "a unit of another kind": (config("station", units=["degC", "m", ""]), "UNIT_MISMATCH", "wind is in m/s"),
    "a unit that is none": (config("station", units=["degC", "", "blub"]), "UNIT_MISMATCH", "rain is in mm"),
    "a unit that is a trap": (config("station", units=["__import__('os')", "", ""]), "UNIT_MISMATCH", "temperature"),
    "a unit that is a power": (config("station", units=["9**9**9**9", "", ""]), "UNIT_MISMATCH", "temperature"),
    "a unit for what has none": (config(units=["degC", "", "", ""]), "UNIT_MISMATCH", "x0"),
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize(("wrong", "reason", "text"), CONFIGS.values(), ids=CONFIGS.keys())
async def test_a_wrong_config_ends_the_stream(
    client: Client, name: str, wrong: pb.StreamConfig, reason: str, text: str
) -> None:
    """A wrong config, alone or with a payload, unary or streamed, is refused by name; nothing was opened."""
    unary = await refused(client.predictions.Predict(pb.PredictRequest(config=wrong, observation=observation(name, X))))
    alone, loaded = Stream(client.predictions.StreamPredict(), wrong), Stream(client.predictions.StreamPredict(), wrong)
    await alone.send()
    await loaded.send(observation(name, X))
    assert unary == await refused(alone.rest()) == await refused(loaded.rest())
    assert (unary.reason, unary.code) == (reason, MISSING if reason.endswith("NOT_FOUND") else INVALID)
    assert text in unary.message


async def test_a_text_that_quotes_the_client_is_cut_short(client: Client) -> None:
    """However long the name that is wrong, the error still fits into what HTTP/2 carries of a status."""
    for wrong in (config("日" * 100_000), config(version="v" * 100_000), config(features=["f" * 1000] * 1000)):
        error = await refused(
            client.predictions.Predict(pb.PredictRequest(config=wrong, observation=observation("x", X)))
        )
        assert error.reason in ("MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "BAD_CONFIG")
        assert len(error.message) < 2000
    filtered = session_pb2.ListSessionsRequest(filter="f" * 100_000)
    assert (await refused(client.sessions.ListSessions(filtered))).reason == "BAD_FILTER"


@pytest.mark.usefixtures("neighbours")
async def test_a_stream_needs_a_config_first(client: Client, name: str) -> None:
    """A first message without a config ends the stream with BAD_CONFIG, with a payload or without."""
    for payload in (None, observation(name, X), batch([name], ROWS[:1])):
        stream = client.bare_stream()
        await stream.send(payload)
        error = await refused(stream.rest())
        assert (error.reason, error.code) == ("BAD_CONFIG", INVALID)
        assert "first message" in error.message


@pytest.mark.usefixtures("neighbours")
async def test_a_second_config_ends_the_stream_after_its_answers(client: Client, name: str) -> None:
    """A config on a later message is BAD_CONFIG; what came before it is answered, what came with it is not taken."""
    stream = client.stream()
    for step in (1, 2):
        await stream.send(observation(name, X, step))
    await stream.send(observation(name, X, 3), config())
    assert [(await stream.receive()).prediction.step for _ in range(2)] == [1, 2]
    error = await refused(stream.rest())
    assert (error.reason, "first message" in error.message) == ("BAD_CONFIG", True)
    assert (await client.predict(observation(name, X, 3))).prediction.step == 3


@pytest.mark.usefixtures("neighbours")
async def test_a_unary_call_needs_a_config_and_a_payload(client: Client, name: str) -> None:
    """Without a config BAD_CONFIG; without a payload BAD_OBSERVATION; aliases need a stream: BAD_BATCH."""
    for request, reason in (
        (pb.PredictRequest(observation=observation(name, X)), "BAD_CONFIG"),
        (pb.PredictRequest(), "BAD_CONFIG"),
        (pb.PredictRequest(config=config()), "BAD_OBSERVATION"),
        (pb.PredictRequest(config=config(), batch=batch([], ROWS[:1], aliases=[1])), "BAD_BATCH"),
    ):
        error = await refused(client.predictions.Predict(request))
        assert (error.reason, error.code) == (reason, INVALID)


def not_utf8() -> bytes:
    """A request whose session id is no UTF-8."""
    request = pb.StreamPredictRequest(config=config(), sequence=1, observation=observation("NAME", X))
    return request.SerializeToString().replace(b"NAME", b"\xff\xfe\xc3\x28")


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize("bad", [b"\xff" * 9, b"junk", not_utf8()], ids=["bytes", "text", "an id not in UTF-8"])
async def test_undecodable_bytes_end_the_stream_after_its_answers(client: Client, name: str, bad: bytes) -> None:
    """What is no message is UNDECODABLE_MESSAGE, on streams and in unary calls; what came before it is answered."""
    call = client.channel.stream_stream("/tidegate.v1.PredictionService/StreamPredict")()
    good = pb.StreamPredictRequest(config=config(), sequence=1, observation=observation(name, X))
    await call.write(good.SerializeToString())
    await call.write(bad)
    assert pb.StreamPredictResponse.FromString(await call.read()).prediction.step == 1
    error = await refused(call.read())
    assert (error.reason, error.code) == ("UNDECODABLE_MESSAGE", INVALID)


@pytest.mark.parametrize(
    "method", ["PredictionService/Predict", "SessionService/GetSession", "SessionService/BatchOpenSessions"]
)
@pytest.mark.parametrize("bad", [b"\xff" * 9, b"\x0a\x04\xff\xfe\xc3\x28\x12\x04\xff\xfe\xc3\x28"])
async def test_undecodable_bytes_are_refused_by_every_call(client: Client, method: str, bad: bytes) -> None:
    """Also strings that are no UTF-8, where an id or a model is meant."""
    error = await refused(client.channel.unary_unary(f"/tidegate.v1.{method}")(bad))
    assert (error.reason, error.code) == ("UNDECODABLE_MESSAGE", INVALID)


@pytest.mark.usefixtures("neighbours")
async def test_a_message_of_64_mib_is_refused(server: RunningServer, client: Client, name: str) -> None:
    """It is RESOURCE_EXHAUSTED, on streams and in unary calls, and leaves nothing behind."""
    async with Client(server.grpc) as sender:
        huge = batch([name], np.zeros((1, 16 * 1024 * 1024)))
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await sender.predict(huge)
        stream = sender.stream()
        assert (await stream.predict(observation(name, X))).step == 1
        await stream.call.write(pb.StreamPredictRequest(batch=huge))
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await stream.rest()
        for caught in (unary.value, streamed.value):
            assert caught.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "67108" in str(caught.details())
        assert (await sender.stream().predict(observation(name, X))).step == 2


async def test_the_largest_message_is_taken(client: Client, name: str) -> None:
    """A full batch just below the limit of 4 MiB is stepped, row for row."""
    ids = [f"{name}-{row}" for row in range(16_384)]
    rows = await client.stream().predict_batch(batch(ids, np.ones((len(ids), 4))))
    assert (rows.rows, len(rows.errors)) == (16_384, 0)
    closed = session_pb2.BatchCloseSessionsRequest(model="random", session_ids=ids)
    assert (await client.sessions.BatchCloseSessions(closed)).done == 16_384


@pytest.mark.parametrize("good", ["x" * 256, "é" * 128, "a b\n/#?", "\0", "日本"])
async def test_ids_are_opaque(client: Client, good: str) -> None:
    """1 to 256 bytes of UTF-8 name a session, whatever they are, and come back as they were."""
    stream = client.stream()
    assert (await stream.predict(observation(good, X))).session_id == good
    rows = await stream.predict_batch(batch([good], ROWS[:1]))
    assert list(rows.steps) == [2]
    closed = await client.sessions.CloseSession(session_pb2.CloseSessionRequest(model="random", session_id=good))
    assert closed.session.session_id == good


STEPS: dict[str, tuple[int, list[float], str]] = {
    "the last step with another input": (3, [0.0] * 4, "STEP_CONFLICT"),
    "a step taken long ago": (2, X, "STEP_TOO_OLD"),
    "a step too far": (5, X, "STEP_GAP"),
    "the farthest step": (2**62, X, "STEP_GAP"),
}


@pytest.mark.parametrize(("step", "values", "reason"), STEPS.values(), ids=STEPS.keys())
async def test_a_step_that_does_not_follow_is_aborted(
    client: Client, name: str, step: int, values: list[float], reason: str
) -> None:
    """ABORTED, with the step expected as a variable (and in a batch as a field); then that step is taken."""
    stream = client.stream()
    await stream.predict_batch(batch([name] * 3, [X] * 3))
    error = refusal_of((await stream.ask(observation(name, values, step))).error)
    assert (error.reason, error.code, error.variables) == (reason, grpc.StatusCode.ABORTED, {"expected_step": "4"})
    assert "expected is 4" in error.message
    rows = await stream.predict_batch(batch([name], [values], steps=[step]))
    assert [(row.reason, row.expected_step) for row in rows.errors] == [(reason, 4)]
    check_text(reason, rows.errors[0].code, rows.errors[0].message)
    assert (await stream.predict(observation(name, X, 4))).step == 4


async def test_a_diverged_session_says_so_until_it_is_reset(client: Client, name: str) -> None:
    """SESSION_DIVERGED at the step and after it, FAILED_PRECONDITION; the last good step stands; a reset lifts it."""
    stream = client.stream()
    before = await stream.predict(observation(name, X, 1))
    for values in ([1e300] * 4, X):
        error = refusal_of((await stream.ask(observation(name, values, 2))).error)
        assert (error.reason, error.code) == ("SESSION_DIVERGED", grpc.StatusCode.FAILED_PRECONDITION)
    retry = await stream.predict(observation(name, X, 1))
    assert (retry.duplicate, retry.values) == (True, before.values)
    after = await stream.predict(observation(name, X, 2, reset=True))
    assert (after.step, after.steps_seen, after.values) == (2, 1, before.values)


@pytest.mark.parametrize(
    "method",
    ["OpenSession", "GetSession", "ResetSession", "CloseSession", "ForkSession"],
)
async def test_session_calls_refuse_what_is_unknown(client: Client, method: str) -> None:
    """An unknown model, and (but for opening) an unknown or impossible session, are NOT_FOUND, by name."""
    call, request = getattr(client.sessions, method), getattr(session_pb2, f"{method}Request")
    error = await refused(call(request(model="none", session_id="x")))
    assert (error.reason, error.code) == ("MODEL_NOT_FOUND", MISSING)
    assert "'none'" in error.message
    for name in ("", "x" * 257, "nobody"):
        if method == "OpenSession":
            if name != "nobody":
                error = await refused(call(request(model="random", session_id=name)))
                assert (error.reason, error.code) == ("BAD_SESSION_ID", INVALID)
        else:
            error = await refused(call(request(model="random", session_id=name)))
            assert (error.reason, error.code) == ("SESSION_NOT_FOUND", MISSING)


async def test_opening_an_unknown_version_is_refused(client: Client) -> None:
    """VERSION_NOT_FOUND, one at a time and in bulk."""
    one = session_pb2.OpenSessionRequest(model="random", version="9", session_id="x")
    many = session_pb2.BatchOpenSessionsRequest(model="random", version="9", session_ids=["x"])
    for call in (client.sessions.OpenSession(one), client.sessions.BatchOpenSessions(many)):
        assert (await refused(call)).reason == "VERSION_NOT_FOUND"


def mutated(message: bytes, random: Random) -> bytes:
    """The message with some bytes changed, cut or doubled."""
    content = bytearray(message)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(content))
        match random.randrange(4):
            case 0:
                content[place] = random.randrange(256)
            case 1:
                content[place] ^= 1 << random.randrange(8)
            case 2:
                del content[place:]
            case 3:
                content[place:place] = content[random.randrange(len(content)) :][:20]
        content = content or bytearray(b"\x08")
    return bytes(content)


async def test_no_bytes_are_unforeseen(server: RunningServer, client: Client) -> None:
    """Whatever is done to the bytes of good requests, the answer is one that the protos name, and never INTERNAL."""
    rows = batch(["fuzz", "fuzz-2"], ROWS[:2], steps=[0, 1], times=[5, 6], resets=[0, 1])
    timed = observation("fuzz", X, 1, event_time=Timestamp(seconds=9, nanos=5), reset=True)
    good: list[tuple[str, Message]] = [
        ("PredictionService/Predict", unary(timed)),
        ("PredictionService/Predict", unary(rows, features=["x0", "x1", "x2", "x3"])),
        ("PredictionService/Predict", unary(observation("fuzz", X[:3]), "station", units=["degF", "knot", "inch"])),
        ("SessionService/BatchOpenSessions", session_pb2.BatchOpenSessionsRequest(model="random", session_ids=["f"])),
        (
            "SessionService/ForkSession",
            session_pb2.ForkSessionRequest(model="random", session_id="f", new_session_id="g"),
        ),
        ("SessionService/ListSessions", session_pb2.ListSessionsRequest(model="random", filter="id=f*", page_size=3)),
        ("SessionService/CloseSession", session_pb2.CloseSessionRequest(model="random", session_id="f")),
    ]
    foreseen = {meaning.code for meaning in MEANINGS.values()} - {Code.INTERNAL, Code.UNKNOWN, Code.UNIMPLEMENTED}
    random = Random(0)
    for _ in range(100):
        requests = [(method, mutated(message.SerializeToString(), random)) for method, message in good]
        calls = [client.channel.unary_unary(f"/tidegate.v1.{method}")(content) for method, content in requests]
        codes = await asyncio.gather(*(call.code() for call in calls))
        assert {Code(code.value[0]) for code in codes} <= foreseen, requests
    assert (await client.predict(observation("fuzz", X, reset=True))).prediction.steps_seen == 1
    assert "Traceback" not in server.log


async def test_refusals_are_counted_and_leave_nothing_behind(server: RunningServer, client: Client) -> None:
    """After all that this module did, nothing is open or queued, and each refusal stands in the metrics by reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.predict(observation("x", X), "none")
    assert read_error(caught.value).reason == "MODEL_NOT_FOUND"
    assert (await refused(client.predict(observation("x", X[:3])))).reason == "BAD_OBSERVATION"
    await at_rest(server)
    assert server.metric('tidegate_calls_failed_total{reason="MODEL_NOT_FOUND"}') > 0
    assert server.metric('tidegate_steps_total{model="random",outcome="BAD_OBSERVATION"}') > 0
    assert "Traceback" not in server.log
