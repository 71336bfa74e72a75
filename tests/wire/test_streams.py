"""Ensuring streams, as a client in the field sees it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import Client, refused, refused_in_time
from tests.support.nats_server import NatsServer
from tests.wire.management import ensure_stream, stored_stream
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]
SECOND = 10**9
ENSURE_STREAM = pb.DESCRIPTOR.services_by_name["EventsService"].methods_by_name["EnsureStream"]


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


@pytest.mark.parametrize("without", ["max_age", "max_events", "max_bytes", "discard_new_per_subject"])
async def test_each_option_goes_alone(
    client: Client, nats_server: NatsServer, unique: Unique, without: str
) -> None:
    """An option that a later request leaves out is gone, and the others stay."""
    name = unique()
    policy: dict[str, Any] = {
        "max_age": "60s",
        "max_events": "10",
        "max_events_per_subject": "3",
        "max_bytes": "10000",
        "discard_policy": "DISCARD_POLICY_NEW",
        "discard_new_per_subject": True,
    }
    names = {"max_events": "max_msgs", "max_events_per_subject": "max_msgs_per_subject"}
    ensure_stream(client, name, retention_policy=policy)
    full = (await stored_stream(nats_server, name))["config"]
    del policy[without]
    ensure_stream(client, name, retention_policy=policy)
    config = (await stored_stream(nats_server, name))["config"]
    stored_as = names.get(without, without)
    assert config.pop(stored_as, None) in (0, -1, None)
    del full[stored_as]
    full["duplicate_window"] = config["duplicate_window"]  # follows the age
    assert config == full


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({}, 120),
        ({"deduplication_window": "0s"}, 120),
        ({"deduplication_window": "600s"}, 600),
        ({"retention_policy": {"max_age": "60s"}}, 60),
        ({"retention_policy": {"max_age": "600s"}}, 120),
        ({"retention_policy": {"max_age": "0.1s"}}, 0.1),
        ({"retention_policy": {"max_age": "60s"}, "deduplication_window": "60s"}, 60),
        ({"retention_policy": {"max_age": "60s"}, "deduplication_window": "1s"}, 1),
    ],
)
async def test_deduplication_window(
    client: Client, nats_server: NatsServer, unique: Unique, fields: dict[str, Any], window: float
) -> None:
    """Keys are remembered for two minutes, or as long as events are kept, or as long as was said."""
    name = unique()
    ensure_stream(client, name, **fields)
    stored = (await stored_stream(nats_server, name))["config"]["duplicate_window"]
    assert stored == round(window * SECOND)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"retention_policy": {"max_events": "0", "max_bytes": "0"}}, {"max_msgs": -1, "max_bytes": -1}),
        ({"retention_policy": {"max_age": "0s"}}, {"max_age": 0}),
        ({"retention_policy": {}, "storage": {}}, {"storage": "file", "discard": "old"}),
        ({"storage": {"type": "STORAGE_TYPE_UNSPECIFIED"}}, {"storage": "file"}),
        ({"storage": {"type": "STORAGE_TYPE_FILE"}}, {"storage": "file"}),
        ({"retention_policy": {"discard_policy": "DISCARD_POLICY_UNSPECIFIED"}}, {"discard": "old"}),
        ({"retention_policy": {"discard_policy": "DISCARD_POLICY_OLD"}}, {"discard": "old"}),
        ({"retention_policy": {"discard_new_per_subject": False}}, {"discard": "old"}),
        ({"max_event_size": 0}, {"max_msg_size": -1}),
        ({"max_event_size": 2**31 - 1}, {"max_msg_size": 2**31 - 1}),
        ({"retention_policy": {"max_events": str(2**63 - 1)}}, {"max_msgs": 2**63 - 1}),
        (
            {"retention_policy": {"max_events_per_subject": str(2**63 - 1)}},
            {"max_msgs_per_subject": 2**63 - 1},
        ),
    ],
)
async def test_zeros_and_largest_numbers(
    client: Client, nats_server: NatsServer, unique: Unique, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    """A zero that is said is no limit, what is unspecified is the default, what fits is taken as it is."""
    name = unique()
    ensure_stream(client, name, **fields)
    assert expected.items() <= (await stored_stream(nats_server, name))["config"].items()


async def test_settings_by_others_stay(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """What another program set, and the contract has no field for, survives an update."""
    name = unique()
    ensure_stream(client, name)
    others = {"description": "theirs", "allow_direct": True, "compression": "s2"}
    async with connect(nats_server.url) as broker:
        info = await broker.api.stream_info(name, in_seconds(30))
        metadata = {**info["config"]["metadata"], "owner": "them"}
        config = {**info["config"], **others, "metadata": metadata}
        await broker.api.call(f"STREAM.UPDATE.{name}", config, in_seconds(30))
    ensure_stream(client, name, max_event_size=5000)
    after = (await stored_stream(nats_server, name))["config"]
    assert after["max_msg_size"] == 5000
    assert (after["description"], after["allow_direct"], after["compression"]) == ("theirs", True, "s2")
    assert after["metadata"]["owner"] == "them"


def test_discard_new_per_subject_at_work(client: Client, unique: Unique) -> None:
    """A subject that is full refuses events, and the others take theirs."""
    name = unique()
    policy = {
        "max_events_per_subject": "1",
        "discard_policy": "DISCARD_POLICY_NEW",
        "discard_new_per_subject": True,
    }
    ensure_stream(client, name, retention_policy=policy)
    assert client.publish(f"{name}.a") == 1
    with refused("RESOURCE_EXHAUSTED", "STREAM_FULL"):
        client.publish(f"{name}.a")
    assert client.publish(f"{name}.b") == 2


def test_limits_at_work(client: Client, unique: Unique) -> None:
    """A stream that is full refuses or drops, as its policy says; one event may be too large for it."""
    name = unique()
    full = {"max_events": 1, "discard_policy": "DISCARD_POLICY_NEW"}
    ensure_stream(client, name, retention_policy=full)
    client.publish(f"{name}.a")
    with refused("RESOURCE_EXHAUSTED", "STREAM_FULL") as caught:
        client.publish(f"{name}.a")
    assert caught[0].metadata == {"name": name}
    ensure_stream(client, name, retention_policy={"max_events": 1})
    assert client.publish(f"{name}.a") == 2
    ensure_stream(client, name, max_event_size=64)
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        client.publish(f"{name}.a", "x" * 64)
    assert caught[0].metadata == {"limit": "64", "name": name}


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
        ({"storage": {"replicas": 6}}, "storage.replicas"),
        ({"storage": {"replicas": 2**32 - 1}}, "storage.replicas"),
        ({"storage": {"type": 3}}, "storage.type"),
        ({"storage": {"type": -1}}, "storage.type"),
        ({"retention_policy": {"discard_policy": 3}}, "retention_policy.discard_policy"),
        ({"retention_policy": {"discard_policy": 2**31 - 1}}, "retention_policy.discard_policy"),
        ({"retention_policy": {"max_events": str(2**63)}}, "retention_policy.max_events"),
        (
            {"retention_policy": {"max_events_per_subject": str(2**64 - 1)}},
            "retention_policy.max_events_per_subject",
        ),
        ({"retention_policy": {"max_bytes": str(2**64 - 1)}}, "retention_policy.max_bytes"),
        ({"retention_policy": {"max_age": "-1s"}}, "retention_policy.max_age"),
        ({"retention_policy": {"max_age": "0.05s"}}, "retention_policy.max_age"),
        ({"retention_policy": {"max_age": "9223372037s"}}, "retention_policy.max_age"),
        ({"retention_policy": {"max_age": "315576000000s"}}, "retention_policy.max_age"),
        ({"deduplication_window": "0.099s"}, "deduplication_window"),
        ({"deduplication_window": "-0.000000001s"}, "deduplication_window"),
        ({"deduplication_window": "9223372037s"}, "deduplication_window"),
        ({"max_event_size": 2**31}, "max_event_size"),
        ({"max_event_size": 2**32 - 1}, "max_event_size"),
    ],
)
def test_invalid_fields(client: Client, unique: Unique, fields: dict[str, Any], path: str) -> None:
    """What a field must not hold is refused with the field's path, in both details."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_stream(client, unique(), **fields)
    assert caught[0].metadata == {"field": path}
    assert caught[0].fields == (path,)


@pytest.mark.parametrize(
    ("field", "seconds", "nanos"),
    [
        ("max_age", 0, 10**9),
        ("max_age", 0, -(10**9)),
        ("max_age", 1, -1),
        ("max_age", -1, 1),
        ("max_age", 315_576_000_001, 0),
        ("max_age", 2**63 - 1, 0),
        ("max_age", -(2**63), 0),
        ("time", 253_402_300_800, 0),
        ("time", -62_135_596_801, 0),
        ("time", 0, 10**9),
        ("time", 0, -1),
        ("time", 2**63 - 1, 2**31 - 1),
    ],
)
def test_what_protobuf_does_not_allow(
    client: Client, unique: Unique, field: str, seconds: int, nanos: int
) -> None:
    """Durations and times that Protobuf's JSON could not even write are refused, too."""
    request = pb.EnsureStreamRequest(name=unique())
    if field == "max_age":
        path = "retention_policy.max_age"
        request.subjects.subjects.append("a")
        request.retention_policy.max_age.seconds = seconds
        request.retention_policy.max_age.nanos = nanos
    else:
        path = "aggregate.sources[0].from.time"
        source = request.aggregate.sources.add(name=unique())
        moment = getattr(source, "from").time
        moment.seconds, moment.nanos = seconds, nanos
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.call(ENSURE_STREAM, request)
    assert caught[0].fields == (path,)


def test_no_source(client: Client, unique: Unique) -> None:
    """A stream needs a source."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.call(ENSURE_STREAM, pb.EnsureStreamRequest(name=unique()))
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
    with refused("FAILED_PRECONDITION", "SUBJECTS_OVERLAP") as caught:
        ensure_stream(client, other, subjects={"subjects": [f"{other}.a", f"{name}.a"]})
    assert caught[0].metadata == {"name": name, "subjects": f"{name}.a"}
    with refused("FAILED_PRECONDITION", "STORAGE_CHANGE") as caught:
        ensure_stream(client, name, storage={"type": "STORAGE_TYPE_MEMORY"})
    assert caught[0].metadata == {"name": name}
    for stream in (name, other):
        with refused("FAILED_PRECONDITION", "REPLICAS_UNAVAILABLE") as caught:
            ensure_stream(client, stream, storage={"replicas": 3})
        assert caught[0].metadata == {"name": stream}
        assert repr(stream) in caught[0].message


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

    def ensure(seconds: float) -> None:
        ensure_stream(own_client, name, timeout=seconds)

    own_nats_server.freeze()
    refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", ensure)
    own_nats_server.thaw()
    ensure_stream(own_client, name)
    own_nats_server.kill()
    refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", ensure)
