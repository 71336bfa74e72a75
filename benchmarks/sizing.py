"""What a system of a given size takes: memory of both servers, and disk, for each stream and so on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift.rpc import Channel

from .bench import Bench
from .broker import SERVICE, new_consumer, new_stream
from .figures import WINDSHIFT
from .processes import Running, program, windshift_server

SIZING: Final = "sizing"
BROKER: Final = "nats-server"
_SETTLE: Final = 5.0
"""Seconds after which memory is read: nats-server gives some of what it used back, and has written."""
_AT_ONCE: Final = 20


async def measure_sizing(bench: Bench) -> None:
    """Memory and disk for each stream, consumer, subscriber and event, on a broker that had none."""
    count = 200 if bench.options.quick else 1_000
    async with windshift_server(bench.directory, bench.nats) as server:
        await asyncio.sleep(_SETTLE)
        for process in (server, bench.nats):
            bench.figures.add(SIZING, _who(process), "idle, MB", process.resident_kib() * 1024 / 1e6)
        async with _taking(bench, server, "a stream", count):
            await _each(server, "EnsureStream", events_pb.EnsureStreamResponse, count, _stream)
        async with (
            new_stream(server.address) as stream,
            _taking(bench, server, "a consumer with a name", count),
        ):
            made = events_pb.EnsureConsumerResponse
            await _each(server, "EnsureConsumer", made, count, partial(_consumer, stream))
        async with new_stream(server.address) as stream:
            consumer = await new_consumer(server.address, stream)
            arguments = ("idle", server.address, stream, consumer, f"--count={count}")
            subscribers = program(bench.directory, "load", *arguments)
            async with contextlib.AsyncExitStack() as stack, _taking(bench, server, "a subscriber", count):
                await stack.enter_async_context(subscribers)
        for size in (100, 1_000):
            async with new_stream(server.address) as stream:
                events = bench.options.scaled(50_000)
                async with _taking(bench, server, f"an event of {size} B", events):
                    await bench.broker.fill(stream, events, size)


async def _each(
    server: Running,
    method: str,
    response: type[Message],
    count: int,
    request: Callable[[int], Message],
) -> None:
    """Make so many calls, some at once."""
    left = iter(range(count))
    async with Channel(server.address) as channel:

        async def call() -> None:
            for index in left:
                await channel.unary(f"{SERVICE}/{method}", request(index), response)

        calls: list[Awaitable[None]] = [call() for _ in range(_AT_ONCE)]
        await asyncio.gather(*calls)


def _stream(index: int) -> Message:
    name = f"sizing-{index}"
    return events_pb.EnsureStreamRequest(name=name, subjects={"subjects": [name]})


def _consumer(stream: str, index: int) -> Message:
    return events_pb.EnsureConsumerRequest(stream=stream, name=f"sizing-{index}")


@contextlib.asynccontextmanager
async def _taking(bench: Bench, server: Running, what: str, count: int) -> AsyncIterator[None]:
    """Measure what it takes to have so many of something that the block makes."""
    bench.say(f"sizing: {count:,} times {what}")
    before = [process.resident_kib() for process in (server, bench.nats)]
    stored = _bytes_below(bench.directory / "jetstream")
    yield
    await asyncio.sleep(_SETTLE)
    for process, kib in zip((server, bench.nats), before, strict=True):
        grown = (process.resident_kib() - kib) / count
        bench.figures.add(SIZING, _who(process), f"{what}, KiB", grown)
        bench.say(f"    {_who(process)}: {grown:.2f} KiB each")
    each = (_bytes_below(bench.directory / "jetstream") - stored) / count
    bench.figures.add(SIZING, "disk", f"{what}, B", each)
    bench.say(f"    disk: {each:,.0f} B each")


def _who(process: Running) -> str:
    return WINDSHIFT if process.name == "windshift" else BROKER


def _bytes_below(directory: Path) -> int:
    """Return what the files take on the disk, directories included."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))
