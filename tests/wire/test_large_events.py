"""Events larger than a client takes: grpcio with its default of 4 MiB, and a broker that stores 8 MiB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

import windshift as ws
from tests.support.app import running_app
from tests.support.client import Client
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import ask, consumer
from tests.wire.consuming import Call, calling, ensure_consumer
from tests.wire.management import get_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb

MIB = 1024 * 1024
TAKES = 4 * MIB
LARGE = 5 * MIB


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker that stores 8 MiB, and a server."""
    directory = tmp_path_factory.mktemp("large")
    config = directory / "config"
    config.write_text(f"max_payload: {8 * MIB}")
    server = NatsServer(directory, "--config", str(config))
    server.start()
    try:
        with running_app(server.url) as address:
            yield address
    finally:
        server.kill()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """Make a client that takes what grpcio takes by default."""
    client = Client(address)
    yield client
    client.channel.close()


@pytest.fixture
def stream(client: Client, request: pytest.FixtureRequest) -> str:
    """Make a stream for a test."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    return client.ensure_stream(name, f"{name}.>")


def publish(client: Client, stream: str, size: int) -> int:
    """Publish an event with so many bytes of data."""
    return client.publish(f"{stream}.x", data=AnyMessage(type_url="x.Y", value=bytes(size)))


def subscribe(call: Call, stream: str, **fields: Any) -> None:
    """Subscribe, and say what is taken."""
    call.subscribe(stream, "c", 10, **{"max_message_size": TAKES, **fields})


def test_a_client_that_says_nothing(client: Client, stream: str) -> None:
    """Its call ends on its side, and the event comes again: this is what the field is for."""
    ensure_consumer(client, stream)
    publish(client, stream, LARGE)
    for _ in range(2):
        with calling(client) as call:
            call.subscribe(stream, "c")
            assert call.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert letters_of(client, stream) == []


@pytest.mark.parametrize("policy", [None, {"dead_letters": False}, {"max_attempts": 3}], ids=str)
def test_what_does_not_fit_is_a_dead_letter(
    client: Client, stream: str, policy: dict[str, Any] | None
) -> None:
    """Whatever the consumer's policy, at once, with its reason; the call goes on with what comes behind."""
    if policy is None:
        ensure_consumer(client, stream)
    else:
        consumer(client, stream, policy=policy)
    ids = [publish(client, stream, size) for size in (10, LARGE, LARGE, 20)]
    with calling(client) as call:
        subscribe(call, stream)
        assert [event.id for event in call.events(2)] == [ids[0], ids[3]]
        call.ack(ids[0], ids[3])
        assert call.told() == ("ack", [ids[0], ids[3]], [], [])
        wait_for(lambda: get_consumer(client, stream, "c").unsettled == 0)
    letters = letters_of(client, stream)
    assert [letter.event.id for letter in letters] == ids[1:3]
    for letter in letters:
        assert (letter.error_type, letter.attempts) == ("EVENT_TOO_LARGE", 1)
        assert "5,24" in letter.reason
        assert "4,194,304" in letter.reason


def letters_of(client: Client, stream: str) -> list[pb.DeadLetter]:
    """List dead letters, without their data: those who list have the same default."""
    request = pb.ListRequest(filter=pb.Filter(stream=stream), without_data=True)
    letters: list[pb.DeadLetter] = []
    while True:
        page = ask(client, "List", request)
        letters += page.dead_letters
        if not page.next_page_token:
            return sorted(letters, key=lambda letter: letter.event.id)
        request.page_token = page.next_page_token


def test_what_just_fits_is_delivered(client: Client, stream: str) -> None:
    """An event is taken to be 300 bytes larger than it is at most, and one that is delivered does fit."""
    ensure_consumer(client, stream)
    size = TAKES - 400
    publish(client, stream, size)
    with calling(client) as call:
        subscribe(call, stream, linger=1.0)
        assert len(call.event().data.value) == size


def test_batches_stay_below_it(address: str, client: Client, stream: str) -> None:
    """A client that takes little gets many events in batches, each of which it takes."""
    ensure_consumer(client, stream)
    for _ in range(100):
        publish(client, stream, 500)
    small = Client(address, max_message_size=16 * 1024)
    with calling(small) as call:
        call.subscribe(stream, "c", 100, max_batch=1_000, max_message_size=16 * 1024)
        assert len(call.events(100)) == 100
    small.channel.close()


def test_a_replay_goes_to_who_takes_it(address: str, client: Client, stream: str) -> None:
    """With a client that takes little it becomes a dead letter again; one that takes more gets it."""
    consumer(client, stream)
    seq = publish(client, stream, LARGE)
    with calling(client) as call:
        subscribe(call, stream)
        wait_for(lambda: letters_of(client, stream))
        assert ask(client, "Replay", pb.ReplayRequest(filter=pb.Filter(stream=stream))).replayed == 1
        wait_for(lambda: [each.replay_count for each in letters_of(client, stream)] == [1])
    wide = Client(address, max_message_size=-1)
    with calling(wide) as call:
        call.subscribe(stream, "c")
        # Until the first replay has ended, which is after its dead letter was kept, there is no second one
        wait_for(lambda: ask(client, "Replay", pb.ReplayRequest(filter=pb.Filter(stream=stream))).replayed)
        assert call.event().id == seq
        call.ack(seq)
        call.told()
    wait_for(lambda: not letters_of(client, stream))
    wide.channel.close()


async def test_the_python_library_takes_everything(address: str, client: Client, stream: str) -> None:
    """Its own limit is above what NATS stores, so it need not say anything."""
    ensure_consumer(client, stream)
    seq = publish(client, stream, LARGE)
    async with (
        ws.connect(address) as library,
        library.stream(stream).consumer("c").subscribe() as deliveries,
    ):
        delivery = await anext(deliveries)
        assert delivery.event.id == seq
        await delivery.ack()
