"""What looking costs where there is much to see: many streams, a long one, and publishes beside it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as pb
from windshift.rpc import Channel

from .bench import Bench
from .broker import Broker, connected, new_stream
from .figures import WINDSHIFT, number
from .processes import (
    Running,
    nats_server,
    program,
    read_line,
    run_program,
    windshift_server,
    write_line,
)
from .throughput import RATE

LOOKING = "looking"
PAGE_CPU = "a sorted page, server CPU, ms"
READ_CPU = "50 events at a random id, server CPU, ms"
READ = "50 events at a random id, ms"
HELD = "event loop held, CPU ms"
HISTORY_CPU = "the history, server CPU, % of a core"
RESIDENT = "resident after lists, MB"
TIMES = "p99 of a publish beside ten clients, times that alone"
FLOOR = "p99 of a publish beside ten clients of another server, times that alone"
ADDED = "p99 of a publish beside ten clients, times that beside ten of another server"
DIRECT = "p99 of a publish by NATS alone beside ten clients, times that alone"
_SERVICE = "/windshift.admin.v1alpha1.AdminService/"
_CLIENTS = 10
_RATE = RATE // 5
"""Publishes per second."""
_READS = 200
M = TypeVar("M", bound=Message)


async def measure_looking(bench: Bench) -> None:
    """Measure lists of many streams, reads of a long one, and publishes beside clients that do both."""
    streams, events = bench.options.scaled(10_000), bench.options.scaled(1_000_000)
    bench.say(f"looking: making {number(streams)} streams")
    await bench.broker.make_streams("look", streams)
    async with (
        windshift_server(bench.directory, bench.nats) as server,
        Channel(server.address) as channel,
        new_stream(server.address, bench.broker) as stream,
    ):
        await _pages(bench, server, channel)
        await _idle(bench, server)
        bench.say(f"looking: filling a stream with {number(events)} events")
        await bench.broker.fill(stream, events, 100)
        await _reads(bench, server, channel, stream, events)
        async with _another(bench, streams, events) as another:
            await _beside(bench, server, another, stream, events)
        await _held(bench, stream, events)


async def ask(channel: Channel, method: str, request: Message, response: type[M]) -> M:
    """Call a method of the admin service."""
    return await channel.unary(_SERVICE + method, request, response)


async def page(channel: Channel, order: pb.ListStreamsRequest.Order) -> pb.ListStreamsResponse:
    """List the first streams in some order."""
    request = pb.ListStreamsRequest(order_by=order, descending=True)
    return await ask(channel, "ListStreams", request, pb.ListStreamsResponse)


async def read(channel: Channel, stream: str, events: int) -> pb.ReadEventsResponse:
    """Read 50 events somewhere."""
    request = pb.ReadEventsRequest(stream=stream, limit=50)
    getattr(request, "from").offset = random.randint(1, events - 50)
    return await ask(channel, "ReadEvents", request, pb.ReadEventsResponse)


ORDERS: tuple[pb.ListStreamsRequest.Order, ...] = (
    pb.ListStreamsRequest.ORDER_NAME,
    pb.ListStreamsRequest.ORDER_EVENTS,
    pb.ListStreamsRequest.ORDER_RATE,
    pb.ListStreamsRequest.ORDER_LAG,
    pb.ListStreamsRequest.ORDER_NEWEST,
)


async def _pages(bench: Bench, server: Running, channel: Channel) -> None:
    """Pages once the look is taken: each begins with one that is not counted."""
    for run in range(bench.options.runs):
        spent = []
        for order in ORDERS:
            await page(channel, order)
            cpu = server.cpu_seconds()
            await page(channel, order)
            spent.append((server.cpu_seconds() - cpu) * 1000)
        bench.figures.add(LOOKING, WINDSHIFT, PAGE_CPU, statistics.median(spent))
        bench.say(f"looking, run {run + 1}: a page {statistics.median(spent):.1f} ms of CPU")
    bench.figures.add(LOOKING, WINDSHIFT, RESIDENT, server.resident_kib() * 1024 / 1e6)


async def _idle(bench: Bench, server: Running) -> None:
    """Measure the server's CPU while only its history looks."""
    seconds = 30 if bench.options.quick else 60
    cpu = server.cpu_seconds()
    await asyncio.sleep(seconds)
    share = (server.cpu_seconds() - cpu) / seconds * 100
    bench.figures.add(LOOKING, WINDSHIFT, HISTORY_CPU, share)
    bench.say(f"looking: {share:.2f} % of a core while nobody asks")


async def _reads(bench: Bench, server: Running, channel: Channel, stream: str, events: int) -> None:
    for _ in range(bench.options.runs):
        cpu, taken = server.cpu_seconds(), []
        for _ in range(_READS):
            began = time.perf_counter()
            found = await read(channel, stream, events)
            taken.append((time.perf_counter() - began) * 1000)
            assert len(found.events) == 50  # noqa: S101 - what is measured has to be right
        bench.figures.add(LOOKING, WINDSHIFT, READ_CPU, (server.cpu_seconds() - cpu) / _READS * 1000)
        bench.figures.add(LOOKING, WINDSHIFT, READ, statistics.median(taken))
        bench.say(f"looking: 50 events {statistics.median(taken):.2f} ms")


@dataclass(frozen=True, slots=True)
class _Another:
    """Another server, whose broker nobody else uses: what is asked of it costs others their processors only.

    Attributes:
        address: where it listens.
        broker: a connection to its broker.
        stream: a long one.
    """

    address: str
    broker: Broker
    stream: str


@contextlib.asynccontextmanager
async def _another(bench: Bench, streams: int, events: int) -> AsyncIterator[_Another]:
    bench.say("looking: making the same for another server")
    directory = bench.directory / "another"
    directory.mkdir()
    async with (
        nats_server(directory) as nats,
        connected(nats.address) as broker,
        windshift_server(directory, nats) as server,
        new_stream(server.address) as stream,
    ):
        await broker.make_streams("look", streams)
        await broker.fill(stream, events, 100)
        yield _Another(server.address, broker, stream)


async def _beside(bench: Bench, server: Running, another: _Another, stream: str, events: int) -> None:
    """Measure publishes at a fixed rate in turns: alone, beside clients, and beside another server's.

    Those that go straight to NATS, without the server, show what the clients cost there and on the machine.
    """
    for run in range(bench.options.runs):
        alone = await _publish(bench, server.address, stream)
        direct = await _publish(bench, bench.nats.address, stream, "--direct")
        async with looking(server.address, stream, events) as counted:
            beside = await _publish(bench, server.address, stream)
            direct_beside = await _publish(bench, bench.nats.address, stream, "--direct")
        async with looking(another.address, another.stream, events):
            tailed = asyncio.create_task(another.broker.keep_filling(another.stream, _RATE, 100))
            floor = await _publish(bench, server.address, stream)
            tailed.cancel()
        bench.figures.add(LOOKING, WINDSHIFT, TIMES, beside / alone)
        bench.figures.add(LOOKING, WINDSHIFT, FLOOR, floor / alone)
        bench.figures.add(LOOKING, WINDSHIFT, ADDED, beside / floor)
        bench.figures.add(LOOKING, WINDSHIFT, DIRECT, direct_beside / direct)
        told = ", ".join(f"{count} {what}" for what, count in counted.items())
        bench.say(f"looking, run {run + 1}: p99 {alone:.2f} ms alone, {beside:.2f} ms beside {told}")
        bench.say(f"looking, run {run + 1}: p99 {floor:.2f} ms beside clients of another server")
        bench.say(
            f"looking, run {run + 1}: by NATS alone {direct:.2f} ms alone, {direct_beside:.2f} ms beside"
        )


async def _publish(bench: Bench, address: str, stream: str, *options: str) -> float:
    seconds = 4 if bench.options.quick else 10
    arguments = (address, stream, f"--per-second={_RATE}", f"--seconds={seconds}", *options)
    return float((await run_program(bench.directory, "load", "rate", *arguments))["p99_ms"])


@contextlib.asynccontextmanager
async def looking(address: str, stream: str, events: int) -> AsyncIterator[dict[str, int]]:
    """Run clients that list, read and tail all the time; give how often they did."""
    counted = {"pages": 0, "reads": 0, "tailed events": 0}

    async def client(channel: Channel) -> None:
        tail = asyncio.create_task(_tail(channel, stream, counted))
        try:
            while True:
                await page(channel, random.choice(ORDERS))
                counted["pages"] += 1
                await read(channel, stream, events)
                counted["reads"] += 1
        finally:
            tail.cancel()

    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(Channel(address)) for _ in range(_CLIENTS)]
        clients = [asyncio.create_task(client(channel)) for channel in channels]
        try:
            yield counted
        finally:
            for each in clients:
                each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _tail(channel: Channel, stream: str, counted: dict[str, int]) -> None:
    async with channel.stream(_SERVICE + "TailEvents", pb.TailEventsResponse) as call:
        call.send(pb.TailEventsRequest(stream=stream))
        call.close_send()
        async for response in call:
            counted["tailed events"] += response.HasField("event")


async def _held(bench: Bench, stream: str, events: int) -> None:
    """Measure how long one callback keeps the event loop from everything else."""
    url = f"nats://{bench.nats.address}"
    async with program(bench.directory, "held", url) as (server, _), Channel(server.address) as channel:
        await read_after(server)
        works: dict[str, Callable[[], Awaitable[Any]]] = {
            f"lists by {pb.ListStreamsRequest.Order.Name(order)}": partial(page, channel, order)
            for order in ORDERS
        }
        works["reads"] = partial(read, channel, stream, events)
        works["the history's look"] = partial(asyncio.sleep, 25)
        for what, work in works.items():
            for _ in range(3 if what.startswith("lists") else 1):
                await work()
            held = await read_after(server)
            bench.figures.add(LOOKING, f"{WINDSHIFT}, {what}", HELD, held)
            bench.figures.add(LOOKING, WINDSHIFT, HELD, held)
            bench.say(f"looking: {what} held the loop for {held:.1f} ms at most")


async def read_after(server: Running) -> float:
    """Return for how long the loop was held since this was asked last, in ms of CPU."""
    await write_line(server)
    return float(await read_line(server))
