"""Watches of dead letters: how they look, how often, and what they do about a broker that forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.server.events.keeping import Keeper, forget_all, keep
from tests.support.broker import Broker, in_seconds
from windshift.server.domain.errors import BrokerUnavailable, InvalidField
from windshift.server.events.dead_letters.model import Cause, DeadLetter, DeadLetterFilter
from windshift.server.events.dead_letters.store import DeadLetterStore, Page
from windshift.server.events.dead_letters.watch import (
    Watch,
    WatchOptions,
    WatchPosition,
    read_position,
    write_position,
)

Unique = Callable[[], str]

QUICK = WatchOptions(
    interval=timedelta(milliseconds=20),
    retry_interval=timedelta(milliseconds=10),
    min_interval=timedelta(milliseconds=1),
)
SLOW = WatchOptions(interval=timedelta(hours=1))


class Reader:
    """A client that reads whatever it is told."""

    queued = 0

    def __init__(self) -> None:
        self.received: asyncio.Queue[DeadLetter] = asyncio.Queue()
        self.begun = asyncio.Event()

    async def ready(self) -> None:
        """Be ready."""

    def begin(self) -> None:
        """Note that the watch has begun."""
        self.begun.set()

    def send(self, dead_letter: DeadLetter) -> None:
        """Keep a dead letter."""
        self.received.put_nowait(dead_letter)

    async def next(self) -> DeadLetter:
        """Wait for the next one."""
        async with asyncio.timeout(30):
            return await self.received.get()


class SlowReader(Reader):
    """A client that reads one at a time, when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = asyncio.Semaphore(0)

    @property
    def queued(self) -> int:  # type: ignore[override]
        """Be full."""
        return 1 << 20

    async def ready(self) -> None:
        """Wait to be let."""
        await self.turns.acquire()


class Observed(DeadLetterStore):
    """Dead letters of which it is counted how often they are looked at, and that may be out of reach."""

    def __init__(self, store: DeadLetterStore) -> None:
        vars(self).update(vars(store))
        self.pages = self.looks = 0
        self.away = False
        self.replica_has = 1 << 63

    async def page(self, *arguments: Any, **options: Any) -> Page:
        """Read a page from a replica, which may lag."""
        self.pages += 1
        page = await super().page(*arguments, **options)
        if page.after <= self.replica_has:
            return page
        letters = [each for each in page.dead_letters if each.position <= self.replica_has]
        return Page(letters, max(self.replica_has, arguments[1]), more=False, scanned=0)

    async def last_position(self, deadline: float) -> int:
        """Look how far the stream is."""
        self.looks += 1
        if self.away:
            raise BrokerUnavailable
        return await super().last_position(deadline)

    async def look(self) -> None:
        """Wait until it was looked at twice more, so that one look was made from now on."""
        least = self.looks + 2
        async with asyncio.timeout(30):
            while self.looks < least:  # noqa: ASYNC110 - nothing in the code under test tells
                await asyncio.sleep(0.005)


@pytest.fixture
async def keeper(broker: Broker) -> Keeper:
    """Keep dead letters on the shared broker, where there are none yet."""
    await forget_all(broker)
    return await keep(broker)


@asynccontextmanager
async def watching(
    keeper: Keeper,
    which: DeadLetterFilter,
    reader: Reader,
    options: WatchOptions = QUICK,
    begin: WatchPosition | None = None,
) -> AsyncIterator[Observed]:
    """Watch for the length of a block."""
    store = Observed(keeper.store)
    watch = Watch(store, keeper.notes, which, reader, options, with_data=True)
    task = asyncio.create_task(watch.run(begin, existing=False))
    async with asyncio.timeout(30):
        await reader.begun.wait()
    try:
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_note_is_enough(keeper: Keeper, unique: Unique) -> None:
    """A watch that would look once an hour is told at once."""
    stream, reader = await keeper.broker.stream(unique()), Reader()
    async with watching(keeper, DeadLetterFilter(stream), reader, SLOW):
        written = await keeper.given_up(stream, 3)
        assert [(await reader.next()).failure for _ in range(3)] == [each.failure for each in written]


async def test_many_notes_make_few_looks(keeper: Keeper, unique: Unique) -> None:
    """What is written while a watch pauses is told of together."""
    stream, reader = await keeper.broker.stream(unique()), Reader()
    rarely = WatchOptions(interval=timedelta(hours=1), min_interval=timedelta(seconds=1))
    async with watching(keeper, DeadLetterFilter(stream), reader, rarely) as store:
        await keeper.given_up(stream, 100)
        for _ in range(100):
            await reader.next()
        assert store.looks <= 20


async def test_no_note_is_needed(keeper: Keeper, unique: Unique) -> None:
    """What no note tells of is found nevertheless."""
    stream, reader = await keeper.broker.stream(unique()), Reader()
    deaf = replace(keeper, notes=type(keeper.notes)(keeper.broker.connection))
    async with watching(deaf, DeadLetterFilter(stream), reader):
        written = await keeper.given_up(stream, 1)
        assert (await reader.next()).failure == written[0].failure


async def test_nothing_new_costs_one_question(keeper: Keeper, unique: Unique) -> None:
    """Where nothing was written nothing is read; what concerns others is read for a while only."""
    stream, reader = await keeper.broker.stream(unique()), Reader()
    await keeper.given_up(stream, 1)
    which = DeadLetterFilter(stream, causes=frozenset({Cause.MAX_ATTEMPTS}))
    async with watching(keeper, which, reader) as store:
        await store.look()
        assert store.pages == 0
        await keeper.given_up(stream, 5)
        for _ in range(3):
            await store.look()
        pages = store.pages
        assert pages > 0
        for _ in range(3):
            await store.look()
        assert store.pages == pages
        (other,) = await keeper.given_up(stream, 1, cause=Cause.MAX_ATTEMPTS)
        assert (await reader.next()).failure == other.failure


async def test_a_reader_that_is_slow(keeper: Keeper, unique: Unique) -> None:
    """It is sent no more than it reads."""
    stream, reader = await keeper.broker.stream(unique()), SlowReader()
    async with watching(keeper, DeadLetterFilter(stream), reader) as store:
        written = await keeper.given_up(stream, 3)
        assert (await reader.next()).failure == written[0].failure
        looks = store.looks
        await asyncio.sleep(0.1)
        assert reader.received.empty()
        assert store.looks == looks
        reader.turns.release()
        assert (await reader.next()).failure == written[1].failure


async def test_a_broker_that_is_out_of_reach(keeper: Keeper, unique: Unique) -> None:
    """It is waited out; what was written meanwhile is told."""
    stream, reader = await keeper.broker.stream(unique()), Reader()
    async with watching(keeper, DeadLetterFilter(stream), reader) as store:
        store.away = True
        await store.look()
        written = await keeper.given_up(stream, 1)
        await store.look()
        assert reader.received.empty()
        store.away = False
        assert (await reader.next()).failure == written[0].failure


async def test_a_replica_that_lags(keeper: Keeper, unique: Unique) -> None:
    """However long a replica lacks an entry, it is told once the replica has it."""
    stream, reader = await keeper.broker.stream(unique()), Reader()
    async with watching(keeper, DeadLetterFilter(stream), reader) as store:
        store.replica_has = await keeper.store.last_position(in_seconds(30))
        written = await keeper.given_up(stream, 2)
        for _ in range(5):
            await store.look()
        assert reader.received.empty()
        store.replica_has = written[0].position
        assert (await reader.next()).failure == written[0].failure
        for _ in range(5):
            await store.look()
        store.replica_has = written[1].position
        assert (await reader.next()).failure == written[1].failure


async def test_a_broker_that_has_forgotten(keeper: Keeper, unique: Unique) -> None:
    """Where positions are given out again, what is new is told, and of the old a minute's."""
    stream, reader = await keeper.broker.stream(unique()), Reader()
    written = await keeper.given_up(stream, 2)
    time_ns = written[0].time.seconds * 10**9 + written[0].time.nanos
    async with watching(keeper, DeadLetterFilter(stream), reader, begin=WatchPosition(1000, time_ns)):
        assert [(await reader.next()).failure for _ in range(2)] == [each.failure for each in written]
    later = WatchPosition(1000, time_ns + 120 * 10**9)
    async with watching(keeper, DeadLetterFilter(stream), reader, begin=later) as store:
        await store.look()
        assert reader.received.empty()


async def test_no_listener_is_left(keeper: Keeper, unique: Unique) -> None:
    """When a watch ends nothing listens for it any more."""
    stream = await keeper.broker.stream(unique())
    async with watching(keeper, DeadLetterFilter(stream), Reader()):
        assert vars(keeper.notes)["_listeners"]
    assert not vars(keeper.notes)["_listeners"]


async def test_positions(keeper: Keeper, unique: Unique) -> None:
    """What is written is read."""
    (letter,) = await keeper.given_up(await keeper.broker.stream(unique()), 1)
    text = write_position(letter)
    time_ns = letter.time.seconds * 10**9 + letter.time.nanos
    assert read_position("position", text) == WatchPosition(letter.position, time_ns)
    assert letter.position == await keeper.store.last_position(in_seconds(30))


@pytest.mark.parametrize("text", ["", "1", "-1", "1-", "01-1", "1-2-3", "1-2\n"])
def test_made_up_positions(text: str) -> None:
    """What was never written is refused."""
    with pytest.raises(InvalidField) as caught:
        read_position("position", text)
    assert caught.value.field == "position"
