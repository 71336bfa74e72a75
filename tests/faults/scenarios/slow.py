"""Subscribers that are slow, stalled or far away must cost the others nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.faults import checks
from tests.faults.calls import Connection, ensure_consumer, ensure_stream
from tests.faults.history import Delivery
from tests.faults.places import proxied, single
from tests.faults.processes import Server
from tests.faults.proxy import running_proxy
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import check_consuming, finish
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.subscribers import Consumption, Subscriber, Target
from tests.faults.witness import fill, read_stream
from tests.faults.workloads import connections, crowd, publish_on, targets
from tests.support.client import EVENTS
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

MIB = 2**20
STALLED = 100


@scenario(
    "stalled", "100 consume calls whose clients do not read: half of them by a proxy that passes nothing on"
)
async def stalled(run: Run) -> None:
    """Hold at most 1 MiB for each, serve a healthy one as before, and give the memory back."""
    count = run.scale(STALLED, 20)
    async with single(run) as (node, servers), targets(run.history, servers) as places:
        (server,) = servers
        made = places[0].connection
        await ensure_stream(made, "healthy")
        await ensure_consumer(made, "healthy")
        await ensure_stream(made, "stalled")
        await ensure_consumer(made, "stalled", timeout=300.0)
        async with _healthy(run, places) as latency:
            seconds = run.scale(10, 1)
            await latency(seconds)
            run.progress("without stalled calls")
            before, alone = server.resident(), await latency(seconds)
            async with _stall(run, server, count) as stall:
                await fill(node.url, "stalled", "stalled.a", run.scale(40_000, 5000), 4000)
                run.progress("with stalled calls")
                await asyncio.sleep(run.scale(2, 1))
                beside = await latency(seconds)
                grown = (server.resident() - before) / count / MIB
                stall()
            gc.collect()  # grpcio closes a channel's connection when the last of its calls is forgotten
            await asyncio.sleep(run.scale(5, 1))
            left = (server.resident() - before) / MIB
        run.check(checks.undocumented(run.history.failures))
        run.count("stalled calls", count)
        run.count("p99 without them, ms", round(alone * 1000, 1))
        run.count("p99 beside them, ms", round(beside * 1000, 1))
        run.bar("p99 beside them is so many times that without", round(beside / alone, 2), 2)
        run.bar("memory for each, MiB", round(grown, 2), 1)
        run.bar("memory kept after they are gone, MiB", round(left, 1), 20)


@asynccontextmanager
async def _healthy(run: Run, places: list[Target]) -> AsyncIterator[Callable[[float], Any]]:
    """Publish and consume 200 events a second; give what measures the 99th percentile of their way."""
    took: list[float] = []

    def watch(delivery: Delivery) -> None:
        took.append(delivery.at - float(delivery.value.partition(" ")[0]))

    async def publish() -> None:
        number = 0
        while True:
            value = f"{time.monotonic()} {number}"
            await places[0].connection.publish("p", "healthy.a", value)
            number += 1
            await asyncio.sleep(0.005)

    async def latency(seconds: float) -> float:
        took.clear()
        await asyncio.sleep(seconds)
        return checks.percentile(took, 0.99)

    subscriber = Subscriber(
        "healthy", Consumption(run.history, "healthy", "c", keep=False, watch=watch), places
    )
    subscriber.start()
    await subscriber.ready()
    publishing = asyncio.create_task(publish())
    try:
        yield latency
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await subscriber.stop()


@asynccontextmanager
async def _stall(run: Run, server: Server, count: int) -> AsyncIterator[Callable[[], None]]:
    """Subscribe many times without reading; give what lets the proxy flow again."""
    host, _, port = server.address.rpartition(":")
    async with running_proxy(host, int(port)) as proxy, AsyncExitStack() as stack:
        for number in range(count):
            address = proxy.address if number % 2 else server.address
            made = Connection(run.history, address)
            stack.push_async_callback(made.close)
            call = made.channel.stream_stream(
                f"/{EVENTS.full_name}/Events",
                request_serializer=pb.EventsRequest.SerializeToString,
                response_deserializer=pb.EventsResponse.FromString,
            )()
            stack.callback(call.cancel)
            subscribe = {"stream": "stalled", "consumer": "c", "max_processing_events": 10_000}
            await call.write(pb.EventsRequest(subscribe=subscribe))
            await call.read()
        proxy.stall()
        yield proxy.flow


@scenario(
    "far-away", "clients, and NATS, behind proxies that delay, stall and cut off what goes through them"
)
async def far_away(run: Run) -> None:
    """Lose nothing and skip nothing, however slow and broken the ways are."""
    async with proxied(run) as place:
        async with connections(run.history, 4, *place.addresses) as made:
            await ensure_stream(made[0], "orders")
            await ensure_consumer(made[0], "orders", timeout=4.0)
            consumption = Consumption(run.history, "orders", "c")
            subscribers = [
                Subscriber(f"s{number}", consumption, place.targets[number:] + place.targets)
                for number in (0, 1)
            ]
            for subscriber in subscribers:
                subscriber.start()
            async with crowd() as workers:
                for number in range(8):
                    workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.01))
                for number in range(run.scale(24, 4)):
                    run.progress(f"disturbance {number + 1}")
                    await asyncio.sleep(0.5)
                    kind = ("delay", "stall", "cut")[number // 4 % 3]
                    await place.links[number % 4].disturb(kind, 1.5)
                    run.count("disturbances", 1)
            await finish(run, consumption, subscribers, place.node.url)
        check_stream(run, "orders", stored := await read_stream(place.node.url, "orders"))
        check_consuming(run, stored)
        count_publishes(run)
