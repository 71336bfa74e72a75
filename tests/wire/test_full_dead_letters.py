"""Dead letters that there is no room for: refused, told, and written once there is room."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import RETRY, ack, ask, consumer, jetstream, listed, reject, replay
from tests.wire.consuming import subscribed
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.server.events.dead_letters import upkeep

MB = 1_000_000
LARGE = "x" * 400_000


@pytest.fixture
def full(own_nats_server: NatsServer) -> Iterator[Client]:
    """Connect to a server that keeps 1 MB of dead letters."""
    with running_app(own_nats_server.url, WINDSHIFT_DEAD_LETTERS_MAX_MB="1") as address:
        client = Client(address)
        client.ensure_stream("S")
        yield client
        client.channel.close()


def config(nats_server: NatsServer) -> dict[str, Any]:
    """Return how the stream of dead letters is configured."""
    stored: dict[str, Any] = jetstream(nats_server, "STREAM.INFO.WS_DEAD_LETTERS")["config"]
    return stored


def test_what_is_given_up_on_stays(full: Client, own_nats_server: NatsServer) -> None:
    """The event is neither lost nor settled, and becomes a dead letter when others were removed."""
    consumer(full, "S", attempts=1)
    ids = [full.publish("S.x", LARGE) for _ in range(3)]
    with subscribed(full, "S") as call:
        for _ in ids:
            call.event()
        reject(call, *ids[:2], permanently=True)
        assert config(own_nats_server)["max_bytes"] == MB
        call.reject(ids[2], permanently=True)
        assert call.told() == ("reject", [], [], ids[2:])
        call.reject(ids[2])  # its last attempt
        assert call.told() == ("reject", [], [], ids[2:])
        assert ask(full, "Purge", pb.PurgeRequest(filter=pb.Filter(stream="S"))).purged == 2
        wait_for(lambda: rejected(call, ids[2]))
    assert [letter.event.id for letter in listed(full, "S")] == ids[2:]


def test_acknowledgements_when_there_is_no_room(full: Client) -> None:
    """What is acknowledged, at its last attempt too, needs no room of a dead letter."""
    consumer(full, "S", attempts=1)
    ids = [full.publish("S.x", LARGE) for _ in range(3)]
    with subscribed(full, "S") as call:
        for _ in ids:
            call.event()
        reject(call, *ids[:2], permanently=True)
        call.reject(ids[2], permanently=True)
        assert call.told() == ("reject", [], [], ids[2:])
        ack(call, ids[2])
        small = [full.publish("S.x") for _ in range(30)]
        ack(call, *(call.event().id for _ in small))
    assert sorted(letter.event.id for letter in listed(full, "S")) == ids[:2]


def rejected(call: Any, seq: int) -> bool:
    """Reject an event that nobody had room for; say whether there is room now."""
    call.reject(seq, permanently=True)
    return bool(call.told()[1])


def test_attempts_that_are_used_up(full: Client) -> None:
    """An event whose last attempt timed out waits as well, and is delivered to nobody meanwhile."""
    consumer(full, "S", attempts=1, processing_timeout="0.8s")
    first, second, third = (full.publish("S.x", LARGE) for _ in range(3))
    with subscribed(full, "S") as call:
        assert sorted(call.event().id for _ in range(3)) == [first, second, third]
        wait_for(lambda: len(listed(full, "S")) == 2)
        call.nothing(1.0)
        assert ask(full, "Purge", pb.PurgeRequest(filter=pb.Filter(stream="S"))).purged == 2
        wait_for(lambda: len(listed(full, "S")) == 1)
        call.nothing()


def test_a_replay_that_fails_when_there_is_no_room(full: Client) -> None:
    """Its dead letter stays as it was until it can be written anew, and the event comes again."""
    consumer(full, "S", attempts=2, processing_timeout="1.5s")
    ids = [full.publish("S.x", LARGE) for _ in range(2)]
    with subscribed(full, "S") as call:
        for _ in ids:
            call.event()
        reject(call, *ids, permanently=True)
        one, other = listed(full, "S")
        replay(full, one.id)
        assert call.event(15).id == one.event.id
        call.reject(one.event.id, permanently=True)
        assert call.told() == ("reject", [], [], [one.event.id])
        reject(call, one.event.id, action=RETRY)
        assert call.event(15).delivery_attempt == 2
        assert ask(full, "Purge", pb.PurgeRequest(ids=[other.id])).purged == 1
        wait_for(lambda: [letter.replay_count for letter in listed(full, "S")] == [1])


@pytest.mark.parametrize(
    ("stored", "setting", "limit"),
    [
        ({}, "7", 7 * MB),
        ({"max_bytes": 5 * MB}, "7", 7 * MB),
        ({"max_bytes": 5 * MB}, "0", -1),
        ({"max_bytes": 5 * MB}, None, 5 * MB),
        ({}, None, 10_000 * MB),
        ({"discard": "old"}, None, 10_000 * MB),
    ],
)
def test_a_stream_that_is_there(
    own_nats_server: NatsServer, stored: dict[str, Any], setting: str | None, limit: int
) -> None:
    """A server that starts gives it the limit that was asked for, or the default where it has none."""
    before = {"name": "WS_DEAD_LETTERS", "subjects": ["_WS.dead.>", "_WS.rest.>"], "discard": "new", **stored}
    jetstream(own_nats_server, "STREAM.CREATE.WS_DEAD_LETTERS", before)
    demanded = {} if setting is None else {"WINDSHIFT_DEAD_LETTERS_MAX_MB": setting}
    with running_app(own_nats_server.url, **demanded):
        wait_for(lambda: config(own_nats_server)["max_bytes"] == limit)
    if stored.get("max_bytes") != limit:
        assert config(own_nats_server)["discard"] == "new"


def test_a_limit_that_the_broker_cannot_set_aside(own_nats_server: NatsServer) -> None:
    """It is a quarter of it then, or a quarter of that."""
    with running_app(own_nats_server.url, WINDSHIFT_DEAD_LETTERS_MAX_MB="1000000000") as address:
        client = Client(address)
        client.ensure_stream("S")
        consumer(client, "S")
        limit = config(own_nats_server)["max_bytes"]
        assert limit in {10**15 // 4**power for power in range(1, 16)}
        client.channel.close()


def test_nearly_full(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log warns before there is no room left, and not again and again."""
    monkeypatch.setattr(upkeep, "LOOK_INTERVAL", 0.05)
    with running_app(own_nats_server.url, WINDSHIFT_DEAD_LETTERS_MAX_MB="1") as address:
        client = Client(address)
        client.ensure_stream("S")
        consumer(client, "S", attempts=1)
        ids = [client.publish("S.x", LARGE) for _ in range(2)]
        with subscribed(client, "S") as call:
            for _ in ids:
                call.event()
            reject(call, *ids, permanently=True)
        wait_for(lambda: "nearly full" in caplog.text)
        time.sleep(0.3)  # some looks more
        client.channel.close()
    assert caplog.text.count("nearly full") == 1
