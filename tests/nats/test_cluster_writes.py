"""Writes on a cluster, where what one server has stored another may not know yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle

import pytest

from tests.nats.test_writes import bodies
from tests.nats.waiting import serving
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import JetStreamError, Superseded
from windshift.nats import headers as h
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.kv import Buckets, Put
from windshift.nats.jetstream.writes import Write, Writes

Unique = Callable[[], str]

BLOCK = h.block(((b"N", b"1"),))

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True, slots=True)
class Member:
    """What one process, connected to one member of the cluster, writes with."""

    broker: Broker
    writes: Writes
    buckets: Buckets


@pytest.fixture
async def members(cluster: list[NatsServer]) -> AsyncIterator[list[Member]]:
    """Write by way of each server, once the cluster has a leader."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(server.url)) for server in cluster]
        await brokers[0].api.call("INFO", None, in_seconds(60))
        yield [member(broker) for broker in brokers]


def member(broker: Broker) -> Member:
    """Wire a process."""
    writes = Writes(broker.requests, broker.api)
    return Member(broker, writes, Buckets(broker.api, writes, 3))


def write(stream: str, key: bytes = b"", last: int | None = None) -> Write:
    """Make a write, with a key by which the server knows it again, and a condition."""
    lines = [(h.MESSAGE_ID, key)] if key else []
    if last is not None:
        lines.append((h.EXPECTED_LAST_SEQUENCE, b"%d" % last))
    return Write(f"{stream}.a".encode(), b"", h.block(lines), in_seconds(30), bool(key))


async def at_once(members: list[Member], write: Write, count: int) -> list[PubAck | BaseException]:
    """Make a write so many times at once, by way of all servers in turn."""
    each: Iterator[Member] = cycle(members)
    return await asyncio.gather(
        *(next(each).writes.write(write) for _ in range(count)), return_exceptions=True
    )


async def test_same_key_at_once(members: list[Member], unique: Unique) -> None:
    """A hundred writes of one key, by way of all servers, are stored once and get the same sequence."""
    stream = await members[0].broker.stream(unique(), num_replicas=3)
    acks = await at_once(members, write(stream, b"k"), 100)
    assert {(ack.stream, ack.sequence) for ack in acks if isinstance(ack, PubAck)} == {(stream, 1)}
    assert [ack for ack in acks if not isinstance(ack, PubAck)] == []
    assert sum(isinstance(ack, PubAck) and not ack.duplicate for ack in acks) == 1
    assert await members[0].broker.messages(stream) == 1


async def test_same_expectation_at_once(members: list[Member], unique: Unique) -> None:
    """Of conditional writes by way of all servers one is stored; the others are told of it."""
    stream = await members[0].broker.stream(unique(), num_replicas=3)
    for last in range(3):
        outcomes = await at_once(members, write(stream, last=last), 30)
        assert [each for each in outcomes if isinstance(each, PubAck)] == [PubAck(stream, last + 1)]
        losers = [each for each in outcomes if isinstance(each, JetStreamError)]
        assert len(losers) == 29
        told = {(each.err_code, codes.actual_last_sequence(each)) for each in losers}
        assert told <= {
            (codes.WRONG_LAST_SEQUENCE, last + 1),
            (codes.WRONG_LAST_SEQUENCE_UNTOLD, None),
        }


async def test_same_key_and_expectation_at_once(members: list[Member], unique: Unique) -> None:
    """A hundred repeats of one conditional write, by way of all servers, are stored once."""
    stream = await members[0].broker.stream(unique(), num_replicas=3)
    for last in range(3):
        outcomes = await at_once(members, write(stream, b"k%d" % last, last), 100)
        acks = [each for each in outcomes if isinstance(each, PubAck)]
        refused = [each for each in outcomes if isinstance(each, JetStreamError)]
        assert {ack.sequence for ack in acks} == {last + 1}
        assert len(acks) + len(refused) == 100
        assert {each.err_code for each in refused} <= {
            codes.WRONG_LAST_SEQUENCE,
            codes.WRONG_LAST_SEQUENCE_UNTOLD,
        }
    assert await members[0].broker.messages(stream) == 3


async def test_counting_together(members: list[Member], unique: Unique) -> None:
    """Writers of all servers that count by compare-and-swap lose nothing; each read sees the last write."""
    bucket = unique()
    await members[0].buckets.ensure(bucket, in_seconds(30))
    await members[0].buckets.put(bucket, Put("n", b"0"), in_seconds(30))

    async def increment(buckets: Buckets) -> None:
        while True:
            record = await buckets.read(bucket, "n", in_seconds(30))
            assert record.value is not None
            value = b"%d" % (int(record.value) + 1)
            try:
                written = await buckets.put(bucket, Put("n", value, record.sequence), in_seconds(30))
            except Superseded:
                continue
            assert (await buckets.read(bucket, "n", in_seconds(30))).sequence >= written
            return

    await asyncio.gather(*(increment(members[number % 3].buckets) for number in range(30)))
    assert (await members[1].buckets.read(bucket, "n", in_seconds(30))).value == b"30"


async def test_one_creator_wins(members: list[Member], unique: Unique) -> None:
    """Of creators by way of all servers exactly one wins, also of a key that was deleted."""
    bucket = unique()
    await members[0].buckets.ensure(bucket, in_seconds(30))
    for _ in range(3):
        last = (await members[0].buckets.read(bucket, "k", in_seconds(30))).sequence
        outcomes = await asyncio.gather(
            *(
                members[number % 3].buckets.put(bucket, Put("k", b"", last), in_seconds(30))
                for number in range(12)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Superseded) for outcome in outcomes) == 11
        await members[0].buckets.put(bucket, Put("k", None), in_seconds(30))


async def test_a_connection_moves_on(cluster: list[NatsServer], unique: Unique) -> None:
    """When the server it is connected to dies, a connection goes to another one and no keyed write fails."""
    async with connect(",".join(server.url for server in cluster)) as broker:
        await broker.api.call("INFO", None, in_seconds(60))
        writes = member(broker).writes
        stream = await broker.stream(unique(), num_replicas=3)
        await writes.write(write(stream, b"before"))
        victim = serving(broker, *cluster)
        victim.kill()
        try:
            acks = await asyncio.gather(*(writes.write(write(stream, b"%d" % n)) for n in range(20)))
        finally:
            victim.start()
        assert sorted(ack.sequence for ack in acks) == list(range(2, 22))


async def test_fast_batches_through_changes_of_leaders(members: list[Member], unique: Unique) -> None:
    """What is acknowledged is stored, what was not taken is not, and nothing is stored twice."""
    stream = await members[0].broker.stream(unique(), num_replicas=3, allow_batched=True)
    stored, untaken = set[bytes](), set[bytes]()
    steady = asyncio.Event()
    steady.set()
    is_over = asyncio.Event()

    async def ingest(who: int) -> None:
        writes, number = members[who].writes, 0
        while not is_over.is_set():
            batch = [
                Write(f"{stream}.a".encode(), b"%d.%d.%d" % (who, number, place), BLOCK, in_seconds(3))
                for place in range(100)
            ]
            sent = await writes.send_all(batch, steady, stream)
            acks = await writes.answered(sent)
            stored.update(write.body for write, ack in zip(batch, acks, strict=True) if ack is not None)
            untaken.update(batch[place].body for place in writes.untaken(sent))
            number += 1

    ingesting = [asyncio.ensure_future(ingest(who)) for who in range(3)]
    for member in members:
        before = len(stored)
        while len(stored) < before + 300:  # noqa: ASYNC110 - it tells nobody what it has stored
            await asyncio.sleep(0.01)
        await member.broker.api.call(f"STREAM.LEADER.STEPDOWN.{stream}", None, in_seconds(30))
    is_over.set()
    await asyncio.gather(*ingesting)
    found = Counter(await bodies(members[0].broker, stream))
    assert stored <= found.keys()
    assert untaken.isdisjoint(found)
    assert max(found.values()) == 1
