"""Many stored messages with one request, and whole lists of subjects, from a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.server.events.management import eventually
from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.errors import BrokerUnavailable
from windshift.server.nats.batch_get import Batch, NoDirectGet, batch_get
from windshift.server.nats.jetstream import RefusedByBroker
from windshift.server.nats.stored import split_headers, subjects

Unique = Callable[[], str]


async def filled(broker: Broker, name: str, count: int, body: bytes = b"x") -> str:
    """Make a stream with so many messages, each on a subject of its own."""
    await broker.stream(name, allow_direct=True)
    for number in range(count):
        broker.connection.publish(f"{name}.{number}", body, {"N": str(number)})
        if number % 1_000 == 0:
            await broker.replies.round_trip(in_seconds(10))
    await eventually(lambda: broker.messages(name), count)
    return name


async def get(broker: Broker, stream: str, seconds: float = 5, **query: Any) -> Batch:
    """Ask for messages of all subjects."""
    query = {"seq": 1, "next_by_subj": f"{stream}.>", "batch": 10} | query
    return await batch_get(broker.connection, stream, query, in_seconds(seconds))


async def test_messages_come_in_order(broker: Broker, unique: Unique) -> None:
    """Subject, sequence, headers, body and time are those of the stored messages; what is left is told."""
    stream = await filled(broker, unique(), 25)
    batch = await get(broker, stream, seq=12)
    assert [message.sequence for message in batch.messages] == list(range(12, 22))
    assert batch.left == 4
    first = batch.messages[0]
    assert (first.subject, first.headers, first.body) == (f"{stream}.11", ((b"N", b"11"),), b"x")
    told = (await broker.api.call(f"STREAM.MSG.GET.{stream}", {"seq": 12}, in_seconds(5)))["message"]["time"]
    assert told.startswith("20")
    assert first.time.nanos == int(told.rstrip("Z").partition(".")[2].ljust(9, "0"))


async def test_the_end(broker: Broker, unique: Unique) -> None:
    """Behind the last message there is nothing, and nothing is left."""
    stream = await filled(broker, unique(), 3)
    assert len((await get(broker, stream)).messages) == 3
    assert (await get(broker, stream)).left == 0
    assert await get(broker, stream, seq=4) == Batch([], 0)
    assert await get(broker, stream, next_by_subj=f"{stream}.none") == Batch([], 0)


async def test_bytes_are_bounded(broker: Broker, unique: Unique) -> None:
    """A limit in bytes ends a batch early, but not before its first message."""
    stream = await filled(broker, unique(), 10, bytes(1000))
    assert 2 <= len((await get(broker, stream, max_bytes=4000)).messages) <= 4
    batch = await get(broker, stream, max_bytes=1)
    assert (len(batch.messages), batch.left) == (1, 9)


async def test_nobody_answers(broker: Broker, unique: Unique) -> None:
    """Where there is no such stream, or it forbids this, the caller is told at once."""
    with pytest.raises(NoDirectGet):
        await get(broker, unique())
    stream = await broker.stream(unique(), allow_direct=False)
    with pytest.raises(NoDirectGet):
        await get(broker, stream)


async def test_a_request_that_makes_no_sense(broker: Broker, unique: Unique) -> None:
    """The broker's refusal of a request is told as that."""
    stream = await filled(broker, unique(), 1)
    with pytest.raises(RefusedByBroker):
        await batch_get(broker.connection, stream, {"batch": 1}, in_seconds(5))


async def test_the_broker_is_away(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """A request that a dead broker did not answer is made again; nothing stays behind of it."""
    stream = await filled(own_broker, "s", 0)
    own_nats_server.freeze()
    hooks = len(own_broker.connection.on_lost)
    asking = asyncio.ensure_future(get(own_broker, stream, 20))
    while len(own_broker.connection.on_lost) == hooks:  # noqa: ASYNC110 - it tells nobody when it asks
        await asyncio.sleep(0)
    own_nats_server.kill()
    await own_broker.lost()
    own_nats_server.start()
    with pytest.raises(NoDirectGet):  # a stream in memory is gone with its broker
        await asking
    assert len(own_broker.connection.on_lost) == hooks


async def test_the_broker_is_silent(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Without any answer the deadline ends the waiting, and a cancelled request leaves nothing behind."""
    hooks = len(own_broker.connection.on_lost)
    stream = await filled(own_broker, "s", 1)
    own_nats_server.freeze()
    with pytest.raises(BrokerUnavailable):
        await get(own_broker, stream, 0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await get(own_broker, stream)
    assert len(own_broker.connection.on_lost) == hooks
    own_nats_server.thaw()


async def test_more_subjects_than_one_answer_has(broker: Broker, unique: Unique) -> None:
    """All subjects of a stream are listed, also where they are more than 100,000."""
    stream = await filled(broker, unique(), 100_200, b"")
    found: set[str] = set()
    async for some in subjects(broker.api, stream, f"{stream}.>", in_seconds(20)):
        assert len(some) <= 1_000
        found.update(some)
    assert found == {f"{stream}.{number}" for number in range(100_200)}
    await broker.api.call(f"STREAM.DELETE.{stream}", None, in_seconds(5))


def test_header_blocks() -> None:
    """Names and values come byte for byte, in order; lines that are no headers are left out."""
    block = b"NATS/1.0 100 Status\r\nA: 1\r\na:2 \r\nA:  3:4\r\nnothing\r\nB:\xff\r\n\r\n"
    assert split_headers(block) == ((b"A", b"1"), (b"a", b"2"), (b"A", b"3:4"), (b"B", b"\xff"))
    assert split_headers(b"") == ()
