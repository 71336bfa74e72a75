"""Stores that are looked at, that keep a history, and whose values expire; as a client sees them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import STATE, Client, refused, text_of
from tests.support.nats_server import NatsServer

Unique = Callable[[], str]


def ask(client: Client, method: str, **fields: Any) -> Any:
    """Call a method; fields as in Protobuf's JSON."""
    descriptor = STATE.methods_by_name[method]
    return client.call(descriptor, ParseDict(fields, GetMessageClass(descriptor.input_type)()))


@pytest.fixture
def store(client: Client, unique: Unique) -> str:
    """Make an empty store."""
    return client.ensure_store(unique())


def gone(client: Client, store: str, key: str) -> bool:
    """Wait until a value has expired."""
    until = time.monotonic() + 30
    while client.get(store, key).revision:
        assert time.monotonic() < until, "the value is still there"
        time.sleep(0.1)
    return True


# --- Looking ----------------------------------------------------------------------------------------------


def test_listing_stores(client: Client, unique: Unique) -> None:
    """Each store comes once, page by page, with how much it holds and keeps."""
    plain, long = client.ensure_store(unique()), unique()
    ask(client, "EnsureStore", store=long, history=5, ttl="3600s")
    client.set(plain, "a")
    found: dict[str, Any] = {}
    token = ""
    while True:
        page = ask(client, "ListStores", pageSize=2, pageToken=token)
        assert len(page.stores) <= 2
        found |= {each.store: each for each in page.stores}
        token = page.next_page_token
        if not token:
            break
    assert (found[plain].keys, found[plain].history, found[plain].HasField("ttl")) == (1, 1, False)
    assert found[plain].bytes > 0
    assert (found[long].keys, found[long].history, found[long].ttl.seconds) == (0, 5, 3600)
    assert not [name for name in found if name.startswith("WS_")]


def test_deleting_a_store(client: Client, store: str) -> None:
    """A store goes with all that is in it, and can be made again."""
    client.set(store, "a")
    ask(client, "DeleteStore", store=store)
    with refused("NOT_FOUND", "STORE_NOT_FOUND"):
        client.get(store, "a")
    with refused("NOT_FOUND", "STORE_NOT_FOUND"):
        ask(client, "DeleteStore", store=store)
    client.ensure_store(store)
    assert client.get(store, "a").revision == 0


def test_listing_keys(client: Client, store: str) -> None:
    """Keys that have a value come once, in order, page by page; deleted ones do not."""
    for number in range(7):
        client.set(store, f"a.{number}", str(number))
    client.set(store, "b")
    client.delete(store, "a.3")
    keys: list[str] = []
    values: list[str] = []
    token = ""
    while True:
        page = ask(
            client, "ListKeys", store=store, filter="a.*", withValues=True, pageSize=2, pageToken=token
        )
        keys += [entry.key for entry in page.entries]
        values += [text_of(entry.value) for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert keys == [f"a.{number}" for number in range(7) if number != 3]
    assert values == ["0", "1", "2", "4", "5", "6"]
    without = ask(client, "ListKeys", store=store).entries
    assert [entry.key for entry in without] == [*keys, "b"]
    assert not any(entry.HasField("value") or entry.deleted for entry in without)
    assert all(entry.revision == client.get(store, entry.key).revision for entry in without)


def test_large_values_end_a_page(client: Client, store: str) -> None:
    """A page of values ends at about 1 MiB, and nothing is left out."""
    for number in range(6):
        client.set(store, str(number), "x" * 400_000)
    first = ask(client, "ListKeys", store=store, withValues=True)
    assert 0 < len(first.entries) < 6
    rest = ask(client, "ListKeys", store=store, withValues=True, pageToken=first.next_page_token)
    assert [entry.key for entry in (*first.entries, *rest.entries)] == [str(number) for number in range(6)]


def test_history(client: Client, unique: Unique) -> None:
    """A store keeps as many revisions of a key as it was made for, deletions included."""
    store = unique()
    ask(client, "EnsureStore", store=store, history=3)
    for text in ("a", "b"):
        client.set(store, "k", text)
    client.delete(store, "k")
    last = client.set(store, "k", "c")
    found = ask(client, "History", store=store, key="k").entries
    assert [entry.deleted for entry in found] == [False, True, False]
    assert [text_of(entry.value) for entry in found if not entry.deleted] == ["b", "c"]
    assert found[-1].revision == last
    assert [entry.revision for entry in found] == sorted(entry.revision for entry in found)
    assert not ask(client, "History", store=store, key="none").entries


def test_large_values_end_a_page_of_history(client: Client, unique: Unique) -> None:
    """A page ends at about 1 MiB, a larger value has one for itself, and nothing is left out."""
    store = unique()
    ask(client, "EnsureStore", store=store, history=10)
    revisions = [client.set(store, "k", "x" * size) for size in (400_000,) * 5 + (1_000_000,) * 2]
    client.delete(store, "k")
    pages = [ask(client, "History", store=store, key="k")]
    while token := pages[-1].next_page_token:
        pages.append(ask(client, "History", store=store, key="k", pageToken=token))
    assert [len(page.entries) for page in pages] == [3, 3, 2]
    entries = [entry for page in pages for entry in page.entries]
    assert [entry.revision for entry in entries] == [*revisions, revisions[-1] + 1]
    assert [entry.deleted for entry in entries] == [False] * 7 + [True]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        ask(client, "History", store=store, key="other", pageToken=pages[0].next_page_token)


# --- Values that expire -----------------------------------------------------------------------------------


def test_a_value_expires(client: Client, store: str) -> None:
    """A value with a time to live is gone after it; then the key can be created again."""
    client.set(store, "k", ttl={"seconds": 1})
    (entry,) = ask(client, "ListKeys", store=store).entries
    assert entry.expires.ToNanoseconds() - entry.updated.ToNanoseconds() == 1_000_000_000
    assert gone(client, store, "k")
    assert not ask(client, "ListKeys", store=store).entries
    client.set(store, "k", create_only=True)


def test_setting_again_makes_it_last(client: Client, store: str) -> None:
    """A later Set without a time to live makes the key last."""
    client.set(store, "k", ttl={"seconds": 1})
    client.set(store, "k", "lasting")
    client.set(store, "other", ttl={"seconds": 1})
    assert gone(client, store, "other")
    assert text_of(client.get(store, "k").value) == "lasting"


def test_touch(client: Client, store: str) -> None:
    """A value that is touched lives longer, with a revision of its own; a missing key cannot be touched."""
    first = client.set(store, "k", "text", ttl={"seconds": 2})
    touched = ask(client, "Touch", store=store, key="k", ttl="60s").revision
    assert touched > first
    client.set(store, "other", ttl={"seconds": 3})
    assert gone(client, store, "other")
    assert (client.get(store, "k").revision, text_of(client.get(store, "k").value)) == (touched, "text")
    with refused("NOT_FOUND", "KEY_NOT_FOUND") as caught:
        ask(client, "Touch", store=store, key="none", ttl="60s")
    assert caught[0].metadata == {"name": "none"}


def test_the_longest_time_to_live(client: Client, store: str) -> None:
    """A value may live for 100 years."""
    client.set(store, "k", "text", ttl={"seconds": 36_500 * 86_400})
    client.set(store, "other", ttl={"seconds": 1})
    assert gone(client, store, "other")
    assert text_of(client.get(store, "k").value) == "text"


def test_conditions_and_expiry(client: Client, store: str) -> None:
    """Conditional writes may expire as well."""
    revision = client.set(store, "k", create_only=True, ttl={"seconds": 60})
    with refused("ABORTED", "REVISION_MISMATCH"):
        client.set(store, "k", last_revision=revision + 1, ttl={"seconds": 60})
    client.set(store, "k", last_revision=revision, ttl={"seconds": 1})
    assert gone(client, store, "k")


def test_a_store_whose_entries_expire(client: Client, unique: Unique) -> None:
    """With a time to live of the store every entry is gone after it."""
    store = unique()
    ask(client, "EnsureStore", store=store, ttl="1s")
    client.set(store, "k")
    assert gone(client, store, "k")


def test_no_value_outlives_those_of_its_store(client: Client, unique: Unique) -> None:
    """A time to live longer than the store's is as none: nobody is told a time that is too late."""
    store = unique()
    ask(client, "EnsureStore", store=store, ttl="60s")
    client.set(store, "longer", ttl={"seconds": 61})
    client.set(store, "touched")
    ask(client, "Touch", store=store, key="touched", ttl="61s")
    writes = [{"key": f"w{ttl}", "set": {"value": {}, "ttl": f"{ttl}s"}} for ttl in (59, 60, 61)]
    ask(client, "Transact", store=store, writes=writes)
    entries = ask(client, "ListKeys", store=store).entries
    lives = {
        entry.key: entry.expires.ToNanoseconds() - entry.updated.ToNanoseconds()
        for entry in entries
        if entry.HasField("expires")
    }
    assert lives == {"w59": 59_000_000_000, "w60": 60_000_000_000}
    assert len(entries) == 5


def test_no_expiry_with_a_history(client: Client, unique: Unique) -> None:
    """With a history the value before would be back: that is refused."""
    store = unique()
    ask(client, "EnsureStore", store=store, history=2)
    client.set(store, "k")
    for call in (
        lambda: client.set(store, "k", ttl={"seconds": 5}),
        lambda: ask(client, "Touch", store=store, key="k", ttl="5s"),
    ):
        with refused("FAILED_PRECONDITION", "TTL_NOT_SUPPORTED") as caught:
            call()
        assert caught[0].metadata == {"name": store}


def test_a_store_of_another_program(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A bucket that was made without expiry stays as it is, and says so."""
    store = unique()

    async def make() -> None:
        async with connect(nats_server.url) as broker:
            config = {"name": f"KV_{store}", "subjects": [f"$KV.{store}.>"], "max_msgs_per_subject": 1}
            await broker.api.create_stream(config, in_seconds(30))

    asyncio.run(make())
    client.ensure_store(store)
    client.set(store, "k")
    with refused("FAILED_PRECONDITION", "TTL_NOT_SUPPORTED"):
        client.set(store, "k", ttl={"seconds": 5})


def test_a_store_that_keeps_all_revisions(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """Another program may make one; a list with it says so."""
    store = unique()

    async def make() -> None:
        async with connect(nats_server.url) as broker:
            config = {"name": f"KV_{store}", "subjects": [f"$KV.{store}.>"]}
            await broker.api.create_stream(config, in_seconds(30))

    asyncio.run(make())
    page = ask(client, "ListStores", pageSize=1000)
    assert [each.history for each in page.stores if each.store == store] == [0]


@pytest.mark.parametrize(
    ("method", "field", "fields"),
    [
        ("EnsureStore", "history", {"history": 65}),
        ("EnsureStore", "ttl", {"ttl": "0.5s"}),
        ("Touch", "ttl", {"key": "k", "ttl": "1.5s"}),
        ("Touch", "ttl", {"key": "k", "ttl": "-1s"}),
        ("Touch", "ttl", {"key": "k", "ttl": "3153600001s"}),
        ("Set", "ttl", {"key": "k", "value": {}, "ttl": "8000000000s"}),
        (
            "Transact",
            "writes[0].set.ttl",
            {"writes": [{"key": "k", "set": {"value": {}, "ttl": "8000000000s"}}]},
        ),
        ("ListKeys", "filter", {"filter": "a..b"}),
        ("ListKeys", "page_size", {"pageSize": 1001}),
        ("ListKeys", "page_token", {"pageToken": "x"}),
        ("History", "key", {"key": "a.*"}),
        ("DeleteStore", "store", {"store": "WS_X"}),
    ],
)
def test_malformed_requests(
    client: Client, store: str, method: str, field: str, fields: dict[str, Any]
) -> None:
    """Each field says what is wrong with it."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ask(client, method, **{"store": store, **fields})
    assert caught[0].fields == (field,)


def test_a_broker_that_does_not_answer(own_nats_server: NatsServer) -> None:
    """However many reads wait for it, that is what each of them is told."""
    with running_app(own_nats_server.url) as address:
        client = Client(address)
        client.ensure_store("accounts")
        own_nats_server.freeze()
        with ThreadPoolExecutor(60) as pool:
            reads = [pool.submit(client.get, "accounts", "ann", timeout=2) for _ in range(60)]
            told = {getattr(each.exception(), "details", str)() for each in reads}
        own_nats_server.thaw()
        client.channel.close()
    its_own = {"Deadline Exceeded"}  # a client's clock may be first
    assert told - its_own <= {"the broker does not answer, or has no leader for what was asked; try again"}
