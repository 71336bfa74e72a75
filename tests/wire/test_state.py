"""State, as a client in the field sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import nats
import pytest

from tests.support.client import Client, read_refusal, refused, text_of
from tests.support.nats_server import NatsServer

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
    client.set(store, "a", create_only=True)
    with refused("ALREADY_EXISTS", "KEY_EXISTS"):
        client.set(store, "a", create_only=True)
    client.set(store, "a", create_only=False)
    client.delete(store, "a")
    client.set(store, "a", create_only=True)


def test_compare_and_swap(client: Client, store: str) -> None:
    """A wrong revision is aborted with both revisions, for set and delete, and changes nothing."""
    revision = client.set(store, "a", last_revision=0)
    for wrong in (0, revision + 1):
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


@pytest.mark.parametrize("value", [b"plain text", b'{"json": true}', b"\xff\xff", b"\x08\x01"])
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


def test_unknown_types_pass_untouched(client: Client, store: str) -> None:
    """A value of a type that nobody here knows comes back as it was set."""
    value = {"type_url": "x.example/acme.v9.Unknown", "value": b"\xff\x00"}
    client.set(store, "a", value=value)
    read = client.get(store, "a").value
    assert (read.type_url, read.value) == ("x.example/acme.v9.Unknown", b"\xff\x00")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("store", {"store": ""}),
        ("store", {"store": "a.b"}),
        ("store", {"store": "WS_internal"}),
        ("store", {"store": "x" * 256}),
        ("key", {"key": ""}),
        ("key", {"key": "a..b"}),
        ("key", {"key": "*"}),
        ("key", {"key": "a.>"}),
        ("key", {"key": "x" * 256}),
        ("value", {"value": None}),
        ("last_revision", {"create_only": True, "last_revision": 0}),
        ("last_revision", {"last_revision": 2**64 - 1}),
    ],
)
def test_invalid_fields(client: Client, field: str, given: dict[str, Any]) -> None:
    """A malformed field, a missing value, and conditions that exclude each other are told by their name."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.set(**{"store": "s", "key": "k", **given})
    assert caught[0].metadata == {"field": field}
    assert caught[0].fields == (field,)


def test_reserved_store(client: Client) -> None:
    """A reserved store cannot be made."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.ensure_store("WS_internal")


def test_ensure_twice(client: Client, store: str) -> None:
    """Ensuring a store again keeps its values."""
    client.set(store, "a")
    client.ensure_store(store)
    assert client.get(store, "a").revision == 1


def test_size_limit(client: Client, store: str) -> None:
    """A value larger than the broker takes is refused, and harms nobody else."""
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE"):
        client.set(store, "a", "x" * 1024 * 1024)
    client.set(store, "a", "x" * (1024 * 1024 - 200))
    assert text_of(client.get(store, "a").value) == "x" * (1024 * 1024 - 200)


def test_broker_gone(own_client: Client, own_nats_server: NatsServer) -> None:
    """Without the broker state is unavailable before the deadline; a lost answer is an unknown outcome."""
    own_client.ensure_store("s")
    own_nats_server.freeze()
    with refused("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN"):
        own_client.set("s", "a", timeout=0.5)
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
        own_client.get("s", "a", timeout=0.5)
    own_nats_server.kill()
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
        own_client.get("s", "a", timeout=0.5)  # by its end the server has noticed
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
        own_client.set("s", "a", timeout=0.5)
    own_nats_server.start()
    own_client.set("s", "a")
