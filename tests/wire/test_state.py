"""State, as a client in the field sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import nats
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from nats.js.api import StorageType

from tests.support.app import running_app
from tests.support.broker import connect
from tests.support.client import Client, any_of, read_refusal, refused, refused_in_time, text_of
from tests.support.nats_server import NatsServer
from tests.wire.management import stored_stream

Unique = Callable[[], str]


@pytest.fixture
def store(client: Client, unique: Unique) -> str:
    """Make an empty store."""
    return client.ensure_store(unique())


def test_missing_key_is_an_empty_response(client: Client, store: str) -> None:
    """A missing key is no error: revision 0, no value, no time."""
    response = client.get(store, "a")
    assert response.revision == 0
    assert not response.HasField("value")
    assert not response.HasField("last_updated")


def test_set_get_delete(client: Client, store: str) -> None:
    """A value comes back as it was set, with its revision and time, until it is deleted."""
    before = time.time()
    revision = client.set(store, "a.b", "héllo")
    response = client.get(store, "a.b")
    assert (text_of(response.value), response.revision) == ("héllo", revision)
    assert before - 1 <= response.last_updated.ToNanoseconds() / 1e9 <= time.time() + 1
    client.delete(store, "a.b")
    assert client.get(store, "a.b").revision == 0


def test_create_only(client: Client, store: str) -> None:
    """A key is created once, and again after it was deleted. `create_only` false is no condition."""
    revision = client.set(store, "a", create_only=True)
    with refused("ALREADY_EXISTS", "KEY_EXISTS") as caught:
        client.set(store, "a", create_only=True)
    assert caught[0].metadata == {"name": "a", "actual": str(revision)}
    client.set(store, "a", create_only=False)
    client.delete(store, "a")
    client.set(store, "a", create_only=True)


def test_compare_and_swap(client: Client, store: str) -> None:
    """A wrong revision is aborted with both revisions, for set and delete, and changes nothing."""
    revision = client.set(store, "a", last_revision=0)
    for wrong in (0, revision + 1, 2**31, 2**63 - 1):
        for operation in (client.set, client.delete):
            with refused("ABORTED", "REVISION_MISMATCH") as caught:
                operation(store, "a", last_revision=wrong)
            assert caught[0].metadata == {"expected": str(wrong), "actual": str(revision)}
    second = client.set(store, "a", last_revision=revision)
    client.delete(store, "a", last_revision=second)
    client.delete(store, "a", last_revision=0)
    with refused("ABORTED", "REVISION_MISMATCH") as caught:
        client.delete(store, "a", last_revision=second)
    assert caught[0].metadata["actual"] == "0"
    client.set(store, "a", last_revision=0)


def test_delete_missing_key(client: Client, store: str) -> None:
    """Deleting a key that does not exist succeeds."""
    client.delete(store, "never")


def test_concurrent_writers(client: Client, store: str) -> None:
    """Of concurrent writers with the same revision exactly one wins; the others are aborted."""
    revision = client.set(store, "a")

    def write(number: int) -> str:
        try:
            client.set(store, "a", str(number), last_revision=revision)
        except grpc.RpcError as error:
            return read_refusal(error).reason
        return "won"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(write, range(16)))
    assert sorted(outcomes) == ["REVISION_MISMATCH"] * 15 + ["won"]


def test_missing_store(client: Client, unique: Unique) -> None:
    """A store that does not exist is not found, by name."""
    name = unique()
    for operation in (client.get, client.set, client.delete):
        with refused("NOT_FOUND", "STORE_NOT_FOUND") as caught:
            operation(name, "a")
        assert caught[0].metadata == {"name": name}


@pytest.mark.parametrize(
    "value", [b"plain text", b'{"json": true}', b"\xff\xff", b"\x08\x01", b"\x0a\x02\xff\xfe", b"\x0a\x05ab"]
)
async def test_value_of_another_program(
    client: Client, nats_server: NatsServer, store: str, value: bytes
) -> None:
    """A value that is no Any is told as such."""
    async with await nats.connect(nats_server.url) as other:
        bucket = await other.jetstream().key_value(store)
        await bucket.put("a", value)
    with refused("FAILED_PRECONDITION", "VALUE_NOT_ANY"):
        client.get(store, "a")
    client.set(store, "a", "ours")
    assert text_of(client.get(store, "a").value) == "ours"


@pytest.mark.parametrize(
    ("operation", "is_there"), [(None, True), ("PUT", True), ("DEL", False), ("PURGE", False)]
)
async def test_operations_of_other_programs(
    client: Client, nats_server: NatsServer, store: str, operation: str | None, is_there: bool
) -> None:
    """A message is a value, be it empty, unless it says that the key was deleted or purged."""
    async with connect(nats_server.url) as broker:
        headers = None if operation is None else {"KV-Operation": operation}
        await broker.publish(f"$KV.{store}.a", b"", headers)
    assert client.get(store, "a").HasField("value") is is_there
    assert client.get(store, "a").revision == int(is_there)


@pytest.mark.parametrize(
    "value",
    [
        AnyMessage(type_url="x.example/acme.v9.Unknown", value=b"\xff\x00"),
        AnyMessage(type_url="///"),
        AnyMessage(value=b"x"),
        AnyMessage(),
    ],
)
def test_values_pass_untouched(client: Client, store: str, value: AnyMessage) -> None:
    """A value of a type that nobody here knows, or of none, comes back as it was set."""
    client.set(store, "a", value=value)
    response = client.get(store, "a")
    assert response.HasField("value")
    assert response.value == value


def test_what_is_no_part_of_a_value_is_dropped(client: Client, store: str) -> None:
    """Fields that an Any does not have are not stored: read back, the value would seem to be none of ours."""
    value = AnyMessage(type_url="x/acme.v1.Order", value=b"x")
    client.set(store, "a", value=AnyMessage.FromString(value.SerializeToString() + b"\x1a\x02hi"))
    assert client.get(store, "a").value == value


async def test_as_a_store_lies_in_nats(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A store is a bucket of the same name as NATS clients make them, a value a serialized Any."""
    store = client.ensure_store(unique())
    client.set(store, "a.b", "text")
    expected = {
        "subjects": [f"$KV.{store}.>"],
        "max_msgs_per_subject": 1,
        "storage": "file",
        "num_replicas": 1,
        "max_age": 0,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }
    assert expected.items() <= (await stored_stream(nats_server, f"KV_{store}"))["config"].items()
    async with await nats.connect(nats_server.url) as other:
        entry = await (await other.jetstream().key_value(store)).get("a.b")
    assert entry.value == any_of("text").SerializeToString()


async def test_existing_bucket(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A bucket that another program made stays as it is but for transactions, and can be used."""
    store = unique()
    async with await nats.connect(nats_server.url) as other:
        await other.jetstream().create_key_value(
            bucket=store, history=5, ttl=3600, storage=StorageType.MEMORY
        )
    before = (await stored_stream(nats_server, f"KV_{store}"))["config"]
    client.ensure_store(store)
    after = (await stored_stream(nats_server, f"KV_{store}"))["config"]
    assert after.pop("metadata").keys() == before.pop("metadata").keys()  # those are nats-server's own
    assert after == before | {"allow_atomic": True}
    first = client.set(store, "a", create_only=True)
    second = client.set(store, "a", last_revision=first)
    client.delete(store, "a", last_revision=second)
    assert client.get(store, "a").revision == 0


def test_default_replicas(nats_server: NatsServer, unique: Unique) -> None:
    """What the server is set up with counts for new stores; a broker without so many servers is told of."""
    with running_app(nats_server.url, WINDSHIFT_DEFAULT_REPLICAS="3") as address:
        client = Client(address)
        with refused("FAILED_PRECONDITION", "REPLICAS_UNAVAILABLE"):
            client.ensure_store(unique())
        client.channel.close()


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("store", {"store": ""}),
        ("store", {"store": "a.b"}),
        ("store", {"store": "WS_internal"}),
        ("store", {"store": "x" * 253}),
        ("key", {"key": ""}),
        ("key", {"key": "a..b"}),
        ("key", {"key": "*"}),
        ("key", {"key": "a.>"}),
        ("key", {"key": "$a"}),
        ("key", {"key": "_INBOX.a"}),
        ("key", {"key": "x" * 256}),
        ("value", {"value": None}),
        ("last_revision", {"create_only": True, "last_revision": 0}),
        ("last_revision", {"last_revision": 2**63}),
        ("last_revision", {"last_revision": 2**64 - 1}),
    ],
)
def test_invalid_fields(client: Client, field: str, given: dict[str, Any]) -> None:
    """A malformed field, a missing value, and conditions that exclude each other are told by their name."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.set(**{"store": "s", "key": "k", **given})
    assert caught[0].metadata == {"field": field}
    assert caught[0].fields == (field,)


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "WS_internal", "x" * 253, "x" * 256])
def test_invalid_stores(client: Client, name: str) -> None:
    """A store with a malformed, a reserved or too long a name cannot be made."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.ensure_store(name)
    assert caught[0].fields == ("store",)


def test_longest_names(client: Client, unique: Unique) -> None:
    """The longest name that the broker takes for a bucket, and a key of 255 characters, are fine."""
    store = client.ensure_store(unique().ljust(252, "x"))
    key = "k." * 127 + "k"
    revision = client.set(store, key)
    assert client.get(store, key).revision == revision


@pytest.mark.parametrize("name", ["KV_a", "OBJ_a", "WS"])
def test_prefixes_of_streams_are_fine(client: Client, unique: Unique, name: str) -> None:
    """What is reserved among streams is not among stores."""
    client.ensure_store(name + unique())


def test_ensure_twice(client: Client, store: str) -> None:
    """Ensuring a store again keeps its values."""
    client.set(store, "a")
    client.ensure_store(store)
    assert client.get(store, "a").revision == 1


MIB = 1024 * 1024


def value_of(size: int) -> AnyMessage:
    """Make a value that takes so many bytes."""
    value = AnyMessage(type_url="x/acme.v1.Blob", value=bytes(size))
    value.value = bytes(2 * size - value.ByteSize())
    assert value.ByteSize() == size
    return value


def test_size_limit(client: Client, store: str) -> None:
    """A value as large as the broker takes is stored; a condition needs some more room."""
    assert client.set(store, "a", value=value_of(MIB)) == 1
    assert client.get(store, "a").value == value_of(MIB)
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE"):
        client.set(store, "a", value=value_of(MIB), last_revision=1)
    client.set(store, "a", value=value_of(MIB - 100), last_revision=1)


@pytest.mark.parametrize("size", [MIB + 1, 4 * MIB, 6 * MIB])
def test_beyond_the_size_limit(client: Client, store: str, size: int) -> None:
    """A value larger than the broker takes is refused with the limit, and harms nobody else."""
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        client.set(store, "a", value=value_of(size))
    assert caught[0].metadata == {"limit": str(MIB)}
    assert client.set(store, "a") == 1


def test_broker_gone(own_client: Client, own_nats_server: NatsServer) -> None:
    """Without the broker state is unavailable before the deadline; a lost answer is an unknown outcome."""
    own_client.ensure_store("s")
    own_nats_server.freeze()

    def get(seconds: float) -> None:
        own_client.get("s", "a", seconds)

    def set_(seconds: float) -> None:
        own_client.set("s", "a", timeout=seconds)

    refused_in_time("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", set_)
    refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", get)
    own_nats_server.kill()
    refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", get)  # by its end the server has noticed
    refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", set_)
    own_nats_server.start()
    own_client.set("s", "a")
