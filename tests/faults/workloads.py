"""What clients do while faults happen."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.faults.calls import DEADLINE, Connection
from tests.faults.history import Access, History, Outcome
from tests.faults.processes import Server
from tests.faults.run import Run
from tests.faults.subscribers import Target


class Crowd:
    """Tasks that work until they are told to stop. The first one that fails is heard of when they are."""

    def __init__(self) -> None:
        self.stopping = False
        self.enough = True
        """Whether those who count may end when they have done what they were asked for."""
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a piece of work."""
        self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        """Let each finish what it is at."""
        self.stopping = True
        await asyncio.gather(*self._tasks)

    async def done(self, how_far: Callable[[], str], say: Callable[[str], None]) -> None:
        """Wait until each has finished by itself."""
        while pending := [task for task in self._tasks if not task.done()]:
            say(how_far())
            await asyncio.wait(pending, timeout=0.2)

    def cancel(self) -> None:
        """Let none finish."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    """Have a crowd; it is stopped at the end of the block."""
    workers = Crowd()
    try:
        yield workers
        await workers.stop()
    finally:
        workers.cancel()


@asynccontextmanager
async def connections(history: History, count: int, *addresses: str) -> AsyncIterator[list[Connection]]:
    """Connect several times, each time to another one of the addresses first."""
    made = []
    for number in range(count):
        turn = number % len(addresses)
        made.append(Connection(history, *addresses[turn:], *addresses[:turn]))
    try:
        yield made
    finally:
        await asyncio.gather(*(each.close() for each in made))


@asynccontextmanager
async def targets(history: History, servers: Sequence[Server]) -> AsyncIterator[list[Target]]:
    """Connect to each server, for subscribers that go from one to the next."""
    made = [Connection(history, server.address) for server in servers]
    try:
        yield [
            Target(connection, lambda server=server: server.life)  # type: ignore[misc]
            for connection, server in zip(made, servers, strict=True)
        ]
    finally:
        await asyncio.gather(*(each.close() for each in made))


# Publishers


async def publish_on(
    workers: Crowd,
    connection: Connection,
    who: str,
    stream: str,
    *,
    keys: bool = True,
    pause: float = 0.0,
    deadline: float = DEADLINE,
    size: int = 0,
) -> None:
    """Publish one event after the other, with a key each or without."""
    number = 0
    while not workers.stopping:
        key = f"{who}.{number}" if keys else ""
        value = f"{who}.{number}".ljust(size, ".")
        publish = await connection.publish(who, f"{stream}.{who}", value, key, deadline=deadline)
        number += 1
        if publish.outcome is not Outcome.DONE:
            await asyncio.sleep(0.05)
        if pause:
            await asyncio.sleep(pause)


async def publish_conditionally(
    workers: Crowd, connection: Connection, who: str, stream: str, luck: random.Random, pause: float = 0.0
) -> None:
    """Publish on the condition that nobody else has meanwhile; learn the last id from refusals."""
    number, last = 0, 0
    while not workers.stopping:
        value = f"{who}.{number}"
        publish = await connection.publish(who, f"{stream}.{who}", value, value, last)
        last = publish.id or connection.last_ids.get(stream, last)
        number += 1
        await asyncio.sleep(luck.uniform(0, 0.02) + pause)


# State


async def increment(
    workers: Crowd,
    connection: Connection,
    who: str,
    store: str,
    key: str,
    times: int,
    luck: random.Random,
    pause: float = 0.0,
) -> None:
    """Add one to a number at least so often, by compare-and-swap. A value is ``number who try``."""
    done = tried = 0
    while (done < times or not workers.enough) and not workers.stopping:
        read = await connection.get(who, store, key)
        if read.outcome is not Outcome.DONE:
            await asyncio.sleep(0.05)
            continue
        tried += 1
        value = f"{number_of(read.found) + 1} {who} {tried}"
        written = await connection.set(who, store, key, value, read.revision)
        if written.outcome is Outcome.UNKNOWN:
            done += await was_written(workers, connection, who, store, written)
        elif written.outcome is Outcome.DONE:
            done += 1
        else:
            await asyncio.sleep(luck.uniform(0, 0.01))
        if pause:
            await asyncio.sleep(pause)


async def transfer(
    workers: Crowd,
    connection: Connection,
    who: str,
    store: str,
    keys: Sequence[str],
    times: int,
    luck: random.Random,
) -> None:
    """Make so many transactions: two keys are written, and one of them or a third is checked; or all three.

    A value is ``who.try.key``. Every tenth transaction deletes one of the keys.
    """
    done = tried = 0
    while (done < times or not workers.enough) and not workers.stopping:
        chosen = luck.sample(keys, 3)
        reads = [await connection.get(who, store, key) for key in chosen]
        if any(read.outcome is not Outcome.DONE for read in reads):
            await asyncio.sleep(0.05)
            continue
        tried += 1
        one, two, other = ((key, f"{who}.{tried}.{key}") for key in chosen)
        if tried % 10 == 0:
            two = (two[0], "")
        known = [(read.key, read.revision) for read in reads]
        checks = luck.choice((known[:2], known[1:], known[2:]))
        made = await connection.transact(
            who, store, checks, (one, two) if luck.random() < 0.8 else (one, two, other)
        )
        if made.outcome is Outcome.DONE:
            done += 1
        else:
            await asyncio.sleep(luck.uniform(0, 0.01))


async def was_written(workers: Crowd, connection: Connection, who: str, store: str, written: Access) -> bool:
    """Find out, as far as a reader can, whether a write of unknown outcome has come about."""
    while not workers.stopping:
        read = await connection.get(who, store, written.key)
        if read.outcome is Outcome.DONE:
            return read.found == written.value
        await asyncio.sleep(0.05)
    return False


def number_of(value: str) -> int:
    """Read the number of a value."""
    return int(value.partition(" ")[0] or 0)


# Faults at regular times


async def rounds(
    run: Run, count: int, pause: float, what: Callable[[int], Awaitable[None]], say: str
) -> None:
    """Do something again and again, with a pause of about this many seconds before each."""
    for number in range(count):
        await asyncio.sleep(run.luck.uniform(0.5, 1.5) * pause)
        run.progress(f"{say} {number + 1} of {count}, {len(run.history.publishes):,} publishes")
        await what(number)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Do something beside the block, and cancel it at its end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
