"""Watches of a store, as a client sees them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.support.app import running_app
from tests.support.broker import connect
from tests.support.client import STATE, Client, any_of, read_refusal, refused, text_of
from tests.support.nats_server import NatsServer
from tests.support.ports import new_port
from tests.wire.storing import following, shown, until_up_to_date, watch
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]


def ended_with(responses: Any) -> str:
    """Read a watch to its end; give the reason."""
    with pytest.raises(grpc.RpcError) as caught:
        list(responses)
    return read_refusal(caught.value).reason


@pytest.fixture
def store(client: Client, unique: Unique) -> str:
    """Make an empty store."""
    return client.ensure_store(unique())


def test_what_is_new(client: Client, store: str) -> None:
    """From the headers on every change comes in order, with its revision; what was before does not."""
    last = client.set(store, "old")
    responses = watch(client, store)
    revision = client.set(store, "a", "1")
    client.set(store, "b", "2")
    client.delete(store, "a")
    assert until_up_to_date(responses) == ([], last)
    entry = next(responses).entry
    assert (entry.key, entry.revision, text_of(entry.value)) == ("a", revision, "1")
    assert abs(entry.updated.seconds - time.time()) < 60
    assert following(responses, 2) == ["b=2", "a deleted"]


def test_what_there_is(client: Client, store: str) -> None:
    """With `existing`, what each key holds comes first, then word of that, then what changes."""
    for key, text in (("a", "1"), ("b", "2"), ("a", "3")):
        client.set(store, key, text)
    last = client.set(store, "c", "4")
    responses = watch(client, store, existing=True)
    assert until_up_to_date(responses) == (["b=2", "a=3", "c=4"], last)
    client.set(store, "b", "5")
    assert following(responses, 1) == ["b=5"]


def test_an_empty_store(client: Client, store: str) -> None:
    """Nothing is there, and that is told at once."""
    assert until_up_to_date(watch(client, store, existing=True)) == ([], 0)
    assert until_up_to_date(watch(client, store)) == ([], 0)
    assert until_up_to_date(watch(client, store, from_revision=1)) == ([], 0)


def test_no_key_that_matches(client: Client, store: str) -> None:
    """That there is none is told with the last revision of the store, after which to go on."""
    last = client.set(store, "b")
    assert until_up_to_date(watch(client, store, filter="a", existing=True)) == ([], last)


def test_filters(client: Client, store: str) -> None:
    """Only keys that match come."""
    client.set(store, "eu.a.x", "1")
    client.set(store, "us.a.x", "2")
    responses = watch(client, store, filter="eu.*.x", existing=True)
    assert until_up_to_date(responses)[0] == ["eu.a.x=1"]
    for key in ("eu.b.y", "us.b.x", "eu.b.x"):
        client.set(store, key)
    assert following(responses, 1) == ["eu.b.x=text"]


def test_going_on(client: Client, unique: Unique) -> None:
    """From a revision on comes all that the store still has, deletions and older revisions included."""
    store = unique()
    client.call(STATE.methods_by_name["EnsureStore"], pb.EnsureStoreRequest(store=store, history=5))
    seen = [client.set(store, "a", str(number)) for number in range(4)]
    client.delete(store, "a")
    client.set(store, "b", "x")
    responses = watch(client, store, from_revision=seen[1] + 1)
    assert until_up_to_date(responses) == (["a=2", "a=3", "a deleted", "b=x"], seen[-1] + 2)
    ended = watch(client, store, from_revision=seen[-1] + 3)
    assert until_up_to_date(ended) == ([], seen[-1] + 2)


def test_a_transaction_comes_whole(client: Client, store: str) -> None:
    """All writes of a transaction come, in their order."""
    responses = watch(client, store)
    writes = [
        pb.TransactRequest.Write(key=f"k{number}", set={"value": any_of(str(number))})
        for number in range(100)
    ]
    request = pb.TransactRequest(store=store, writes=writes)
    revisions = client.call(STATE.methods_by_name["Transact"], request).revisions
    until_up_to_date(responses)
    entries = [response.entry for response in itertools.islice(responses, 100)]
    assert [entry.revision for entry in entries] == list(revisions)
    assert [text_of(entry.value) for entry in entries] == [str(number) for number in range(100)]


def test_what_expires(client: Client, store: str) -> None:
    """An entry says when it expires; that it has is told as a deletion, also to who comes a little later."""
    responses = watch(client, store)
    until_up_to_date(responses)
    revision = client.set(store, "a", ttl={"seconds": 1})
    first, second = (next(responses).entry for _ in range(2))
    assert first.expires.ToNanoseconds() - first.updated.ToNanoseconds() == 1_000_000_000
    assert shown(second) == "a deleted"
    assert second.revision > revision
    time.sleep(2)  # as long as such a word was kept before
    assert until_up_to_date(watch(client, store, from_revision=revision + 1))[0] == ["a deleted"]


def test_a_store_whose_entries_expire(client: Client, unique: Unique) -> None:
    """The expiry by the store's time to live is told as a deletion too."""
    store = unique()
    request = pb.EnsureStoreRequest(store=store, ttl={"seconds": 1})
    client.call(STATE.methods_by_name["EnsureStore"], request)
    responses = watch(client, store)
    until_up_to_date(responses)
    client.set(store, "a", "1")
    assert following(responses, 2) == ["a=1", "a deleted"]


def test_values_of_others(client: Client, store: str, nats_server: NatsServer) -> None:
    """What another program wrote that is no Any comes without a value."""

    async def write() -> None:
        async with connect(nats_server.url) as broker:
            await broker.publish(f"$KV.{store}.a", b"\xff")

    responses = watch(client, store)
    until_up_to_date(responses)
    asyncio.run(write())
    entry = next(responses).entry
    assert (entry.key, entry.HasField("value"), entry.deleted) == ("a", False, False)


def test_the_end_of_a_store(client: Client, unique: Unique) -> None:
    """When the store is deleted its watches end with NOT_FOUND; of none they never begin."""
    store = client.ensure_store(unique())
    client.set(store, "a")
    responses = watch(client, store)
    until_up_to_date(responses)
    client.call(STATE.methods_by_name["DeleteStore"], pb.DeleteStoreRequest(store=store))
    assert ended_with(responses) == "STORE_NOT_FOUND"
    assert ended_with(watch(client, store)) == "STORE_NOT_FOUND"


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("filter", {"filter": "a..b"}),
        ("filter", {"filter": "a b"}),
        ("existing", {"existing": True, "from_revision": 1}),
        ("from_revision", {"from_revision": 2**64 - 1}),
        ("store", {"store": "WS_x"}),
    ],
)
def test_malformed(client: Client, store: str, field: str, fields: dict[str, Any]) -> None:
    """Each field says what is wrong with it."""
    with pytest.raises(grpc.RpcError) as caught:
        list(watch(client, **{"store": store} | fields))
    refusal = read_refusal(caught.value)
    assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", (field,))


def test_a_revision_of_another_store(client: Client, store: str) -> None:
    """A revision that the store has not reached is refused: what the client saw was another store."""
    last = client.set(store, "a")
    with pytest.raises(grpc.RpcError) as caught:
        list(watch(client, store, from_revision=last + 2))
    refusal = read_refusal(caught.value)
    assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", ("from_revision",))


def test_a_client_that_does_not_read(client: Client, store: str) -> None:
    """It holds up nobody, and gets everything that the store still has once it reads."""
    slow, quick = watch(client, store, timeout=120), watch(client, store, timeout=120)
    until_up_to_date(quick)
    for number in range(60):
        client.set(store, f"k{number}", f"{number}".ljust(100_000))
        assert next(quick).entry.key == f"k{number}"
    until_up_to_date(slow)
    assert [response.entry.key for response in itertools.islice(slow, 60)] == [f"k{n}" for n in range(60)]


def test_large_values_for_many(own_client: Client, own_nats_server: NatsServer) -> None:
    """A hundred watches are sent a megabyte each, and nats-server need not cut off the server for that."""
    own_client.ensure_store("s")
    watches = [watch(own_client, "s", timeout=120) for _ in range(100)]
    for each in watches:
        until_up_to_date(each)
    for number in range(2):
        own_client.set("s", f"k{number}", "x" * 1_000_000)
    for each in watches:
        assert [next(each).entry.key for _ in range(2)] == ["k0", "k1"]
        each.cancel()
    assert "Slow Consumer" not in own_nats_server.log


def test_a_drain(nats_server: NatsServer, unique: Unique) -> None:
    """It ends watches with UNAVAILABLE, so that clients go on elsewhere."""
    with running_app(nats_server.url) as address:
        client = Client(address)
        responses = watch(client, client.ensure_store(unique()))
        until_up_to_date(responses)
    assert ended_with(responses) == "SHUTTING_DOWN"


def test_cancelled(client: Client, store: str) -> None:
    """A watch that is cancelled leaves nothing behind that others would notice."""
    for _ in range(20):
        watch(client, store).cancel()
    responses = watch(client, store)
    client.set(store, "a", "1")
    assert until_up_to_date(responses)[0] == []
    assert following(responses, 1) == ["a=1"]


def test_restarts_of_the_broker(own_client: Client, own_nats_server: NatsServer) -> None:
    """A watch outlives the broker, stopped or killed: nothing is missed, and nothing comes twice."""
    own_client.ensure_store("s")
    responses = watch(own_client, "s", timeout=100)
    until_up_to_date(responses)
    for end in (own_nats_server.stop, own_nats_server.kill, own_nats_server.stop):
        for number in range(5):
            own_client.set("s", f"k{number}", str(number), timeout=20)
        assert following(responses, 5) == [f"k{number}={number}" for number in range(5)]
        end()
        own_nats_server.start()


@pytest.mark.parametrize("key", ["a", "other"])
def test_what_was_written_meanwhile(own_client: Client, own_nats_server: NatsServer, key: str) -> None:
    """Who was told that there is no key gets every revision that was written while the broker was away."""

    async def write() -> None:
        async with connect(own_nats_server.url) as broker:
            for text in "123":
                await broker.publish("$KV.s.a", any_of(text).SerializeToString())

    request = pb.EnsureStoreRequest(store="s", history=5)
    own_client.call(STATE.methods_by_name["EnsureStore"], request)
    if key == "other":
        own_client.set("s", key)
    responses = watch(own_client, "s", timeout=100, filter="a", existing=True)
    until_up_to_date(responses)
    own_nats_server.stop()
    port, own_nats_server.port = own_nats_server.port, new_port()
    own_nats_server.start()
    asyncio.run(write())
    own_nats_server.stop()
    own_nats_server.port = port
    own_nats_server.start()
    assert following(responses, 3) == ["a=1", "a=2", "a=3"]


def test_a_store_made_anew(own_client: Client, own_nats_server: NatsServer) -> None:
    """A watch does not go on in another store of the same name."""
    own_client.ensure_store("s")
    own_client.set("s", "a")
    responses = watch(own_client, "s", timeout=60)
    until_up_to_date(responses)
    own_client.call(STATE.methods_by_name["DeleteStore"], pb.DeleteStoreRequest(store="s"))
    own_client.ensure_store("s")
    for number in range(10):
        own_client.set("s", f"k{number}")
    assert ended_with(responses) == "STORE_NOT_FOUND"
    with refused("NOT_FOUND", "STORE_NOT_FOUND"):
        own_client.get("t", "a")
