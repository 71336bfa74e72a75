"""From a consumer that gives up on an event, by way of its dead letter, back to that consumer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.broker import connect, in_seconds
from tests.support.client import Client, text_of
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import (
    DEAD_LETTER,
    DROP,
    ack,
    ask,
    consumer,
    delete_stream,
    is_over,
    kill_off,
    listed,
    reject,
    replay,
)
from tests.wire.consuming import seconds, subscribed
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.server.telemetry.log_text import fields_of

Unique = Callable[[], str]


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c`` of two attempts and dead letters."""
    name = client.ensure_stream(unique())
    consumer(client, name)
    return name


# Giving up


def test_attempts_that_are_used_up(client: Client, stream: str) -> None:
    """The last reject says why; the event is whole, and never delivered again."""
    client.publish(f"{stream}.a.b", "poison", idempotency_key="k", metadata=(("traceparent", PARENT),))
    with subscribed(client, stream) as call:
        first = call.event()
        reject(call, 1, reason="first", error_type="First")
        assert call.event().delivery_attempt == 2
        reject(call, 1, reason="second", error_type="Second")
        call.nothing()
    (letter,) = listed(client, stream)
    assert (letter.cause, letter.attempts, letter.replay_count) == (pb.CAUSE_MAX_ATTEMPTS, 2, 0)
    assert (letter.reason, letter.error_type) == ("second", "Second")
    assert (letter.stream, letter.consumer) == (stream, "c")
    first.delivery_attempt = 2
    assert letter.event == first
    assert letter.event.headers.trace_parent == PARENT
    spent = letter.last_delivery.ToNanoseconds() - letter.first_delivery.ToNanoseconds()
    assert 0 < spent < 60e9
    assert letter.last_delivery.ToNanoseconds() <= letter.time.ToNanoseconds() + 1e8
    assert is_over(client, stream)


@pytest.mark.parametrize(
    "said",
    [{"permanently": True}, {"action": DEAD_LETTER}, {"action": DEAD_LETTER, "permanently": True}],
)
def test_rejected_for_good(client: Client, stream: str, said: dict[str, Any]) -> None:
    """The event is a dead letter at once, and was when the reject was confirmed."""
    client.publish(f"{stream}.x", "poison")
    with subscribed(client, stream) as call:
        call.event()
        reject(call, 1, reason="r" * 2000, error_type="t" * 2000, **said)
        (letter,) = listed(client, stream)
        call.nothing()
    assert (letter.cause, letter.attempts) == (pb.CAUSE_REJECTED, 1)
    assert (letter.reason, letter.error_type) == ("r" * 1024, "t" * 256)
    assert is_over(client, stream)


def test_without_a_policy(client: Client, unique: Unique) -> None:
    """A subscriber may ask for a dead letter where the consumer has none; `permanently` alone does not."""
    stream = client.ensure_stream(unique())
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}})
    for _ in range(2):
        client.publish(f"{stream}.x")
    with subscribed(client, stream) as call:
        call.events(2)
        reject(call, 1, permanently=True)
        reject(call, 2, action=DEAD_LETTER)
    assert [letter.event.id for letter in listed(client, stream)] == [2]


def test_dropped(client: Client, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is kept, but a record of it."""
    client.publish(f"{stream}.x", "secret")
    with subscribed(client, stream) as call:
        call.event()
        reject(call, 1, action=DROP, reason="not needed")
    assert listed(client, stream) == []
    (record,) = [each for each in caplog.records if "dropped" in each.getMessage()]
    fields = fields_of(record)
    assert (fields["stream"], fields["consumer"], fields["event_id"]) == (stream, "c", 1)
    assert (fields["reason"], record.levelno) == ("not needed", logging.WARNING)
    assert "secret" not in str(vars(record))


def test_a_record_of_each(client: Client, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log says which event became a dead letter, and why; never what is in it."""
    client.publish(f"{stream}.x", "secret", metadata=(("traceparent", PARENT),))
    with subscribed(client, stream) as call:
        call.event()
        reject(call, 1, action=DEAD_LETTER, reason="no stock", error_type="OutOfStock")
    (record,) = [each for each in caplog.records if "became a dead letter" in each.getMessage()]
    assert "secret" not in str(vars(record))
    assert fields_of(record) == {
        "stream": stream,
        "consumer": "c",
        "event_id": 1,
        "subject": f"{stream}.x",
        "type": "windshift.test.v1.StringValue",
        "attempts": 1,
        "cause": "REJECTED",
        "reason": "no stock",
        "error_type": "OutOfStock",
        "trace_id": TRACE,
        "span_id": SPAN,
    }


def test_timeouts_use_attempts_up(client: Client, unique: Unique) -> None:
    """An event that nobody settles in time becomes a dead letter, without words."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, processing_timeout="0.45s")
    client.publish(f"{stream}.x")
    with subscribed(client, stream) as call:
        assert [event.delivery_attempt for event in call.events(2)] == [1, 2]
        wait_for(lambda: listed(client, stream))
    (letter,) = listed(client, stream)
    assert (letter.cause, letter.attempts) == (pb.CAUSE_MAX_ATTEMPTS, 2)
    assert (letter.reason, letter.error_type) == ("", "")
    wait_for(lambda: is_over(client, stream))


def test_many_attempts_at_once(client: Client, unique: Unique) -> None:
    """However many events are retried together, each is one attempt of a client that has room."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, attempts=5)
    for number in range(400):
        client.publish(f"{stream}.x", str(number))
    with subscribed(client, stream, window=1000) as call:
        reject(call, *(event.id for event in call.events(400)))
        assert {event.delivery_attempt for event in call.events(400)} == {2}


def test_no_attempt_but_those_that_a_client_saw(client: Client, unique: Unique) -> None:
    """Events for which replays leave no room wait until there is some."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, attempts=1)
    for number in range(40):
        client.publish(f"{stream}.x", str(number))
    with subscribed(client, stream, window=40) as call:
        reject(call, *(event.id for event in call.events(40)))
        replay(client, *(letter.id for letter in listed(client, stream)))
        replayed = [event.id for event in call.events(40)]
        later = [client.publish(f"{stream}.x", "later") for _ in range(40)]
        call.nothing()
        ack(call, *replayed)
        assert sorted(event.id for event in call.events(40)) == later
        ack(call, *later)
    assert listed(client, stream) == []


def test_headers_of_other_programs(client: Client, nats_server: NatsServer, stream: str) -> None:
    """They are kept; those that would control NATS are not, nor do they do anything to the dead letter."""
    headers = {
        "Other": "täxt",
        "Nats-Msg-Id": "k",
        "Nats-Expected-Stream": stream,
        "Nats-Rollup": "sub",
        "Nats-TTL": "1s",
    }
    asyncio.run(publish_foreign(nats_server, f"{stream}.x", headers))
    with subscribed(client, stream) as call:
        seq = call.event().id
        reject(call, seq, permanently=True)
    (letter,) = listed(client, stream)
    assert dict(letter.other_headers) == {"Other": "täxt"}
    assert letter.event.headers.idempotency_key == "k"


async def publish_foreign(nats_server: NatsServer, subject: str, headers: dict[str, str]) -> None:
    """Publish as a program does that knows nothing of Windshift."""
    async with connect(nats_server.url) as broker:
        info = await broker.api.stream_info(subject.partition(".")[0], in_seconds(30))
        config = info["config"] | {"allow_rollup_hdrs": True, "allow_msg_ttl": True}
        await broker.api.call(f"STREAM.UPDATE.{config['name']}", config, in_seconds(30))
        await broker.publish(subject, b"data", headers)


def test_the_largest_event(own_client: Client, own_nats_server: NatsServer) -> None:
    """An event that fills a message of NATS is kept whole, though its dead letter says more than it did."""
    stream = own_client.ensure_stream("s")
    consumer(own_client, stream)
    text = "y" * (1024 * 1024 - 200)
    own_client.publish(f"{stream}.x", text)
    with subscribed(own_client, stream) as call:
        call.event()
        reject(call, 1, permanently=True, reason="ü" * 1024)
    (letter,) = listed(own_client, stream)
    assert text_of(letter.event.data) == text
    assert letter.reason == "ü" * 1024
    replay(own_client, letter.id)
    with subscribed(own_client, stream) as call:
        assert text_of(call.event().data) == text
        ack(call, 1)
    assert listed(own_client, stream) == []
    assert ask(own_client, "Purge", pb.PurgeRequest(filter=pb.Filter())).purged == 0
    assert [subject for subject in asyncio.run(kept(own_nats_server)) if "claim" not in subject] == []


async def messages(nats_server: NatsServer, stream: str) -> int:
    """Count what a stream holds."""
    async with connect(nats_server.url) as broker:
        return await broker.messages(stream)


async def kept(nats_server: NatsServer) -> list[str]:
    """Return the subjects of what the stream of dead letters holds."""
    async with connect(nats_server.url) as broker:
        found = broker.api.subjects("WS_DEAD_LETTERS", ">", in_seconds(30))
        return [subject async for some in found for subject in some]


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_streams_that_remove_what_is_settled(
    client: Client, nats_server: NatsServer, unique: Unique, retention: str
) -> None:
    """The dead letter holds the event when the stream has removed it, and can be replayed."""
    stream = unique()
    asyncio.run(make_stream(nats_server, stream, retention))
    deliver_all = {"from": {"start": True}} if retention == "workqueue" else {}
    policy = {"max_attempts": 1}
    ensure_consumer(client, stream, name="c", retry_policy=policy, **deliver_all)
    client.publish(f"{stream}.x", "kept")
    with subscribed(client, stream) as call:
        call.event()
        reject(call, 1, reason="bad")
        wait_for(lambda: asyncio.run(messages(nats_server, stream)) == 0)
        (letter,) = listed(client, stream)
        assert text_of(letter.event.data) == "kept"
        replay(client, letter.id)
        again = call.event(15)
        assert (again.id, again.delivery_attempt, text_of(again.data)) == (1, 1, "kept")
        ack(call, 1)
    assert listed(client, stream) == []


async def make_stream(nats_server: NatsServer, name: str, retention: str) -> None:
    """Make a stream as only NATS's own tools can."""
    async with connect(nats_server.url) as broker:
        await broker.stream(name, retention=retention)


def test_delays_on_the_last_attempt(client: Client, stream: str) -> None:
    """A reject that names a delay gives up too when no attempt is left."""
    client.publish(f"{stream}.x")
    with subscribed(client, stream) as call:
        call.event()
        reject(call, 1, delay=seconds(0))
        call.event()
        reject(call, 1, delay=seconds(0), reason="late")
    assert [letter.reason for letter in listed(client, stream)] == ["late"]


# Where dead letters cannot be kept


@contextmanager
def no_room(nats_server: NatsServer) -> Iterator[None]:
    """Let the stream of dead letters take nothing for the length of a block."""
    asyncio.run(limit(nats_server, 1))
    yield
    asyncio.run(limit(nats_server, -1))


async def limit(nats_server: NatsServer, max_bytes: int) -> None:
    """Limit the stream of dead letters."""
    async with connect(nats_server.url) as broker:
        info = await broker.api.stream_info("WS_DEAD_LETTERS", in_seconds(30))
        config = info["config"] | {"max_bytes": max_bytes}
        await broker.api.call("STREAM.UPDATE.WS_DEAD_LETTERS", config, in_seconds(30))


def test_a_full_stream_of_dead_letters(own_client: Client, own_nats_server: NatsServer) -> None:
    """The client is told that the reject has failed; the event is retried, and kept once there is room."""
    stream = own_client.ensure_stream("s")
    consumer(own_client, stream, processing_timeout="0.75s")
    kill_off(own_client, stream)
    with no_room(own_nats_server), subscribed(own_client, stream) as call:
        seq = own_client.publish(f"{stream}.x", "precious")
        assert call.event().id == seq
        call.reject(seq, permanently=True)
        assert call.told() == ("reject", [], [], [seq])
        assert call.event().delivery_attempt == 2
        reads = len(listed(own_client, stream))
        assert reads == 1
        assert not is_over(own_client, stream)
    with subscribed(own_client, stream):
        wait_for(lambda: len(listed(own_client, stream)) == 2)
    letter = listed(own_client, stream)[1]
    assert (letter.cause, text_of(letter.event.data)) == (pb.CAUSE_MAX_ATTEMPTS, "precious")
    wait_for(lambda: is_over(own_client, stream))


def test_a_missing_stream_of_dead_letters(own_client: Client, own_nats_server: NatsServer) -> None:
    """It is made again, and nothing is lost."""
    stream = own_client.ensure_stream("s")
    consumer(own_client, stream)
    kill_off(own_client, stream)
    delete_stream(own_nats_server, "WS_DEAD_LETTERS")
    letter = kill_off(own_client, stream)
    assert (letter.event.id, len(listed(own_client, stream))) == (2, 1)
