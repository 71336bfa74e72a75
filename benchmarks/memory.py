"""Measurements of memory and of the start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf import wrappers_pb2

from . import h2load, sink
from .bench import Bench
from .broker import new_consumer, new_stream
from .credentials import write_rules
from .figures import WINDSHIFT, counterpart, number
from .peers import subscription
from .processes import FailedToRun, Running, program, read_line, run_program, windshift_server, write_line

START, IDLE, STALLED, UPLOAD, SOAK = "start", "idle streams", "stalled readers", "slow upload", "soak"
RESIDENT = "resident when idle, MB"
READY = "start to ready, s"
KIB_EACH = "KiB each"
TOKENS, ISSUER = f"{WINDSHIFT}, static tokens", f"{WINDSHIFT}, an issuer"
NOT_SERVED = "streams without an event"
IDLE_CPU = "server CPU, % of a core"
MB_GROWN = "growth, MB"
_SETTLE = 2.0


async def measure_start(bench: Bench) -> None:
    """Start to ready, and the memory of a server that does nothing, with its embedded broker."""
    ways = {
        WINDSHIFT: {},
        TOKENS: write_rules(bench.directory, issuer=False).environment,
        ISSUER: write_rules(bench.directory, issuer=True).environment,
    }
    for run in range(bench.options.runs):
        for way, environment in ways.items():
            for version, path in bench.options.versions.items():
                subject = counterpart(way, version)
                bench.say(f"start, run {run + 1} of {bench.options.runs}: {subject}")
                await _start(bench, subject, path, environment)


async def _start(bench: Bench, subject: str, path: Path, environment: Mapping[str, str]) -> None:
    async with windshift_server(bench.directory, None, path=path, environment=environment) as server:
        await asyncio.sleep(_SETTLE)
        resident = server.resident_kib() * 1024 / 1e6
    bench.figures.add(START, subject, READY, server.seconds)
    bench.figures.add(START, subject, RESIDENT, resident)
    bench.say(f"    ready in {server.seconds:.2f} s, {resident:.1f} MB resident")


async def measure_idle_streams(bench: Bench) -> None:
    """Many consume streams of one consumer that wait, and then get an event each."""
    rules = write_rules(bench.directory, issuer=False)
    for way, environment, token in ((WINDSHIFT, {}, ""), (TOKENS, rules.environment, rules.token)):
        for version, path in bench.options.versions.items():
            await _idle(bench, counterpart(way, version), path, environment, token)


async def _idle(bench: Bench, subject: str, path: Path, environment: Mapping[str, str], token: str) -> None:
    streams = bench.options.scaled(10_000)
    async with (
        windshift_server(bench.directory, bench.nats, path=path, environment=environment) as server,
        new_stream(server.address, bench.broker, token=token) as stream,
    ):
        consumer = await new_consumer(server.address, stream, token=token)
        before = server.resident_kib()
        bench.say(f"idle streams, {subject}: opening {streams}")
        arguments = ("idle", server.address, stream, consumer, f"--count={streams}", f"--token={token}")
        async with program(bench.directory, "load", *arguments) as (client, _):
            await asyncio.sleep(_SETTLE)
            each = (server.resident_kib() - before) / streams
            bench.figures.add(IDLE, subject, KIB_EACH, each)
            bench.say(f"    {each:.1f} KiB each")
            bench.figures.add(IDLE, subject, IDLE_CPU, await _idle_cpu(bench, server))
            publish = ("publish", server.address, stream, f"--count={streams}", f"--token={token}")
            served = await _serve_idle(bench, client, publish)
            events = await bench.broker.count(stream)
    bench.figures.add(IDLE, subject, NOT_SERVED, streams - served)
    bench.figures.add(IDLE, subject, "events until each had one", events)
    bench.say(f"    {served} of {streams} streams were handed an event, of {number(events)}")


async def _idle_cpu(bench: Bench, server: Running) -> float:
    seconds = 5 if bench.options.quick else 15
    cpu = server.cpu_seconds()
    await asyncio.sleep(seconds)
    return (server.cpu_seconds() - cpu) / seconds * 100


async def _serve_idle(bench: Bench, client: Running, publish: tuple[str, ...]) -> int:
    """Publish events until each stream was handed one; ten for each would fill all windows."""
    await write_line(client)
    for _ in range(10):
        await run_program(bench.directory, "load", *publish)
        try:
            seen = await read_line(client, timeout=2)
        except TimeoutError:
            continue
        break
    else:
        seen = await read_line(client)
    await write_line(client)
    return int(seen["served"])


@asynccontextmanager
async def full_consumer(bench: Bench) -> AsyncIterator[tuple[Running, str, bytes]]:
    """Start a server with a stream that has more than a consume call takes.

    Yield the server, and the path and message of such a call.
    """
    async with (
        windshift_server(bench.directory, bench.nats) as server,
        new_stream(server.address, bench.broker) as stream,
    ):
        await bench.broker.fill(stream, 40_000, 4000)
        consumer = await new_consumer(server.address, stream, timeout_seconds=600)
        path, message, _ = subscription(stream, consumer, 10_000)
        yield server, path, message


async def measure_stalled(bench: Bench) -> None:
    """Streams whose clients never read: consume calls, and a handler of rpc that sends without end."""
    for by in ("socket", "window"):
        bench.say(f"stalled readers, {by} shut: consume calls")
        async with full_consumer(bench) as (server, path, message):
            await _stall(bench, server, path, message, f"consume, {by} shut")
        bench.say(f"stalled readers, {by} shut: rpc")
        async with program(bench.directory, "sink", "serve") as (server, _):
            message = wrappers_pb2.Int64Value(value=4000).SerializeToString()
            await _stall(bench, server, sink.FLOOD, message, f"rpc, {by} shut")


async def _stall(bench: Bench, server: Running, path: str, message: bytes, what: str) -> None:
    count = 100
    by = "socket" if "socket" in what else "window"
    before = server.resident_kib()
    server.forget_peak()
    arguments: tuple[str, ...] = (
        "stalled",
        server.address,
        path,
        message.hex(),
        f"--by={by}",
        f"--count={count}",
    )
    if path == sink.FLOOD:
        arguments += ("--ended",)
    async with program(bench.directory, "peers", *arguments):
        await asyncio.sleep(6)
        each = (server.resident_kib() - before) * 1024 / 1000 / count
        peak = (server.peak_kib() - before) * 1024 / 1000 / count
    bench.figures.add(STALLED, f"{WINDSHIFT}: {what}", "kB each", each)
    bench.figures.add(STALLED, f"{WINDSHIFT}: {what}", "kB each, peak", peak)
    bench.say(f"    {each:.1f} kB each, {peak:.1f} at most")


async def measure_upload(bench: Bench) -> None:
    """Send a large upload to a handler that is slower than its client."""
    size = bench.options.scaled(2**30)
    async with program(bench.directory, "sink", "serve") as (server, _):
        bench.say(f"slow upload: {number(size / 1e6)} MB")
        before = server.resident_kib()
        server.forget_peak()
        seen = await run_program(bench.directory, "sink", "upload", server.address, f"--size={size}")
        grown = (server.peak_kib() - before) * 1024 / 1e6
    if seen["bytes"] < size * 0.99:
        raise FailedToRun(f"of {size} bytes {seen['bytes']} arrived")
    bench.figures.add(UPLOAD, WINDSHIFT, MB_GROWN, grown)
    bench.figures.add(UPLOAD, WINDSHIFT, "MB per second", seen["bytes"] / 1e6 / seen["seconds"])
    bench.say(f"    {grown:.1f} MB at most, {seen['bytes'] / 1e6 / seen['seconds']:.0f} MB/s")


async def measure_soak(bench: Bench) -> None:
    """Memory over many requests and many killed connections, after two parts to warm up.

    Calls that ended by force leave cycles behind, which the garbage collector takes away now and then: the
    memory goes up and down by some MB. So the lowest values of both halves are compared.
    """
    if not bench.has_h2load("soak"):
        return
    async with (
        windshift_server(bench.directory, bench.nats) as server,
        new_stream(server.address, bench.broker) as stream,
    ):
        consumer = await new_consumer(server.address, stream)
        await _soak(bench, server, stream, consumer, 200_000, 200)
        first, resident = server.resident_kib(), []
        for part in range(1, 11):
            await _soak(bench, server, stream, consumer, 100_000, 100)
            resident.append(server.resident_kib())
            grown = (resident[-1] - first) * 1024 / 1e6
            bench.say(f"soak: {part * 100_000:,} requests, {part * 100} killed: {grown:+.2f} MB")
            bench.figures.add(SOAK, WINDSHIFT, "above the start, MB", grown)
    growth = (min(resident[5:]) - min(resident[:5])) * 1024 / 1e6
    bench.figures.add(SOAK, WINDSHIFT, MB_GROWN, growth)


async def _soak(bench: Bench, server: Running, stream: str, consumer: str, requests: int, kills: int) -> None:
    await h2load.publish(bench.directory, server.address, stream, requests)
    arguments = (server.address, stream, consumer, stream, f"--count={kills}")
    await run_program(bench.directory, "peers", "killed", *arguments)
    await asyncio.sleep(_SETTLE)
