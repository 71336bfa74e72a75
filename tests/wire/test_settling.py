"""What acks, rejects and pings do and how they are confirmed, as a client in the field sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.broker import connect, in_seconds
from tests.support.client import Client
from tests.support.nats_server import NatsServer
from tests.wire.consuming import Call, calling, ensure_consumer, seconds, subscribed
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]

KINDS = ["ack", "reject", "ping"]
UNKNOWN = [0, 6, 2**31, 2**63, 2**64 - 1]


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream of five events, and a consumer ``c`` of all of them."""
    return five_events(client, unique())


def five_events(client: Client, stream: str, timeout: float | None = None) -> str:
    """Make a stream of five events, and a consumer ``c`` of all of them."""
    client.ensure_stream(stream)
    ensure_consumer(client, stream, timeout=timeout)
    for _ in range(5):
        client.publish(f"{stream}.x")
    return stream


def send(call: Call, kind: str, *ids: int, **fields: Any) -> None:
    """Send a command of any kind."""
    call.say(**{kind: {"ids": ids, **fields}})


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_nobody_was_given(client: Client, stream: str, kind: str) -> None:
    """Ids that this call does not hold are invalid, whatever number they are, and harm no others."""
    with subscribed(client, stream) as call:
        call.events(5)
        send(call, kind, *UNKNOWN, 1)
        assert call.told() == (kind, [1], UNKNOWN, [])


@pytest.mark.parametrize("kind", KINDS)
def test_no_ids(client: Client, stream: str, kind: str) -> None:
    """A command about nothing is confirmed too, and in its turn."""
    with subscribed(client, stream) as call:
        call.events(5)
        send(call, kind)
        call.ack(1)
        send(call, kind)
        assert [call.told() for _ in range(3)] == [
            (kind, [], [], []),
            ("ack", [1], [], []),
            (kind, [], [], []),
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_named_twice(client: Client, stream: str, kind: str) -> None:
    """An id counts once in a command, valid or not."""
    with subscribed(client, stream) as call:
        call.events(5)
        send(call, kind, 2, 9, 2, 1, 9, 2)
        assert call.told() == (kind, [1, 2], [9], [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("settle", "fields"), [("ack", {}), ("reject", {"permanently": True})])
def test_settled_events(client: Client, stream: str, kind: str, settle: str, fields: dict[str, Any]) -> None:
    """What was settled is no longer the call's, be the settlement confirmed yet or not."""
    with subscribed(client, stream) as call:
        call.events(5)
        send(call, settle, 1, **fields)
        send(call, kind, 1, 2)
        assert call.told() == (settle, [1], [], [])
        assert call.told() == (kind, [2], [1], [])
        send(call, kind, 1)
        assert call.told() == (kind, [], [1], [])


@pytest.mark.parametrize("kind", KINDS)
def test_events_of_other_calls(client: Client, stream: str, kind: str) -> None:
    """A call settles what it was handed and nothing else."""
    with subscribed(client, stream, 1) as one, subscribed(client, stream, 1) as other:
        mine, theirs = one.event().id, other.event().id
        send(one, kind, theirs)
        assert one.told() == (kind, [], [theirs], [])
        other.ack(theirs)
        assert other.told() == ("ack", [theirs], [], [])
        one.ack(mine)
        assert one.told() == ("ack", [mine], [], [])


@pytest.mark.parametrize("kind", KINDS)
def test_events_whose_timeout_passed(client: Client, unique: Unique, kind: str) -> None:
    """A delivery that timed out is invalid, and whoever was handed the next one settles the event."""
    stream = five_events(client, unique(), timeout=1.0)
    with subscribed(client, stream, 5) as late:
        late.events(5)
        with subscribed(client, stream) as other:
            event = other.event()
            assert event.delivery_attempt == 2
            send(late, kind, event.id)
            assert late.told() == (kind, [], [event.id], [])
            other.ack(event.id)
            assert other.told() == ("ack", [event.id], [], [])


@pytest.mark.parametrize(
    "fields",
    [{"delay": seconds(0)}, {"delay": seconds(1e-9), "permanently": False}],
)
def test_rejects_at_once(client: Client, stream: str, fields: dict[str, Any]) -> None:
    """With no delay to speak of a rejected event comes again at once, and its attempts are counted."""
    with subscribed(client, stream) as call:
        call.events(5)
        for attempt in range(2, 12):
            call.reject(3, **fields)
            assert call.told() == ("reject", [3], [], [])
            event = call.event()
            assert (event.id, event.delivery_attempt) == (3, attempt)


def test_the_longest_delay(client: Client, stream: str) -> None:
    """A delay of 146 years is kept, so far; the next nanosecond is beyond what the broker can count to."""
    with subscribed(client, stream) as call:
        call.events(5)
        longest = pb.EventsRequest.Reject(ids=[1])
        longest.delay.seconds, longest.delay.nanos = divmod(1 << 62, 10**9)
        call.say(reject=longest)
        assert call.told() == ("reject", [1], [], [])
        call.nothing(0.1)
        longest.delay.nanos += 1
        call.say(reject=longest)
        refusal = call.end()
        assert refusal is not None
        assert refusal.fields == ("reject.delay",)


def test_as_many_ids_as_a_window_has(client: Client, stream: str) -> None:
    """Ten thousand ids in one command are fine."""
    with subscribed(client, stream, 10_000) as call:
        call.events(5)
        call.ack(*range(10_000))
        assert call.told() == ("ack", [1, 2, 3, 4, 5], [0, *range(6, 10_000)], [])


def test_what_the_broker_does_not_answer(own_client: Client, own_nats_server: NatsServer) -> None:
    """After five seconds without an answer an id has failed for now, in its turn; it may be tried again."""
    five_events(own_client, "S")
    with subscribed(own_client, "S") as call:
        call.events(5)
        own_nats_server.freeze()
        call.ack(1)
        call.ping(2, 9)
        assert call.told() == ("ack", [], [], [1])
        assert call.told() == ("ping", [], [9], [2])
        own_nats_server.thaw()
        call.ack(1, 2)
        assert call.told() == ("ack", [1, 2], [], [])


def test_a_second_subscription_whatever_it_is(client: Client, stream: str) -> None:
    """A second `subscribe`, malformed or not, ends the call after what was asked before is confirmed."""
    for second in ({"stream": stream, "consumer": "c"}, {}):
        with subscribed(client, stream) as call:
            call.events(1)
            call.ack(9)
            call.say(subscribe=second)
            refusal = call.end()
            assert refusal is not None
            assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "ALREADY_SUBSCRIBED")
            assert call.told() == ("ack", [], [9], [])


def test_a_deleted_stream(client: Client, stream: str, nats_server: NatsServer) -> None:
    """Calls that consume from a stream that is deleted end with NOT_FOUND, which names it."""
    with subscribed(client, stream) as call:
        call.events(5)
        delete_stream(nats_server, stream)
        refusal = call.end()
        assert refusal is not None
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "STREAM_NOT_FOUND")
        assert refusal.metadata == {"name": stream}


def test_a_full_window_whose_consumer_is_gone(client: Client, stream: str, nats_server: NatsServer) -> None:
    """A call that asks the broker for nothing more learns from its next command that all is gone."""
    with subscribed(client, stream, 1) as call:
        call.event()
        delete_stream(nats_server, stream)
        call.ping(1)
        assert call.told() == ("ping", [], [], [1])
        refusal = call.end()
        assert refusal is not None
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "STREAM_NOT_FOUND")


def delete_stream(nats_server: NatsServer, stream: str) -> None:
    """Delete a stream behind the server's back."""
    asyncio.run(_delete(nats_server, stream))


async def _delete(nats_server: NatsServer, stream: str) -> None:
    async with connect(nats_server.url) as broker:
        await broker.api.call(f"STREAM.DELETE.{stream}", None, in_seconds(30))


@pytest.mark.parametrize("method", ["Events", "Consume"])
def test_subscribe_and_half_close(client: Client, stream: str, method: str) -> None:
    """A client that ends its side right after it subscribed is answered, and the call ends with OK."""
    with calling(client, method) as call:
        call.say(subscribe={"stream": stream, "consumer": "c"})
        call.half_close()
        assert call.end() is None
        assert call.subscribed.get(timeout=30) == 30
