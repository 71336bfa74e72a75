"""Watching dead letters at the wire: as they are written, across restarts, at the client's own speed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.app import running_app
from tests.support.client import Client, refused, text_of
from tests.support.nats_server import NatsServer
from tests.wire.burying import bury, delete_stream, listed, watching
from tests.wire.consuming import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.server.events.dead_letters.model import Cause

Unique = Callable[[], str]


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c``."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name)
    return name


def publish(client: Client, stream: str, count: int) -> list[int]:
    """Publish events; give their ids."""
    return [client.publish(f"{stream}.x", f"{number}") for number in range(count)]


def test_from_now_on(client: Client, nats_server: NatsServer, stream: str) -> None:
    """What is written after the watch has begun is told, as it is listed; what was there is not."""
    publish(client, stream, 3)
    bury(nats_server, stream, 1)
    with watching(client, stream) as watch:
        bury(nats_server, stream, 2)
        response = watch.next()
        assert [response.dead_letter] == listed(client, stream)[1:]
        assert text_of(response.dead_letter.event.data) == "1"
        bury(nats_server, stream, 3)
        assert watch.ids(1) == [3]
        watch.nothing()


def test_what_there_is(client: Client, nats_server: NatsServer, stream: str) -> None:
    """With `existing` those come first, and then the new ones."""
    publish(client, stream, 3)
    bury(nats_server, stream, 2, 1)
    with watching(client, stream, existing=True) as watch:
        assert watch.ids(2) == [2, 1]
        bury(nats_server, stream, 3)
        assert watch.ids(1) == [3]


def test_a_position(client: Client, nats_server: NatsServer, stream: str) -> None:
    """A watch goes on behind the entry whose position it is given, whatever was written meanwhile."""
    publish(client, stream, 4)
    bury(nats_server, stream, 1, 2)
    with watching(client, stream, existing=True) as watch:
        position = watch.next().position
    bury(nats_server, stream, 3)
    for existing in (False, True):
        with watching(client, stream, position=position, existing=existing) as watch:
            assert watch.ids(2) == [2, 3]
            watch.nothing()


def test_filters(client: Client, nats_server: NatsServer, stream: str, unique: Unique) -> None:
    """Only what the filter lets through is told; a time in the past lets nothing new through."""
    publish(client, stream, 3)
    elsewhere = client.ensure_stream(unique())
    publish(client, elsewhere, 1)
    past = pb.Filter(stream=stream)
    past.until.seconds = int(time.time()) - 60
    which = pb.Filter(stream=stream, consumer="d", causes=[pb.CAUSE_REJECTED])
    with watching(client, filter=which) as watch, watching(client, filter=past) as never:
        bury(nats_server, elsewhere, 1, consumer="d", cause=Cause.REJECTED)
        bury(nats_server, stream, 1, cause=Cause.REJECTED)
        bury(nats_server, stream, 1, consumer="d")
        bury(nats_server, stream, 2, consumer="d", cause=Cause.REJECTED)
        assert watch.ids(1) == [2]
        watch.nothing()
        never.nothing(0)


def test_without_data(client: Client, nats_server: NatsServer, stream: str) -> None:
    """The data may be left out."""
    publish(client, stream, 1)
    with watching(client, stream, without_data=True) as watch:
        bury(nats_server, stream, 1)
        letter = watch.next().dead_letter
        assert (letter.event.data.value, letter.data_size) == (b"", 3)


def test_a_replay_that_failed(client: Client, nats_server: NatsServer, stream: str) -> None:
    """An entry that is written again is told again."""
    publish(client, stream, 1)
    bury(nats_server, stream, 1)
    with watching(client, stream, existing=True) as watch:
        assert watch.next().dead_letter.replay_count == 0
        bury(nats_server, stream, 1, replay_count=1)
        assert watch.next().dead_letter.replay_count == 1
        watch.nothing()


def test_many_watches(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Each is told of everything."""
    publish(client, stream, 3)
    with watching(client, stream) as one, watching(client, stream) as two:
        bury(nats_server, stream, 1, 2, 3)
        assert one.ids(3) == two.ids(3) == [1, 2, 3]


def test_before_there_ever_was_one(own_client: Client, own_nats_server: NatsServer) -> None:
    """A watch may begin when nothing was ever written."""
    stream = own_client.ensure_stream("s")
    publish(own_client, stream, 1)
    with watching(own_client) as watch:
        bury(own_nats_server, stream, 1)
        assert watch.ids(1) == [1]


def test_a_client_that_does_not_read(client: Client, nats_server: NatsServer, stream: str) -> None:
    """It gets everything in the end; what it has not read waits in the broker, not in the server."""
    for _ in range(20):
        client.publish(f"{stream}.x", "y" * 300_000)
    bury(nats_server, stream, *range(1, 21))
    with watching(client, stream, existing=True, reads=False) as watch:
        time.sleep(0.5)  # so that there would be time to send all of it
        assert [next(watch.call).dead_letter.event.id for _ in range(20)] == list(range(1, 21))


@pytest.mark.parametrize("kill", [False, True])
def test_a_broker_that_restarts(own_client: Client, own_nats_server: NatsServer, *, kill: bool) -> None:
    """The watch goes on, and tells nothing twice."""
    stream = own_client.ensure_stream("s")
    publish(own_client, stream, 2)
    bury(own_nats_server, stream, 1)
    with watching(own_client, existing=True) as watch:
        assert watch.ids(1) == [1]
        time.sleep(0.3)  # an unreplicated broker that is killed forgets what is younger than 0.1 s
        (own_nats_server.kill if kill else own_nats_server.stop)()
        own_nats_server.start()
        publish_again(own_client, stream)
        bury(own_nats_server, stream, 1, consumer="d")
        response = watch.next()
        assert (response.dead_letter.consumer, response.dead_letter.event.id) == ("d", 1)
        watch.nothing()


def publish_again(client: Client, stream: str) -> None:
    """Have one event, in a stream that was in memory only."""
    client.ensure_stream(stream)
    client.publish(f"{stream}.x", "again", idempotency_key="again")


def test_a_stream_that_was_made_anew(own_client: Client, own_nats_server: NatsServer) -> None:
    """When somebody deletes all dead letters with NATS's own tools, watches tell of the new ones."""
    stream = own_client.ensure_stream("s")
    publish(own_client, stream, 3)
    bury(own_nats_server, stream, 1, 2)
    with watching(own_client, existing=True) as watch:
        assert watch.ids(2) == [1, 2]
        delete_stream(own_nats_server, "WS_DEAD_LETTERS")
        bury(own_nats_server, stream, 3)
        assert watch.ids(1) == [3]
        watch.nothing()


def test_a_drain(nats_server: NatsServer, unique: Unique) -> None:
    """It ends watches with UNAVAILABLE, so that clients go elsewhere with their position."""
    with running_app(nats_server.url) as address:
        client = Client(address)
        stream = client.ensure_stream(unique())
        publish(client, stream, 1)
        bury(nats_server, stream, 1)
        call = watching(client, stream, existing=True)
        watch = call.__enter__()
        assert watch.ids(1) == [1]
    refusal = watch.end()
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")


def test_a_broker_that_is_away_at_the_beginning(own_client: Client, own_nats_server: NatsServer) -> None:
    """Then the call fails: it cannot say from when on it would tell."""
    own_nats_server.kill()
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"), watching(own_client) as watch:
        next(watch.call)
