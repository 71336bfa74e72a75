"""How often and when events are tried again, as a client in the field sees it. No dead letters here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.broker import connect
from tests.support.client import Client
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.consuming import Call, seconds, subscribed
from tests.wire.management import ensure_consumer, ensure_stream, get_consumer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]

RETRY = pb.EventsRequest.REJECT_ACTION_RETRY
DROP = pb.EventsRequest.REJECT_ACTION_DROP

SLACK = 0.02
"""Seconds that a delay may seem shorter than it is: the broker's clock and ours are not read at once."""


def events(client: Client, stream: str, count: int = 1, **fields: Any) -> str:
    """Make a stream of so many events, and a consumer ``c`` of all of them."""
    client.ensure_stream(stream)
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}, **fields})
    for _ in range(count):
        client.publish(f"{stream}.x")
    return stream


def policy(max_attempts: int | None = None, **fields: Any) -> dict[str, Any]:
    """Word a policy without dead letters, as in Protobuf's JSON."""
    limit = {} if max_attempts is None else {"max_attempts": max_attempts}
    return {"retry_policy": {"dead_letters": False, **limit, **fields}}


def reject(call: Call, *ids: int, **fields: Any) -> None:
    """Reject events, and see it confirmed."""
    call.reject(*ids, **fields)
    assert call.told() == ("reject", sorted(ids), [], [])


def gaps(call: Call, count: int, within: float = 10) -> list[float]:
    """Reject one event over and over, and return the seconds from each reject to the next attempt."""
    found = []
    event = call.event()
    for attempt in range(2, count + 2):
        before = time.monotonic()
        reject(call, event.id)
        event = call.event(within)
        found.append(time.monotonic() - before)
        assert event.delivery_attempt == attempt
    return found


def is_over(client: Client, stream: str) -> bool:
    """Tell whether a consumer has nothing to do."""
    seen = get_consumer(client, stream)
    return (seen.pending, seen.unsettled) == (0, 0)


# Backoff


@pytest.mark.parametrize("fields", [{}, policy(), policy(100), policy(initial_backoff="0.05s", jitter=0.2)])
def test_undelayed_rejects_back_off(client: Client, unique: Unique, fields: dict[str, Any]) -> None:
    """With a policy and without, the first retry is soon, and each takes twice the time of the one before."""
    stream = events(client, unique(), **fields)
    with subscribed(client, stream) as call:
        found = gaps(call, 5)
    for number, gap in enumerate(found):
        assert gap >= 0.05 * 2**number * 0.8 - SLACK
    assert found[0] < 10
    assert sum(found) < 30, "growing fourfold they had been 34 seconds"


def test_a_policy_sets_the_pace(client: Client, unique: Unique) -> None:
    """Initial backoff, multiplier and longest backoff are kept; without jitter nothing is taken off."""
    fields = policy(initial_backoff="0.2s", backoff_multiplier=4, max_backoff="0.5s", jitter=0)
    stream = events(client, unique(), **fields)
    with subscribed(client, stream) as call:
        found = gaps(call, 5)
    for gap, least in zip(found, (0.2, 0.5, 0.5, 0.5, 0.5), strict=True):
        assert gap >= least - SLACK
    assert sum(found) < 30, "without a longest backoff it had been 68 seconds"


def test_a_steady_pace(client: Client, unique: Unique) -> None:
    """A multiplier of 1 makes all delays alike."""
    stream = events(client, unique(), **policy(initial_backoff="0.1s", backoff_multiplier=1, jitter=0))
    with subscribed(client, stream) as call:
        found = gaps(call, 8)
    assert min(found) >= 0.1 - SLACK
    assert sum(found) < 20, "doubling they had been 25 seconds"


def test_a_delay_that_the_client_names_counts(client: Client, unique: Unique) -> None:
    """Whatever the policy says: at once, or later."""
    stream = events(client, unique(), **policy(initial_backoff="60s", jitter=0))
    with subscribed(client, stream) as call:
        call.event()
        for attempt in range(2, 8):
            reject(call, 1, delay=seconds(0), action=RETRY)
            assert call.event().delivery_attempt == attempt
        before = time.monotonic()
        reject(call, 1, delay=seconds(0.5))
        assert call.event().delivery_attempt == 8
        assert time.monotonic() - before >= 0.5 - SLACK
        reject(call, 1)
        call.nothing(0.5)
        assert get_consumer(client, stream).unsettled == 1


def test_each_event_has_its_own_backoff(client: Client, unique: Unique) -> None:
    """Events that are rejected together come again each after the time that its own attempts make."""
    stream = events(client, unique(), 2, **policy(initial_backoff="0.1s", backoff_multiplier=100, jitter=0))
    with subscribed(client, stream) as call:
        call.events(2)
        reject(call, 1, delay=seconds(0))
        assert call.event().delivery_attempt == 2
        reject(call, 1, 2)
        event = call.event()
        assert (event.id, event.delivery_attempt) == (2, 2)
        call.nothing(0.5)


# Attempts


def test_no_more_than_the_attempts(client: Client, unique: Unique) -> None:
    """The last reject is confirmed as all are, the event is not delivered again, and others go on."""
    stream = events(client, unique(), 2, **policy(3))
    with subscribed(client, stream) as call:
        call.events(2)
        for attempt in (2, 3):
            reject(call, 1)
            assert call.event().delivery_attempt == attempt
        reject(call, 1, delay=seconds(0), reason="no such customer", error_type="KeyError")
        call.nothing(0.5)
        call.reject(1)
        assert call.told() == ("reject", [], [1], [])
        seen = get_consumer(client, stream)
        assert (seen.unsettled, seen.settled_to, seen.dead_letters) == (1, 1, 0)
        reject(call, 2)
        assert call.event().id == 2
        call.ack(2)
        assert call.told() == ("ack", [2], [], [])
    assert is_over(client, stream)


def test_one_attempt(client: Client, unique: Unique) -> None:
    """With one attempt a reject is the end, and an ack is still an ack."""
    stream = events(client, unique(), 3, **policy(1))
    with subscribed(client, stream) as call:
        call.events(3)
        reject(call, 1)
        reject(call, 2, delay=seconds(60), action=RETRY)
        call.ack(3)
        assert call.told() == ("ack", [3], [], [])
        call.nothing(0.3)
    assert is_over(client, stream)


@pytest.mark.parametrize("failures", ["trt", "rtr", "ttt", "crc", "tct", "ccc"])
def test_all_failures_count_alike(client: Client, unique: Unique, failures: str) -> None:
    """A reject, a timeout and the end of a call are an attempt each; after the last there is no other."""
    waits = failures.count("t")
    timeout = f"{0.8 + 0.5 / waits:.2f}s" if waits else "30s"
    stream = events(client, unique(), processing_timeout=timeout, **policy(3, initial_backoff="0.01s"))
    attempts = []
    for calls in failures.split("c"):
        with subscribed(client, stream) as call:
            for failure in calls:
                attempts.append(call.event().delivery_attempt)
                if failure == "r":
                    reject(call, 1)
            if len(attempts) < len(failures):
                attempts.append(call.event().delivery_attempt)
            else:
                client.publish(f"{stream}.x")
                assert call.event().id == 2
                call.ack(2)
                assert call.told() == ("ack", [2], [], [])
                wait_for(lambda: is_over(client, stream))
                call.nothing(0.1)
    assert attempts == [1, 2, 3]


def test_a_timed_out_last_attempt_is_not_followed_by_another(client: Client, unique: Unique) -> None:
    """A subscriber that stays is not handed the event again, and what it says of it is too late."""
    stream = events(client, unique(), processing_timeout="0.55s", **policy(2))
    with subscribed(client, stream) as call:
        assert [call.event().delivery_attempt for _ in range(2)] == [1, 2]
        wait_for(lambda: is_over(client, stream))
        call.ack(1)
        assert call.told() == ("ack", [], [1], [])
        call.nothing(0.5)


def test_pings_are_no_attempts(client: Client, unique: Unique) -> None:
    """An event that takes long, and says so, is at its first attempt all the while."""
    stream = events(client, unique(), processing_timeout="1.3s", **policy(1))
    with subscribed(client, stream) as call:
        call.event()
        for _ in range(6):
            time.sleep(0.33)
            call.ping(1)
            assert call.told() == ("ping", [1], [], [])
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
    assert is_over(client, stream)


def test_each_event_is_judged_by_its_own_attempts(client: Client, unique: Unique) -> None:
    """In one reject some events may be at their last attempt and others not; unknown ones are invalid."""
    stream = events(client, unique(), 3, **policy(2))
    with subscribed(client, stream) as call:
        call.events(3)
        reject(call, 2, delay=seconds(0))
        assert call.event().id == 2
        call.reject(1, 2, 3, 9)
        assert call.told() == ("reject", [1, 2, 3], [9], [])
        assert sorted((event.id, event.delivery_attempt) for event in call.events(2)) == [(1, 2), (3, 2)]
        call.ack(1, 3)
        call.told()
        call.nothing(0.3)
    assert is_over(client, stream)


def test_without_a_limit_there_is_none(client: Client, unique: Unique) -> None:
    """A consumer without a policy is retried for ever, as the plain contract says."""
    stream = events(client, unique())
    with subscribed(client, stream) as call:
        for attempt in range(1, 101):
            assert call.event().delivery_attempt == attempt
            reject(call, 1, delay=seconds(0))


# What a reject says


@pytest.mark.parametrize(
    "said",
    [{"action": DROP}, {"action": DROP, "permanently": True}, {"permanently": True}],
)
@pytest.mark.parametrize("fields", [{}, policy(5)])
def test_a_final_word(client: Client, unique: Unique, said: dict[str, Any], fields: dict[str, Any]) -> None:
    """Dropped, or rejected permanently where there are no dead letters: gone, with nothing kept."""
    stream = events(client, unique(), **fields)
    with subscribed(client, stream) as call:
        call.event()
        reject(call, 1, reason="x" * 5000, error_type="y" * 5000, **said)
        call.nothing(0.3)
    seen = get_consumer(client, stream)
    assert (seen.unsettled, seen.settled_to, seen.dead_letters) == (0, 1, 0)


# Policies of consumers that are in use


def is_given_up(client: Client, call: Call, stream: str) -> bool:
    """Tell whether a new event that is rejected at its first attempt is given up."""
    client.publish(f"{stream}.x")
    event = call.event()
    reject(call, event.id, delay=seconds(0))
    while not call.has_event:  # it may be given up as late as when it comes back
        if get_consumer(client, stream).unsettled == 0:
            return True
    again = call.event()
    assert (again.id, again.delivery_attempt) == (event.id, 2)
    call.ack(again.id)
    assert call.told() == ("ack", [again.id], [], [])
    return False


def test_open_calls_follow_a_change(client: Client, unique: Unique) -> None:
    """A policy that changes counts for calls that are open."""
    stream = events(client, unique(), 0)
    with subscribed(client, stream) as call:
        assert not is_given_up(client, call, stream)
        ensure_consumer(client, stream, name="c", **policy(1))
        wait_for(lambda: is_given_up(client, call, stream))
        ensure_consumer(client, stream, name="c", **policy(5))
        wait_for(lambda: not is_given_up(client, call, stream))


@contextmanager
def served(nats_server: NatsServer) -> Iterator[Client]:
    """Run a server, and connect to it, for the length of a block."""
    with running_app(nats_server.url) as address:
        client = Client(address)
        yield client
        client.channel.close()


def test_attempts_and_policy_survive_restarts(own_nats_server: NatsServer) -> None:
    """Of the server and of the broker: the event has its remaining attempts, and no more."""
    with served(own_nats_server) as client:
        ensure_stream(client, "S")
        ensure_consumer(client, "S", name="c", **{"from": {"start": True}}, **policy(3))
        client.publish("S.x")
        with subscribed(client, "S") as call:
            call.event()
            reject(call, 1)
            assert call.event().delivery_attempt == 2
            reject(call, 1, delay=seconds(3))  # a third delivery to this call would count, too
    own_nats_server.stop()
    own_nats_server.start()
    with served(own_nats_server) as client:
        assert get_consumer(client, "S").retry_policy.max_attempts == 3
        with subscribed(client, "S") as call:
            assert call.event().delivery_attempt == 3
            reject(call, 1)
            call.nothing(0.5)
        assert is_over(client, "S")


async def test_long_delays_do_not_starve_a_consumer(
    client: Client, nats_server: NatsServer, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are delivered, though more events wait for long than a consumer may have unsettled at first."""
    at_first, batch = 2_000, 1_000
    for module in ("consumers", "consuming.consumer_state"):
        monkeypatch.setattr(f"windshift.server.events.{module}.MAX_ACK_PENDING", at_first)
    stream = events(client, unique(), 0)
    async with connect(nats_server.url) as broker:
        for _ in range(at_first + batch):
            broker.connection.publish(f"{stream}.x".encode())
        async with asyncio.timeout(60):
            while await broker.messages(stream) < at_first + batch:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
    with subscribed(client, stream, batch) as call:
        for _ in range(at_first // batch + 1):
            reject(call, *[call.event(within=60).id for _ in range(batch)], delay=seconds(600))
    seen = get_consumer(client, stream)
    assert (seen.pending, seen.unsettled) == (0, at_first + batch)
