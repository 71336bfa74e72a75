"""Measurements of speed: publishing, latency, consuming, and nats-py alone."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

from . import h2load, limits
from .bench import Bench, Target, compared_servers, contract_servers, server_with_token, windshift_servers
from .broker import new_stream
from .figures import BEFORE, COMPARISON, NATS, WINDSHIFT, WITH_TOKEN, number
from .processes import FailedToRun, output, run_program, windshift_server

PUBLISH, LATENCY, CONSUME, DIRECT = "publish", "latency", "consume", "nats-py"
PUBLISH_OWN = f"{PUBLISH}, own client"
PER_SECOND, SERVER_CPU, BROKER_CPU = "per second", "server CPU, µs each", "broker CPU, µs each"
CLIENT_CPU = "client CPU, µs each"
P50, P99, P99_9 = "p50, ms", "p99, ms", "p99.9, ms"
RATE = 2500
FAST_RATE = 2 * RATE
"""Beyond the comparison server."""
LATENCY_FAST = f"{LATENCY} at {FAST_RATE:,} publishes/s"
WINDOW = 200
BATCH = 100
"""Events in a response and ids in an ack, where they go in batches."""
WINDOWS = (WINDOW, 1_000, 10_000)
GO_CLIENT = "independent client"


def add_costs(
    bench: Bench,
    measurement: str,
    subject: str,
    count: int,
    per_second: float,
    cpu: float = nan,
    broker_cpu: float = nan,
    client_cpu_us: float = nan,
) -> None:
    """Add what so many events took: CPU seconds of all, but for the client µs of each; NaN = not measured."""
    bench.figures.add(measurement, subject, PER_SECOND, per_second)
    bench.figures.add(measurement, subject, SERVER_CPU, cpu / count * 1e6)
    bench.figures.add(measurement, subject, BROKER_CPU, broker_cpu / count * 1e6)
    bench.figures.add(measurement, subject, CLIENT_CPU, client_cpu_us)


async def measure_publish(bench: Bench) -> None:
    """Unary publishes as fast as they are answered: h2load, and our own client."""
    by_h2load = bench.has_h2load("publishing by it")
    async with compared_servers(bench, PUBLISH) as servers:
        for run in range(bench.options.runs):
            for subject, server in servers.items():
                bench.say(f"publish, run {run + 1} of {bench.options.runs}: {subject}")
                count = bench.options.scaled(15_000 if subject == COMPARISON else 100_000)
                if by_h2load:
                    await _publish_h2load(bench, subject, server, count)
                await publish_own(bench, subject, server, count // 2)
            count = bench.options.scaled(100_000)
            await limit_of_publishing(bench, [PUBLISH], servers[WINDSHIFT], count, _UNARY)


async def _publish_h2load(bench: Bench, subject: str, server: Target, count: int) -> None:
    warm_up = count // 10
    async with server.stream() as stream:
        await h2load.publish(bench.directory, server.address, stream, warm_up)
        before = server.cpu_seconds()
        load = await h2load.publish(bench.directory, server.address, stream, count)
        cpu, broker_cpu = server.used_since(before)
        stored = await server.storage.count(stream)
    if not load.answered == count == stored - warm_up:
        raise FailedToRun(f"{subject}: {count} sent, {load.answered} answered, {stored - warm_up} stored")
    add_costs(bench, PUBLISH, subject, count, load.per_second, cpu, broker_cpu)
    bench.say(f"    h2load: {number(load.per_second)} publishes/s, {number(cpu / count * 1e6)} µs each")


async def publish_own(bench: Bench, subject: str, server: Target, count: int) -> None:
    """Publish as fast as it is answered, by our own client."""
    async with server.stream() as stream:
        before = server.cpu_seconds()
        seen = await run_program(
            bench.directory,
            "load",
            "publish",
            server.address,
            stream,
            f"--count={count}",
            f"--token={server.token}",
        )
        cpu, _ = server.used_since(before)
        stored = await server.storage.count(stream)
    if stored != count:
        raise FailedToRun(f"{subject}: {count} sent, {stored} stored, {seen['failures']}")
    client = seen["client_cpu_us"]
    add_costs(bench, PUBLISH_OWN, subject, count, seen["per_second"], cpu, client_cpu_us=client)
    bench.say(
        f"    own client: {number(seen['per_second'])} publishes/s, {number(cpu / count * 1e6)} µs each"
    )


MANY = (
    ("stream", 1),
    ("stream", 16),
    ("stream, keys", 16),
    ("stream without ids", 16),
    ("batch", 100),
    ("atomic", 100),
)
"""Ways to publish many events, and how many each request has."""


_UNARY = limits.Publishing(clients=4, each=50)
_PIPELINED = limits.Publishing()
LIMITS = {
    _PIPELINED: MANY[:2],
    replace(_PIPELINED, keys=True): MANY[2:3],
    limits.Publishing("fast", each=1000, own=False): MANY[3:4],
    limits.Publishing(clients=8, each=100): MANY[4:5],
    limits.Publishing("atomic", clients=8, each=100): MANY[5:],
}
"""What stands beside them without a server between, with as many events unanswered."""


def many_name(way: str, each: int) -> str:
    """Return what the figures of one of them are called."""
    return f"{PUBLISH} many, {way}, {each} each"


async def measure_many(bench: Bench) -> None:
    """Many events with each request, beside one with each, by our own client."""
    count = bench.options.scaled(200_000)
    async with (
        windshift_servers(bench) as servers,
        server_with_token(bench, servers[WINDSHIFT].owner) as guarded,
    ):
        servers[WITH_TOKEN] = guarded
        for run in range(bench.options.runs):
            for subject, server in servers.items():
                bench.say(f"many events, run {run + 1} of {bench.options.runs}: {subject}")
                await publish_own(bench, subject, server, count // 4)
                for way, each in MANY if subject != BEFORE else ():  # an older version may have none
                    await _publish_many(bench, subject, server, count, way, each)
            for limit, ways in LIMITS.items():
                names = [many_name(*way) for way in ways]
                await limit_of_publishing(bench, names, servers[WINDSHIFT], count, limit)


async def _publish_many(bench: Bench, subject: str, server: Target, count: int, way: str, each: int) -> None:
    async with server.stream() as stream:
        before = server.cpu_seconds()
        arguments = (f"--count={count}", f"--each={each}", f"--way={way}", f"--token={server.token}")
        seen = await run_program(bench.directory, "load", "many", server.address, stream, *arguments)
        cpu, broker_cpu = server.used_since(before)
        stored = await server.storage.count(stream)
    if stored != count:
        raise FailedToRun(f"{subject}, {way}: {count} sent, {stored} stored, {seen['failures']}")
    per_second, client = seen["per_second"], seen["client_cpu_us"]
    add_costs(bench, many_name(way, each), subject, count, per_second, cpu, broker_cpu, client)
    bench.say(f"    {way}, {each}: {number(seen['per_second'])} events/s, {cpu / count * 1e6:.1f} µs each")


async def limit_of_publishing(
    bench: Bench, names: list[str], server: Target, count: int, way: limits.Publishing
) -> None:
    """Publish without a server between, to a stream that the server has made."""
    if not (way.own or limits.installed()):
        return
    async with server.stream() as stream:
        before = bench.nats.cpu_seconds()
        reached = await limits.publish(bench, stream, count, way)
        broker_cpu = bench.nats.cpu_seconds() - before
        stored = await bench.broker.count(stream)
    if stored != count:
        raise FailedToRun(f"{reached.client}: {count} sent, {stored} stored")
    for name in names:
        _add_limit(bench, name, count, reached, broker_cpu)


def _add_limit(bench: Bench, name: str, count: int, reached: limits.Reached, broker_cpu: float) -> None:
    per_second, client_us = reached.per_second, reached.client_cpu_us
    add_costs(bench, name, reached.client, count, per_second, broker_cpu=broker_cpu, client_cpu_us=client_us)
    bench.say(f"    {name}, {reached.client}: {number(reached.per_second)} events/s")


async def measure_latency(bench: Bench) -> None:
    """Unary publishes at a fixed rate that does not wait for answers."""
    seconds = 4 if bench.options.quick else 10
    async with compared_servers(bench, LATENCY) as servers:
        for run in range(bench.options.runs):
            for subject, server in (*servers.items(), (NATS, servers[WINDSHIFT])):
                bench.say(f"latency, run {run + 1} of {bench.options.runs}: {subject}")
                for name, rate in ((LATENCY, RATE), (LATENCY_FAST, FAST_RATE)):
                    if rate == RATE or subject != COMPARISON:
                        await _latency(bench, name, subject, server, rate, seconds)


async def _latency(bench: Bench, name: str, subject: str, server: Target, rate: int, seconds: int) -> None:
    async with server.stream() as stream:
        address = (bench.nats.address, stream, "--direct") if subject == NATS else (server.address, stream)
        arguments = (*address, f"--per-second={rate}", f"--seconds={seconds}")
        seen = await run_program(bench.directory, "load", "rate", *arguments)
        stored = await server.storage.count(stream)
    for failure, times in seen["failures"].items():
        bench.figures.note(f"{name}, {subject}: {times} of {seen['sent']} calls failed: {failure}")
    if not seen["failures"] and stored != seen["sent"]:
        raise FailedToRun(f"{subject}: {seen['sent']} sent, {stored} stored")
    for quantity, key in ((P50, "p50_ms"), (P99, "p99_ms"), (P99_9, "p99_9_ms")):
        bench.figures.add(name, subject, quantity, seen[key])
    bench.figures.add(name, subject, "sent late, p99, ms", seen["late_p99_ms"])
    bench.say(
        f"    {rate:,}/s: p50 {seen['p50_ms']:.2f} ms, p99 {seen['p99_ms']:.2f} ms, "
        f"p99.9 {seen['p99_9_ms']:.2f} ms"
    )


@dataclass(frozen=True, slots=True)
class Way:
    """A way to consume.

    Attributes:
        acks: ids in an ack.
        batch: events in a response, at most; 0 = one.
        window: events unsettled at once.
    """

    acks: int
    batch: int = 0
    window: int = WINDOW

    @property
    def name(self) -> str:
        """What its figures are called."""
        name = f"{CONSUME}, acks of {self.acks}"
        return f"{name}, batches, window {self.window:,}" if self.batch else name


WAYS = (Way(1), Way(25), *(Way(BATCH, BATCH, window) for window in WINDOWS))


async def measure_consume(bench: Bench) -> None:
    """Consuming on one stream, every ack confirmed: one id each, 25 each, and both ways in batches."""
    count = bench.options.scaled(60_000)
    async with contextlib.AsyncExitStack() as stack:
        running = contract_servers(bench, CONSUME, "Events", "EnsureConsumer")
        servers = await stack.enter_async_context(running)
        guarded = server_with_token(bench, servers[WINDSHIFT].owner)
        servers[WITH_TOKEN] = await stack.enter_async_context(guarded)
        streams = {}
        for subject, server in servers.items():
            streams[subject] = await stack.enter_async_context(server.stream())
            bench.say(f"consume: putting {number(count)} events into a stream")
            await server.storage.fill(streams[subject], count, 100)
        for run in range(bench.options.runs):
            for way in WAYS:
                for subject, server in servers.items():
                    if server.is_peer and way.batch:
                        continue
                    bench.say(f"{way.name}, run {run + 1} of {bench.options.runs}: {subject}")
                    await _consume_own(bench, subject, server, streams[subject], count, way)
                    if (client := bench.options.load_client) is not None and not (way.batch or server.token):
                        await _consume_go(bench, client, subject, server, streams[subject], count, way)
                await _limit_of_consuming(bench, servers[WINDSHIFT], streams[WINDSHIFT], count, way)


async def _consume_own(bench: Bench, subject: str, server: Target, stream: str, count: int, way: Way) -> None:
    consumer = await server.consumer(stream)
    before = server.cpu_seconds()
    arguments = [server.address, stream, consumer, f"--count={count}", f"--acks={way.acks}"]
    arguments += [f"--window={way.window}", f"--batch={way.batch}", f"--token={server.token}"]
    seen = await run_program(bench.directory, "load", "consume", *arguments)
    cpu, broker_cpu = server.used_since(before)
    if seen["invalid"] or seen["duplicates"]:
        bench.figures.note(
            f"consume, {subject}: {seen['invalid']} acks invalid, {seen['duplicates']} deliveries repeated"
        )
    per_second, client = seen["per_second"], seen["client_cpu_us"]
    add_costs(bench, way.name, subject, count, per_second, cpu, broker_cpu, client)
    bench.say(f"    {number(seen['per_second'])} events/s, {number(cpu / count * 1e6)} µs each")


async def _limit_of_consuming(bench: Bench, server: Target, stream: str, count: int, way: Way) -> None:
    """Consume without a server between, on a consumer that the server has made."""
    consumer = await server.consumer(stream)
    before = bench.nats.cpu_seconds()
    reached = await limits.consume(bench, stream, consumer, count, way.acks, way.window)
    broker_cpu = bench.nats.cpu_seconds() - before
    _add_limit(bench, way.name, count, reached, broker_cpu)


async def _consume_go(
    bench: Bench, client: Path, subject: str, server: Target, stream: str, count: int, way: Way
) -> None:
    consumer = await server.consumer(stream)
    command = [str(client), "consume", "-addr", server.address, "-stream", stream, "-subject", stream]
    command += ["-consumer", consumer, "-n", str(count), "-ack", str(way.acks), "-window", str(way.window)]
    before = server.cpu_seconds()
    text, _ = await output(bench.directory, command)
    cpu, _ = server.used_since(before)
    found = re.search(r"consume (\d+)/s ack \d+ invalid (\d+)", text)
    if found is None:
        raise FailedToRun(f"the load client said nothing of use: {text[-500:]}")
    if found[2] != "0":
        bench.figures.note(f"consume, {subject}, {GO_CLIENT}: {found[2]} acks invalid")
    add_costs(bench, f"{way.name}, {GO_CLIENT}", subject, count, float(found[1]), cpu)
    bench.say(f"    {GO_CLIENT}: {number(float(found[1]))} events/s, {number(cpu / count * 1e6)} µs each")


async def measure_direct(bench: Bench) -> None:
    """Publish with nats-py alone, in two ways."""
    count = bench.options.scaled(50_000)
    url = f"nats://{bench.nats.address}"
    async with windshift_server(bench.directory, bench.nats) as server:
        for run in range(bench.options.runs):
            for mode in ("jetstream", "multiplexed"):
                bench.say(f"nats-py, run {run + 1} of {bench.options.runs}: {mode}")
                async with new_stream(server.address, bench.broker) as stream:
                    arguments = (url, stream, f"--mode={mode}", f"--count={count}")
                    seen = await run_program(bench.directory, "direct", "nats-py", *arguments)
                subject = f"{NATS}, js.publish" if mode == "jetstream" else f"{NATS}, one inbox"
                add_costs(bench, DIRECT, subject, count, seen["per_second"], client_cpu_us=seen["cpu_us"])
