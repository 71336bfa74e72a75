"""Transactions over the keys of a store, as a client sees them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.broker import connect, in_seconds
from tests.support.client import STATE, Client, refused, text_of
from tests.support.nats_server import NatsServer
from tests.wire.storing import absent, at, drop, put, transact
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]


@pytest.fixture
def store(client: Client, unique: Unique) -> str:
    """Make an empty store."""
    return client.ensure_store(unique())


def test_all_is_written(client: Client, store: str) -> None:
    """Each write has its revision, in their order; sets and deletions go together."""
    client.set(store, "old")
    first, second, third = transact(client, store, put("a", "1"), drop("old"), put("b", "2"))
    assert (second, third) == (first + 1, first + 2)
    assert (client.get(store, "a").revision, text_of(client.get(store, "a").value)) == (first, "1")
    assert (client.get(store, "b").revision, text_of(client.get(store, "b").value)) == (third, "2")
    assert client.get(store, "old").revision == 0


def test_checks_hold(client: Client, store: str) -> None:
    """Written keys and others are checked; a deleted key, and one that never was, are absent."""
    a, b = client.set(store, "a"), client.set(store, "b")
    client.set(store, "gone")
    client.delete(store, "gone")
    new = transact(client, store, at("a", a), at("b", b), absent("gone"), put("a"), put("c"), put("d"))
    assert client.get(store, "a").revision == new[0]
    transact(client, store, absent("gone"), at("never", 0), put("gone"), put("never"))
    transact(client, store, at("a", new[0]), drop("a"))
    assert client.get(store, "a").revision == 0


@pytest.mark.parametrize("written", ["a", "other"])
def test_a_check_that_does_not_hold(client: Client, store: str, written: str) -> None:
    """The error names the key with what was expected and what it is, and nothing is written."""
    actual = client.set(store, "a", "1")
    for check, expected in ((at("a", actual + 7), actual + 7), (absent("a"), 0)):
        with refused("ABORTED", "REVISION_MISMATCH") as caught:
            transact(client, store, check, put(written, "2"), put("b"))
        assert caught[0].metadata == {"key": "a", "expected": str(expected), "actual": str(actual)}
    with refused("ABORTED", "REVISION_MISMATCH") as caught:
        transact(client, store, at("never", 3), put(written, "2"))
    assert caught[0].metadata == {"key": "never", "expected": "3", "actual": "0"}
    assert text_of(client.get(store, "a").value) == "1"
    assert client.get(store, "b").revision == client.get(store, "other").revision == 0


def test_checks_that_the_broker_cannot_make(client: Client, store: str) -> None:
    """More checks of other keys than writes without a check of their own are refused, in words."""
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION") as caught:
        transact(client, store, absent("x"), absent("a"), put("a"))
    assert "1 checks of keys that are not written" in caught[0].message
    assert "there are 0" in caught[0].message
    transact(client, store, absent("x"), absent("a"), put("a"), put("b"))


def test_values_that_expire(client: Client, store: str, unique: Unique) -> None:
    """A value may have a time to live, as in Set, and only where Set lets it."""
    transact(client, store, put("a", "1", seconds=60), put("b"))
    request = pb.HistoryRequest(store=store, key="a")
    (entry,) = client.call(STATE.methods_by_name["History"], request).entries
    assert entry.expires.ToNanoseconds() - entry.updated.ToNanoseconds() == 60_000_000_000
    long = unique()
    client.call(STATE.methods_by_name["EnsureStore"], pb.EnsureStoreRequest(store=long, history=2))
    transact(client, long, put("a"), put("b"))
    with refused("FAILED_PRECONDITION", "TTL_NOT_SUPPORTED"):
        transact(client, long, put("a", "1", seconds=60), put("b"))


def test_a_hundred_keys(client: Client, store: str) -> None:
    """A hundred keys may be written, or fifty written and fifty others checked."""
    revisions = transact(client, store, *(put(f"k.{number}") for number in range(100)))
    assert revisions == list(range(revisions[0], revisions[0] + 100))
    checks = [at(f"k.{number}", revisions[number]) for number in range(50)]
    transact(client, store, *checks, *(drop(f"k.{number}") for number in range(50, 100)))
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        transact(client, store, *(put(f"k.{number}") for number in range(101)))
    assert caught[0].fields == ("writes",)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        transact(client, store, absent("x"), *(put(f"k.{number}") for number in range(100)))


def test_large_values(client: Client, store: str) -> None:
    """Values of a megabyte or nearly so go together up to 4 MiB; a larger one stores nothing."""
    text = "x" * 1_000_000
    transact(client, store, put("a", text), put("b", text), put("c", text), put("d", text))
    assert len(text_of(client.get(store, "d").value)) == 1_000_000
    too_large = "x" * 1_100_000
    for order in ((put("a", "new"), put("z", too_large)), (put("z", too_large), put("a", "new"))):
        with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
            transact(client, store, *order)
        assert caught[0].metadata == {"limit": "1048576"}
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        transact(client, store, *(put(f"k.{number}", text) for number in range(5)))
    assert caught[0].metadata == {"limit": "4194304"}
    assert text_of(client.get(store, "a").value) == text
    assert client.get(store, "z").revision == 0


def test_the_largest_value_of_a_store(client: Client, nats_server: NatsServer, store: str) -> None:
    """Where another program limits its messages, a larger one is told at once, wherever it is."""

    async def limit() -> None:
        async with connect(nats_server.url) as broker:
            config = (await broker.api.stream_info(f"KV_{store}", in_seconds(30)))["config"]
            await broker.api.update_stream(config | {"max_msg_size": 1000}, in_seconds(30))

    asyncio.run(limit())
    fitting, too_large = "x" * 800, "x" * 1000
    transact(client, store, put("a", fitting), put("b", fitting))
    for large in range(3):
        texts = [too_large if number == large else fitting for number in range(3)]
        with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
            transact(client, store, *(put(f"k.{number}", text) for number, text in enumerate(texts)))
        assert caught[0].metadata == {"limit": "1000"}
    assert client.get(store, "k.0").revision == 0


@pytest.mark.parametrize(
    ("field", "steps"),
    [
        ("writes", ()),
        ("writes", (absent("a"),)),
        ("writes[1].key", (put("a"), put("a"))),
        ("checks[1].key", (absent("a"), at("a", 1), put("a"), put("b"))),
        ("writes[0].key", (put("a.*"),)),
        ("checks[0].key", (absent(""), put("a"))),
        ("checks[0].expected", (pb.TransactRequest.Check(key="b"), put("a"))),
        ("checks[0].revision", (at("b", 2**64 - 1), put("a"))),
        ("writes[0].write", (pb.TransactRequest.Write(key="a"),)),
        ("writes[0].set.value", (pb.TransactRequest.Write(key="a", set={}),)),
        ("writes[1].set.ttl", (put("b"), put("a", nanos=1))),
    ],
)
def test_malformed(client: Client, store: str, field: str, steps: tuple[Any, ...]) -> None:
    """Each field says what is wrong with it."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        transact(client, store, *steps)
    assert caught[0].fields == (field,)


def test_no_such_store(client: Client, unique: Unique) -> None:
    """A store that does not exist is not found."""
    with refused("NOT_FOUND", "STORE_NOT_FOUND") as caught:
        transact(client, (name := unique()), put("a"))
    assert caught[0].metadata == {"name": name}
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        transact(client, "WS_x", put("a"))


def test_a_store_of_another_program(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A bucket that takes no batches says what to do; ensuring it again makes it take them."""
    store = unique()
    config = {"name": f"KV_{store}", "subjects": [f"$KV.{store}.>"], "max_msgs_per_subject": 1}

    async def make() -> None:
        async with connect(nats_server.url) as broker:
            await broker.api.create_stream(config, in_seconds(30))

    async def kept() -> dict[str, Any]:
        async with connect(nats_server.url) as broker:
            config = (await broker.api.stream_info(f"KV_{store}", in_seconds(30)))["config"]
            return {name: value for name, value in config.items() if name != "metadata"}

    asyncio.run(make())
    before = asyncio.run(kept())
    with refused("FAILED_PRECONDITION", "TRANSACTIONS_NOT_SUPPORTED") as caught:
        transact(client, store, put("a"), put("b"))
    assert caught[0].metadata == {"name": store}
    assert "ensure it again" in caught[0].message
    assert client.get(store, "a").revision == 0
    client.ensure_store(store)
    assert asyncio.run(kept()) == before | {"allow_atomic": True}
    transact(client, store, put("a"), put("b"))


def test_many_at_once(client: Client, store: str) -> None:
    """Of concurrent transactions on the same revisions one succeeds at a time, and none in part."""
    transact(client, store, put("a", "0"), put("b", "0"))

    def add() -> None:
        for _ in range(20):
            while True:
                a, b = client.get(store, "a"), client.get(store, "b")
                text = str(int(text_of(a.value)) + 1)
                try:
                    with refused("ABORTED", "REVISION_MISMATCH"):
                        checks = at("a", a.revision), at("b", b.revision)
                        transact(client, store, *checks, put("b", text), put("a", text), timeout=30)
                except AssertionError:
                    break

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [text_of(client.get(store, key).value) for key in ("a", "b")] == ["80", "80"]
