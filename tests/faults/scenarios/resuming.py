"""Workers of the Python library go on with what they hold, while servers are killed and stopped."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import windshift as ws
from tests.faults.places import single
from tests.faults.processes import Server
from tests.faults.run import Run, scenario
from windshift.protos import test

TIMEOUT = 10.0
"""Seconds of the consumer: what a killed server had delivered can be resumed until they are over."""
_BETWEEN_KILLS = 1.5
"""Seconds, on average."""


class Work:
    """What workers do with events: each takes a while.

    Attributes:
        runs: how often a handler was started for each event.
        attempts: the attempts that handlers saw.
        finished: events whose handler has returned.
    """

    def __init__(self, run: Run, longest: float, shortest: float = 0.1) -> None:
        self._luck = run.more_luck()
        self._longest, self._shortest = longest, shortest
        self.runs: Counter[int] = Counter()
        self.attempts: Counter[int] = Counter()
        self.finished: set[int] = set()

    async def handle(self, delivery: ws.Delivery[Any]) -> None:
        """Work on an event."""
        self.runs[delivery.event.id] += 1
        self.attempts[delivery.event.attempt] += 1
        await asyncio.sleep(self._luck.uniform(self._shortest, self._longest))
        self.finished.add(delivery.event.id)

    @property
    def twice(self) -> int:
        """How many events were worked on more than once."""
        return sum(1 for runs in self.runs.values() if runs > 1)


@scenario(
    "library-kills",
    "one worker of the Python library, under a publisher; the server and nats-server are killed together",
)
async def library_kills(run: Run) -> None:
    """Every publish is stored once, no event is lost, and none is run twice."""
    events, kills = run.events(20_000, 400), run.scale(20, 2)
    work = Work(run, 0.02, shortest=0.0)
    async with single(run) as (node, (server,)), ws.connect(server.address, timeout=60) as client:
        stream = await client.streams.ensure("s", subjects=["s.>"])
        consumer = await stream.consumers.ensure("w", start=ws.START, timeout=TIMEOUT)
        async with consumer.running(work.handle, concurrency=32):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_publish(client, events, pause=_BETWEEN_KILLS * kills / events))
                for number in range(kills):
                    await asyncio.sleep(run.luck.uniform(0.5, 1.5) * _BETWEEN_KILLS)
                    run.progress(f"kill {number + 1}, {len(work.finished):,} of {events:,} done")
                    await asyncio.gather(node.kill(), server.kill())
                    await node.start()
                    await server.start()
            await run.until(lambda: len(work.finished) == events, 120, "all events are handled")
            await consumer.idle(60)
        stored = (await stream.info()).events
    run.count("events", events)
    run.count("kills", kills)
    run.count("second attempts", sum(work.attempts.values()) - work.attempts[1])
    run.demand(stored == events, "stored", f"{events} were published, {stored} are there")
    run.demand(
        len(work.finished) == events, "lost", f"{events - len(work.finished)} events were never handled"
    )
    run.demand(not work.twice, "run twice", f"{work.twice} events were run twice")


async def _publish(client: ws.Client, events: int, pause: float) -> None:
    """Publish texts with keys, on average one every `pause` seconds."""
    async with client.publisher(in_flight=64) as out:
        for number in range(events):
            _ = await out.send("s.x", test.StringValue(value=str(number)))
            if number % 20 == 0:
                await asyncio.sleep(20 * pause)


@scenario(
    "resume-kills",
    "two workers with handlers of up to 4 s; two servers on one nats-server are killed in turn",
)
async def resume_kills(run: Run) -> None:
    """No event is lost, and none is run twice by workers that live."""
    await _two_workers(run, lambda server: server.kill())


@scenario("resume-drains", "the same; the servers are stopped in turn (SIGTERM), as in a rolling restart")
async def resume_drains(run: Run) -> None:
    """No event is lost, and none is run twice by workers that live."""
    await _two_workers(run, lambda server: server.stop())


async def _two_workers(run: Run, strike: Callable[[Server], Awaitable[object]]) -> None:
    events, strikes = run.events(1500, 200), run.scale(6, 2)
    work = Work(run, run.scale(40, 10) / 10)
    async with single(run, servers=2) as (_, servers), AsyncExitStack() as stack:
        addresses = [server.address for server in servers]
        clients = [
            await stack.enter_async_context(ws.connect(",".join(each), timeout=60))
            for each in (addresses, addresses[::-1])
        ]
        stream = await clients[0].streams.ensure("s", subjects=["s.>"])
        consumer = await stream.consumers.ensure("w", start=ws.START, timeout=TIMEOUT)
        for client in clients:
            running = client.stream("s").consumer("w").running(work.handle, concurrency=100)
            await stack.enter_async_context(running)
        messages = [test.StringValue(value=str(number)) for number in range(events)]
        await clients[0].publish_many(messages, subject="s.x")
        for number in range(strikes):
            await asyncio.sleep(run.luck.uniform(1.0, 2.5))
            run.progress(f"strike {number + 1}, {len(work.finished):,} of {events:,} done")
            server = servers[number % 2]
            start = time.monotonic()
            await strike(server)
            await server.start()
            run.count("longest absence, s", 0)
            run.counts["longest absence, s"] = max(
                run.counts["longest absence, s"], round(time.monotonic() - start, 2)
            )
        await run.until(lambda: len(work.finished) == events, 120, "all events are handled")
        await consumer.idle(60)
    run.count("events", events)
    run.count("strikes", strikes)
    run.count("events run twice", work.twice)
    run.count("second attempts", sum(work.attempts.values()) - work.attempts[1])
    run.demand(len(work.runs) == events, "lost", f"{events - len(work.runs)} events were never handled")
    run.demand(not work.twice, "run twice", f"{work.twice} events were run twice")


@scenario(
    "stops-in-a-row", "twelve workers after each other, each stopped while events are on their way to it"
)
async def stops_in_a_row(run: Run) -> None:
    """No attempt is spent on what a worker that stops was not given.

    NATS itself spends one now and then, on what it is sending just as its request is taken back.
    """
    events, workers = run.events(3000, 300), run.scale(12, 3)
    work = Work(run, 0.2)
    async with single(run) as (_, (server,)), ws.connect(server.address, timeout=60) as client:
        stream = await client.streams.ensure("s", subjects=["s.>"])
        consumer = await stream.consumers.ensure("w", start=ws.START, retry=ws.RetryPolicy(max_attempts=3))
        messages = [test.StringValue(value=str(number)) for number in range(events)]
        await client.publish_many(messages, subject="s.x")
        for _ in range(workers):
            async with consumer.running(work.handle, concurrency=32):
                await asyncio.sleep(run.luck.uniform(0.2, 0.8))
        async with consumer.running(work.handle, concurrency=500):
            await consumer.idle(60)
    run.count("events", events)
    run.count("stops", workers)
    spent = sum(work.attempts.values()) - work.attempts[1]
    run.count("second attempts", spent)
    run.demand(len(work.runs) == events, "lost", f"{events - len(work.runs)} events were never handled")
    run.demand(spent <= 1 + workers // 6, "attempt", f"attempts were spent: {dict(work.attempts)}")
