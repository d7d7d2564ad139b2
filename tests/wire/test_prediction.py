"""PredictionService, as clients use it when all is well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from tests.wire.clients import Client, batch, code_of, observation, refusal_of, refused, values_of
from tidegate.engine.replies import RowFlag
from tidegate.model import reference
from tidegate.model.package import Package
from tidegate.wire.stubs import prediction_pb2 as pb
from tidegate.wire.stubs import session_pb2 as session
from tidegate.wire.stubs import types_pb2 as types

DAY_NS = 86_400 * 10**9


def feed(steps: int, features: int = 4, seed: int = 0) -> NDArray[np.float64]:
    """[steps, features], of numbers that float32 holds exactly, so that either dtype says the same."""
    return np.random.default_rng(seed).normal(size=(steps, features)).astype(np.float32).astype(np.float64)


def new_ids(count: int = 1) -> list[str]:
    return [f"{uuid4().hex}-{index}" for index in range(count)]


def expected(package: Package, observations: NDArray[np.float64]) -> NDArray[np.float64]:
    return reference.predict(package, observations).raw


class TestUnary:
    async def test_an_observation_gets_the_prediction_of_the_reference(
        self, client: Client, random_model: Package
    ) -> None:
        """Unary observations of one session, one after another, are answered as the float64 reference would."""
        (name,), x = new_ids(), feed(5)
        answers = [(await client.predict(observation(name, x[i], i + 1))).prediction for i in range(len(x))]
        np.testing.assert_allclose([answer.values for answer in answers], expected(random_model, x), atol=1e-5)
        assert [answer.step for answer in answers] == [1, 2, 3, 4, 5]
        assert [answer.steps_seen for answer in answers] == [1, 2, 3, 4, 5]
        assert [answer.created for answer in answers] == [True, False, False, False, False]
        assert {answer.session_id for answer in answers} == {name}
        assert not any(answer.HasField("valid_time") for answer in answers)

    @pytest.mark.parametrize("dtype", [types.DTYPE_UNSPECIFIED, types.DTYPE_FLOAT32, types.DTYPE_FLOAT64])
    async def test_a_batch_gets_one_row_a_row(self, client: Client, random_model: Package, dtype: int) -> None:
        """A batch steps each of its sessions, whatever its dtype, and says which it created."""
        ids, x = new_ids(3), feed(6).reshape(2, 3, 4)
        first = (await client.predict(batch(ids, x[0], dtype=dtype))).batch
        second = (await client.predict(batch(ids, x[1], dtype=dtype, steps=[2, 2, 2]))).batch
        for row in range(3):
            np.testing.assert_allclose(values_of(first)[row], expected(random_model, x[:, row])[0], atol=1e-5)
            np.testing.assert_allclose(values_of(second)[row], expected(random_model, x[:, row])[1], atol=1e-5)
        assert (first.rows, first.dtype, list(first.steps)) == (3, types.DTYPE_FLOAT32, [1, 1, 1])
        assert first.flags == bytes([RowFlag.CREATED] * 3)
        assert second.flags == bytes(3)
        assert not first.errors

    async def test_a_session_may_stand_in_several_rows(self, client: Client, random_model: Package) -> None:
        """Rows of one session in one batch are its steps, in row order."""
        (name,), x = new_ids(), feed(4)
        answer = (await client.predict(batch([name] * 4, x))).batch
        np.testing.assert_allclose(values_of(answer), expected(random_model, x), atol=1e-5)
        assert list(answer.steps) == [1, 2, 3, 4]
        assert answer.flags == bytes([RowFlag.CREATED, 0, 0, 0])

    async def test_a_retry_gets_the_same_answer(self, client: Client) -> None:
        """The last step again, with the same input, is answered from the last reply and takes no step."""
        (name,), x = new_ids(), feed(2)
        await client.predict(observation(name, x[0], 1))
        once = (await client.predict(observation(name, x[1], 2))).prediction
        twice = (await client.predict(observation(name, x[1], 2))).prediction
        assert (once.duplicate, twice.duplicate) == (False, True)
        assert (once.values, once.step, once.steps_seen) == (twice.values, twice.step, twice.steps_seen)
        again = (await client.predict(batch([name], x[1:2], steps=[2]))).batch
        assert again.flags == bytes([RowFlag.DUPLICATE])
        assert values_of(again)[0].tolist() == list(once.values)


class TestStream:
    async def test_observations_and_batches_mix_on_one_stream(self, client: Client, random_model: Package) -> None:
        """Observations, batches by id, batches that bind aliases and batches by alias advance the same sessions."""
        ids, x = new_ids(2), feed(8).reshape(4, 2, 4)
        stream = client.stream()
        got = [np.array([(await stream.predict(observation(ids[row], x[0, row]))).values for row in range(2)])]
        got.append(values_of(await stream.predict_batch(batch(ids, x[1]))))
        got.append(values_of(await stream.predict_batch(batch(ids, x[2], aliases=[7, 3]))))
        by_alias = await stream.predict_batch(batch([], x[3, ::-1], aliases=[3, 7], steps=[4, 4]))
        got.append(values_of(by_alias)[::-1])
        for row in range(2):
            np.testing.assert_allclose(np.stack(got)[:, row], expected(random_model, x[:, row]), atol=1e-5)
        assert list(by_alias.steps) == [4, 4]
        assert await stream.finish() == []

    async def test_answers_of_a_session_keep_the_order_of_its_steps(
        self, client: Client, random_model: Package
    ) -> None:
        """Messages sent without waiting are each answered once; those of one session in the order of its steps."""
        ids, x = new_ids(3), feed(100)
        stream = client.stream()
        for i in range(100):
            for name in ids:
                await stream.send(observation(name, x[i], i + 1))
        answers = await stream.finish()
        assert sorted(answer.sequence for answer in answers) == list(range(1, 301))
        for name in ids:
            mine = [answer.prediction for answer in answers if answer.prediction.session_id == name]
            assert [prediction.step for prediction in mine] == list(range(1, 101))
            np.testing.assert_allclose([p.values for p in mine], expected(random_model, x), atol=2e-5)

    async def test_a_config_may_come_alone(self, client: Client) -> None:
        """A message without a payload gets no response, and the next one need not repeat the config."""
        stream = client.stream()
        await stream.send()
        await stream.send()
        answer = await stream.ask(observation(new_ids()[0], [1, 2, 3, 4]))
        assert answer.sequence == 3
        assert await stream.finish() == []

    async def test_a_stream_may_say_nothing(self, client: Client) -> None:
        """A stream that ends without a message, or after its config, ends well."""
        assert await client.bare_stream().finish() == []
        stream = client.stream()
        await stream.send()
        assert await stream.finish() == []

    async def test_an_alias_may_be_bound_anew(self, client: Client) -> None:
        """Ids and aliases together bind again; what the alias was before does not matter."""
        (one, other), x = new_ids(2), feed(3)
        stream = client.stream()
        await stream.predict_batch(batch([one], x[:1], aliases=[0]))
        await stream.predict_batch(batch([other], x[1:2], aliases=[0]))
        answer = await stream.predict_batch(batch([], x[2:], aliases=[0]))
        assert list(answer.steps) == [2]
        assert (await client.predict(observation(one, x[1]))).prediction.step == 2

    async def test_an_alias_outlives_its_session(self, client: Client) -> None:
        """A session that was closed and opened again elsewhere is found by its old alias, from its first step."""
        (name,), x = new_ids(), feed(3)
        stream = client.stream()
        await stream.predict_batch(batch([name], x[:1], aliases=[5]))
        await stream.predict_batch(batch([], x[:1], aliases=[5]))
        await client.sessions.CloseSession(session.CloseSessionRequest(model="random", session_id=name))
        answer = await stream.predict_batch(batch([], x[:1], aliases=[5]))
        assert (list(answer.steps), answer.flags) == ([1], bytes([RowFlag.CREATED]))
        await client.sessions.CloseSession(session.CloseSessionRequest(model="random", session_id=name))
        await client.predict(observation(name, x[0]))
        answer = await stream.predict_batch(batch([], x[1:2], aliases=[5]))
        assert list(answer.steps) == [2]

    async def test_two_streams_may_share_a_session(self, client: Client, random_model: Package) -> None:
        """A session is the server's and not the stream's: another stream goes on where the first one stopped."""
        (name,), x = new_ids(), feed(4)
        streams = [client.stream(), client.stream()]
        got = [(await streams[i % 2].predict(observation(name, x[i], i + 1))).values for i in range(4)]
        np.testing.assert_allclose(got, expected(random_model, x), atol=1e-5)


class TestConfig:
    async def test_values_come_in_the_order_of_the_named_features(self, client: Client, station: Package) -> None:
        """With features named in another order, the same observation gives the same prediction."""
        ids, x = new_ids(2), np.array([[12.5, 4.0, 0.5], [14.0, 3.0, 0.0]])
        plain, turned = client.stream("station"), client.stream("station", features=["rain", "temperature", "wind"])
        for row in x:
            one = await plain.predict(observation(ids[0], row))
            other = await turned.predict(observation(ids[1], row[[2, 0, 1]]))
            assert list(one.values) == list(other.values)
        np.testing.assert_allclose(one.values, expected(station, x)[-1], atol=1e-4)

    async def test_units_are_converted(self, client: Client, station: Package) -> None:
        """degF sent to a model in degC, and knots to one in m/s, give the prediction of the converted values."""
        (name,), x = new_ids(), np.array([[12.5, 4.0, 0.5], [-40.0, 10.0, 3.0]])
        stream = client.stream("station", units=["degF", "knot", ""])
        sent = np.stack([x[:, 0] * 1.8 + 32, x[:, 1] * 3600 / 1852, x[:, 2]], axis=1)
        got = [(await stream.predict(observation(name, row))).values for row in sent]
        np.testing.assert_allclose(got, expected(station, x), atol=1e-4)

    async def test_units_follow_the_named_features(self, client: Client) -> None:
        """Units are those of the features in the order in which the config names them."""
        ids = new_ids(2)
        features, units = ["rain", "wind", "temperature"], ["inch", "m/s", "degF"]
        turned = await client.stream("station", features=features, units=units).predict(
            observation(ids[0], [1.0, 3.0, 50.0])
        )
        plain = await client.stream("station").predict(observation(ids[1], [10.0, 3.0, 25.4]))
        np.testing.assert_allclose(turned.values, plain.values, atol=1e-5)

    async def test_on_missing_fail_opens_nothing(self, client: Client) -> None:
        """With ON_MISSING_FAIL an unknown session is refused at any step; one that lives is stepped."""
        (name,), x = new_ids(), [1, 2, 3, 4]
        stream = client.stream(on_missing=pb.ON_MISSING_FAIL)
        for step in (0, 1):
            error = refusal_of((await stream.ask(observation(name, x, step))).error)
            assert error.reason == "SESSION_NOT_FOUND"
        answer = await stream.predict_batch(batch([name], [x]))
        assert [error.reason for error in answer.errors] == ["SESSION_NOT_FOUND"]
        missing = await refused(client.sessions.GetSession(session.GetSessionRequest(model="random", session_id=name)))
        assert missing.reason == "SESSION_NOT_FOUND"
        await client.sessions.OpenSession(session.OpenSessionRequest(model="random", session_id=name))
        assert (await stream.predict(observation(name, x))).step == 1

    @pytest.mark.parametrize(("asked", "version"), [("", "1"), ("1", "1"), ("2", "2"), ("canary", "2")])
    async def test_a_new_session_gets_the_version_asked_for(self, client: Client, asked: str, version: str) -> None:
        """A version or an alias in the config decides for sessions opened by it; without one, the pin does."""
        ids = new_ids(2)
        await client.stream(version=asked).predict(observation(ids[0], [1, 2, 3, 4]))
        await client.predict(observation(ids[1], [1, 2, 3, 4]), version=asked)
        for name in ids:
            found = await client.sessions.GetSession(session.GetSessionRequest(model="random", session_id=name))
            assert found.session.version == version

    async def test_a_living_session_keeps_its_version(self, client: Client, random_model: Package) -> None:
        """A config that asks for another version changes nothing for a session that lives."""
        (name,), x = new_ids(), feed(2)
        await client.predict(observation(name, x[0]), version="1")
        got = (await client.predict(observation(name, x[1]), version="2")).prediction.values
        np.testing.assert_allclose(got, expected(random_model, x)[1], atol=1e-5)


class TestTimes:
    async def test_valid_time_is_one_interval_on(self, client: Client) -> None:
        """With a time and a frequency, the reply says what time it is for; a retry of it says the same."""
        (name,) = new_ids()
        stream, at = client.stream("station"), datetime(2015, 2, 28, 6, 30, tzinfo=UTC)
        for _ in range(2):
            answer = await stream.predict(observation(name, [1, 2, 3], 1, event_time=at))
            assert answer.valid_time.ToDatetime(UTC) == at + timedelta(days=1)
        untimed = await stream.predict(observation(new_ids()[0], [1, 2, 3]))
        assert not untimed.HasField("valid_time")

    async def test_times_must_increase(self, client: Client) -> None:
        """An observation that is not later than the last one is refused, in messages and in batches."""
        (name,) = new_ids()
        stream = client.stream("station")
        await stream.predict(observation(name, [1, 2, 3], 1, event_time=Timestamp(seconds=86_400 * 10)))
        for day in (10, 9):
            answer = await stream.ask(observation(name, [1, 2, 3], 2, event_time=Timestamp(seconds=86_400 * day)))
            assert refusal_of(answer.error).reason == "TIME_NOT_INCREASING"
            assert refusal_of(answer.error).variables == {"expected_step": "2"}
        rows = await stream.predict_batch(batch([name, name], np.ones((2, 3)), times=[9 * DAY_NS, 11 * DAY_NS]))
        assert [(error.row, error.reason, error.expected_step) for error in rows.errors] == [
            (0, "TIME_NOT_INCREASING", 2)
        ]
        assert list(rows.steps) == [0, 2]

    async def test_missing_days_are_bridged(self, client: Client, station: Package) -> None:
        """Times further on than one interval are bridged with the session's own predictions, and the reply says so."""
        (name,) = new_ids()
        stream = client.stream("station")
        x = np.array([[5.0, 6.0, 7.0], [4.0, 5.0, 6.0]])
        await stream.predict(observation(name, x[0], 1, event_time=Timestamp(seconds=0)))
        answer = await stream.predict(observation(name, x[1], 2, event_time=Timestamp(seconds=3 * 86_400)))
        assert (answer.step, answer.imputed_steps, answer.steps_seen) == (2, 2, 4)
        bridged = [x[0]]
        for _ in range(2):
            wind, temperature = expected(station, np.array(bridged))[-1]
            bridged.append(np.array([temperature, wind, x[0, 2]]))
        np.testing.assert_allclose(answer.values, expected(station, np.array([*bridged, x[1]]))[-1], atol=1e-4)
        far = await stream.ask(observation(name, x[1], 3, event_time=Timestamp(seconds=9 * 86_400)))
        assert refusal_of(far.error).reason == "STEP_GAP"

    async def test_a_batch_may_time_some_rows(self, client: Client) -> None:
        """The smallest int64 stands for "no time": such a row counts as one interval on."""
        (name,) = new_ids()
        none, stream = -(2**63), client.stream("station")
        rows = await stream.predict_batch(batch([name] * 3, np.ones((3, 3)), times=[0, none, 2 * DAY_NS]))
        assert not rows.errors
        assert rows.flags == bytes([RowFlag.CREATED, 0, 0])


class TestMissingValues:
    async def test_missing_values_are_named_and_turn_stale(self, client: Client) -> None:
        """NaN is imputed; the reply names the features, and is stale after more than the package's limit in a row."""
        (name,), nan = new_ids(), np.nan
        stream = client.stream("station")
        answers = [await stream.predict(observation(name, [nan, 2, nan])) for _ in range(2)]
        assert [list(answer.imputed_features) for answer in answers] == [[0, 2], [0, 2]]
        assert [answer.stale for answer in answers] == [False, True]
        assert np.isfinite([answer.values for answer in answers]).all()
        rows = await stream.predict_batch(batch([name, name], [[nan, 2.0, 3.0], [1.0, 2.0, 3.0]]))
        assert rows.flags == bytes([RowFlag.IMPUTED | RowFlag.STALE, 0])

    async def test_named_features_keep_their_places(self, client: Client) -> None:
        """Imputed features are named by their places in the package, however the stream orders them."""
        stream = client.stream("station", features=["rain", "wind", "temperature"])
        answer = await stream.predict(observation(new_ids()[0], [float("nan"), 2, 3]))
        assert list(answer.imputed_features) == [2]


class TestReset:
    async def test_a_reset_row_starts_from_zero(self, client: Client) -> None:
        """A row with reset predicts as a new session would, and the numbering of steps goes on."""
        (name, fresh), x = new_ids(2), feed(4)
        stream = client.stream()
        await stream.predict_batch(batch([name] * 2, x[:2]))
        once = await stream.predict(observation(name, x[2], 3, reset=True))
        rows = await stream.predict_batch(batch([name, fresh], x[[3, 3]], resets=[1, 0]))
        alone = await stream.predict(observation(new_ids()[0], x[2]))
        assert (once.step, once.steps_seen) == (3, 1)
        assert list(once.values) == list(alone.values)
        assert values_of(rows)[0].tolist() == values_of(rows)[1].tolist()
        assert list(rows.steps) == [4, 1]
        assert rows.flags == bytes([RowFlag.RESET, RowFlag.CREATED])

    async def test_a_reset_may_begin_anywhere(self, client: Client) -> None:
        """A reset opens an unknown session at whatever step the client is."""
        answer = await client.stream().predict(observation(new_ids()[0], [1, 2, 3, 4], 1000, reset=True))
        assert (answer.step, answer.created, answer.steps_seen) == (1000, True, 1)


async def test_row_errors_stay_with_their_rows(client: Client) -> None:
    """In a batch, a row that fails is NaN, has step 0, no flags and an entry in errors; the others are as if alone."""
    ids, alone = new_ids(4), new_ids(4)
    x = feed(4)
    broken = x.copy()
    broken[1, 2] = np.inf
    stream = client.stream()
    answer = await stream.predict_batch(batch(ids, broken, steps=[1, 1, 9, 0]))
    whole = await stream.predict_batch(batch(alone, x))
    assert [(error.row, error.reason, code_of(error.code).name) for error in answer.errors] == [
        (1, "BAD_OBSERVATION", "INVALID_ARGUMENT"),
        (2, "SESSION_NOT_FOUND", "NOT_FOUND"),
    ]
    assert np.isnan(values_of(answer)[[1, 2]]).all()
    assert values_of(answer)[[0, 3]].tolist() == values_of(whole)[[0, 3]].tolist()
    assert list(answer.steps) == [1, 0, 0, 1]
    assert answer.flags == bytes([RowFlag.CREATED, 0, 0, RowFlag.CREATED])
