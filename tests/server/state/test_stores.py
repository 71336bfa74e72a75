"""Stores against a real nats-server, and beside another client of the same buckets: nats-py's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, Final, Self

import nats
import pytest
from nats.js import JetStreamContext

from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats.budget import Budget
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.kv import Buckets, Record
from windshift.nats.jetstream.writes import Writes
from windshift.server.broker.asking import asking
from windshift.server.domain.errors import (
    BrokerUnavailable,
    EventTooLarge,
    InvalidField,
    KeyExists,
    OutcomeUnknown,
    RevisionMismatch,
    StoreNotFound,
    StreamFull,
)
from windshift.server.state.model import Check, Write
from windshift.server.state.stores import Stores

Unique = Callable[[], str]


def stores_of(broker: Broker) -> Stores:
    """Make stores on this connection."""
    writes = Writes(broker.requests, broker.api)
    return Stores(Buckets(broker.api, writes))


class Store:
    """One store, with a deadline for everything."""

    def __init__(self, stores: Stores, name: str) -> None:
        self._stores = stores
        self.name = name

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """Return value and revision."""
        record = await self._stores.get(self.name, key, in_seconds(30))
        return None if record.value is None else (record.value, record.sequence)

    async def set(
        self, key: str, value: bytes, *, create_only: bool = False, last_revision: int | None = None
    ) -> int:
        """Write; return the revision."""
        return await self._stores.set(
            self.name, key, value, in_seconds(30), create_only=create_only, last_revision=last_revision
        )

    async def delete(self, key: str, last_revision: int | None = None) -> None:
        """Delete."""
        await self._stores.delete(self.name, key, in_seconds(30), last_revision=last_revision)


@pytest.fixture
async def store(broker: Broker, unique: Unique) -> Store:
    """Make an empty store."""
    stores, name = stores_of(broker), unique()
    await stores.ensure(name, in_seconds(30))
    return Store(stores, name)


@pytest.fixture
async def jetstream(nats_server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """Connect another client."""
    async with await nats.connect(nats_server.url) as client:
        yield client.jetstream()


async def test_set_get_delete(store: Store) -> None:
    """A value is there with its revision until it is deleted."""
    assert await store.get("a.b") is None
    assert await store.set("a.b", b"one") == 1
    assert await store.set("a.b", b"two") == 2
    assert await store.get("a.b") == (b"two", 2)
    await store.delete("a.b")
    assert await store.get("a.b") is None


async def test_keys_are_apart(store: Store) -> None:
    """Keys that begin alike are different keys, and an empty value is a value."""
    await store.set("a", b"")
    await store.set("a.b", b"deeper")
    await store.delete("a.b")
    assert await store.get("a") == (b"", 1)


async def test_last_updated(broker: Broker, store: Store) -> None:
    """What is read has the broker's time of the write."""
    before = time.time_ns()
    await store.set("a", b"value")
    seconds, nanos = (await stores_of(broker).get(store.name, "a", in_seconds(30))).time
    assert before <= seconds * 10**9 + nanos <= time.time_ns()


async def test_create_only(store: Store) -> None:
    """A key is created once, and again after it was deleted."""
    assert await store.set("a", b"one", create_only=True) == 1
    with pytest.raises(KeyExists):
        await store.set("a", b"two", create_only=True)
    await store.delete("a")
    assert await store.set("a", b"three", create_only=True) == 3
    assert await store.get("a") == (b"three", 3)


async def test_update_with_revision(store: Store) -> None:
    """A conditional write succeeds on the revision that is there, and tells the actual one otherwise."""
    await store.set("other", b"")
    revision = await store.set("a", b"one")
    assert await store.set("a", b"two", last_revision=revision) == 3
    for wrong in (0, 1, 2, 4, 2**63 - 1):
        with pytest.raises(RevisionMismatch) as caught:
            await store.set("a", b"three", last_revision=wrong)
        assert caught.value.metadata == {"expected": str(wrong), "actual": "3"}
    assert await store.get("a") == (b"two", 3)


async def test_revision_zero_is_absent(store: Store) -> None:
    """Revision 0 creates what never was or was deleted; a marker's own revision counts for nothing."""
    assert await store.set("a", b"one", last_revision=0) == 1
    with pytest.raises(RevisionMismatch):
        await store.set("a", b"two", last_revision=0)
    await store.delete("a")  # the marker is revision 2
    for wrong in (1, 2):
        with pytest.raises(RevisionMismatch) as caught:
            await store.set("a", b"two", last_revision=wrong)
        assert caught.value.metadata["actual"] == "0"
    assert await store.set("a", b"three", last_revision=0) == 3


async def test_delete_with_revision(store: Store) -> None:
    """A conditional delete follows the same rule; 0 on a live key is a mismatch."""
    await store.set("a", b"one")
    for wrong in (0, 2):
        with pytest.raises(RevisionMismatch) as caught:
            await store.delete("a", last_revision=wrong)
        assert caught.value.metadata == {"expected": str(wrong), "actual": "1"}
    await store.delete("a", last_revision=1)
    assert await store.get("a") is None


async def test_delete_what_is_not_there(broker: Broker, store: Store) -> None:
    """Deleting a missing key succeeds, leaves nothing behind, and is a mismatch for a revision."""
    await store.delete("a")
    await store.delete("a", last_revision=0)
    assert await broker.messages(f"KV_{store.name}") == 0
    with pytest.raises(RevisionMismatch) as caught:
        await store.delete("a", last_revision=7)
    assert caught.value.metadata == {"expected": "7", "actual": "0"}
    await store.set("a", b"one")
    await store.delete("a")
    await store.delete("a")
    await store.delete("a", last_revision=0)


@pytest.mark.parametrize("condition", [{"create_only": True}, {"last_revision": 0}])
async def test_one_of_many_creators_wins(store: Store, condition: dict[str, int]) -> None:
    """Of many that create a key at once exactly one does."""
    for attempt in range(3):
        outcomes = await asyncio.gather(
            *(
                store.set(
                    "a",
                    b"%d" % writer,
                    create_only="create_only" in condition,
                    last_revision=condition.get("last_revision"),
                )
                for writer in range(20)
            ),
            return_exceptions=True,
        )
        winners = [outcome for outcome in outcomes if isinstance(outcome, int)]
        losers = [outcome for outcome in outcomes if isinstance(outcome, KeyExists | RevisionMismatch)]
        assert (len(winners), len(losers)) == (1, 19), attempt
        await store.delete("a")


async def test_counting_together(store: Store) -> None:
    """Many writers that increment a number by compare-and-swap lose no increment."""
    await store.set("n", b"0")

    async def increment() -> None:
        while True:
            found = await store.get("n")
            assert found is not None
            value, revision = found
            try:
                await store.set("n", b"%d" % (int(value) + 1), last_revision=revision)
            except RevisionMismatch:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(30)))
    assert await store.get("n") == (b"30", 31)


async def test_ensure_is_idempotent(broker: Broker, unique: Unique) -> None:
    """A store is ensured by many at once and again, and keeps its values."""
    stores, name = stores_of(broker), unique()
    await asyncio.gather(*(stores.ensure(name, in_seconds(30)) for _ in range(10)))
    await stores.set(name, "a", b"one", in_seconds(30))
    await stores.ensure(name, in_seconds(30))
    assert (await stores.get(name, "a", in_seconds(30))).value == b"one"


async def test_as_a_bucket_lies_in_jetstream(broker: Broker, store: Store) -> None:
    """A store is a stream like those that NATS clients make for a bucket."""
    config = (await broker.api.stream_info(f"KV_{store.name}", in_seconds(30)))["config"]
    assert config["subjects"] == [f"$KV.{store.name}.>"]
    expected = {
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": 1,
        "max_msgs_per_subject": 1,
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "deny_purge": False,
    }
    assert {name: config[name] for name in expected} == expected


async def test_existing_bucket_is_left_as_it_is(
    broker: Broker, jetstream: JetStreamContext, unique: Unique
) -> None:
    """A bucket that another program made keeps its configuration, and works as a store."""
    name = unique()
    await jetstream.create_key_value(bucket=name, history=5, max_value_size=1000, description="theirs")
    stores = stores_of(broker)
    await stores.ensure(name, in_seconds(30))
    config = (await broker.api.stream_info(f"KV_{name}", in_seconds(30)))["config"]
    assert (config["max_msgs_per_subject"], config["description"]) == (5, "theirs")
    await stores.set(name, "a", b"one", in_seconds(30))
    with pytest.raises(EventTooLarge) as caught:
        await stores.set(name, "a", bytes(1001), in_seconds(30))
    assert caught.value.metadata["limit"] == "1000"


async def test_other_clients_see_the_same(jetstream: JetStreamContext, store: Store) -> None:
    """What one writes or deletes the other sees, with the same revisions."""
    bucket = await jetstream.key_value(store.name)
    await store.set("a", b"ours")
    entry = await bucket.get("a")
    assert (entry.value, entry.revision) == (b"ours", 1)
    await bucket.put("a", b"theirs")
    assert await store.get("a") == (b"theirs", 2)
    await store.delete("a", last_revision=2)
    with pytest.raises(nats.js.errors.KeyNotFoundError):
        await bucket.get("a")
    await bucket.create("a", b"again")
    await bucket.delete("a")
    assert await store.get("a") is None
    assert await store.set("a", b"and again", create_only=True) == 6
    await bucket.purge("a")
    assert await store.get("a") is None
    assert await store.set("a", b"at last", last_revision=0) == 8


async def test_missing_store(broker: Broker, unique: Unique) -> None:
    """Every operation on a store that does not exist says so."""
    stores, name = stores_of(broker), unique()
    for operation in (
        lambda: stores.get(name, "a", in_seconds(30)),
        lambda: stores.set(name, "a", b"", in_seconds(30)),
        lambda: stores.set(name, "a", b"", in_seconds(30), create_only=True),
        lambda: stores.set(name, "a", b"", in_seconds(30), last_revision=1),
        lambda: stores.delete(name, "a", in_seconds(30)),
        lambda: stores.delete(name, "a", in_seconds(30), last_revision=1),
    ):
        with pytest.raises(StoreNotFound) as caught:
            await operation()
        assert caught.value.metadata == {"name": name}


@pytest.mark.parametrize(
    ("store", "key", "field"),
    [
        ("", "a", "store"),
        ("a.b", "a", "store"),
        ("WS_x", "a", "store"),
        ("x" * 256, "a", "store"),
        ("x", "", "key"),
        ("x", "a..b", "key"),
        ("x", "a.*", "key"),
        ("x", ">", "key"),
        ("x", "a/b", "key"),
        ("x", "x" * 256, "key"),
    ],
)
async def test_names_are_checked(broker: Broker, store: str, key: str, field: str) -> None:
    """A malformed or reserved name is refused by the name of its field."""
    stores = stores_of(broker)
    for operation in (
        lambda: stores.get(store, key, in_seconds(30)),
        lambda: stores.set(store, key, b"", in_seconds(30)),
        lambda: stores.delete(store, key, in_seconds(30)),
    ):
        with pytest.raises(InvalidField) as caught:
            await operation()
        assert caught.value.field == field


async def test_conditions_exclude_each_other(store: Store) -> None:
    """`create_only` and `last_revision` together are refused."""
    with pytest.raises(InvalidField) as caught:
        await store.set("a", b"", create_only=True, last_revision=0)
    assert caught.value.field == "last_revision"


async def test_size_limit(broker: Broker, store: Store) -> None:
    """A value larger than the broker takes is refused before it is sent."""
    limit = broker.connection.max_payload
    await store.set("a", bytes(limit - 100))
    assert await store.get("a") == (bytes(limit - 100), 1)
    for value in (bytes(limit), bytes(limit + 1)):
        with pytest.raises(EventTooLarge):
            await store.set("a", value, last_revision=1)
    assert broker.connection.reconnects == 0


async def test_full_bucket(broker: Broker, jetstream: JetStreamContext, unique: Unique) -> None:
    """A bucket that is full says so."""
    name = unique()
    await jetstream.create_key_value(bucket=name, max_bytes=1000)
    with pytest.raises(StreamFull):
        await stores_of(broker).set(name, "a", bytes(2000), in_seconds(30))


async def test_many_keys_are_listed_in_order(
    broker: Broker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are never sorted all at once, which would hold others up."""
    sizes: list[int] = []

    def noted(keys: Iterable[str]) -> list[str]:
        found = sorted(keys)
        sizes.append(len(found))
        return found

    monkeypatch.setattr("windshift.server.state.stores.sorted", noted, raising=False)
    keys = [f"{number * 7 % 2_500:04}" for number in range(2_500)]
    for key in keys[1:]:
        broker.connection.publish(f"$KV.{store.name}.{key}".encode(), b"x")
    await store.set(keys[0], b"x")
    stores, after = stores_of(broker), "0099"
    found, more = await stores.keys(store.name, ">", after, 100, in_seconds(30), with_values=False)
    assert [key for key, _ in found] == [f"{number:04}" for number in range(100, 200)]
    assert more
    assert max(sizes) <= 1_000


LARGE: Final = 500_000
KEYS: Final = "abcdefghijklmnopqrst"


class Held(bytes):
    """A value, which is counted."""

    now = most = 0

    def __new__(cls, value: bytes) -> Self:
        """Count it."""
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        return super().__new__(cls, value)

    def __del__(self) -> None:
        """Count it no longer."""
        Held.now -= 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> type[Held]:
    """Count the values that are there."""
    read = Buckets.read

    async def counted(buckets: Buckets, bucket: str, key: str, deadline: float) -> Record:
        record = await read(buckets, bucket, key, deadline)
        return record if record.value is None else record._replace(value=Held(record.value))

    monkeypatch.setattr(Buckets, "read", counted)
    monkeypatch.setattr(Held, "most", 0)
    return Held


async def test_values_are_not_held_by_who_needs_none(broker: Broker, store: Store, held: type[Held]) -> None:
    """Those of a transaction's checks, and of a list of keys: all callers together could hold gigabytes."""
    stores = stores_of(broker)
    checks = [Check(key, await store.set(key, bytes(LARGE))) for key in KEYS]
    await stores.transact(store.name, checks, [Write(key, b"x") for key in KEYS], in_seconds(30))
    for key in KEYS:
        await store.set(key, bytes(LARGE))
    await store.delete("c")
    found, _ = await stores.keys(store.name, ">", "", 100, in_seconds(30), with_values=False)
    assert [(key, record.value) for key, record in found] == [(key, b"") for key in KEYS.replace("c", "")]
    assert held.most == 1


async def test_no_more_values_are_held_than_are_on_a_page(
    broker: Broker, store: Store, held: type[Held]
) -> None:
    """Whichever comes first: the page has the first ones."""
    for key in KEYS:
        await store.set(key, bytes(LARGE))
    found, more = [""], True
    while more:
        page, more = await stores_of(broker).keys(
            store.name, ">", found[-1], 100, in_seconds(30), with_values=True
        )
        assert [len(record.value or b"") for _, record in page] in ([LARGE] * 3, [LARGE] * 2)
        found += [key for key, _ in page]
    assert found[1:] == list(KEYS)
    assert held.most <= 3 + 1 + 3  # a page, one more, and the page before it


async def test_broker_gone(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """Without the broker nothing is read or written; with an answer lost the outcome is unknown."""
    stores = stores_of(own_broker)
    await stores.ensure("s", in_seconds(30))
    own_nats_server.freeze()
    with pytest.raises(OutcomeUnknown):
        await stores.set("s", "a", b"one", in_seconds(0.05))
    with pytest.raises(BrokerUnavailable):
        await stores.get("s", "a", in_seconds(0.05))
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(BrokerUnavailable):
        await stores.set("s", "a", b"one", in_seconds(0.05))
    with pytest.raises(BrokerUnavailable):
        await stores.ensure("s", in_seconds(0.05))
    own_nats_server.start()
    await stores.set("s", "a", b"two", in_seconds(30))


class Begun:
    """A call without a task: what came of it."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.errors: list[Exception] = []
        self.rest: list[Callable[[], Awaitable[Any]]] = []
        self.charged = 0.0
        self.answer = self.answers.append
        self.abort = self.errors.append
        self.go_on = self.rest.append

    def charge(self, seconds: float, _: float) -> None:
        self.charged += seconds

    async def outcome(self) -> Any:
        """Return what it came to, in a task if there is need."""
        async with asyncio.timeout(30):
            while not (self.answers or self.errors or self.rest):  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.002)
        if self.errors:
            raise self.errors.pop()
        return await self.rest.pop()() if self.rest else self.answers.pop()


class Quick:
    """Reads and writes without a task."""

    def __init__(self, broker: Broker, budget: Budget | None = None, attempt: float = 3.0) -> None:
        timeout = timedelta(seconds=attempt)
        self.api = JetStream(broker.requests, timeout, budget)
        self.writes = Writes(broker.requests, self.api)
        self.stores = Stores(Buckets(self.api, self.writes))
        self.abandon: Callable[[], None] | None = None

    def get(self, store: str, key: str, seconds: float = 30, fails: Exception | None = None) -> Begun:
        """Begin to read; the response is the value, or None."""
        begun = Begun()

        def respond(record: Record) -> bytes | None:
            if fails is not None:
                raise fails
            return record.value

        deadline = in_seconds(seconds)
        self.abandon = self.stores.begin_get(store, key, deadline, "a", begun, respond)
        return begun

    def set(self, store: str, key: str, value: bytes, seconds: float = 30) -> Begun:
        """Begin to write; the response is the revision."""
        begun, deadline = Begun(), in_seconds(seconds)
        self.abandon = self.stores.begin_set(
            store, key, value, deadline, "a", begun, lambda revision: revision
        )
        return begun


async def test_without_a_task(broker: Broker, store: Store) -> None:
    """What one answer settles needs none; all else goes on in one, and comes to what it would have."""
    budget = Budget(asker=asking.get)
    quick = Quick(broker, budget)
    begun = quick.set(store.name, "a", b"one")
    assert (await begun.outcome(), begun.rest) == (1, [])
    begun = quick.get(store.name, "a")
    assert (await begun.outcome(), begun.rest) == (b"one", [])
    assert begun.charged > 0
    assert await quick.get(store.name, "b").outcome() is None
    await store.set("large", bytes(200_000))
    assert await quick.get(store.name, "large").outcome() == bytes(200_000)
    with pytest.raises(StoreNotFound):
        await quick.get("nowhere", "a").outcome()
    with pytest.raises(StoreNotFound):
        await quick.set("nowhere", "a", b"").outcome()
    with pytest.raises(EventTooLarge):
        await quick.set(store.name, "a", bytes(2_000_000)).outcome()
    with pytest.raises(ZeroDivisionError):
        await quick.get(store.name, "a", fails=ZeroDivisionError()).outcome()
    for malformed in ("a b", ""):
        with pytest.raises(InvalidField):
            quick.get(store.name, malformed)
        with pytest.raises(InvalidField):
            quick.set(store.name, malformed, b"")
    assert (budget.used, quick.writes.in_flight) == (0, 0)


async def test_a_read_without_a_task_waits_for_its_share(broker: Broker, store: Store) -> None:
    """As one in a task does: until there are bytes, or its deadline; then it is told why there are none."""
    budget = Budget(3_000_000, asker=asking.get)
    quick = Quick(broker, budget)
    await store.set("a", b"one")
    taken = budget.take_now(1_400_000, "a")
    assert taken is not None
    second = quick.get(store.name, "a")
    assert (budget.waiting, quick.abandon is None) == (1, False)
    late = quick.get(store.name, "a", 0.01)
    with pytest.raises(BrokerUnavailable):
        await late.outcome()
    gone = quick.get(store.name, "a")
    assert quick.abandon is not None
    quick.abandon()
    assert budget.waiting == 1
    taken.give_back()
    assert await second.outcome() == b"one"
    assert (budget.used, budget.waiting) == (0, 0)
    assert (gone.answers, gone.errors, gone.rest) == ([], [], [])


async def test_a_read_without_a_task_that_is_abandoned(
    own_nats_server: NatsServer, own_broker: Broker
) -> None:
    """Its answer may still come, and has its share until then; one without an answer is asked for again."""
    budget = Budget(asker=asking.get)
    quick = Quick(own_broker, budget, attempt=0.05)
    await quick.stores.ensure("s", in_seconds(30))
    assert await quick.set("s", "a", b"one").outcome() == 1
    own_nats_server.freeze()
    abandoned, repeated = quick.get("s", "a"), None
    assert quick.abandon is not None
    quick.abandon()
    assert budget.used > 0
    repeated = quick.get("s", "a")
    async with asyncio.timeout(30):
        while not repeated.rest:  # noqa: ASYNC110 - only the clock knows
            await asyncio.sleep(0.002)
    assert quick.abandon is not None
    quick.abandon()  # before the task has begun: it has let go of its share, once
    late = budget.used
    assert late == 2 * quick.api.message_size
    own_nats_server.thaw()
    assert await quick.get("s", "a", 30).outcome() == b"one"
    async with asyncio.timeout(30):
        while budget.used:  # noqa: ASYNC110 - the late answers give theirs back
            await asyncio.sleep(0.002)
    assert (abandoned.answers, abandoned.rest) == ([], [])


async def test_without_a_task_nor_a_connection(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A read is left to who can wait for one; a write waits in a task."""
    quick = Quick(own_broker)
    await quick.stores.ensure("s", in_seconds(30))
    own_nats_server.kill()
    await own_broker.lost()
    quick.get("s", "a")
    assert quick.abandon is None
    begun = quick.set("s", "a", b"one")
    assert len(begun.rest) == 1
    own_nats_server.start()
    assert await begun.outcome() == 1
