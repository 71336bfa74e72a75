"""Many stored messages with one request, from a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import JetStreamError, NoDirectGet, Unavailable
from windshift.nats import headers as h
from windshift.nats.jetstream.api import Batch

Unique = Callable[[], str]


async def filled(broker: Broker, name: str, count: int, body: bytes = b"x") -> str:
    """Make a stream with so many messages, each on a subject of its own."""
    await broker.stream(name, allow_direct=True)
    for number in range(count):
        broker.connection.publish(f"{name}.{number}".encode(), body, h.block(((b"N", b"%d" % number),)))
    async with asyncio.timeout(20):
        while await broker.messages(name) < count:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)
    return name


async def get(broker: Broker, stream: str, seconds: float = 20, **query: Any) -> Batch:
    """Ask for messages of all subjects."""
    query = {"seq": 1, "next_by_subj": f"{stream}.>", "batch": 10} | query
    return await broker.api.batch(stream, query, in_seconds(seconds))


async def test_messages_come_in_order(broker: Broker, unique: Unique) -> None:
    """Subject, sequence, headers, body and time are those of the stored messages; what is left is told."""
    stream = await filled(broker, unique(), 25)
    batch = await get(broker, stream, seq=12)
    assert [message.sequence for message in batch.messages] == list(range(12, 22))
    assert batch.left == 4
    first = batch.messages[0]
    assert (first.subject, first.headers, first.body) == (f"{stream}.11", ((b"N", b"11"),), b"x")
    assert await broker.api.message(stream, {"seq": 12}, in_seconds(20)) == first


async def test_the_end(broker: Broker, unique: Unique) -> None:
    """Behind the last message there is nothing, and nothing is left."""
    stream = await filled(broker, unique(), 3)
    assert len((await get(broker, stream)).messages) == 3
    assert (await get(broker, stream)).left == 0
    assert await get(broker, stream, seq=4) == Batch([], 0)
    assert await get(broker, stream, next_by_subj=f"{stream}.none") == Batch([], 0)


async def test_headers_that_the_server_uses_itself(broker: Broker, unique: Unique) -> None:
    """Where a publisher set such, they give way to the server's own."""
    stream = await filled(broker, unique(), 0)
    lines = ((b"Nats-Sequence", b"99"), (b"Nats-Subject", b"x"), (b"Own", b"1"), (b"Own", b"2"), (b"E", b""))
    await store(broker, stream, h.block(lines))
    [message] = (await get(broker, stream)).messages
    assert (message.subject, message.sequence) == (f"{stream}.a", 1)
    assert message.headers == ((b"Own", b"1"), (b"Own", b"2"), (b"E", b""))


async def store(broker: Broker, stream: str, *blocks: bytes) -> None:
    """Store messages with these headers."""
    for block in blocks:
        stored = await broker.requests.request(f"{stream}.a".encode(), b"", block, in_seconds(20))
        assert isinstance(stored, bytes)


@pytest.mark.parametrize("status", [b"204 EOB", b"404 Message Not Found", b"503", b"100"])
async def test_a_message_that_looks_like_the_end(broker: Broker, unique: Unique, status: bytes) -> None:
    """A publisher can give a message the headers of a status. It is a message all the same."""
    stream = await filled(broker, unique(), 0)
    await store(broker, stream, b"NATS/1.0 " + status + b"\r\n\r\n", b"")
    batch = await get(broker, stream)
    assert [message.sequence for message in batch.messages] == [1, 2]
    assert batch.left == 0


async def test_bytes_are_bounded(broker: Broker, unique: Unique) -> None:
    """A limit in bytes ends a batch early, but not before its first message."""
    stream = await filled(broker, unique(), 10, bytes(1000))
    assert 2 <= len((await get(broker, stream, max_bytes=4000)).messages) <= 4
    batch = await get(broker, stream, max_bytes=1)
    assert (len(batch.messages), batch.left) == (1, 9)


async def test_nobody_answers(broker: Broker, unique: Unique) -> None:
    """Where there is no such stream, or it forbids this, the caller is told at once."""
    with pytest.raises(NoDirectGet):
        await get(broker, unique(), 60)
    stream = await broker.stream(unique(), allow_direct=False)
    with pytest.raises(NoDirectGet):
        await get(broker, stream, 60)


async def test_a_request_that_makes_no_sense(broker: Broker, unique: Unique) -> None:
    """The server's refusal of a request is told as that."""
    stream = await filled(broker, unique(), 1)
    with pytest.raises(JetStreamError) as caught:
        await broker.api.batch(stream, {"batch": 1}, in_seconds(20))
    assert caught.value.code == 408
    assert caught.value.description


async def test_the_server_is_away(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """A request that a dead server did not answer is made again; nothing stays behind of it."""
    stream = await filled(own_broker, "s", 0)
    own_nats_server.freeze()
    hooks = len(own_broker.connection.on_lost)
    asking = asyncio.ensure_future(get(own_broker, stream))
    while len(own_broker.connection.on_lost) == hooks:  # noqa: ASYNC110 - it tells nobody when it asks
        await asyncio.sleep(0)
    own_nats_server.kill()
    await own_broker.lost()
    own_nats_server.start()
    with pytest.raises(NoDirectGet):  # a stream in memory is gone with its server
        await asking
    assert len(own_broker.connection.on_lost) == hooks


async def test_the_server_is_silent(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Without any answer the deadline ends the waiting, and a cancelled request leaves nothing behind."""
    hooks = len(own_broker.connection.on_lost)
    stream = await filled(own_broker, "s", 1)
    own_nats_server.freeze()
    with pytest.raises(Unavailable):
        await get(own_broker, stream, 0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await get(own_broker, stream)
    assert len(own_broker.connection.on_lost) == hooks
    own_nats_server.thaw()
