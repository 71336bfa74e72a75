"""Ensuring streams, as a client in the field sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.wire.management import ensure_stream, stored_stream
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]
SECOND = 10**9


async def eventually_holds(nats_server: NatsServer, stream: str, subjects: dict[str, int]) -> None:
    """Wait until a stream holds so many events of these subjects: copies take their time."""
    async with asyncio.timeout(10):
        held: object = None
        while held != subjects:
            held = (await stored_stream(nats_server, stream))["state"].get("subjects", {})


async def test_defaults(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A stream of which only subjects are said lies in NATS with the documented defaults."""
    name = unique()
    ensure_stream(client, name)
    expected = {
        "subjects": [f"{name}.>"],
        "storage": "file",
        "num_replicas": 1,
        "retention": "limits",
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "discard": "old",
        "duplicate_window": 120 * SECOND,
    }
    assert expected.items() <= (await stored_stream(nats_server, name))["config"].items()


async def test_every_option_and_its_removal(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """Every option lies in NATS, and goes back to its default when a later request leaves it out."""
    name = unique()
    storage = {"type": "STORAGE_TYPE_MEMORY"}
    ensure_stream(
        client,
        name,
        retention_policy={
            "max_age": "3600s",
            "max_events": "10",
            "max_events_per_subject": "2",
            "max_bytes": "10000",
            "discard_policy": "DISCARD_POLICY_NEW",
            "discard_new_per_subject": True,
        },
        storage={**storage, "replicas": 1},
        deduplication_window="0.1s",
        max_event_size=512,
    )
    expected = {
        "storage": "memory",
        "max_age": 3600 * SECOND,
        "max_msgs": 10,
        "max_msgs_per_subject": 2,
        "max_bytes": 10_000,
        "max_msg_size": 512,
        "discard": "new",
        "discard_new_per_subject": True,
        "duplicate_window": SECOND // 10,
    }
    assert expected.items() <= (await stored_stream(nats_server, name))["config"].items()
    ensure_stream(client, name, storage=storage, subjects={"subjects": [f"{name}.a", f"{name}.b"]})
    config = (await stored_stream(nats_server, name))["config"]
    defaults = {
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "discard": "old",
        "duplicate_window": 120 * SECOND,
        "subjects": [f"{name}.a", f"{name}.b"],
    }
    assert defaults.items() <= config.items()
    assert "discard_new_per_subject" not in config


def test_limits_at_work(client: Client, unique: Unique) -> None:
    """A stream that is full refuses or drops, as its policy says; one event may be too large for it."""
    name = unique()
    full = {"max_events": 1, "discard_policy": "DISCARD_POLICY_NEW"}
    ensure_stream(client, name, retention_policy=full)
    client.publish(f"{name}.a")
    with refused("RESOURCE_EXHAUSTED", "STREAM_FULL"):
        client.publish(f"{name}.a")
    ensure_stream(client, name, retention_policy={"max_events": 1})
    assert client.publish(f"{name}.a") == 2
    ensure_stream(client, name, max_event_size=64)
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        client.publish(f"{name}.a", "x" * 64)
    assert caught[0].metadata == {"limit": "64"}


def test_subjects_are_bound_and_unbound(client: Client, unique: Unique) -> None:
    """A subject that a later request leaves out takes no more events; one that it adds does."""
    name = unique()
    ensure_stream(client, name, subjects={"subjects": [f"{name}.a"]})
    client.publish(f"{name}.a")
    ensure_stream(client, name, subjects={"subjects": [f"{name}.b"]})
    assert client.publish(f"{name}.b") == 2
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT"):
        client.publish(f"{name}.a")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"subjects": {}}, "subjects.subjects"),
        ({"subjects": {"subjects": ["ok", "a b"]}}, "subjects.subjects[1]"),
        ({"subjects": {"subjects": ["*.a"]}}, "subjects.subjects[0]"),
        ({"subjects": {"subjects": ["$JS.API.>"]}}, "subjects.subjects[0]"),
        ({"mirror": {}}, "mirror.name"),
        ({"mirror": {"name": "KV_x"}}, "mirror.name"),
        ({"mirror": {"name": "m", "from": {"offset": 0}}}, "mirror.from.offset"),
        ({"aggregate": {}}, "aggregate.sources"),
        (
            {"aggregate": {"sources": [{"name": "m", "filter_subjects": [""]}]}},
            "aggregate.sources[0].filter_subjects[0]",
        ),
        ({"storage": {"replicas": 0}}, "storage.replicas"),
        ({"storage": {"type": 9}}, "storage.type"),
        ({"retention_policy": {"discard_policy": 9}}, "retention_policy.discard_policy"),
        ({"retention_policy": {"max_events": str(2**63)}}, "retention_policy.max_events"),
        ({"retention_policy": {"max_bytes": str(2**62)}}, "retention_policy.max_bytes"),
        ({"retention_policy": {"max_age": "-1s"}}, "retention_policy.max_age"),
        ({"retention_policy": {"max_age": "0.05s"}}, "retention_policy.max_age"),
        ({"deduplication_window": "0.099s"}, "deduplication_window"),
        ({"max_event_size": 2**31}, "max_event_size"),
    ],
)
def test_invalid_fields(client: Client, unique: Unique, fields: dict[str, Any], path: str) -> None:
    """What a field must not hold is refused with the field's path, in both details."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_stream(client, unique(), **fields)
    assert caught[0].metadata == {"field": path}
    assert caught[0].fields == (path,)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ä", "*", ">", "KV_a", "OBJ_a", "WS_a", "a" * 256])
def test_invalid_names(client: Client, name: str) -> None:
    """Malformed and reserved names are refused."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_stream(client, name, subjects={"subjects": ["a"]})
    assert caught[0].metadata == {"field": "name"}


def test_no_source(client: Client, unique: Unique) -> None:
    """A stream needs a source."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.call(
            pb.DESCRIPTOR.services_by_name["EventsService"].methods_by_name["EnsureStream"],
            pb.EnsureStreamRequest(name=unique()),
        )
    assert caught[0].metadata == {"field": "source"}


@pytest.mark.parametrize(
    "fields",
    [
        {"retention_policy": {"discard_new_per_subject": True}},
        {"retention_policy": {"discard_new_per_subject": True, "discard_policy": "DISCARD_POLICY_NEW"}},
        {"retention_policy": {"discard_new_per_subject": True, "max_events_per_subject": 1}},
        {"retention_policy": {"max_age": "1s"}, "deduplication_window": "2s"},
        {"subjects": {"subjects": ["x.>", "x.y"]}},
    ],
)
def test_unsupported_combinations(client: Client, unique: Unique, fields: dict[str, Any]) -> None:
    """Options that the broker does not take together are refused, and nothing is made."""
    name = unique()
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION"):
        ensure_stream(client, name, **fields)
    with refused("NOT_FOUND", "STREAM_NOT_FOUND"):
        ensure_stream(client, unique(), mirror={"name": name})


def test_changes_that_cannot_be_made(client: Client, unique: Unique) -> None:
    """Subjects of others, another storage, more replicas than servers fail, each with its reason."""
    name, other = unique(), unique()
    ensure_stream(client, name)
    with refused("FAILED_PRECONDITION", "SUBJECTS_OVERLAP"):
        ensure_stream(client, other, subjects={"subjects": [f"{name}.a"]})
    with refused("FAILED_PRECONDITION", "STORAGE_CHANGE"):
        ensure_stream(client, name, storage={"type": "STORAGE_TYPE_MEMORY"})
    for stream in (name, other):
        with refused("FAILED_PRECONDITION", "REPLICAS_UNAVAILABLE"):
            ensure_stream(client, stream, storage={"replicas": 3})


def test_default_replicas(nats_server: NatsServer, unique: Unique) -> None:
    """What the server is set up with counts for new streams, and for those only."""
    name = unique()
    with running_app(nats_server.url, WINDSHIFT_DEFAULT_REPLICAS="3") as address:
        client = Client(address)
        with refused("FAILED_PRECONDITION", "REPLICAS_UNAVAILABLE"):
            ensure_stream(client, name)
        ensure_stream(client, name, storage={"replicas": 1})
        ensure_stream(client, name)
        client.channel.close()


async def test_mirror(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A mirror copies from where it is told, what it is told, with the ids of its origin, and is fixed."""
    name, origin = unique(), unique()
    ensure_stream(client, origin)
    for subject in ("a", "b", "c"):
        client.publish(f"{origin}.{subject}")
    source = {"name": origin, "from": {"offset": 2}, "filter_subjects": [f"{origin}.a", f"{origin}.c"]}
    ensure_stream(client, name, mirror=source)
    ensure_stream(client, name, mirror=source)
    await eventually_holds(nats_server, name, {f"{origin}.c": 1})
    assert (await stored_stream(nats_server, name))["state"]["last_seq"] == 3
    for change in (
        {"mirror": {"name": origin}},
        {"mirror": {**source, "from": {"offset": 3}}},
        {"subjects": {"subjects": [name]}},
        {"aggregate": {"sources": [{"name": origin}]}},
    ):
        with refused("FAILED_PRECONDITION", "MIRROR_CHANGE"):
            ensure_stream(client, name, **change)
    with refused("FAILED_PRECONDITION", "MIRROR_CHANGE"):
        ensure_stream(client, unique_stream(client, unique), mirror={"name": origin})


def unique_stream(client: Client, unique: Unique) -> str:
    """Make a stream of subjects."""
    return client.ensure_stream(unique())


async def test_aggregate(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """An aggregate collects from each stream from where it is told; the end stays what it was at first."""
    name, one, two, three = unique(), unique(), unique(), unique()
    for stream in (one, two, three):
        ensure_stream(client, stream)
        client.publish(f"{stream}.before")
    sources = [
        {"name": one, "from": {"end": True}},
        {"name": two, "from": {"start": False}, "filter_subjects": ["*.before"]},
        {"name": three, "from": {"time": "2200-01-01T00:00:00Z"}},
    ]
    ensure_stream(client, name, aggregate={"sources": sources})
    before = (await stored_stream(nats_server, name))["config"]
    client.publish(f"{one}.after")
    client.publish(f"{two}.after")
    ensure_stream(client, name, aggregate={"sources": sources})
    await eventually_holds(nats_server, name, {f"{one}.after": 1, f"{two}.before": 1})
    assert (await stored_stream(nats_server, name))["config"] == before


@pytest.mark.parametrize("kind", ["mirror", "aggregate"])
def test_missing_and_overlapping(client: Client, unique: Unique, kind: str) -> None:
    """A stream to copy from has to exist, and its filters must not overlap."""

    def ensure(**source: Any) -> None:
        fields = {"mirror": source} if kind == "mirror" else {"aggregate": {"sources": [source]}}
        ensure_stream(client, unique(), **fields)

    missing = unique()
    with refused("NOT_FOUND", "STREAM_NOT_FOUND") as caught:
        ensure(name=missing)
    assert caught[0].metadata == {"name": missing}
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION"):
        ensure(name=unique_stream(client, unique), filter_subjects=["a.>", "a.b"])


def test_many_clients_at_once(app_server: str, unique: Unique) -> None:
    """Many clients that ensure the same stream at once all succeed."""
    name = unique()
    clients = [Client(app_server) for _ in range(8)]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: ensure_stream(clients[number % 8], name, max_event_size=99), range(128)))
    for client in clients:
        client.channel.close()


def test_broker_away(own_nats_server: NatsServer, own_client: Client, unique: Unique) -> None:
    """Without a broker the call is unavailable within its deadline; one that hangs leaves no doubt either."""
    name = unique()
    own_nats_server.freeze()
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
        ensure_stream(own_client, name, timeout=0.5)
    own_nats_server.thaw()
    ensure_stream(own_client, name)
    own_nats_server.kill()
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
        ensure_stream(own_client, name, timeout=0.5)
