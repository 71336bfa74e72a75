"""What errors tell a client in the field, whatever went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.app import running_app
from tests.support.client import (
    DEAD_LETTERS,
    EVENTS,
    STATE,
    Client,
    any_of,
    read_refusal,
    refused,
    refused_in_time,
)
from tests.support.nats_server import NatsServer
from tests.wire.consuming import calling
from tests.wire.looking import ADMIN
from tests.wire.management import ensure_consumer, ensure_stream
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]

SERVICES = (EVENTS, STATE, DEAD_LETTERS, ADMIN)
METHOD_TYPES = {
    f"/{service.full_name}/{method.name}": method.input_type
    for service in SERVICES
    for method in service.methods
}
METHODS = [f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods]
NEED_NOTHING = {
    f"/{service.full_name}/{name}"
    for service, names in (
        (DEAD_LETTERS, ("List", "Watch")),
        (EVENTS, ("PublishStream",)),
        (STATE, ("ListStores",)),
        (ADMIN, ("GetServer", "WhoAmI", "ListServers", "ListStreams", "ListConsumers", "ListSubscriptions")),
    )
    for name in names
}
"""Methods for which a message without any field makes sense."""


def send(client: Client, path: str, *messages: bytes) -> list[bytes]:
    """Send bytes as the messages of a call, whatever they are, and return what comes back."""
    call: Any = client.channel.stream_stream(path)
    return list(call(iter(messages), timeout=30))


@pytest.mark.parametrize("path", METHODS)
def test_malformed_messages(client: Client, path: str) -> None:
    """Bytes that are no message of the method's type are an invalid argument, with both details."""
    no_text = b"\x0a\x02\xff\xfe"
    first = METHOD_TYPES[path].fields_by_number.get(1)
    is_text = first is not None and first.type in (first.TYPE_STRING, first.TYPE_MESSAGE)
    for no_protobuf in (b"\xff\xff\xff", *([no_text] if is_text else [])):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            send(client, path, no_protobuf)
        assert caught[0].fields == ("",)


@pytest.mark.parametrize("path", [path for path in METHODS if path not in NEED_NOTHING])
def test_empty_messages(client: Client, path: str) -> None:
    """A message without any field lacks what the method needs, and the error says what."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        send(client, path, b"")
    (field,) = caught[0].fields
    assert field in {
        "name",
        "stream",
        "data",
        "request",
        "store",
        "value",
        "id",
        "ids",
        "streams",
        "by",
        "events",
    }
    assert caught[0].metadata == {"field": field}
    assert caught[0].message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "path",
    [
        "/windshift.events.v1alpha1.EventsService/Nope",
        "/windshift.state.v1alpha1.EventsService/Get",
        "/nobody/knows",
        "/",
    ],
)
def test_unknown_methods(client: Client, path: str) -> None:
    """What does not exist is unimplemented, with a reason too."""
    with refused("UNIMPLEMENTED", "UNIMPLEMENTED"):
        send(client, path, b"")


def test_fields_of_later_versions(client: Client, unique: Unique) -> None:
    """Fields that this version does not know, numbered from 100, do no harm."""
    stream = client.ensure_stream(unique())
    request = pb.PublishEventRequest(subject=f"{stream}.a", data=any_of("text")).SerializeToString()
    (answer,) = send(client, f"/{EVENTS.full_name}/Publish", request + b"\xa2\x06\x03abc")
    assert pb.PublishEventResponse.FromString(answer).id == 1


def test_a_later_versions_command(client: Client, unique: Unique) -> None:
    """A command that this version does not know is an empty one."""
    stream = client.ensure_stream(unique())
    ensure_consumer(client, stream, name="c")
    subscribe = pb.EventsRequest(subscribe={"stream": stream, "consumer": "c"}).SerializeToString()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        send(client, f"/{EVENTS.full_name}/Events", subscribe, b"\xb2\x09\x00")
    assert caught[0].fields == ("request",)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[NatsServer]:
    """Run a nats-server with an account that may have one stream, and one without JetStream."""
    config = tmp_path / "config"
    config.write_text(
        """
        accounts {
            ONE: { jetstream: { max_streams: 1, max_consumers: 1 }, users: [{ user: one, password: p }] }
            NONE: { users: [{ user: none, password: p }] }
        }
        """
    )
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    yield server
    server.kill()


def test_account_without_jetstream(limited: NatsServer) -> None:
    """A broker that keeps nothing for this server is not available, and never an internal error."""
    with running_app(f"nats://none:p@127.0.0.1:{limited.port}") as address:
        client = Client(address)
        for attempt in (
            lambda seconds: ensure_stream(client, "S", timeout=seconds),
            lambda _: ensure_consumer(client, "S", name="c"),
            lambda seconds: client.publish("S.a", timeout=seconds),
            lambda _: client.ensure_store("s"),
            lambda _: client.get("s", "a"),
            lambda seconds: client.set("s", "a", timeout=seconds),
        ):
            refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", attempt)
        with calling(client) as call:
            call.say(subscribe={"stream": "S", "consumer": "c"})
            refusal = call.end()
            assert refusal is not None
            assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "BROKER_UNAVAILABLE")
        client.channel.close()


def test_no_room_left(tmp_path: Path) -> None:
    """A broker whose room is used up says so, and not that the stream's limits are to be raised."""
    config = tmp_path / "config"
    config.write_text("jetstream { max_file_store: 100KB, max_memory_store: 100KB }")
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    try:
        with running_app(server.url) as address:
            client = Client(address)
            ensure_stream(client, "S")
            client.ensure_store("s")
            for _ in range(2):  # the one that goes over the limit is taken
                client.publish("S.a", "x" * 90_000)
            write: Callable[[], object]
            for write in (lambda: client.publish("S.a"), lambda: client.set("s", "a")):
                with refused("RESOURCE_EXHAUSTED", "STORAGE_FULL") as caught:
                    write()
                assert caught[0].message == "the broker has no room left; give it more, or remove events"
            client.channel.close()
    finally:
        server.kill()


def test_broken_disk(own_client: Client, own_nats_server: NatsServer, tmp_path: Path) -> None:
    """What the broker cannot write to its disk is unavailable, and never an internal error."""
    ensure_stream(own_client, "S")
    (streams,) = tmp_path.glob("data/jetstream/*/streams")
    (streams / "S" / "obs").rename(tmp_path / "obs")
    for taken in ("S/obs", "T", "KV_s"):
        (streams / taken).symlink_to("nowhere")
    for attempt in (
        lambda: ensure_consumer(own_client, "S", name="c"),
        lambda: ensure_stream(own_client, "T"),
        lambda: own_client.ensure_store("s"),
    ):
        with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
            attempt()


def test_both_names_fail_alike(client: Client, unique: Unique) -> None:
    """Publish and Consume refuse what PublishEvent and Events refuse, in the same words."""
    refusals = []
    for method in ("PublishEvent", "Publish"):
        with pytest.raises(grpc.RpcError) as caught:
            client.publish("a.*", method=method)
        refusals.append(read_refusal(caught.value))
    for method in ("Events", "Consume"):
        with calling(client, method) as call:
            call.say(subscribe={"stream": "missing", "consumer": "c"})
            refusal = call.end()
            assert refusal is not None
            refusals.append(refusal)
    assert refusals[0] == refusals[1]
    assert refusals[2] == refusals[3]
