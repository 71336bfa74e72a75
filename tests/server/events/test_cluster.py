"""Streams and consumers on a cluster of three nats-servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest

from tests.server.events.management import Management, eventually, manage
from tests.support.broker import connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.domain.errors import ReplicasUnavailable
from windshift.server.events.specs import (
    AtStart,
    ConsumerSpec,
    FromAggregate,
    FromMirror,
    FromSubjects,
    RetentionSpec,
    SourceSpec,
    StreamSpec,
)

Unique = Callable[[], str]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def managements(cluster: list[NatsServer]) -> AsyncIterator[list[Management]]:
    """Manage the cluster by way of each server, once it has a leader."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(server.url)) for server in cluster]
        await brokers[0].api.call("INFO", None, in_seconds(60))
        yield [manage(broker) for broker in brokers]


async def test_replicas(managements: list[Management], unique: Unique) -> None:
    """A stream is replicated as asked, and stays so when nothing is said; five are too many for three."""
    name = unique()
    plain = StreamSpec(name, FromSubjects((name,)))
    replicated = StreamSpec(name, FromSubjects((name,)), replicas=3)
    assert (await managements[0].ensure(plain))["num_replicas"] == 1
    assert (await managements[1].ensure(replicated))["num_replicas"] == 3
    assert (await managements[2].ensure(plain))["num_replicas"] == 3
    for stream in (name, unique()):
        with pytest.raises(ReplicasUnavailable):
            await managements[0].ensure(StreamSpec(stream, FromSubjects((stream,)), replicas=5))


async def test_many_at_once(managements: list[Management], unique: Unique) -> None:
    """Many clients of all servers that ensure the same streams and consumers at once all succeed."""
    name, mirror, aggregate = unique(), unique(), unique()
    await managements[0].ensure(StreamSpec(name, FromSubjects((f"{name}.>",)), replicas=3))
    specs = [
        StreamSpec(unique(), FromSubjects((f"{unique()}.>",)), replicas=3),
        StreamSpec(mirror, FromMirror(SourceSpec(name)), replicas=3),
        StreamSpec(aggregate, FromAggregate((SourceSpec(name),))),
    ]
    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            management = managements[number % 3]
            for spec in specs:
                tasks.create_task(management.streams.ensure(spec, in_seconds(30)))
            tasks.create_task(management.consumers.ensure(ConsumerSpec(name, "c"), in_seconds(30)))
            tasks.create_task(management.consumers.ensure(ConsumerSpec(name), in_seconds(30)))
            tasks.create_task(managements[0].publish(f"{name}.x"))
    for spec in specs:
        stored = await managements[0].stored_stream(spec.name)
        assert await managements[1].ensure(spec) == stored
    for copy in (mirror, aggregate):
        await eventually(partial(managements[0].broker.messages, copy), 30)


async def test_many_at_once_who_disagree(managements: list[Management], unique: Unique) -> None:
    """Changes to one stream that cross each other all succeed, though the broker leaves some unanswered."""
    name = unique()
    await managements[0].ensure(StreamSpec(name, FromSubjects((name,)), replicas=3))
    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            spec = StreamSpec(name, FromSubjects((name,)), RetentionSpec(max_events=number + 1), replicas=3)
            tasks.create_task(managements[number % 3].streams.ensure(spec, in_seconds(30)))
    assert (await managements[0].stored_stream(name))["max_msgs"] in range(1, 31)


async def pending(management: Management, stream: str) -> None:
    """Wait until the consumer has an event: the replica of the stream that it reads may be behind."""
    async with asyncio.timeout(30):
        while not (await management.stored_consumer(stream, "c"))["num_pending"]:  # noqa: ASYNC110 - it lies there
            await asyncio.sleep(0.01)


async def test_made_by_one_seen_by_all(managements: list[Management], unique: Unique) -> None:
    """What one server made the others know at once; positions hold wherever the consumer is asked."""
    name = unique()
    for number in range(5):
        spec = StreamSpec(f"{name}{number}", FromSubjects((f"{name}{number}.>",)), replicas=3)
        await managements[number % 3].streams.ensure(spec, in_seconds(30))
        await managements[(number + 1) % 3].publish(f"{spec.name}.a", f"{spec.name}.b")
        consumer = ConsumerSpec(spec.name, "c", (f"{spec.name}.b",), AtStart())
        await managements[(number + 2) % 3].consumers.ensure(consumer, in_seconds(30))
        await managements[number % 3].consumers.ensure(consumer, in_seconds(30))
        await pending(managements[number % 3], spec.name)
        assert await managements[number % 3].next_ids(spec.name, "c") == [2]
        await managements[number % 3].consumers.delete(spec.name, "c", in_seconds(30))
