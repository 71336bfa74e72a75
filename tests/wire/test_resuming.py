"""Deliveries that a client goes on with in another call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from threading import Event
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.support.app import running_app
from tests.support.client import EVENTS, Client
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.consuming import Call, calling, delete_consumer, ensure_consumer, seconds
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.nats.jetstream.pulling import Puller

Unique = Callable[[], str]


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c``."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name)
    return name


def publish(client: Client, stream: str, count: int = 1) -> None:
    """Publish events."""
    for _ in range(count):
        client.publish(f"{stream}.x", "text")


def give_up_after(client: Client, stream: str, attempts: int) -> None:
    """Have events become dead letters after so many attempts."""
    request = pb.EnsureConsumerRequest(stream=stream, name="c")
    request.retry_policy.max_attempts = attempts
    request.retry_policy.dead_letters = True
    getattr(request, "from").start = True
    client.call(EVENTS.methods_by_name["EnsureConsumer"], request)


def take(client: Client, stream: str, count: int, linger: float = 30) -> tuple[Call, list[pb.Event]]:
    """Make a call, and hold some events."""
    call = Call(client)
    call.subscribe(stream, "c", count, linger=linger)
    return call, call.events(count)


def tokens(events: Iterable[pb.Event]) -> list[bytes]:
    """Return the tokens of events."""
    return [event.token for event in events]


def test_tokens_are_asked_for(client: Client, stream: str) -> None:
    """Only a call that says how long things are to linger gets tokens, and is told that it does."""
    publish(client, stream)
    with calling(client) as call:
        call.subscribe(stream, "c")
        assert call.linger is None
        assert call.event().token == b""
    with calling(client) as call:
        call.subscribe(stream, "c", linger=1.5)
        assert call.linger == 1.5
        assert 16 < len(call.event().token) < 100


def test_a_call_that_breaks(client: Client, stream: str) -> None:
    """Another call of the client goes on with what it held: nobody else gets it, it is not sent again."""
    publish(client, stream, 3)
    broken, events = take(client, stream, 2)
    broken.cancel()
    with calling(client) as other, calling(client) as call:
        other.subscribe(stream, "c", linger=0)
        assert other.event().id == 3
        call.subscribe(stream, "c", resume=tokens(events))
        call.limit(0)
        call.ping(1, 2)
        assert call.told() == ("ping", [1, 2], [], [])
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
        call.reject(2)
        assert call.told() == ("reject", [2], [], [])
        again = other.event()
        assert (again.id, again.delivery_attempt) == (2, 2)


def test_what_is_not_resumed(client: Client, stream: str) -> None:
    """It lingers, and then comes as another attempt."""
    publish(client, stream, 2)
    broken, events = take(client, stream, 2, linger=8)  # in which a busy machine can resume
    with calling(client) as other:
        other.subscribe(stream, "c")
        lost_at = time.monotonic()
        broken.cancel()
        with calling(client) as call:
            call.subscribe(stream, "c", resume=[events[0].token])
            again = other.event()
            assert (again.id, again.delivery_attempt) == (2, 2)
            assert 7.8 < time.monotonic() - lost_at < 60
            call.ack(1)
            assert call.told() == ("ack", [1], [], [])
            other.nothing(0.1)


def test_what_is_resumed_while_its_call_still_ends(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call that ends lets it go: it does not come again."""
    is_ending, may_end, close = Event(), Event(), Puller.close

    async def close_late(puller: Puller) -> None:
        await close(puller)
        is_ending.set()
        while not may_end.is_set():  # noqa: ASYNC110 - it is set by another thread
            await asyncio.sleep(0.01)

    publish(client, stream)
    broken, events = take(client, stream, 1, linger=2)
    with calling(client) as call, calling(client) as other:
        other.subscribe(stream, "c")
        monkeypatch.setattr(Puller, "close", close_late)
        broken.cancel()
        assert is_ending.wait(30)
        call.subscribe(stream, "c", resume=tokens(events))
        call.ping(1)
        assert call.told() == ("ping", [1], [], [])
        may_end.set()
        other.nothing(2.5)
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])


def test_a_longer_linger_than_the_timeout(client: Client, unique: Unique) -> None:
    """The processing timeout does not end it."""
    stream = client.ensure_stream(unique())
    ensure_consumer(client, stream, timeout=0.7)
    publish(client, stream)
    broken, events = take(client, stream, 1)
    broken.cancel()
    with calling(client) as other:
        other.subscribe(stream, "c", linger=0)
        other.nothing(1.2)
        with calling(client) as call:
            call.subscribe(stream, "c", resume=tokens(events))
            call.ack(1)
            assert call.told() == ("ack", [1], [], [])
        other.nothing(0.9)


@pytest.mark.parametrize("how", ["half-close", "mistake", "no linger"])
def test_what_does_not_linger(client: Client, stream: str, how: str) -> None:
    """A call that its client ends, or ends by a mistake, releases at once, and so does one without linger."""
    publish(client, stream)
    call, _ = take(client, stream, 1, linger=0 if how == "no linger" else 30)
    match how:
        case "half-close":
            call.half_close()
        case "mistake":
            call.say()
        case _:
            call.cancel()
    with calling(client) as other:
        other.subscribe(stream, "c")
        again = other.event()
        assert (again.id, again.delivery_attempt) == (1, 2)


def test_a_drain(client: Client, stream: str, nats_server: NatsServer) -> None:
    """What a server that stops had delivered is gone on with on another one."""
    publish(client, stream, 3)
    with running_app(nats_server.url) as address:
        drained = Client(address)
        call, events = take(drained, stream, 3)
    refusal = call.end()
    assert refusal is not None
    assert refusal.reason == "SHUTTING_DOWN"
    with calling(client) as other, calling(client) as call:
        other.subscribe(stream, "c")
        call.subscribe(stream, "c", resume=tokens(events))
        call.ack(1, 2, 3)
        assert call.told() == ("ack", [1, 2, 3], [], [])
        other.nothing()


def test_a_call_that_goes_on(client: Client, stream: str, nats_server: NatsServer) -> None:
    """The call that held a delivery lets it go, on another server too, whether or not it knows of its end."""
    publish(client, stream, 2)
    with running_app(nats_server.url) as address:
        first, events = take(Client(address), stream, 2)
        with calling(client) as second:
            second.subscribe(stream, "c", linger=30, resume=tokens(events))
            second.ping(1, 2)
            assert second.told() == ("ping", [1, 2], [], [])
            first.ack(1)
            assert first.told() == ("ack", [], [1], [])
            with calling(client) as third:  # and so on
                third.subscribe(stream, "c", resume=tokens(events))
                third.ack(1)
                assert third.told() == ("ack", [1], [], [])
                second.ack(2)
                assert second.told() == ("ack", [], [2], [])
                third.ack(2)
                assert third.told() == ("ack", [2], [], [])


def test_a_token_is_used_twice(client: Client, stream: str) -> None:
    """In one subscription it counts once."""
    publish(client, stream)
    broken, (event,) = take(client, stream, 1)
    broken.cancel()
    with calling(client) as call:
        call.subscribe(stream, "c", 2, resume=[event.token, event.token])
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])


def test_what_is_settled(client: Client, stream: str) -> None:
    """It cannot be gone on with: its id is invalid."""
    publish(client, stream, 3)
    call, events = take(client, stream, 3)
    call.ack(2)
    assert call.told() == ("ack", [2], [], [])
    call.cancel()
    with calling(client) as other:
        other.subscribe(stream, "c", resume=tokens(events))
        other.ping(1, 2, 3)
        assert other.told() == ("ping", [1, 3], [2], [])


def test_what_somebody_else_has(client: Client, unique: Unique, nats_server: NatsServer) -> None:
    """A later attempt counts, on whichever server it is: the earlier one can neither end nor disturb it."""
    stream = client.ensure_stream(unique())
    ensure_consumer(client, stream)
    publish(client, stream)
    broken, events = take(client, stream, 1, linger=0.2)
    broken.cancel()
    with running_app(nats_server.url) as address, calling(Client(address)) as other:
        other.subscribe(stream, "c")
        assert other.event().delivery_attempt == 2
        with calling(client) as call:
            call.subscribe(stream, "c", resume=tokens(events))
            call.reject(1)
            assert call.told() == ("reject", [], [1], [])
        other.nothing()
        other.ack(1)
        assert other.told() == ("ack", [1], [], [])


def test_another_consumer(client: Client, stream: str) -> None:
    """A token is worth nothing to it, nor to a consumer that was made anew."""
    publish(client, stream)
    broken, events = take(client, stream, 1)
    broken.cancel()
    ensure_consumer(client, stream, "d")
    with calling(client) as call:
        call.subscribe(stream, "d", resume=tokens(events))
        event = call.event()
        assert event.delivery_attempt == 1
    delete_consumer(client, stream)
    ensure_consumer(client, stream)
    with calling(client) as call:
        call.subscribe(stream, "c", resume=tokens(events))
        assert call.event().delivery_attempt == 1


def test_a_changed_token(client: Client, stream: str) -> None:
    """It is worth nothing, whichever byte it is."""
    publish(client, stream)
    broken, (event,) = take(client, stream, 1)
    broken.cancel()
    changed = [
        event.token[:at] + bytes([event.token[at] ^ 1]) + event.token[at + 1 :]
        for at in range(len(event.token))
    ]
    with calling(client) as call:
        call.subscribe(stream, "c", len(changed), resume=changed)
        call.ping(1)
        assert call.told() == ("ping", [], [1], [])


@pytest.mark.parametrize("end", ["reject", "bury", "attempts"])
def test_the_last_attempt(client: Client, stream: str, end: str) -> None:
    """It stays the last: a reject makes a dead letter, once, and so does the next cut without resuming."""
    give_up_after(client, stream, 1)
    publish(client, stream)
    broken, events = take(client, stream, 1, linger=0.5 if end == "attempts" else 30)
    broken.cancel()
    with calling(client) as call:
        if end == "attempts":
            call.subscribe(stream, "c")
            call.nothing(1.5)
            wait_for(lambda: dead_letters(client, stream) == 1)
        else:
            call.subscribe(stream, "c", resume=tokens(events))
            call.reject(1, permanently=end == "bury")
            assert call.told() == ("reject", [1], [], [])
        assert dead_letters(client, stream) == 1
        call.nothing()


def dead_letters(client: Client, stream: str) -> int:
    """Count the dead letters of the consumer."""
    request = pb.GetConsumerRequest(stream=stream, id="c")
    found: pb.GetConsumerResponse = client.call(EVENTS.methods_by_name["GetConsumer"], request)
    return found.dead_letters


def test_what_is_a_dead_letter(client: Client, stream: str, nats_server: NatsServer) -> None:
    """Who goes on with an earlier attempt of it cannot end it otherwise."""
    give_up_after(client, stream, 5)
    publish(client, stream)
    broken, events = take(client, stream, 1, linger=0.2)
    broken.cancel()
    with running_app(nats_server.url) as address, calling(Client(address)) as other:
        other.subscribe(stream, "c")
        assert other.event().delivery_attempt == 2
        other.reject(1, permanently=True)
        assert other.told() == ("reject", [1], [], [])
        other.half_close()
        other.end()
    with calling(client) as call:
        call.subscribe(stream, "c", resume=tokens(events))
        call.ack(1)
        assert call.told() == ("ack", [], [1], [])
    assert dead_letters(client, stream) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"resume": [b""]}, "subscribe.resume"),
        ({"resume": [b"short"]}, "subscribe.resume"),
        ({"resume": [b"x" * 1025]}, "subscribe.resume"),
        ({"resume": [b"x" * 60] * 51}, "subscribe.resume"),
        ({"resume": [b"x" * 60] * 4, "max_processing_events": 3}, "subscribe.resume"),
        ({"resume": [b"x" * 60] * 5001, "max_processing_events": 6000}, "subscribe.resume"),
        ({"linger": seconds(60.001)}, "subscribe.linger"),
        ({"linger": Duration(seconds=-1)}, "subscribe.linger"),
        ({"linger": Duration(seconds=1, nanos=-1)}, "subscribe.linger"),
    ],
)
def test_malformed(client: Client, stream: str, fields: dict[str, Any], field: str) -> None:
    """What no server wrote, too many tokens, and too long a linger are refused."""
    with calling(client) as call:
        call.say(subscribe=pb.EventsRequest.Subscribe(stream=stream, consumer="c", **fields))
        refusal = call.end()
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": field}


def test_the_most_that_may_be_resumed(client: Client, stream: str) -> None:
    """Five thousand tokens fit into a request, and a linger of a minute is the longest."""
    with calling(client) as call:
        call.subscribe(stream, "c", 5_000, resume=[b"x" * 90] * 5_000, linger=60)
        assert call.linger == 60
