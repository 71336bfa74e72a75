"""Publishing and stores on a cluster, where what one server has stored another may not know yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from tests.nats.waiting import serving
from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats.jetstream.kv import Buckets
from windshift.nats.jetstream.writes import Writes
from windshift.server.domain.errors import KeyExists, RevisionMismatch, WrongLastId
from windshift.server.events.model import PublishRequest
from windshift.server.events.publish import Publisher
from windshift.server.state.stores import Stores

Unique = Callable[[], str]

pytestmark = pytest.mark.timeout(120)

TYPE_URL = "type.googleapis.com/windshift.test.v1.StringValue"


@dataclass(frozen=True, slots=True)
class Member:
    """What one Windshift server, connected to one member of the cluster, writes with."""

    broker: Broker
    publisher: Publisher
    stores: Stores


@pytest.fixture
async def members(cluster: list[NatsServer]) -> AsyncIterator[list[Member]]:
    """Write by way of each server, once the cluster has a leader."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(server.url)) for server in cluster]
        await brokers[0].api.call("INFO", None, in_seconds(60))
        yield [member(broker) for broker in brokers]


def member(broker: Broker) -> Member:
    """Wire a server."""
    writes = Writes(broker.requests, broker.api)
    publisher = Publisher(broker.api, writes)
    return Member(broker, publisher, Stores(Buckets(broker.api, writes, 3)))


async def test_same_key_at_once(members: list[Member], unique: Unique) -> None:
    """A hundred publishes of one key, by way of all servers, are stored once and get the same id."""
    stream = await members[0].broker.stream(unique(), num_replicas=3)
    request = PublishRequest(f"{stream}.a", TYPE_URL, b"", idempotency_key="k")
    receipts = await asyncio.gather(
        *(members[number % 3].publisher.publish(request, in_seconds(20)) for number in range(100))
    )
    assert {seq for seq, _ in receipts} == {1}
    assert await members[0].broker.messages(stream) == 1


async def test_same_key_and_expectation_at_once(members: list[Member], unique: Unique) -> None:
    """A hundred repeats of one conditional publish, by way of all servers, get the id of the one stored."""
    stream = await members[0].broker.stream(unique(), num_replicas=3)
    for last in range(3):
        request = PublishRequest(
            f"{stream}.a", TYPE_URL, b"", idempotency_key=f"k{last}", expected_last_id=last
        )
        receipts = await asyncio.gather(
            *(members[number % 3].publisher.publish(request, in_seconds(20)) for number in range(100))
        )
        assert {seq for seq, _ in receipts} == {last + 1}
    assert await members[0].broker.messages(stream) == 3


@pytest.mark.parametrize("replicas", [1, 3])
async def test_repeat_when_the_first_event_is_gone(
    members: list[Member], unique: Unique, replicas: int
) -> None:
    """Each server gives the id of the first, though its event was replaced and the condition fails."""
    stream = await members[0].broker.stream(unique(), num_replicas=replicas, max_msgs_per_subject=1)
    request = PublishRequest(f"{stream}.a", TYPE_URL, b"", idempotency_key="k", expected_last_id=0)
    assert await members[0].publisher.publish(request, in_seconds(20)) == (1, False)
    await members[1].publisher.publish(PublishRequest(f"{stream}.a", TYPE_URL, b""), in_seconds(20))
    for member in members:
        assert await member.publisher.publish(request, in_seconds(20)) == (1, True)
        with pytest.raises(WrongLastId):
            await member.publisher.publish(request._replace(idempotency_key="other"), in_seconds(20))
    assert (await members[2].publisher.publish(request._replace(expected_last_id=2), in_seconds(20)))[0] == 1


async def test_same_expectation_at_once(members: list[Member], unique: Unique) -> None:
    """Of conditional publishes by way of all servers one is stored; the others learn the actual id."""
    stream = await members[0].broker.stream(unique(), num_replicas=3)
    for last in range(3):
        request = PublishRequest(f"{stream}.a", TYPE_URL, b"", expected_last_id=last)
        outcomes = await asyncio.gather(
            *(members[number % 3].publisher.publish(request, in_seconds(20)) for number in range(30)),
            return_exceptions=True,
        )
        losers = [outcome for outcome in outcomes if isinstance(outcome, WrongLastId)]
        assert [outcome for outcome in outcomes if isinstance(outcome, tuple)] == [(last + 1, False)]
        assert [loser.metadata for loser in losers] == [{"expected": str(last), "actual": str(last + 1)}] * 29


async def test_counting_together(members: list[Member], unique: Unique) -> None:
    """Writers of all servers that count by compare-and-swap lose nothing; each read sees the last write."""
    store = unique()
    await members[0].stores.ensure(store, in_seconds(20))
    await members[0].stores.set(store, "n", b"0", in_seconds(20))

    async def increment(stores: Stores) -> None:
        while True:
            record = await stores.get(store, "n", in_seconds(20))
            value = b"%d" % (int(record.value or b"") + 1)
            try:
                written = await stores.set(store, "n", value, in_seconds(20), last_revision=record.sequence)
            except RevisionMismatch:
                continue
            seen = await stores.get(store, "n", in_seconds(20))
            assert seen.sequence >= written
            return

    await asyncio.gather(*(increment(members[number % 3].stores) for number in range(30)))
    entry = await members[1].stores.get(store, "n", in_seconds(20))
    assert entry is not None
    assert entry.value == b"30"


async def test_one_creator_wins(members: list[Member], unique: Unique) -> None:
    """Of creators by way of all servers exactly one wins, also of a key that was deleted."""
    store = unique()
    await members[0].stores.ensure(store, in_seconds(20))
    for _ in range(3):
        outcomes = await asyncio.gather(
            *(
                members[number % 3].stores.set(store, "k", b"", in_seconds(20), create_only=True)
                for number in range(12)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, KeyExists) for outcome in outcomes) == 11
        await members[0].stores.delete(store, "k", in_seconds(20))


async def test_a_connection_moves_on(cluster: list[NatsServer], unique: Unique) -> None:
    """When the server it is connected to dies, a connection goes to another one and no publish fails."""
    options = replace(QUICK, connect_timeout=timedelta(seconds=2))
    async with connect(",".join(server.url for server in cluster), options) as broker:
        await broker.api.call("INFO", None, in_seconds(60))
        publish = member(broker).publisher.publish
        stream = await broker.stream(unique(), num_replicas=3)
        request = PublishRequest(f"{stream}.a", TYPE_URL, b"", idempotency_key="before")
        await publish(request, in_seconds(20))
        victim = serving(broker, *cluster)
        victim.kill()
        try:
            receipts = await asyncio.gather(
                *(publish(request._replace(idempotency_key=f"{n}"), in_seconds(20)) for n in range(20))
            )
        finally:
            victim.start()
        assert sorted(seq for seq, _ in receipts) == list(range(2, 22))
