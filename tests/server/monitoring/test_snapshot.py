"""What JetStream holds, looked at on a real server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from tests.support.broker import Broker, in_seconds
from windshift.nats import Busy, Message, Unanswered, Unavailable
from windshift.nats.jetstream.api import Page, Query, StoredMessage
from windshift.nats.times import NANOSECONDS
from windshift.server.monitoring import snapshot as snapshot_module
from windshift.server.monitoring.snapshot import (
    ConsumerProgress,
    Snapshot,
    SnapshotCollector,
    SnapshotLimits,
    shares,
)

Unique = Callable[[], str]


async def consumer(broker: Broker, stream: str, name: str, *, durable: bool = True, **config: object) -> None:
    """Create a consumer of all events from the start."""
    settings = {"name": name, "ack_policy": "explicit", **config}
    if durable:
        settings["durable_name"] = name
    request = {"stream_name": stream, "config": settings, "action": "create"}
    await broker.api.call(f"CONSUMER.CREATE.{stream}.{name}", request, in_seconds(30))


async def publish(broker: Broker, *subjects: str, size: int = 10) -> None:
    """Store events."""
    for subject in subjects:
        await broker.publish(subject, b"x" * size)


async def pull(broker: Broker, stream: str, name: str) -> bytes:
    """Let a consumer hand over an event; give where to settle it."""
    inbox, arrived = broker.connection.inbox(), asyncio.Queue[Message]()
    subscription = broker.connection.subscribe(inbox, arrived.put_nowait)
    broker.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}".encode(), reply=inbox)
    message = await arrived.get()
    subscription.unsubscribe()
    return message.reply


async def take(broker: Broker, limits: SnapshotLimits | None = None) -> Snapshot:
    """Look once."""
    return await SnapshotCollector(broker.api, limits).collect(in_seconds(30))


def found(snapshot: Snapshot, stream: str, name: str) -> ConsumerProgress:
    """Find a consumer."""
    return next(each for each in snapshot.consumers if (each.stream, each.name) == (stream, name))


async def test_streams(own_broker: Broker) -> None:
    """Streams have their size and their last id, which a purge leaves."""
    await own_broker.stream("A")
    await own_broker.stream("B")
    await publish(own_broker, "A.x", "A.x", "B.x")
    await own_broker.api.call("STREAM.PURGE.B", {}, in_seconds(30))
    a, b = (await take(own_broker)).streams
    assert (a.name, a.messages, a.first_id, a.last_id) == ("A", 2, 1, 2)
    assert a.size > 20
    assert (b.name, b.messages, b.size, b.last_id) == ("B", 0, 0, 1)


async def test_consumers(own_broker: Broker) -> None:
    """Consumers have what is pending and what is handed over, and the age of the oldest of both."""
    stream = await own_broker.stream("S")
    before = time.time_ns()
    await publish(own_broker, "S.a", "S.b", "S.a")
    for name in ("idle", "busy", "done"):
        await consumer(own_broker, stream, name)
    await consumer(own_broker, stream, "none", deliver_policy="new")
    await consumer(own_broker, stream, "some", filter_subject="S.b")
    await consumer(own_broker, stream, "several", filter_subjects=["S.b", "S.c"])
    await consumer(own_broker, stream, "passing", durable=False)
    await pull(own_broker, stream, "busy")
    for _ in range(3):
        await own_broker.requests.request(await pull(own_broker, stream, "done"), b"", b"", in_seconds(30))
    snapshot = await take(own_broker)
    seen = {each.name: (each.pending, each.unacknowledged) for each in snapshot.consumers}
    assert seen == {
        "idle": (3, 0),
        "busy": (2, 1),
        "done": (0, 0),
        "none": (0, 0),
        "some": (1, 0),
        "several": (1, 0),
        "passing": (3, 0),
    }
    assert not found(snapshot, stream, "passing").durable
    assert found(snapshot, stream, "idle").durable
    oldest = {name: stored for (_, name), stored in snapshot.oldest.items()}
    assert set(oldest) == {"idle", "busy", "some", "several", "passing"}
    assert oldest["idle"] == oldest["busy"] < oldest["some"] == oldest["several"]
    assert before - NANOSECONDS < oldest["idle"] < time.time_ns() + NANOSECONDS


async def test_redelivered(own_broker: Broker) -> None:
    """Events that were handed over twice are told."""
    stream = await own_broker.stream("S")
    await publish(own_broker, "S.a")
    await consumer(own_broker, stream, "c")
    own_broker.connection.publish(await pull(own_broker, stream, "c"), b"-NAK")
    await pull(own_broker, stream, "c")
    assert found(await take(own_broker), stream, "c").redelivered == 1


async def test_oldest_moves(own_broker: Broker) -> None:
    """The age follows what is settled, and what is deleted from the stream."""
    stream = await own_broker.stream("S")
    await publish(own_broker, "S.a", "S.a", "S.a")
    await consumer(own_broker, stream, "c")
    collector = SnapshotCollector(own_broker.api)
    first = (await collector.collect(in_seconds(30))).oldest["S", "c"]
    await own_broker.requests.request(await pull(own_broker, stream, "c"), b"", b"", in_seconds(30))
    second = (await collector.collect(in_seconds(30))).oldest["S", "c"]
    await own_broker.api.call("STREAM.PURGE.S", {"seq": 3}, in_seconds(30))
    third = (await collector.collect(in_seconds(30))).oldest["S", "c"]
    assert first < second < third


async def test_a_consumer_that_is_made_anew(own_broker: Broker) -> None:
    """Its oldest event is another one than that of its namesake, as one of other filters is."""
    stream = await own_broker.stream("S")
    await publish(own_broker, "S.a", "S.b", "S.c")
    await consumer(own_broker, stream, "c")
    collector = SnapshotCollector(own_broker.api)
    first = (await collector.collect(in_seconds(30))).oldest["S", "c"]
    request = {"name": "c", "durable_name": "c", "ack_policy": "explicit", "filter_subject": "S.b"}
    await own_broker.api.update_consumer("S", "c", request, in_seconds(30))
    second = (await collector.collect(in_seconds(30))).oldest["S", "c"]
    await own_broker.api.call("STREAM.DELETE.S", None, in_seconds(30))
    await own_broker.stream("S")
    await publish(own_broker, "S.x", "S.b")
    await consumer(own_broker, stream, "c", filter_subject="S.b")
    third = (await collector.collect(in_seconds(30))).oldest["S", "c"]
    assert first < second < third


async def test_the_oldest_is_deleted(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the next one is, as soon as there is room to look again; what is not known at all comes first."""
    stream = await own_broker.stream("S")
    await publish(own_broker, "S.a", "S.b", "S.b")
    await consumer(own_broker, stream, "c", filter_subject="S.b")
    collector = SnapshotCollector(own_broker.api, SnapshotLimits(ages=1))
    first = await collector.collect(in_seconds(30))
    await own_broker.api.call("STREAM.MSG.DELETE.S", {"seq": 2}, in_seconds(30))
    assert (await collector.collect(in_seconds(30))).oldest == first.oldest
    monkeypatch.setattr(snapshot_module, "_READ_ANEW", 0.0)
    await consumer(own_broker, stream, "later", filter_subject="S.b")
    second = await collector.collect(in_seconds(30))
    assert second.oldest["S", "c"] == first.oldest["S", "c"] < second.oldest["S", "later"]
    assert second.omitted_ages == 0
    third = await collector.collect(in_seconds(30))
    assert third.oldest["S", "c"] == third.oldest["S", "later"] == second.oldest["S", "later"]


async def test_many(own_broker: Broker) -> None:
    """Lists that are longer than a page of the broker's are read to their end."""
    for number in range(300):
        await own_broker.stream(f"S{number:03}")
    for number in range(300):
        await consumer(own_broker, "S000", f"c{number:03}")
    snapshot = await take(own_broker)
    assert [stream.name for stream in snapshot.streams] == [f"S{number:03}" for number in range(300)]
    assert len({each.name for each in snapshot.consumers}) == 300
    assert (snapshot.omitted_streams, snapshot.omitted_consumers) == (0, 0)


async def test_limits(own_broker: Broker) -> None:
    """What goes beyond a bound is left out and counted."""
    for stream in "ABC":
        await own_broker.stream(stream)
        for name in ("one", "two", "three"):
            await consumer(own_broker, stream, name)
        await publish(own_broker, f"{stream}.x")
    snapshot = await take(own_broker, SnapshotLimits(streams=2, consumers=4, ages=3))
    assert [stream.name for stream in snapshot.streams] == ["A", "B"]
    assert (snapshot.omitted_streams, snapshot.omitted_consumers, snapshot.omitted_ages) == (1, 2, 1)
    assert len(snapshot.consumers) == 4
    assert len(snapshot.oldest) == 3
    snapshot = await take(own_broker, SnapshotLimits(consumers=3))
    assert snapshot.omitted_consumers == 6


async def test_many_consumers_of_one_stream(own_broker: Broker) -> None:
    """Neither ephemeral nor durable ones of a stream hide those of others, nor take the ages of these."""
    for stream in "ABC":
        await own_broker.stream(stream)
        await publish(own_broker, f"{stream}.x")
        await consumer(own_broker, stream, "named")
    for number in range(300):
        await consumer(own_broker, "A", f"e{number:03}", durable=False)
    for number in range(10):
        await consumer(own_broker, "B", f"d{number:03}")
    limits = SnapshotLimits(consumers=6, ages=6)
    snapshot = await take(own_broker, limits)
    durable = [each for each in snapshot.consumers if each.durable]
    assert Counter(each.stream for each in durable) == {"A": 1, "B": 4, "C": 1}
    assert len(snapshot.consumers) - len(durable) == 300
    assert snapshot.omitted_consumers == 7
    assert set(snapshot.oldest) == {(each.stream, each.name) for each in durable}
    few = await take(own_broker, replace(limits, read=270))
    assert {each.stream for each in few.consumers if each.durable} >= {"B", "C"}
    assert few.omitted_consumers == 314 - 270 + 5


@pytest.mark.parametrize(
    ("sizes", "room", "chosen"),
    [
        ([], 5, []),
        ([3, 2], 5, [2, 3]),
        ([9, 1, 2], 6, [1, 2, 3]),
        ([5, 5, 5], 7, [2, 2, 3]),
        ([1, 1, 1], 2, [0, 1, 1]),
        ([4, 4], 0, [0, 0]),
    ],
)
def test_shares(sizes: list[int], room: int, chosen: list[int]) -> None:
    """Whoever has little is given all of it, and the others as much as each other."""
    groups = [[group] * size for group, size in enumerate(sizes)]
    found = Counter(shares(groups, room))
    assert sorted(found[group] for group in range(len(groups))) == chosen


async def test_ages_that_are_known_cost_nothing(own_broker: Broker) -> None:
    """Ages come in by and by, when there are more than one look may ask for."""
    stream = await own_broker.stream("S")
    for number in range(5):
        await consumer(own_broker, stream, f"c{number}")
    await publish(own_broker, "S.x")
    collector = SnapshotCollector(own_broker.api, SnapshotLimits(ages=2))
    omitted = [(await collector.collect(in_seconds(30))).omitted_ages for _ in range(4)]
    assert omitted == [3, 1, 0, 0]


async def test_large_events_are_not_read(own_broker: Broker) -> None:
    """An age is not worth the reading of more bytes than the bound."""
    stream = await own_broker.stream("S")
    await consumer(own_broker, stream, "c")
    await publish(own_broker, "S.x", size=10_000)
    assert (await take(own_broker, SnapshotLimits(age_bytes=9_000))).omitted_ages == 1


@pytest.mark.parametrize("failure", [Busy, Unanswered])
async def test_consumers_that_are_not_told_in_time(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    """They are left out and counted; streams, and what was read by then, are shown."""
    for stream in "ABC":
        await consumer(own_broker, await own_broker.stream(stream), "c")
        await publish(own_broker, f"{stream}.x")
    pages = own_broker.api.pages

    def some(operation: str, key: str, deadline: float, offset: int = 0) -> AsyncIterator[Page]:
        if operation == "CONSUMER.LIST.B":
            raise failure
        return pages(operation, key, deadline, offset)

    monkeypatch.setattr(own_broker.api, "pages", some)
    snapshot = await take(own_broker)
    assert [stream.name for stream in snapshot.streams] == ["A", "B", "C"]
    assert snapshot.oldest.keys() == {(each.stream, each.name) for each in snapshot.consumers} == {("A", "c")}
    assert snapshot.omitted_consumers == 2


@pytest.mark.parametrize("failure", [Busy, Unanswered])
async def test_ages_that_are_not_told_in_time(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    """No more of them are asked for; what was known stays known, and the rest is counted."""
    stream = await own_broker.stream("S")
    await publish(own_broker, "S.x")
    for name in "abcd":
        await consumer(own_broker, stream, name)
    collector = SnapshotCollector(own_broker.api, SnapshotLimits(ages=1))
    await collector.collect(in_seconds(30))
    read, asked = own_broker.api.message, list[str]()

    async def second_fails(stream: str, query: Query, deadline: float) -> StoredMessage | None:
        asked.append(stream)
        if len(asked) == 2:
            raise failure
        return await read(stream, query, deadline)

    monkeypatch.setattr(own_broker.api, "message", second_fails)
    monkeypatch.setattr(snapshot_module, "_READ_ANEW", 0.0)
    monkeypatch.setattr(collector, "_limits", SnapshotLimits())
    snapshot = await collector.collect(in_seconds(30))
    assert (len(asked), len(snapshot.oldest), snapshot.omitted_ages) == (2, 2, 2)


async def test_without_a_broker(own_broker: Broker) -> None:
    """Without a connection there is nothing to see."""
    await own_broker.connection.close()
    with pytest.raises(Unavailable):
        await SnapshotCollector(own_broker.api).collect(in_seconds(0.1))
