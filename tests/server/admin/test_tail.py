"""Tails of streams on a real nats-server that has less than they have seen."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import Broker, in_seconds, no_consumers, on_create
from tests.support.nats_server import NatsServer
from windshift.nats.jetstream import api
from windshift.nats.jetstream.api import JsonObject, StoredMessage
from windshift.nats.jetstream.pulling import PullOptions
from windshift.nats.times import NANOSECONDS
from windshift.server.admin import tail
from windshift.server.admin.events import Selection
from windshift.server.admin.tail import Tail
from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Principal
from windshift.server.auth.quotas import exceeded
from windshift.server.broker import following
from windshift.server.broker.room import PullRoom
from windshift.server.domain.errors import BrokerUnavailable, StreamNotFound
from windshift.server.events.specs import AtEnd, AtStart, StartPosition

Unique = Callable[[], str]


class Viewer:
    """A client in memory."""

    queued = 0

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.is_caught_up = asyncio.Event()
        self.ids: asyncio.Queue[int] = asyncio.Queue()
        self.seen_before = -1
        """How many events came before it was told that it has caught up."""

    async def ready(self) -> None:
        """Return at once."""

    def begin(self) -> None:
        """Take that nothing is missed from now on."""
        self.began.set()

    def send(self, message: StoredMessage) -> None:
        """Take an event."""
        self.ids.put_nowait(message.sequence)

    def skipped(self, count: int, last_id: int) -> None:
        """Do nothing."""

    def caught_up(self) -> None:
        """Count what came before."""
        self.seen_before = self.ids.qsize()
        self.is_caught_up.set()

    def position(self, last_id: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""


class Room:
    """What a caller may have: one consumer, and what is made in its place."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.kept: list[tuple[str, str]] = []
        self.deleted: list[str] = []

    @asynccontextmanager
    async def consumer(
        self, caller: Principal, stream: str, config: JsonObject, deadline: float
    ) -> AsyncIterator[JsonObject]:
        """Let one be made."""
        if self.made:
            raise exceeded(caller.name, "ephemeral_consumers", 1, 1)
        self.made.append(config["name"])
        yield config

    def keep_consumer(
        self, caller: Principal, stream: str, config: JsonObject, before: str = ""
    ) -> JsonObject:
        """Note what takes the place of what."""
        self.kept.append((config["name"], before))
        return config

    def consumer_deleted(self, stream: str, consumer: str) -> None:
        """Note that one is gone."""
        self.deleted.append(consumer)


@asynccontextmanager
async def running(
    broker: Broker,
    stream: str,
    viewer: Viewer,
    begin: StartPosition | None = None,
    room: Room | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    """Tail what is new, or from there on, for the length of the block, which begins when the tail stands."""
    which = Selection(stream, (), frozenset())
    ownership: Any = room
    tail = Tail(broker.api, PullRoom(), which, viewer, 0, ownership)
    task = asyncio.create_task(tail.run(begin or AtEnd(), Principal("ann", Permissions())))
    try:
        async with asyncio.timeout(30):
            await viewer.began.wait()
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def ended(task: asyncio.Task[None]) -> None:
    """Wait for the end of a tail, and see that its stream is gone."""
    await asyncio.wait([task], timeout=30)
    assert task.done()
    assert isinstance(task.exception(), StreamNotFound)


def after_create(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, do: Callable[[], Awaitable[object]]
) -> None:
    """Do something when a consumer was made, before anybody asks it for events."""
    change = broker.api.change

    async def change_and_do(*arguments: Any, **named: Any) -> JsonObject:
        answer = await change(*arguments, **named)
        await do()
        return answer

    monkeypatch.setattr(broker.api, "change", change_and_do)


async def test_existing_events_that_are_removed(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tail that waits for them has caught up: there is nothing to come but what is new."""
    monkeypatch.setattr(following, "PullOptions", partial(PullOptions, expires=2.0, heartbeat=0.2))
    stream, viewer = await broker.stream(unique()), Viewer()
    await broker.publish(f"{stream}.a")
    after_create(broker, monkeypatch, lambda: broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30)))
    async with running(broker, stream, viewer, AtStart()), asyncio.timeout(30):
        await viewer.is_caught_up.wait()
    assert viewer.seen_before == 0


async def test_events_that_come_faster_than_they_are_read(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tail has caught up when it has shown those that there were, however many wait behind them."""
    stream, viewer = await broker.stream(unique()), Viewer()

    async def publish() -> None:
        for _ in range(3):
            await broker.publish(f"{stream}.a")

    await publish()
    after_create(broker, monkeypatch, publish)
    async with running(broker, stream, viewer, AtStart()), asyncio.timeout(30):
        await viewer.is_caught_up.wait()
    assert viewer.seen_before == 3


async def test_another_stream_of_the_same_name(broker: Broker, unique: Unique) -> None:
    """A tail ends when its stream is deleted, also if it is made anew at once."""
    stream, viewer = await broker.stream(unique()), Viewer()
    await broker.publish(f"{stream}.a")
    async with running(broker, stream, viewer) as task:
        await broker.api.delete_stream(stream, in_seconds(30))
        await broker.stream(stream)
        await ended(task)


async def test_events_that_the_broker_has_lost(
    own_broker: Broker, own_nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tail that has shown them ends: it would not show those that get their ids."""
    monkeypatch.setattr(tail, "_LOST", 0.5)
    await own_broker.stream("S", storage="file")
    await own_broker.publish("S.a")
    own_nats_server.stop()
    await own_broker.lost()
    shutil.copytree(own_nats_server.store, tmp_path / "before")
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(30))
    viewer = Viewer()
    async with running(own_broker, "S", viewer) as task, asyncio.timeout(60):
        for _ in range(2):
            await own_broker.publish("S.a")
        assert [await viewer.ids.get() for _ in range(2)] == [2, 3]
        own_nats_server.kill()
        shutil.rmtree(own_nats_server.store)
        shutil.copytree(tmp_path / "before", own_nats_server.store)
        own_nats_server.start()
        await ended(task)


async def test_a_tail_without_room_for_another_consumer(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its place while one is made anew, also when that fails at first, and gives it back."""
    monkeypatch.setattr(following, "PullOptions", partial(PullOptions, expires=2.0, heartbeat=0.2))
    stream, viewer, room = await broker.stream(unique()), Viewer(), Room()
    stream_info, failures = broker.api.stream_info, iter((BrokerUnavailable(),))

    async def failing(*arguments: Any) -> JsonObject:
        for error in failures:
            raise error
        return await stream_info(*arguments)

    async with running(broker, stream, viewer, room=room), asyncio.timeout(30):
        monkeypatch.setattr(broker.api, "stream_info", failing)
        await broker.api.delete_consumer(stream, room.made[0], in_seconds(30))
        await broker.publish(f"{stream}.a")
        assert await viewer.ids.get() == 1
        assert next(failures, None) is None
        assert not room.deleted
    (first, nothing), (second, place) = room.kept
    assert (first, nothing, place) == (room.made[0], "", first)
    assert room.deleted == [second]


async def test_a_tail_that_ends_while_its_consumer_is_made(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nothing at the broker, where there may be only so many consumers."""
    monkeypatch.setattr(api, "_FOLLOWED_FOR", 3_600 * NANOSECONDS)
    stream = await broker.stream(unique())
    task = asyncio.create_task(
        Tail(broker.api, PullRoom(), Selection(stream, (), frozenset()), Viewer(), 0).run(AtEnd())
    )
    with on_create(broker.connection, task.cancel):
        await asyncio.wait([task], timeout=30)
    assert task.cancelled()
    await no_consumers(broker, stream)
