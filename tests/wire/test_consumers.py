"""Ensuring and deleting consumers, as a client in the field sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from tests.server.events.management import eventually
from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import EVENTS, Client, refused
from tests.support.nats_server import NatsServer
from tests.wire.consuming import seconds, subscribed
from tests.wire.management import (
    consuming,
    delete_consumer,
    ensure_consumer,
    ensure_stream,
    get_consumer,
    stored_consumer,
)
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.nats import JetStreamError

Unique = Callable[[], str]
SECOND = 10**9


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with events 1 to 3, on `<stream>.1` to `<stream>.3`."""
    name = client.ensure_stream(unique())
    for number in (1, 2, 3):
        client.publish(f"{name}.{number}")
    return name


async def test_durable(client: Client, nats_server: NatsServer, stream: str) -> None:
    """A consumer with a name keeps it as its id, and lies in NATS as documented."""
    assert ensure_consumer(client, stream, name="c") == "c"
    expected = {
        "durable_name": "c",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": 4,
        "ack_policy": "explicit",
        "ack_wait": 30 * SECOND,
        "max_deliver": -1,
        "max_waiting": 10_000,
        "max_ack_pending": 20_000,
        "inactive_threshold": 30 * 86_400 * SECOND,
    }
    config = (await stored_consumer(nats_server, stream, "c"))["config"]
    assert expected.items() <= config.items()
    assert "filter_subject" not in config


async def test_ephemeral(client: Client, nats_server: NatsServer, stream: str) -> None:
    """A consumer without a name gets an id by which it can be subscribed to and deleted."""
    consumer = ensure_consumer(client, stream, **{"from": {"start": True}})
    config = (await stored_consumer(nats_server, stream, consumer))["config"]
    assert config["inactive_threshold"] == 3_600 * SECOND
    assert "durable_name" not in config
    with consuming(client, stream, consumer) as call:
        assert [call.next().id for _ in range(3)] == [1, 2, 3]
    delete_consumer(client, stream, consumer)


@pytest.mark.parametrize(
    ("pointer", "first"),
    [
        (None, 4),
        ({}, 4),
        ({"end": True}, 4),
        ({"end": False}, 4),
        ({"start": True}, 1),
        ({"start": False}, 1),
        ({"offset": "2"}, 2),
        ({"offset": "1"}, 1),
        ({"offset": "4"}, 4),
        ({"time": "1970-01-01T00:00:00Z"}, 1),
        ({"time": "0001-01-01T00:00:00Z"}, 1),
        ({"time": "9999-12-31T23:59:59.999999999Z"}, 4),
    ],
)
def test_start(client: Client, stream: str, pointer: dict[str, Any] | None, first: int) -> None:
    """A consumer starts where it is told; without a word, or with an empty pointer, after the last event."""
    fields = {} if pointer is None else {"from": pointer}
    ensure_consumer(client, stream, name="c", **fields)
    client.publish(f"{stream}.4")
    with consuming(client, stream, "c") as call:
        assert call.next().id == first


async def test_start_where_no_event_is_yet(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Any id that the broker can count to is waited for; the end is kept as the id after the last one."""
    for name, pointer, first in (
        ("far", {"offset": str(2**63 - 1)}, 2**63 - 1),
        ("end", {"end": True}, 4),
        ("absent", None, 4),
    ):
        ensure_consumer(client, stream, name=name, **({} if pointer is None else {"from": pointer}))
        stored = (await stored_consumer(nats_server, stream, name))["config"]
        assert (stored["deliver_policy"], stored["opt_start_seq"]) == ("by_start_sequence", first)


def test_a_durable_resumes(client: Client, stream: str) -> None:
    """The next subscriber goes on where the last one left off, and gets what that one had not settled."""
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}})
    with subscribed(client, stream) as call:
        call.events(3)
        call.ack(1, 3)
        assert call.told() == ("ack", [1, 3], [], [])
        call.half_close()
        assert call.end() is None
    client.publish(f"{stream}.4")
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}})
    with subscribed(client, stream) as call:
        assert sorted((event.id, event.delivery_attempt) for event in call.events(2)) == [(2, 2), (4, 1)]


def test_ephemerals_are_apart(client: Client, stream: str) -> None:
    """Without a name each consumer is one of its own, with all the events."""
    ids = {ensure_consumer(client, stream, **{"from": {"start": True}}) for _ in range(3)}
    assert len(ids) == 3
    for consumer in ids:
        with subscribed(client, stream, consumer=consumer) as call:
            assert [event.id for event in call.events(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, 30), ("0s", 30), ("0.1s", 0.1), ("90s", 90), ("9223372036s", 9_223_372_036)],
)
def test_processing_timeout(client: Client, stream: str, timeout: str | None, seconds: float) -> None:
    """Subscribers are told the consumer's timeout: 30 seconds unless it was said."""
    ensure_consumer(client, stream, name="c", **({} if timeout is None else {"processing_timeout": timeout}))
    with consuming(client, stream, "c") as call:
        assert call.subscribed.processing_timeout.ToTimedelta().total_seconds() == seconds


async def test_ensuring_again(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Ensured again, a consumer gets new subjects and timeout, or the defaults, and keeps its position."""
    ensure_consumer(client, stream, name="c", processing_timeout="5s", **{"from": {"offset": 2}})
    ensure_consumer(client, stream, name="c", subjects=["*.3"], **{"from": {"start": True}})
    config = (await stored_consumer(nats_server, stream, "c"))["config"]
    assert (config["ack_wait"], config["opt_start_seq"]) == (30 * SECOND, 2)
    with consuming(client, stream, "c") as call:
        assert call.next().id == 3
        ensure_consumer(client, stream, name="c")
        client.publish(f"{stream}.4")
        assert call.next().id == 4


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"from": {"offset": 0}}, "from.offset"),
        ({"from": {"offset": str(2**63)}}, "from.offset"),
        ({"from": {"offset": str(2**64 - 1)}}, "from.offset"),
        ({"processing_timeout": "0.05s"}, "processing_timeout"),
        ({"processing_timeout": "-1s"}, "processing_timeout"),
        ({"processing_timeout": "0.000000001s"}, "processing_timeout"),
        ({"processing_timeout": "9223372037s"}, "processing_timeout"),
        ({"processing_timeout": "315576000000s"}, "processing_timeout"),
        ({"retry_policy": {"max_attempts": 1_000_001}}, "retry_policy.max_attempts"),
        ({"retry_policy": {"initial_backoff": "0s"}}, "retry_policy.initial_backoff"),
        ({"retry_policy": {"initial_backoff": "-1s"}}, "retry_policy.initial_backoff"),
        ({"retry_policy": {"initial_backoff": "0.000999999s"}}, "retry_policy.initial_backoff"),
        ({"retry_policy": {"max_backoff": "31536001s"}}, "retry_policy.max_backoff"),
        ({"retry_policy": {"max_backoff": "0.049s"}}, "retry_policy.max_backoff"),
        (
            {"retry_policy": {"initial_backoff": "2s", "max_backoff": "1.999s"}},
            "retry_policy.max_backoff",
        ),
        ({"retry_policy": {"backoff_multiplier": 0.5}}, "retry_policy.backoff_multiplier"),
        ({"retry_policy": {"backoff_multiplier": 100.5}}, "retry_policy.backoff_multiplier"),
        ({"retry_policy": {"backoff_multiplier": "NaN"}}, "retry_policy.backoff_multiplier"),
        ({"retry_policy": {"jitter": -0.1}}, "retry_policy.jitter"),
        ({"retry_policy": {"jitter": "NaN"}}, "retry_policy.jitter"),
        ({"retry_policy": {"jitter": "Infinity"}}, "retry_policy.jitter"),
    ],
)
def test_invalid_fields(client: Client, stream: str, fields: dict[str, Any], path: str) -> None:
    """What a field must not hold is refused with the field's path."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_consumer(client, stream, **fields)
    assert caught[0].metadata == {"field": path}
    assert caught[0].fields == (path,)


@pytest.mark.parametrize(
    ("path", "seconds", "nanos"),
    [
        ("processing_timeout", 1, -1),
        ("processing_timeout", 0, 10**9),
        ("processing_timeout", 2**63 - 1, 0),
        ("from.time", 253_402_300_800, 0),
        ("from.time", -62_135_596_801, 0),
        ("from.time", 0, 10**9),
        ("from.time", 0, -1),
    ],
)
def test_what_protobuf_does_not_allow(
    client: Client, stream: str, path: str, seconds: int, nanos: int
) -> None:
    """Durations and times that Protobuf's JSON could not even write are refused, too."""
    request = pb.EnsureConsumerRequest(stream=stream)
    field = request.processing_timeout if path == "processing_timeout" else getattr(request, "from").time
    field.seconds, field.nanos = seconds, nanos
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.call(EVENTS.methods_by_name["EnsureConsumer"], request)
    assert caught[0].fields == (path,)


@pytest.mark.parametrize("name", [None, "c"])
def test_overlapping_subjects(client: Client, stream: str, name: str | None) -> None:
    """Subjects of which one covers another are refused; any others are not, be they the stream's or not."""
    fields = {} if name is None else {"name": name}
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION"):
        ensure_consumer(client, stream, subjects=["a.*", "a.b"], **fields)
    ensure_consumer(client, stream, subjects=["a.*", "b", "*.c.>"], **fields)


BACKOFFS = ("initial_backoff", "max_backoff")
PLAIN = {
    "initial_backoff": "0.050s",
    "max_backoff": "30s",
    "backoff_multiplier": 2.0,
    "jitter": 0.2,
    "dead_letters": False,
}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (None, PLAIN),
        ({}, PLAIN | {"dead_letters": True}),
        ({"max_attempts": 5}, PLAIN | {"max_attempts": 5, "dead_letters": True}),
        ({"max_attempts": 0, "dead_letters": False}, PLAIN),
        ({"initial_backoff": "60s", "dead_letters": False}, PLAIN | dict.fromkeys(BACKOFFS, "60s")),
        (
            {
                "max_attempts": 1_000_000,
                "initial_backoff": "0.001s",
                "max_backoff": "31536000s",
                "backoff_multiplier": 100.0,
                "jitter": 1.0,
                "dead_letters": False,
            },
            {
                "max_attempts": 1_000_000,
                "initial_backoff": "0.001s",
                "max_backoff": "31536000s",
                "backoff_multiplier": 100.0,
                "jitter": 1.0,
                "dead_letters": False,
            },
        ),
    ],
)
def test_a_policy_is_read_back(
    client: Client, stream: str, asked: dict[str, Any] | None, shown: dict[str, Any]
) -> None:
    """With every default filled in, for durables and ephemerals; without one it is the plain contract's."""
    fields = {} if asked is None else {"retry_policy": asked}
    generated = ensure_consumer(client, stream, **fields)
    ensure_consumer(client, stream, name="c", **fields)
    ensure_consumer(client, stream, name="again", retry_policy=shown)
    for consumer in (generated, "c", "again"):
        policy = get_consumer(client, stream, consumer).retry_policy
        assert MessageToDict(policy, preserving_proto_field_name=True) == shown


def test_a_client_of_the_plain_contract_keeps_the_policy(client: Client, stream: str) -> None:
    """What it does not know it does not change, whatever else it says."""
    ensure_consumer(client, stream, name="c", retry_policy={"max_attempts": 5, "dead_letters": False})
    policy = get_consumer(client, stream).retry_policy
    for fields in ({}, {"subjects": [f"{stream}.1"]}, {"processing_timeout": "5s"}):
        ensure_consumer(client, stream, name="c", **fields)
        assert get_consumer(client, stream).retry_policy == policy
    ensure_consumer(client, stream, name="c", retry_policy={"jitter": 0, "dead_letters": False})
    policy = get_consumer(client, stream).retry_policy
    assert (policy.HasField("max_attempts"), policy.jitter) == (False, 0)


async def test_a_policy_lies_beside_what_others_keep(
    client: Client, nats_server: NatsServer, stream: str
) -> None:
    """It is metadata of the consumer in NATS, whose own limit of deliveries stays unlimited."""
    foreign = {"durable_name": "c", "ack_policy": "explicit", "metadata": {"owner": "billing"}}
    async with connect(nats_server.url) as broker:
        request = {"stream_name": stream, "config": foreign}
        await broker.api.call(f"CONSUMER.CREATE.{stream}.c", request, in_seconds(30))
    ensure_consumer(client, stream, name="c", retry_policy={"max_attempts": 5, "dead_letters": False})
    config = (await stored_consumer(nats_server, stream, "c"))["config"]
    assert config["metadata"]["owner"] == "billing"
    assert json.loads(config["metadata"]["windshift.retry_policy"])["max_attempts"] == 5
    assert config["max_deliver"] == -1


async def test_a_place_for_dead_letters(own_client: Client, own_nats_server: NatsServer) -> None:
    """It is there as soon as a consumer has dead letters, and again after somebody removed it."""
    ensure_stream(own_client, "S")
    ensure_consumer(own_client, "S", name="c")
    ensure_consumer(own_client, "S", name="c", retry_policy={"dead_letters": False})
    async with connect(own_nats_server.url) as broker:
        streams = await broker.api.call("STREAM.NAMES", None, in_seconds(30))
        assert streams["streams"] == ["S"]
        for fields in ({"retry_policy": {"max_attempts": 5}}, {}):
            ensure_consumer(own_client, "S", name="c", **fields)
            assert await broker.messages("WS_DEAD_LETTERS") == 0
            await broker.api.call("STREAM.DELETE.WS_DEAD_LETTERS", None, in_seconds(30))
    assert get_consumer(own_client, "S").dead_letters == 0


def test_a_consumer_is_read_back(client: Client, stream: str) -> None:
    """What it is, and how far it has come."""
    subjects = [f"{stream}.*", "elsewhere.>"]
    start = {"from": {"start": True}}
    ensure_consumer(client, stream, name="c", subjects=subjects, processing_timeout="5.5s", **start)
    seen = get_consumer(client, stream)
    assert (seen.stream, seen.id, seen.durable) == (stream, "c", True)
    assert sorted(seen.subjects) == sorted(subjects)
    assert seen.processing_timeout.ToTimedelta().total_seconds() == 5.5
    assert (seen.pending, seen.unsettled, seen.settled_to, seen.dead_letters) == (3, 0, 0, 0)
    with subscribed(client, stream, 2) as call:
        call.events(2)
        seen = get_consumer(client, stream)
        assert (seen.pending, seen.unsettled, seen.settled_to) == (1, 2, 0)
        call.ack(2)
        call.told()
        call.reject(1, delay=seconds(60))
        call.told()
        call.ack(call.event().id)
        call.told()
        seen = get_consumer(client, stream)
        assert (seen.pending, seen.unsettled, seen.settled_to) == (0, 1, 0)


def test_an_ephemeral_is_read_back(client: Client, stream: str) -> None:
    """By its generated id; one without filters shows none, also after it lost those that it had."""
    consumer = ensure_consumer(client, stream)
    seen = get_consumer(client, stream, consumer)
    assert (seen.id, seen.durable, list(seen.subjects)) == (consumer, False, [])
    ensure_consumer(client, stream, name="c", subjects=[f"{stream}.1"])
    assert list(get_consumer(client, stream).subjects) == [f"{stream}.1"]
    ensure_consumer(client, stream, name="c")
    assert list(get_consumer(client, stream).subjects) == []


async def test_a_consumer_of_another_program_is_read_back(
    client: Client, nats_server: NatsServer, stream: str
) -> None:
    """Also one that no call can consume from."""
    config = {"durable_name": "c", "ack_policy": "none", "deliver_subject": f"deliver.{stream}"}
    async with connect(nats_server.url) as broker:
        request = {"stream_name": stream, "config": config}
        await broker.api.call(f"CONSUMER.CREATE.{stream}.c", request, in_seconds(30))
    seen = get_consumer(client, stream)
    assert (seen.durable, seen.unsettled, seen.retry_policy.dead_letters) == (True, 0, False)


def test_what_does_not_exist(client: Client, stream: str, unique: Unique) -> None:
    """A missing stream or consumer is named."""
    missing = unique()
    for attempt in (
        lambda: ensure_consumer(client, missing, name="c"),
        lambda: ensure_consumer(client, missing),
        lambda: delete_consumer(client, missing, "c"),
        lambda: get_consumer(client, missing, "c"),
    ):
        with refused("NOT_FOUND", "STREAM_NOT_FOUND") as caught:
            attempt()
        assert caught[0].metadata == {"name": missing}
    for look_up in (delete_consumer, get_consumer):
        with refused("NOT_FOUND", "CONSUMER_NOT_FOUND") as caught:
            look_up(client, stream, missing)
        assert caught[0].metadata == {"name": missing}


def test_delete(client: Client, stream: str) -> None:
    """A deleted consumer ends its subscribers' calls and can be made anew, from its start."""
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}})
    with consuming(client, stream, "c") as call:
        assert call.next().id == 1
        delete_consumer(client, stream, "c")
        with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
            assert [call.next().id for _ in range(3)] == []
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
        delete_consumer(client, stream, "c")
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}})
    with consuming(client, stream, "c") as call:
        assert call.next().id == 1


@pytest.mark.parametrize(
    ("stream_name", "id_", "path"), [("", "c", "stream"), ("s", "", "id"), ("s", "*", "id")]
)
def test_names_are_needed(client: Client, stream_name: str, id_: str, path: str) -> None:
    """Deleting and looking up take names, not patterns."""
    for look_up in (delete_consumer, get_consumer):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            look_up(client, stream_name, id_)
        assert caught[0].metadata == {"field": path}


def test_many_clients_at_once(app_server: str, stream: str) -> None:
    """Many clients that ensure one durable at once all get it."""
    clients = [Client(app_server) for _ in range(8)]
    with ThreadPoolExecutor(32) as pool:
        ids = pool.map(lambda number: ensure_consumer(clients[number % 8], stream, name="c"), range(128))
        assert set(ids) == {"c"}
    for client in clients:
        client.channel.close()


async def test_the_end_of_an_ephemeral(
    own_client: Client, own_nats_server: NatsServer, unique: Unique
) -> None:
    """It is kept while anybody has a subscription, at whichever server, and ends soon after the last one."""
    stream = own_client.ensure_stream(unique())
    unused = ensure_consumer(own_client, stream)
    consumer = ensure_consumer(own_client, stream)

    async def kept(name: str) -> int | None:
        try:
            config = (await stored_consumer(own_nats_server, stream, name))["config"]
        except JetStreamError:  # there is none
            return None
        return int(config["inactive_threshold"]) // SECOND

    async with connect(own_nats_server.url) as broker:
        changed = asyncio.Event()
        broker.connection.subscribe(
            f"_WS.note.consumer.{stream}.{consumer}".encode(), lambda _: changed.set()
        )
        with running_app(own_nats_server.url, WINDSHIFT_EPHEMERAL_KEPT="1") as address:
            other = Client(address)
            with consuming(own_client, stream, consumer):
                with consuming(other, stream, consumer):
                    assert await kept(consumer) == 3600
                async with asyncio.timeout(20):
                    await changed.wait()
                await eventually(lambda: kept(consumer), 3600)
            await eventually(lambda: kept(consumer), 60)
            with consuming(other, stream, consumer):
                await eventually(lambda: kept(consumer), 3600)
            await eventually(lambda: kept(consumer), None)
            assert await kept(unused) == 3600
            other.channel.close()
