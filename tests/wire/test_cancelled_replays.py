"""Replays that are cancelled, at the wire: nobody has them delivered, and the answer says how many."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import RETRY, ack, ask, bury, consumer, listed, reject, replay
from tests.wire.consuming import subscribed
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c`` that has dead letters."""
    name = client.ensure_stream(unique())
    consumer(client, name)
    with subscribed(client, name) as call:
        for _ in range(6):
            client.publish(f"{name}.x", "x")
            ack(call, call.event().id)
    return name


@pytest.fixture
def dead(nats_server: NatsServer, stream: str) -> list[str]:
    """Make dead letters of its events; give their ids."""
    return bury(nats_server, stream, 1, 2, 3, 4, 5, 6)


def cancel(client: Client, **fields: Any) -> pb.CancelReplayResponse:
    """Cancel replays."""
    response: pb.CancelReplayResponse = ask(client, "CancelReplay", pb.CancelReplayRequest(**fields))
    return response


def replaying(client: Client, stream: str) -> list[int]:
    """Give the event ids of the entries that are being replayed."""
    return [letter.event.id for letter in listed(client, stream) if letter.replaying]


def test_by_ids(client: Client, stream: str, dead: list[str]) -> None:
    """Those are cancelled; what has no replay is named; the dead letters stay as they were."""
    before = listed(client, stream)
    replay(client, *dead[:3])
    nothing = f"{stream}.c.99.1"
    done = cancel(client, ids=[dead[1], nothing, dead[0], dead[1], dead[5]])
    assert done == pb.CancelReplayResponse(cancelled=2, missing_ids=[nothing, dead[5]])
    assert replaying(client, stream) == [3]
    assert cancel(client, ids=[dead[1]]).missing_ids == [dead[1]]
    with subscribed(client, stream) as call:
        assert call.event(15).id == 3
        call.nothing(0.3)
        ack(call, 3)
    assert listed(client, stream) == [each for each in before if each.event.id != 3]


def test_by_filter(client: Client, nats_server: NatsServer, stream: str, unique: Unique) -> None:
    """All that match are, and those of others are not."""
    bury(nats_server, stream, 1, 2, error_type="A")
    bury(nats_server, stream, 3, 4, error_type="B")
    other = client.ensure_stream(unique())
    consumer(client, other)
    client.publish(f"{other}.x", "x")
    theirs = bury(nats_server, other, 1, error_type="A")
    replay(client, *theirs, *(each.id for each in listed(client, stream)))
    assert cancel(client, filter=pb.Filter(stream=stream, error_types=["A"])).cancelled == 2
    assert (replaying(client, stream), replaying(client, other)) == ([3, 4], [1])
    assert cancel(client, filter=pb.Filter(stream=stream, consumer="none")).cancelled == 0
    assert cancel(client, filter=pb.Filter(stream=stream, event_ids=[4])).cancelled == 1
    assert cancel(client, filter=pb.Filter(stream=stream, consumer="c")).cancelled == 1
    assert (replaying(client, stream), replaying(client, other)) == ([], [1])
    assert cancel(client, filter=pb.Filter(stream=other)).cancelled == 1


def test_what_a_subscriber_has(client: Client, stream: str, dead: list[str]) -> None:
    """It goes on, is counted apart, and can be acknowledged; what was given back waits, and is cancelled."""
    with subscribed(client, stream, window=2) as call:
        replay(client, *dead)
        held = sorted(call.event(15).id for _ in range(2))
        done = cancel(client, filter=pb.Filter(stream=stream))
        assert (done.cancelled, done.delivering, done.next_page_token) == (4, 2, "")
        call.nothing(0.3)
        assert replaying(client, stream) == held
        ack(call, held[0])
        reject(call, held[1], action=RETRY, delay={"seconds": 600})
        wait_for(lambda: cancel(client, filter=pb.Filter(stream=stream)).cancelled == 1)
        call.nothing(0.3)
    assert replaying(client, stream) == []
    assert len(listed(client, stream)) == 5
    assert all(letter.replay_count == 0 for letter in listed(client, stream))


def test_replayed_again(client: Client, stream: str, dead: list[str]) -> None:
    """What was cancelled may be replayed, and is delivered then."""
    for _ in range(3):
        replay(client, dead[0])
        assert cancel(client, ids=[dead[0]]).cancelled == 1
    replay(client, dead[0])
    with subscribed(client, stream) as call:
        event = call.event(15)
        assert (event.id, event.delivery_attempt) == (1, 1)
        ack(call, 1)
    assert len(listed(client, stream)) == 5


def test_at_the_same_time(client: Client, stream: str, dead: list[str]) -> None:
    """Of many who cancel one replay at once each is told that it is over, or that there is none."""
    for _ in range(5):
        replay(client, dead[0])
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda each: cancel(client, ids=[each]), [dead[0]] * 8))
        assert sum(each.cancelled for each in told) >= 1
        assert all(each.cancelled + len(each.missing_ids) == 1 for each in told)
        assert replaying(client, stream) == []


def test_beside_deliveries(client: Client, nats_server: NatsServer, stream: str, unique: Unique) -> None:
    """Whether a replay is delivered is decided once, with two servers as well."""
    name = client.ensure_stream(unique())
    consumer(client, name)
    with subscribed(client, name) as call:
        for _ in range(200):
            client.publish(f"{name}.x", "x")
            ack(call, call.event().id)
    bury(nats_server, name, *range(1, 201))
    which = pb.Filter(stream=name)
    with running_app(nats_server.url) as other, subscribed(Client(other), name, window=500) as call:
        assert ask(client, "Replay", pb.ReplayRequest(filter=which, rate=10_000)).replayed == 200
        done = cancel(client, filter=which)
        delivered = [call.event(15).id for _ in range(200 - done.cancelled)]
        call.nothing(0.5)
        assert len(set(delivered)) == len(delivered)
        assert set(replaying(client, name)) == set(delivered)
        for each in delivered:
            ack(call, each)
        assert len(listed(client, name)) == done.cancelled


def test_page_after_page(
    client: Client, stream: str, dead: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many are cancelled, page by page of pointers."""
    monkeypatch.setattr("windshift.server.events.dead_letters.admin._PAGE_SIZE", 2)
    monkeypatch.setattr("windshift.server.events.managed_stream._LARGE", 0)
    monkeypatch.setattr("windshift.server.events.managed_stream._SAMPLE", 1)
    replay(client, *dead)
    assert cancel(client, filter=pb.Filter(stream=stream)).cancelled == 6
    assert replaying(client, stream) == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "ids"),
        ({"ids": ["nonsense"]}, "ids[0]"),
        ({"ids": ["s.c.1.2"] * 1001}, "ids"),
        ({"ids": ["s.c.1.2"], "filter": pb.Filter()}, "filter"),
        ({"ids": ["s.c.1.2"], "page_token": "x"}, "page_token"),
        ({"filter": pb.Filter(), "page_token": "x"}, "page_token"),
        ({"filter": pb.Filter(consumer="c")}, "filter.consumer"),
    ],
)
def test_malformed_requests(client: Client, fields: dict[str, Any], field: str) -> None:
    """The field is named."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        cancel(client, **fields)
    assert caught[0].fields == (field,)


def test_before_there_ever_was_a_replay(own_client: Client) -> None:
    """Nothing is cancelled, and nothing is wrong."""
    assert cancel(own_client, filter=pb.Filter()) == pb.CancelReplayResponse()
    assert cancel(own_client, ids=["s.c.1.2", "s.c.1.2"]).missing_ids == ["s.c.1.2"]
