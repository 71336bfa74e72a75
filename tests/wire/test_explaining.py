"""``ExplainEvent``: how an event stands at each consumer, and why it is not delivered where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.wire import burying, management
from tests.wire.consuming import ensure_consumer, seconds, subscribed
from tests.wire.looking import ask
from tests.wire.test_servers import wait_for_servers
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as pb
from windshift.server.admin.explaining import MOST_CONSUMERS

R = pb.ExplainEventResponse
Unique = Callable[[], str]


def explained(client: Client, stream: str, id: int, consumer: str = "c") -> Any:  # noqa: A002 -- the field's name
    """Give how an event stands at one consumer."""
    (found,) = ask(client, "ExplainEvent", stream=stream, id=id, consumer=consumer).consumers
    return found


def test_who_gets_it_and_who_does_not(client: Client, unique: Unique) -> None:
    """Filters, the place where a consumer begins, pauses, and nobody who is subscribed."""
    stream = unique()
    client.ensure_stream(stream)
    client.publish(f"{stream}.a")
    ensure_consumer(client, stream, "all")
    for name, fields in (
        ("late", {}),
        ("other", {"subjects": [f"{stream}.b.>"], "from": {"start": True}}),
        ("paused", {"from": {"start": True}}),
    ):
        management.ensure_consumer(client, stream, name=name, **fields)
    ask(client, "PauseConsumer", stream=stream, consumer="paused", until="2100-01-01T00:00:00Z")
    found = ask(client, "ExplainEvent", stream=stream, id=1)
    assert (found.presence, found.subject, found.first_id, found.last_id) == (
        R.PRESENCE_HELD,
        f"{stream}.a",
        1,
        1,
    )
    assert found.stored == ask(client, "GetEvent", stream=stream, id=1).event.stored
    assert not found.removals
    assert [(each.name, each.state, list(each.hindrances)) for each in found.consumers] == [
        ("all", R.STATE_PENDING, [R.HINDRANCE_NO_SUBSCRIBER]),
        ("late", R.STATE_BEFORE_START, []),
        ("other", R.STATE_FILTERED_OUT, []),
        ("paused", R.STATE_PENDING, [R.HINDRANCE_PAUSED, R.HINDRANCE_NO_SUBSCRIBER]),
    ]
    assert found.consumers[3].paused_until.seconds == 4_102_444_800
    one = ask(client, "ExplainEvent", stream=stream, id=1, consumer="late")
    assert list(one.consumers) == [found.consumers[1]]


def test_from_delivery_to_settlement(client: Client, unique: Unique) -> None:
    """Who holds an event and until when, when it comes again, and that it is settled."""
    stream = unique()
    client.ensure_stream(stream)
    ensure_consumer(client, stream)
    for _ in range(2):
        client.publish(f"{stream}.a")
    with subscribed(client, stream, window=1) as call:
        call.events(1)
        held, next_one = explained(client, stream, 1), explained(client, stream, 2)
        assert (held.state, held.attempts, held.subscriptions) == (R.STATE_HELD, 1, 1)
        (holder,) = held.holders
        assert holder.server == ask(client, "GetServer").server.id
        assert holder.peer.startswith("127.0.0.1:")
        assert holder.attempt == 1
        assert 0 < holder.until.seconds - time.time() < 60
        assert (next_one.state, list(next_one.hindrances)) == (
            R.STATE_PENDING,
            [R.HINDRANCE_WINDOWS_FULL],
        )
        call.ack(1)
        call.told()
        call.events(1)
        settled = explained(client, stream, 1)
        assert (settled.state, settled.settled_to, settled.delivered_to) == (R.STATE_SETTLED, 1, 2)
        call.reject(2, delay=seconds(3600), reason="no stock")
        call.told()
        waiting = explained(client, stream, 2)
        assert (waiting.state, waiting.attempts, waiting.reason) == (R.STATE_WAITING, 1, "no stock")
        assert 3500 < waiting.next_attempt.seconds - time.time() < 3700
        assert not waiting.hindrances
    assert explained(client, stream, 2).state == R.STATE_WAITING


def test_dead_letters(client: Client, unique: Unique) -> None:
    """An event that was given up on is told as its dead letter; while that is replayed, as that."""
    stream = unique()
    client.ensure_stream(stream)
    policy = {"dead_letters": True}
    management.ensure_consumer(client, stream, name="c", retry_policy=policy, **{"from": {"start": True}})
    client.publish(f"{stream}.a")
    with subscribed(client, stream) as call:
        call.events(1)
        call.reject(1, permanently=True, reason="poison")
        call.told()
    given_up = explained(client, stream, 1)
    assert (given_up.state, given_up.attempts, given_up.reason) == (R.STATE_DEAD_LETTER, 1, "poison")
    assert given_up.dead_letter.startswith(f"{stream}.c.1.")
    burying.replay(client, given_up.dead_letter)
    again = explained(client, stream, 1)
    assert (again.state, list(again.hindrances)) == (R.STATE_REPLAYING, [R.HINDRANCE_NO_SUBSCRIBER])
    with subscribed(client, stream) as call:
        call.events(1)
        assert explained(client, stream, 1).state == R.STATE_HELD
        call.ack(1)
        call.told()
    assert explained(client, stream, 1).state == R.STATE_SETTLED


def test_events_that_are_not_there(client: Client, unique: Unique) -> None:
    """What may have removed an event is told; an id that was not given yet is told as that."""
    stream = unique()
    management.ensure_stream(client, stream, retention_policy={"max_age": "3600s", "max_events": 1})
    ensure_consumer(client, stream)
    for _ in range(2):
        client.publish(f"{stream}.a")
    found = ask(client, "ExplainEvent", stream=stream, id=1)
    assert (found.presence, found.first_id, found.subject) == (R.PRESENCE_REMOVED, 2, "")
    assert list(found.removals) == [R.REMOVAL_BY_HAND, R.REMOVAL_MAX_AGE, R.REMOVAL_MAX_EVENTS]
    assert [each.state for each in found.consumers] in ([R.STATE_REMOVED], [R.STATE_SETTLED])
    found = ask(client, "ExplainEvent", stream=stream, id=3)
    assert (found.presence, list(found.consumers), found.last_id) == (R.PRESENCE_NOT_YET, [], 2)


def test_other_servers(own_nats_server: NatsServer, own_client: Client) -> None:
    """What another server knows of the event is told too, of attempts that failed there as well."""
    own_client.ensure_stream("S")
    ensure_consumer(own_client, "S")
    own_client.publish("S.a")
    with running_app(own_nats_server.url) as address:
        other = Client(address)
        wait_for_servers(own_client, {ask(each, "GetServer").server.id for each in (own_client, other)})
        with subscribed(other, "S") as call:
            call.events(1)
            (holder,) = explained(own_client, "S", 1).holders
            assert holder.server == ask(other, "GetServer").server.id
            call.reject(1, delay=seconds(3600), reason="later")
            call.told()
            waiting = explained(own_client, "S", 1)
            assert (waiting.state, waiting.reason) == (R.STATE_WAITING, "later")
        other.channel.close()


def test_moved_consumers(client: Client, unique: Unique) -> None:
    """A consumer that was moved behind an event says so; dead letters of before count for nothing."""
    stream = unique()
    client.ensure_stream(stream)
    ensure_consumer(client, stream)
    for _ in range(2):
        client.publish(f"{stream}.a")
    ask(client, "SeekConsumer", stream=stream, consumer="c", to={"end": True})
    found = explained(client, stream, 1)
    assert found.state == R.STATE_SETTLED
    assert abs(found.moved.seconds - time.time()) < 60


@pytest.mark.parametrize("begun_anew", ["moved", "made"])
def test_attempts_of_before(client: Client, unique: Unique, begun_anew: str) -> None:
    """What failed before a consumer was moved, or one of its name was made, is not told of it, nor kept."""
    stream = unique()
    client.ensure_stream(stream)
    policy = {"max_attempts": 2, "dead_letters": True}
    consumer: dict[str, Any] = {"name": "c", "retry_policy": policy, "from": {"start": True}}
    management.ensure_consumer(client, stream, **consumer)
    client.publish(f"{stream}.a")
    with subscribed(client, stream) as call:
        call.events(1)
        call.reject(1, delay=seconds(3600), reason="no stock")
        call.told()
    assert explained(client, stream, 1).reason == "no stock"
    before = time.time_ns()
    if begun_anew == "moved":
        ask(client, "SeekConsumer", stream=stream, consumer="c", to={"start": True})
    else:
        management.delete_consumer(client, stream, "c")
        management.ensure_consumer(client, stream, **consumer)
    pending = explained(client, stream, 1)
    assert (pending.state, pending.attempts, pending.reason) == (R.STATE_PENDING, 0, "")
    with subscribed(client, stream) as call:
        call.events(1)
        call.reject(1, permanently=True)
        call.told()
    (letter,) = burying.listed(client, stream)
    assert letter.first_delivery.ToNanoseconds() > before


def test_many_consumers(client: Client, unique: Unique) -> None:
    """A stream may have more consumers than one answer tells of."""
    stream = unique()
    client.ensure_stream(stream)
    client.publish(f"{stream}.a")
    for number in range(MOST_CONSUMERS + 2):
        ensure_consumer(client, stream, f"c{number:03}")
    found = ask(client, "ExplainEvent", stream=stream, id=1)
    assert (len(found.consumers), found.left_out) == (MOST_CONSUMERS, 2)
    assert found.consumers[-1].name == f"c{MOST_CONSUMERS - 1:03}"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"id": 0}, ("INVALID_ARGUMENT", "INVALID_FIELD")),
        ({"id": 2**64 - 1}, ("INVALID_ARGUMENT", "INVALID_FIELD")),
        ({"id": 1, "consumer": "a.b"}, ("INVALID_ARGUMENT", "INVALID_FIELD")),
        ({"id": 1, "stream": "a b"}, ("INVALID_ARGUMENT", "INVALID_FIELD")),
        ({"id": 1, "stream": "ABSENT"}, ("NOT_FOUND", "STREAM_NOT_FOUND")),
        ({"id": 1, "consumer": "absent"}, ("NOT_FOUND", "CONSUMER_NOT_FOUND")),
    ],
)
def test_what_is_refused(
    client: Client, unique: Unique, fields: dict[str, Any], error: tuple[str, str]
) -> None:
    """Names and ids that cannot be, and what is not there."""
    stream = unique()
    client.ensure_stream(stream)
    client.publish(f"{stream}.a")
    with refused(*error):
        ask(client, "ExplainEvent", **{"stream": stream} | fields)
