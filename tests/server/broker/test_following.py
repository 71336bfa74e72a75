"""Following a stream of a real nats-server: large messages, for a few of which there is room at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from tests.nats.waiting import eventually, moved
from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.freed import alive, without_collector
from tests.support.nats_server import NatsServer
from windshift.nats.budget import Share
from windshift.nats.jetstream.api import StoredMessage, following_config
from windshift.nats.jetstream.pulling import Puller, PullOptions
from windshift.server.broker import following
from windshift.server.broker.asking import asking
from windshift.server.broker.following import Follower
from windshift.server.broker.room import MOST, WHOLE, PullRoom

Unique = Callable[[], str]


Take = Callable[[StoredMessage, int], Awaitable[None]]


class FromTheFirst(Follower):
    """Begins with what there is, and has a function take it."""

    def __init__(self, broker: Broker, stream: str, room: PullRoom, take: Take) -> None:
        super().__init__(broker.connection, broker.connection, room, stream)
        self._api = broker.api
        self._take = take

    async def make(self, name: str) -> None:
        config = following_config(name, (f"{self.stream}.>",)) | {"deliver_policy": "all"}
        await self._api.create_consumer(self.stream, name, config, in_seconds(30))

    async def take(self, message: StoredMessage, pending: int) -> None:
        await self._take(message, pending)


@asynccontextmanager
async def bodies_of(
    broker: Broker, stream: str, room: PullRoom, max_bytes: int = 1_000
) -> AsyncIterator[asyncio.Queue[bytes]]:
    """Follow a stream for the length of the block, which is ended by what ends that."""
    got = asyncio.Queue[bytes]()

    async def take(message: StoredMessage, _: int) -> None:
        got.put_nowait(message.body)

    follower = FromTheFirst(broker, stream, room, take)
    follower.max_bytes = max_bytes
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(follower.follow(lambda: None))
        yield got
        running.cancel()


def taken(room: PullRoom) -> Share:
    """Let somebody else have all the room that there is for large messages."""
    share = room.whole.take_now(WHOLE, "somebody else")
    assert share is not None
    return share


async def test_room_that_is_long_in_coming(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nobody is answered who has it, a follower waits."""
    monkeypatch.setattr(following, "_TURN", 0.02)
    stream, room = await broker.stream(unique()), PullRoom()
    share = taken(room)
    await broker.publish(f"{stream}.a", bytes(5_000))
    async with bodies_of(broker, stream, room) as got:
        await eventually(lambda: room.whole.waiting == 1)
        await asyncio.sleep(0.2)
        share.give_back()
        assert await got.get() == bytes(5_000)


async def test_who_follows_no_more_is_freed_at_once(broker: Broker, unique: Unique) -> None:
    """With what it pulled by, without the garbage collector."""
    stream = await broker.stream(unique())
    with without_collector():
        async with bodies_of(broker, stream, PullRoom()) as got:
            await broker.publish(f"{stream}.a", b"small")
            assert await got.get() == b"small"
            assert alive(Puller, FromTheFirst) == ["FromTheFirst", "Puller"]
        await eventually(lambda: not alive(Puller, FromTheFirst))


async def test_room_for_a_message_that_is_gone(broker: Broker, unique: Unique) -> None:
    """It is given back at once, and what comes next arrives."""
    stream, room = await broker.stream(unique()), PullRoom()
    share = taken(room)
    await broker.publish(f"{stream}.a", bytes(5_000))
    async with bodies_of(broker, stream, room) as got:
        await eventually(lambda: room.whole.waiting == 1)
        await broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
        share.give_back()
        await eventually(lambda: (room.whole.used, room.whole.waiting) == (0, 0), seconds=15)
        await broker.publish(f"{stream}.a", b"small")
        assert await got.get() == b"small"


async def test_a_server_about_to_stop(
    nats_server: NatsServer, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows goes on by the next connection at once, and not after a silence."""
    monkeypatch.setattr(following, "PullOptions", partial(PullOptions, expires=3_600, heartbeat=1_800))
    url = f"{nats_server.url},nats://localhost:{nats_server.port}"
    async with connect(url, replace(QUICK, linger=timedelta(milliseconds=50))) as broker:
        stream = await broker.stream(unique())
        await broker.publish(f"{stream}.a", b"before")
        async with bodies_of(broker, stream, PullRoom()) as got:
            assert await got.get() == b"before"
            await moved(broker.connection)
            await broker.publish(f"{stream}.a", b"after")
            while await got.get() != b"after":
                pass  # this one begins with what came before


async def test_takers_that_do_not_go_on(broker: Broker, unique: Unique) -> None:
    """All of them hold together what they may ask for together, and nobody else is held up."""
    stream, room = await broker.stream(unique()), PullRoom(part=4)
    for _ in range(100):
        await broker.publish(f"{stream}.a", bytes(10_000))
    has_one, forever = asyncio.Semaphore(0), asyncio.Event()

    async def take(_: StoredMessage, __: int) -> None:
        has_one.release()
        await forever.wait()

    async def stall() -> None:
        asking.set("somebody")
        await FromTheFirst(broker, stream, room, take).follow(lambda: None)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        stalled = []
        for _ in range(40):
            stalled.append(group.create_task(stall()))
            await has_one.acquire()
        async with bodies_of(broker, stream, room, 512 * 1024) as got:
            for _ in range(100):
                await got.get()
        consumers = broker.api.listed(f"CONSUMER.LIST.{stream}", "consumers", in_seconds(30))
        sent = sum([each["delivered"]["consumer_seq"] async for each in consumers]) * 10_000
        assert sent < MOST // 4 + (40 * 2 + 100) * 10_000
        for each in stalled:
            each.cancel()
