"""Replays of dead letters at the wire: which are begun, how fast, and what is said of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import ask, bury, delete_stream, listed
from tests.wire.consuming import delete_consumer, ensure_consumer, subscribed
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.server.events.dead_letters.model import Cause

Unique = Callable[[], str]


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c``."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name)
    return name


@pytest.fixture
def dead(client: Client, nats_server: NatsServer, stream: str) -> list[str]:
    """Make five dead letters of it; give their ids."""
    return bury(nats_server, stream, *publish(client, stream, 5))


def publish(client: Client, stream: str, count: int) -> list[int]:
    """Publish events; give their ids."""
    return [client.publish(f"{stream}.x", f"{number}") for number in range(count)]


def replay(client: Client, **fields: Any) -> pb.ReplayResponse:
    """Replay."""
    response: pb.ReplayResponse = ask(client, "Replay", pb.ReplayRequest(**fields))
    return response


def replaying(client: Client, stream: str) -> list[int]:
    """Give the event ids of the entries that are being replayed."""
    return [letter.event.id for letter in listed(client, stream) if letter.replaying]


def test_by_ids(client: Client, stream: str, dead: list[str]) -> None:
    """Those are replayed, once each; what is not there is named."""
    nothing = f"{stream}.c.99.1"
    done = replay(client, ids=[dead[3], nothing, dead[1], dead[3]])
    assert done == pb.ReplayResponse(replayed=2, missing_ids=[nothing])
    assert replaying(client, stream) == [2, 4]
    assert ask(client, "Get", pb.GetRequest(id=dead[1])).dead_letter.replaying
    assert not ask(client, "Get", pb.GetRequest(id=dead[0])).dead_letter.replaying


def test_repeating_is_harmless(client: Client, stream: str, dead: list[str]) -> None:
    """What is being replayed already is left alone, and counted."""
    assert replay(client, ids=dead[:2]).replayed == 2
    assert replay(client, ids=dead[:3]) == pb.ReplayResponse(replayed=1, already_replaying=2)
    which = pb.Filter(stream=stream)
    assert replay(client, filter=which) == pb.ReplayResponse(replayed=2, already_replaying=3)
    assert replay(client, filter=which) == pb.ReplayResponse(already_replaying=5)
    assert replaying(client, stream) == [1, 2, 3, 4, 5]


def test_at_the_same_time(client: Client, stream: str, dead: list[str]) -> None:
    """Of calls that race for the same entries each is replayed by one."""
    done: list[pb.ReplayResponse] = []
    threads = [Thread(target=lambda: done.append(replay(client, ids=dead))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.replayed for each in done) == 5
    assert [each.replayed + each.already_replaying for each in done] == [5] * 8
    assert len(replaying(client, stream)) == 5


def test_a_dry_run(client: Client, stream: str, dead: list[str]) -> None:
    """It counts what would be done, and does nothing."""
    replay(client, ids=dead[:1])
    nothing = f"{stream}.c.99.1"
    done = replay(client, ids=[*dead, nothing], dry_run=True)
    assert done == pb.ReplayResponse(replayed=4, already_replaying=1, missing_ids=[nothing])
    done = replay(client, filter=pb.Filter(stream=stream), dry_run=True)
    assert done == pb.ReplayResponse(replayed=4, already_replaying=1)
    assert replaying(client, stream) == [1]


def test_by_filter(client: Client, nats_server: NatsServer, stream: str) -> None:
    """What the filter lets through is replayed, nothing else."""
    publish(client, stream, 4)
    bury(nats_server, stream, 1, 3)
    bury(nats_server, stream, 2, 4, cause=Cause.REJECTED)
    which = pb.Filter(stream=stream, causes=[pb.CAUSE_REJECTED])
    assert replay(client, filter=which) == pb.ReplayResponse(replayed=2)
    assert replaying(client, stream) == [2, 4]


def test_the_limit(client: Client, stream: str, dead: list[str]) -> None:
    """A call ends at its limit, and the next one goes on there."""
    which = pb.Filter(stream=stream)
    replay(client, ids=dead[:1])
    first = replay(client, filter=which, limit=2)
    assert (first.replayed, first.already_replaying) == (2, 1)
    assert replaying(client, stream) == [1, 2, 3]
    second = replay(client, filter=which, limit=2, page_token=first.next_page_token)
    assert second == pb.ReplayResponse(replayed=2)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        replay(client, filter=pb.Filter(), page_token=first.next_page_token)


def test_the_rate(client: Client, stream: str, dead: list[str]) -> None:
    """Replays are spread over time."""
    begun = time.monotonic()
    assert replay(client, filter=pb.Filter(stream=stream), rate=5) == pb.ReplayResponse(replayed=5)
    assert time.monotonic() - begun >= 0.75  # four pauses of 0.2 s, less what clocks differ


def test_a_call_ends_in_time(client: Client, stream: str, dead: list[str]) -> None:
    """Before its deadline, with a token for the rest."""
    request = pb.ReplayRequest(filter=pb.Filter(stream=stream), rate=1)
    done = ask(client, "Replay", request, timeout=1.5)
    assert 1 <= done.replayed <= 2
    request.page_token, request.rate = done.next_page_token, 1000
    assert ask(client, "Replay", request) == pb.ReplayResponse(replayed=5 - done.replayed)


def test_ids_that_the_deadline_is_too_near_for(client: Client, stream: str, dead: list[str]) -> None:
    """The error says so; asking again goes on."""
    with refused("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN"):
        ask(client, "Replay", pb.ReplayRequest(ids=dead, rate=1), timeout=1.5)
    before = len(replaying(client, stream))
    assert 1 <= before <= 2
    assert replay(client, ids=dead) == pb.ReplayResponse(replayed=5 - before, already_replaying=before)


def test_consumers_that_are_gone(client: Client, nats_server: NatsServer, stream: str) -> None:
    """By ids that is an error, and nothing is done; by filter they are counted, the others replayed."""
    ensure_consumer(client, stream, "d")
    publish(client, stream, 2)
    (one,), (two,) = bury(nats_server, stream, 1), bury(nats_server, stream, 2, consumer="d")
    delete_consumer(client, stream)
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND") as caught:
        replay(client, ids=[two, one])
    assert caught[0].metadata == {"name": "c"}
    assert replaying(client, stream) == []
    done = replay(client, filter=pb.Filter(stream=stream))
    assert done == pb.ReplayResponse(replayed=1, without_consumer=1)
    assert replaying(client, stream) == [2]


def test_streams_that_are_gone(client: Client, nats_server: NatsServer, stream: str, dead: list[str]) -> None:
    """Dead letters outlive their stream; then there is nobody to replay them to."""
    delete_stream(nats_server, stream)
    with refused("NOT_FOUND", "STREAM_NOT_FOUND") as caught:
        replay(client, ids=dead)
    assert caught[0].metadata == {"name": stream}
    assert replay(client, filter=pb.Filter(stream=stream)) == pb.ReplayResponse(without_consumer=5)
    assert len(listed(client, stream)) == 5


def test_many(own_client: Client, own_nats_server: NatsServer) -> None:
    """More than fit a page are replayed by one call, each once."""
    stream = own_client.ensure_stream("many")
    ensure_consumer(own_client, stream)
    bury(own_nats_server, stream, *publish(own_client, stream, 600))
    done = replay(own_client, filter=pb.Filter(stream=stream), rate=10_000)
    assert done == pb.ReplayResponse(replayed=600)
    assert len(replaying(own_client, stream)) == 600


def test_purge_while_a_replay_is_outstanding(client: Client, stream: str, dead: list[str]) -> None:
    """Nothing is delivered of an entry that is gone, and others are."""
    replay(client, ids=dead[:2])
    assert ask(client, "Purge", pb.PurgeRequest(ids=dead[:1])).purged == 1
    with subscribed(client, stream) as call:
        events = call.events(6)  # the five that were never delivered, and one replay
        assert sorted(event.id for event in events) == [1, 2, 2, 3, 4, 5]
        call.nothing()


def test_a_server_that_stops(client: Client, nats_server: NatsServer, stream: str, dead: list[str]) -> None:
    """A call by filter that would go on for long ends with a token, which any other server takes."""
    request = pb.ReplayRequest(filter=pb.Filter(stream=stream), rate=2)
    done: list[pb.ReplayResponse] = []
    with running_app(nats_server.url) as address:
        stopping = Client(address)
        thread = Thread(target=lambda: done.append(ask(stopping, "Replay", request)))
        thread.start()
        wait_for(lambda: replaying(client, stream))
    thread.join()
    assert 1 <= done[0].replayed < 5
    rest = replay(client, filter=request.filter, page_token=done[0].next_page_token)
    assert rest == pb.ReplayResponse(replayed=5 - done[0].replayed)
