"""What an event costs, against the number of streams, consumers, subscribers and connections."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from .bench import Bench
from .broker import new_consumer, new_consumers, new_stream
from .figures import number
from .processes import FailedToRun, Running, program, read_line, run_program, windshift_server
from .throughput import add_costs

STREAMS = "a publish beside so many streams"
CONSUMERS = "a publish to a stream with so many consumers"
SUBSCRIBERS = "an event of a consumer with so many subscribers"
ACTIVE = "an event of a stream with so many active consumers"
IDLE = "a publish beside so many idle subscribers"
CONNECTIONS = "a publish beside so many connections"
STEPS = (1, 10, 100, 1_000, 10_000)
_MOST_ACTIVE = 1_000
"""Of 10,000 consumers each gets so few events of a run that setting them up is all that counts."""
_ROOM = {"GRPC_MAX_CONNECTIONS": str(STEPS[-1] + 100)}


def named(steps: int) -> str:
    """Return the subject of figures with so many of something."""
    return f"{steps:,}"


async def measure_scale(bench: Bench) -> None:
    """Publish and consume beside more and more of what a server has."""
    steps = [step for step in STEPS if step <= bench.options.scaled(STEPS[-1])]
    for run in range(bench.options.runs):
        bench.say(f"scale, run {run + 1} of {bench.options.runs}")
        await _streams(bench, steps)
        await _consumers(bench, steps)
        await active(bench, [step for step in steps if step <= _MOST_ACTIVE])
        await _subscribers(bench, steps)
        await _held(bench, IDLE, "idle", steps)
        await _held(bench, CONNECTIONS, "connect", steps)


async def _streams(bench: Bench, steps: list[int]) -> None:
    made = 0
    async with windshift_server(bench.directory, bench.nats) as server:
        for step in steps:
            await bench.broker.make_streams("scale", step - 1, made)
            made = step - 1
            await _publish(bench, server, STREAMS, step)
        for index in range(made):
            await bench.broker.delete(f"scale-{index:05}")


async def _consumers(bench: Bench, steps: list[int]) -> None:
    made = 0
    async with (
        windshift_server(bench.directory, bench.nats) as server,
        bench.broker.roomy_stream(steps[-1]) as stream,
    ):
        for step in steps:
            await new_consumers(server.address, stream, "scale", step, made)
            made = step
            await _publish(bench, server, CONSUMERS, step, stream)


async def active(bench: Bench, steps: list[int]) -> None:
    """Deliver as many events in all to more and more consumers, each of which gets all of its stream."""
    async with windshift_server(bench.directory, bench.nats) as server:
        for step in steps:
            events = max(1, bench.options.scaled(50_000) // step)
            count = events * step
            async with bench.broker.roomy_stream(step) as stream:
                await new_consumers(server.address, stream, "scale", step)
                arguments = (server.address, stream, "scale", f"--count={count}", f"--consumers={step}")
                async with program(bench.directory, "load", "active", *arguments) as (client, _):
                    before = server.cpu_seconds(), bench.nats.cpu_seconds()
                    await bench.broker.fill(stream, events, 100)
                    seen = await read_line(client)
                    _add(bench, server, before, ACTIVE, step, count, seen["per_second"])


async def _subscribers(bench: Bench, steps: list[int]) -> None:
    count = bench.options.scaled(50_000)
    async with windshift_server(bench.directory, bench.nats) as server:
        for step in steps:
            async with new_stream(server.address, bench.broker) as stream:
                consumer = await new_consumer(server.address, stream)
                arguments = (server.address, stream, consumer, f"--count={count}", f"--calls={step}")
                async with program(bench.directory, "load", "share", *arguments) as (client, _):
                    before = server.cpu_seconds(), bench.nats.cpu_seconds()
                    await bench.broker.fill(stream, count, 100)
                    seen = await read_line(client)
                    _add(bench, server, before, SUBSCRIBERS, step, count, seen["per_second"])


async def _held(bench: Bench, measurement: str, command: str, steps: list[int]) -> None:
    """Publish beside what a client holds open and does not use."""
    for step in steps:
        async with (
            windshift_server(bench.directory, bench.nats, environment=_ROOM) as server,
            _holding(bench, server, command, step),
        ):
            await _publish(bench, server, measurement, step)


@contextlib.asynccontextmanager
async def _holding(bench: Bench, server: Running, command: str, count: int) -> AsyncIterator[None]:
    async with new_stream(server.address, bench.broker) as stream:
        consumer = await new_consumer(server.address, stream)
        what = (stream, consumer) if command == "idle" else ()
        arguments = (command, server.address, *what, f"--count={count}")
        async with program(bench.directory, "load", *arguments):
            yield


async def _publish(
    bench: Bench, server: Running, measurement: str, step: int, stream: str | None = None
) -> None:
    count = bench.options.scaled(50_000)
    async with contextlib.AsyncExitStack() as stack:
        if stream is None:
            stream = await stack.enter_async_context(new_stream(server.address, bench.broker))
        stored = await bench.broker.count(stream)
        before = server.cpu_seconds(), bench.nats.cpu_seconds()
        arguments = (server.address, stream, f"--count={count}")
        seen = await run_program(bench.directory, "load", "publish", *arguments)
        _add(bench, server, before, measurement, step, count, seen["per_second"])
        if await bench.broker.count(stream) - stored != count:
            raise FailedToRun(f"{measurement}: {count} sent, {seen['failures']}")


def _add(
    bench: Bench,
    server: Running,
    before: tuple[float, float],
    measurement: str,
    step: int,
    count: int,
    per_second: float,
) -> None:
    cpu, broker_cpu = server.cpu_seconds() - before[0], bench.nats.cpu_seconds() - before[1]
    add_costs(bench, measurement, named(step), count, per_second, cpu, broker_cpu)
    bench.say(f"    {measurement}: {number(step)}: {cpu / count * 1e6:.1f} µs")
