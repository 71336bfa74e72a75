"""Calls are opened and closed, events go through, and in the end all is as it was in the beginning."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.faults import checks
from tests.faults.calls import Connection, ensure_consumer, ensure_stream
from tests.faults.places import single
from tests.faults.processes import Server
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import finish
from tests.faults.subscribers import Consumption, Subscriber, Target
from tests.faults.workloads import connections
from tests.support.client import EVENTS
from tests.support.ports import new_port
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

MIB = 2**20
CYCLES = 20
REMEMBERED = 100
"""Seconds for which a server remembers a settled event: two timeouts of its consumer, and 30 s."""
CALLS = 8


@dataclass(frozen=True, slots=True)
class Load:
    """What a server holds, and what NATS holds for it."""

    resident: int
    descriptors: int
    connections: int
    subscriptions: int


@scenario(
    "soak", "events go through consume calls that are opened and closed all the time, half of them by force"
)
async def soak(run: Run) -> None:
    """Hold nothing any more of what is over."""
    total, cycles = run.events(1_000_000, 1600), run.scale(CYCLES, 2)
    port = new_port()
    async with single(run, config=f'http: "127.0.0.1:{port}"\n') as (node, (server,)):
        async with connections(run.history, 1, server.address) as made:
            await ensure_stream(made[0], "orders")
        await _warm_up(run, server, node.url, total // cycles)
        run.counts.clear()
        before = await _load(server, port)
        loads = []
        for number in range(1, cycles + 1):
            await _cycle(run, server, node.url, number, total // cycles)
            loads.append(await _cleared(server, port, before))
            run.progress(f"{number * (total // cycles):,} events, {_difference(before, loads[-1])}")
    _judge(run, before, loads, total)


async def _warm_up(run: Run, server: Server, url: str, events: int) -> None:
    """Go on until the server holds as much as it ever will: it remembers what is settled for a while."""
    until = time.monotonic() + run.scale(REMEMBERED, 0)
    for number in itertools.count():
        await _cycle(run, server, url, -number, events)
        if time.monotonic() >= until:
            return


async def _cycle(run: Run, server: Server, url: str, number: int, events: int) -> None:
    """Publish and consume so many events on new connections, by calls that come and go meanwhile."""
    async with connections(run.history, CALLS, server.address) as made:
        consumer = await ensure_consumer(made[0], "orders", f"c{number}", new_only=True)
        consumption = Consumption(run.history, "orders", consumer, 500, keep=False)
        done = asyncio.Event()
        comers = [
            asyncio.create_task(_come_and_go(run, consumption, Target(each, lambda: server.life), done))
            for each in made
        ]
        published = iter(range(events))
        await asyncio.gather(*(_publish(each, consumer, published) for each in made for _ in range(8)))
        await finish(run, consumption, [], url)
        done.set()
        run.count("consume calls", sum(await asyncio.gather(*comers)))
        run.count("events", events)
        run.demand(
            len(consumption.delivered) == events, "skipped", f"{len(consumption.delivered)} of {events} came"
        )
        delete = pb.DeleteConsumerRequest(stream="orders", id=consumer)
        await made[0].insist(EVENTS.methods_by_name["DeleteConsumer"], delete)
    run.check(checks.undocumented(run.history.failures))
    run.count_lost_while_writing()
    run.history.failures.clear()
    run.history.publishes.clear()


async def _publish(connection: Connection, who: str, numbers: Iterator[int]) -> None:
    for number in numbers:
        await connection.publish(who, "orders.a", f"{who}.{number}", f"{who}.{number}")


async def _come_and_go(run: Run, consumption: Consumption, target: Target, done: asyncio.Event) -> int:
    """Make one call after the other; end every second one in order, and the others by force."""
    luck, calls = run.more_luck(), 0
    while not done.is_set():
        subscriber = Subscriber("s", consumption, [target])
        subscriber.start()
        await subscriber.ready()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), luck.uniform(0.05, 0.5))
        if calls % 2:
            subscriber.vanish()
        else:
            await subscriber.stop()
        calls += 1
    return calls


async def _load(server: Server, port: int) -> Load:
    """Look at what is held, when what is over has had the time to be cleared away."""
    gc.collect()  # grpcio closes a channel's connection when the last of its calls is forgotten
    await asyncio.sleep(3)
    url = f"http://127.0.0.1:{port}/varz"
    seen = json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read()))
    return Load(server.resident(), server.descriptors(), seen["connections"], seen["subscriptions"])


async def _cleared(server: Server, port: int, before: Load) -> Load:
    """Look until no more is held than before; half a minute at most, for a busy machine clears away late."""
    give_up = time.monotonic() + 30
    while True:
        load = await _load(server, port)
        held = ("descriptors", "connections", "subscriptions")
        if all(getattr(load, each) <= getattr(before, each) for each in held) or time.monotonic() > give_up:
            return load


def _difference(before: Load, after: Load) -> str:
    return (
        f"{(after.resident - before.resident) / MIB:+.1f} MiB, "
        f"{after.descriptors - before.descriptors:+} files, "
        f"{after.connections - before.connections:+} connections, "
        f"{after.subscriptions - before.subscriptions:+} subscriptions"
    )


def _judge(run: Run, before: Load, loads: Sequence[Load], total: int) -> None:
    """Compare the end with the beginning; of memory, which goes up and down, the lowest of both halves."""
    after = loads[-1]
    run.demand(after.descriptors <= before.descriptors, "soak", f"files: {before} became {after}")
    run.demand(after.connections <= before.connections, "soak", f"connections: {before} became {after}")
    run.demand(after.subscriptions <= before.subscriptions, "soak", f"subscriptions: {before} became {after}")
    half = len(loads) // 2
    early, late = (min(each.resident for each in part) for part in (loads[:half], loads[half:]))
    per_events = (late - early) / MIB / (total / 2 / 100_000)
    run.count("MB of the server in the beginning", round(before.resident / 1e6, 1))
    run.count("in the end", round(after.resident / 1e6, 1))
    if not run.options.short:
        run.bar("growth per 100,000 events, MiB", round(per_events, 2), 1)
    run.bar("more file descriptors", after.descriptors - before.descriptors, 0)
    run.bar("more connections to NATS", after.connections - before.connections, 0)
    run.bar("more subscriptions in NATS", after.subscriptions - before.subscriptions, 0)
