"""Watches of stores on a real nats-server that has less than they have seen."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.nats.waiting import eventually
from tests.support.broker import Broker, connect, in_seconds, no_consumers, on_create
from tests.support.nats_server import NatsServer
from windshift.nats import Connection
from windshift.nats.jetstream import api
from windshift.nats.jetstream.kv import Buckets, Record
from windshift.nats.jetstream.writes import Writes
from windshift.nats.times import NANOSECONDS
from windshift.server.broker.room import PullRoom
from windshift.server.domain.errors import InvalidField
from windshift.server.state import watching
from windshift.server.state.model import Revision
from windshift.server.state.watching import Watch, WatchClient, watch_turns

Unique = Callable[[], str]


class Watcher:
    """A client in memory."""

    queued = 0

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.changes: asyncio.Queue[tuple[str, Record]] = asyncio.Queue()

    async def ready(self) -> None:
        """Return at once."""

    def begin(self) -> None:
        """Take that nothing is missed from now on."""
        self.began.set()

    def send(self, key: str, record: Record) -> None:
        """Take a change."""
        self.changes.put_nowait((key, record))

    def up_to_date(self, revision: Revision) -> None:
        """Do nothing."""


def watches_on(broker: Broker, asking: Broker | None = None) -> Callable[[str, str, WatchClient], Watch]:
    """Make what begins watches; it may ask for consumers on another connection."""
    writes, api = Writes(broker.requests, broker.api), (asking or broker).api
    return partial(Watch, broker.connection, Buckets(api, writes), PullRoom(), watch_turns())


@asynccontextmanager
async def running(watch: Watch, begin: int = 0) -> AsyncIterator[asyncio.Task[None]]:
    """Watch for the length of the block."""
    task = asyncio.create_task(watch.run(Revision(begin), existing=False))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextmanager
def without_leaders(connection: Connection, *stores: str) -> Iterator[list[bytes]]:
    """Have nobody answer what the broker is asked of some stores; give the subjects of what was asked."""
    publish, asked = connection.publish, list[bytes]()

    def spy(subject: bytes, *arguments: bytes, **named: bytes) -> None:
        if subject.startswith(b"$JS.API.") and subject.endswith(endings):
            asked.append(subject)
        else:
            publish(subject, *arguments, **named)

    endings = tuple(f".KV_{store}".encode() for store in stores)
    connection.publish = spy  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        del connection.publish


@pytest.mark.parametrize(("stores", "turn", "turns"), [(1, 3_600.0, 4), (8, 0.5, 16)])
async def test_stores_without_a_leader(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch, stores: int, turn: float, turns: int
) -> None:
    """However many of their watches ask, those of others begin; and theirs, when they have one again."""
    monkeypatch.setattr(watching, "_TURN", turn)
    monkeypatch.setattr(watching, "_ASKING", 3_600.0)
    store, *away = [unique() for _ in range(stores + 1)]
    for each in (store, *away):
        await broker.stream(f"KV_{each}", f"$KV.{each}.>")
    watch, watcher, others = watches_on(broker), Watcher(), [Watcher() for _ in range(100)]
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        with without_leaders(broker.connection, *away) as asked:
            for number, other in enumerate(others):
                _ = await stack.enter_async_context(running(watch(away[number % stores], ">", other)))
            await eventually(lambda: len(asked) >= turns)
            async with running(watch(store, ">", watcher)), asyncio.timeout(30):
                await watcher.began.wait()
            assert not any(other.began.is_set() for other in others)
        for other in others:
            await other.began.wait()


async def test_those_that_wait_for_revisions_hold_nobody_up(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many watches wait for what the store does not have, others begin at once."""
    monkeypatch.setattr(watching, "_LAGGING", 3_600.0)
    monkeypatch.setattr(watching, "_ASKING", 60.0)
    store = unique()
    await broker.stream(f"KV_{store}", f"$KV.{store}.>")
    watch, watcher = watches_on(broker), Watcher()
    waiting = [
        asyncio.create_task(watch(store, ">", Watcher()).run(Revision(1_000), existing=False))
        for _ in range(100)
    ]
    async with running(watch(store, ">", watcher)), asyncio.timeout(30):
        await watcher.began.wait()
        await broker.publish(f"$KV.{store}.a", b"1")
        assert (await watcher.changes.get())[0] == "a"
        assert not any(each.done() for each in waiting)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)


async def test_revisions_that_the_broker_has_lost(
    own_broker: Broker, own_nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that has told them ends, as one does that asks for them."""
    monkeypatch.setattr(watching, "_LOST", 0.5)
    await own_broker.stream("KV_s", "$KV.s.>", storage="file")
    await own_broker.publish("$KV.s.a", b"1")
    own_nats_server.stop()
    await own_broker.lost()
    shutil.copytree(own_nats_server.store, tmp_path / "before")
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(30))
    watcher = Watcher()
    async with running(watches_on(own_broker)("s", ">", watcher), 1) as task:
        await own_broker.publish("$KV.s.a", b"2")
        async with asyncio.timeout(30):
            assert [(await watcher.changes.get())[1].sequence for _ in range(2)] == [1, 2]
        own_nats_server.kill()
        shutil.rmtree(own_nats_server.store)
        shutil.copytree(tmp_path / "before", own_nats_server.store)
        own_nats_server.start()
        await asyncio.wait([task], timeout=30)
        assert task.done()
        assert isinstance(task.exception(), InvalidField)


async def test_a_watch_that_ends_while_its_consumer_is_made(
    broker: Broker, nats_server: NatsServer, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nothing at the broker, where there may be only so many consumers."""
    monkeypatch.setattr(api, "_FOLLOWED_FOR", 3_600 * NANOSECONDS)
    store = unique()
    await broker.stream(f"KV_{store}", f"$KV.{store}.>")
    async with connect(nats_server.url) as asking:
        watch = watches_on(broker, asking)(store, ">", Watcher())
        task = asyncio.create_task(watch.run(Revision(0), existing=False))
        with on_create(asking.connection, task.cancel):
            await asyncio.wait([task], timeout=30)
        assert task.cancelled()
        await no_consumers(asking, f"KV_{store}")
