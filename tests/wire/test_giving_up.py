"""From a consumer that gives up on an event, by way of its dead letter, back to that consumer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

from tests.support.broker import connect, in_seconds
from tests.support.client import Client, any_of, text_of
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import ask, delete_stream, listed, watching
from tests.wire.consuming import Call, seconds, subscribed
from tests.wire.management import ensure_consumer, get_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift.server.telemetry.log_text import fields_of

Unique = Callable[[], str]

RETRY = events_pb.EventsRequest.REJECT_ACTION_RETRY
DEAD_LETTER = events_pb.EventsRequest.REJECT_ACTION_DEAD_LETTER
DROP = events_pb.EventsRequest.REJECT_ACTION_DROP

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
TIMES: Any = {"initial_backoff": "0.001s", "max_backoff": "0.05s"}


def consumer(client: Client, stream: str, name: str = "c", attempts: int = 2, **fields: Any) -> None:
    """Ensure a consumer of all events, with dead letters."""
    policy = {"max_attempts": attempts, **TIMES, **fields.pop("policy", {})}
    ensure_consumer(client, stream, name=name, **{"from": {"start": True}, "retry_policy": policy, **fields})


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c`` of two attempts and dead letters."""
    name = client.ensure_stream(unique())
    consumer(client, name)
    return name


def reject(call: Call, *ids: int, **fields: Any) -> None:
    """Reject events, and see it confirmed."""
    call.reject(*ids, **fields)
    assert call.told() == ("reject", sorted(ids), [], [])


def ack(call: Call, *ids: int) -> None:
    """Acknowledge events, and see it confirmed."""
    call.ack(*ids)
    assert call.told() == ("ack", sorted(ids), [], [])


def kill_off(client: Client, stream: str, **fields: Any) -> pb.DeadLetter:
    """Publish an event, and have it become a dead letter of ``c``; give that."""
    seq = client.publish(f"{stream}.x", "poison", **fields)
    with subscribed(client, stream) as call:
        assert call.event().id == seq
        reject(call, seq, action=DEAD_LETTER, reason="bad", error_type="Bad")
    (letter,) = [each for each in listed(client, stream) if each.event.id == seq]
    return letter


def replay(client: Client, *ids: str) -> None:
    """Replay dead letters."""
    assert ask(client, "Replay", pb.ReplayRequest(ids=ids)).replayed == len(ids)


def is_over(client: Client, stream: str) -> bool:
    """Tell whether a consumer has nothing to do."""
    seen = get_consumer(client, stream)
    return (seen.pending, seen.unsettled) == (0, 0)


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
    consumer(client, stream, processing_timeout="0.2s")
    client.publish(f"{stream}.x")
    with subscribed(client, stream) as call:
        assert [event.delivery_attempt for event in call.events(2)] == [1, 2]
        wait_for(lambda: listed(client, stream))
    (letter,) = listed(client, stream)
    assert (letter.cause, letter.attempts) == (pb.CAUSE_MAX_ATTEMPTS, 2)
    assert (letter.reason, letter.error_type) == ("", "")
    assert is_over(client, stream)


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
        info = await broker.api.stream_info(subject.partition(".")[0], in_seconds(5))
        config = info["config"] | {"allow_rollup_hdrs": True, "allow_msg_ttl": True}
        await broker.api.call(f"STREAM.UPDATE.{config['name']}", config, in_seconds(5))
        await broker.replies.request(subject, b"data", headers, in_seconds(5))


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
    assert asyncio.run(messages(own_nats_server, "WS_DEAD_LETTERS")) == 0


async def messages(nats_server: NatsServer, stream: str) -> int:
    """Count what a stream holds."""
    async with connect(nats_server.url) as broker:
        return await broker.messages(stream)


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_streams_that_remove_what_is_settled(
    client: Client, nats_server: NatsServer, unique: Unique, retention: str
) -> None:
    """The dead letter holds the event when the stream has removed it, and can be replayed."""
    stream = unique()
    asyncio.run(make_stream(nats_server, stream, retention))
    deliver_all = {"from": {"start": True}} if retention == "workqueue" else {}
    policy = {"max_attempts": 1, **TIMES}
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
        info = await broker.api.stream_info("WS_DEAD_LETTERS", in_seconds(5))
        config = info["config"] | {"max_bytes": max_bytes}
        await broker.api.call("STREAM.UPDATE.WS_DEAD_LETTERS", config, in_seconds(5))


def test_a_full_stream_of_dead_letters(own_client: Client, own_nats_server: NatsServer) -> None:
    """The client is told that the reject has failed; the event is retried, and kept once there is room."""
    stream = own_client.ensure_stream("s")
    consumer(own_client, stream, processing_timeout="0.5s")
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


# Replays


def test_a_replay(client: Client, stream: str) -> None:
    """The event comes as it was, with attempts counted anew; acknowledged, its dead letter is gone."""
    letter = kill_off(client, stream, idempotency_key="k", metadata=(("traceparent", PARENT),))
    with subscribed(client, stream) as call:
        call.nothing(0.1)
        replay(client, letter.id)
        event = call.event(15)
        assert event.delivery_attempt == 1
        event.delivery_attempt = letter.event.delivery_attempt
        assert event == letter.event
        assert listed(client, stream)[0].replaying
        ack(call, event.id)
        assert listed(client, stream) == []
        call.nothing()
        assert ask(client, "Replay", pb.ReplayRequest(ids=[letter.id])).missing_ids == [letter.id]


def test_a_replay_without_a_subscriber(client: Client, stream: str) -> None:
    """It waits for one."""
    letter = kill_off(client, stream)
    replay(client, letter.id)
    with subscribed(client, stream) as call:
        assert call.event(15).id == letter.event.id
        ack(call, letter.event.id)
    assert listed(client, stream) == []


def test_only_the_consumer_that_failed(client: Client, stream: str) -> None:
    """Others of the same stream see nothing of a replay, whether they had the event or gave up on it too."""
    for name in ("had", "failed"):
        consumer(client, stream, name)
    letter = kill_off(client, stream)
    with (
        subscribed(client, stream, consumer="had") as had,
        subscribed(client, stream, consumer="failed") as b,
    ):
        assert had.event().id == b.event().id == 1
        ack(had, 1)
        reject(b, 1, permanently=True)
        with subscribed(client, stream) as call:
            replay(client, letter.id)
            assert call.event(15).id == 1
            had.nothing()
            b.nothing()
            ack(call, 1)
    assert [each.consumer for each in listed(client, stream)] == ["failed"]


def test_at_the_same_time(client: Client, stream: str) -> None:
    """However many ask for a replay at once, the event is delivered once."""
    letter = kill_off(client, stream)
    request = pb.ReplayRequest(ids=[letter.id])
    with subscribed(client, stream) as call:
        threads = [Thread(target=ask, args=(client, "Replay", request)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert call.event(15).id == 1
        call.nothing(0.5)
        ack(call, 1)
    assert listed(client, stream) == []


def test_a_replay_that_fails(client: Client, stream: str) -> None:
    """The dead letter comes back under its id, says how often that was, and can be replayed again."""
    letter = kill_off(client, stream)
    with watching(client, stream) as watch, subscribed(client, stream) as call:
        for count in (1, 2):
            replay(client, letter.id)
            assert call.event(15).delivery_attempt == 1
            reject(call, 1, reason="again", action=RETRY)
            assert call.event(15).delivery_attempt == 2
            reject(call, 1, reason=f"replay {count}")
            (again,) = listed(client, stream)
            assert (again.id, again.replay_count, again.attempts) == (letter.id, count, 2)
            assert (again.reason, again.cause) == (f"replay {count}", pb.CAUSE_MAX_ATTEMPTS)
            assert text_of(again.event.data) == "poison"
            assert watch.next().dead_letter == again
            wait_for(lambda: not listed(client, stream)[0].replaying)
        call.nothing()


def test_a_replay_that_is_dropped(client: Client, stream: str) -> None:
    """The subscriber does not want it kept, so the dead letter goes."""
    letter = kill_off(client, stream)
    with subscribed(client, stream) as call:
        replay(client, letter.id)
        call.event(15)
        reject(call, 1, action=DROP)
    assert listed(client, stream) == []


def test_a_replay_whose_subscriber_goes_away(client: Client, stream: str) -> None:
    """The next one gets it, as the next attempt."""
    letter = kill_off(client, stream)
    with subscribed(client, stream) as call:
        replay(client, letter.id)
        assert call.event(15).delivery_attempt == 1
    with subscribed(client, stream) as call:
        assert call.event(15).delivery_attempt == 2
        ack(call, 1)
    assert listed(client, stream) == []


def test_a_purge_before_the_replay_is_delivered(client: Client, stream: str) -> None:
    """Then there is nothing to deliver."""
    letter = kill_off(client, stream)
    replay(client, letter.id)
    assert ask(client, "Purge", pb.PurgeRequest(ids=[letter.id])).purged == 1
    with subscribed(client, stream) as call:
        call.nothing(1)


def test_an_event_that_its_stream_has_removed(client: Client, stream: str) -> None:
    """A dead letter does not need the stream's copy."""
    letter = kill_off(client, stream)
    client.ensure_stream(stream, retention_policy={"max_events": 1})
    seq = client.publish(f"{stream}.x", "next")
    replay(client, letter.id)
    with subscribed(client, stream) as call:
        texts = {event.id: text_of(event.data) for event in (call.event(15), call.event(15))}
        assert texts == {letter.event.id: "poison", seq: "next"}
        ack(call, letter.event.id)
        ack(call, seq)
    assert listed(client, stream) == []


def test_pings_and_timeouts_of_replays(client: Client, unique: Unique) -> None:
    """A replayed event may be pinged, and comes again when it is not settled in time."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, processing_timeout="0.5s")
    letter = kill_off(client, stream)
    replay(client, letter.id)
    with subscribed(client, stream) as call:
        assert call.event(15).delivery_attempt == 1
        call.ping(1)
        assert call.told() == ("ping", [1], [], [])
        assert call.event(15).delivery_attempt == 2
        ack(call, 1)
    assert listed(client, stream) == []


def test_replays_go_beside_the_others(client: Client, stream: str) -> None:
    """New events are delivered all the while, and all that was replayed is."""
    letters = [kill_off(client, stream) for _ in range(10)]
    with subscribed(client, stream) as call:
        replay(client, *(letter.id for letter in letters))
        new = [client.publish(f"{stream}.x", "new") for _ in range(10)]
        seen: list[int] = []
        while len(seen) < 20:
            event = call.event(15)
            ack(call, event.id)
            seen.append(event.id)
        assert sorted(seen) == sorted([*new, *(letter.event.id for letter in letters)])
    assert listed(client, stream) == []


def test_ephemeral_consumers(client: Client, unique: Unique) -> None:
    """They have dead letters too, as long as somebody wants them."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.x")
    fields: Any = {"from": {"start": True}, "retry_policy": {"max_attempts": 1}}
    name = ensure_consumer(client, stream, **fields)
    with subscribed(client, stream, consumer=name) as call:
        call.event()
        reject(call, 1)
        (letter,) = listed(client, stream)
        assert letter.consumer == name
        replay(client, letter.id)
        assert call.event(15).id == 1
        ack(call, 1)


def test_unknown_types(client: Client, stream: str) -> None:
    """Data that nobody could decode is kept and replayed as it is."""
    data = any_of("")
    data.type_url, data.value = "type.googleapis.com/acme.v1.Unknown", b"\xff\x00\xfe"
    seq = client.publish(f"{stream}.x", data=data)
    with subscribed(client, stream) as call:
        call.event()
        reject(call, seq, permanently=True)
        (letter,) = listed(client, stream)
        assert letter.event.data == data
        replay(client, letter.id)
        assert call.event(15).data == data


def test_delays_on_the_last_attempt(client: Client, stream: str) -> None:
    """A reject that names a delay gives up too when no attempt is left."""
    client.publish(f"{stream}.x")
    with subscribed(client, stream) as call:
        call.event()
        reject(call, 1, delay=seconds(0))
        call.event()
        reject(call, 1, delay=seconds(0), reason="late")
    assert [letter.reason for letter in listed(client, stream)] == ["late"]


def test_replays_that_fail_at_once(client: Client, unique: Unique) -> None:
    """A call that replays all does not take on those again that come back while it goes on."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, attempts=1)
    for _ in range(10):
        kill_off(client, stream)
    done: list[pb.ReplayResponse] = []
    request = pb.ReplayRequest(filter=pb.Filter(stream=stream), rate=10)
    thread = Thread(target=lambda: done.append(ask(client, "Replay", request)))
    with subscribed(client, stream) as call:
        thread.start()
        for _ in range(10):
            reject(call, call.event(15).id)
        thread.join()
        call.nothing(0.3)
    assert done == [pb.ReplayResponse(replayed=10)]
    assert [letter.replay_count for letter in listed(client, stream)] == [1] * 10
