"""What a second worker brings: publishes of several connections, and of one; consuming on two."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from . import h2load
from .bench import Bench
from .broker import new_consumer, new_stream
from .figures import number
from .processes import FailedToRun, Running, cpu_seconds_of, run_program, windshift_server
from .throughput import add_costs

WORKERS, WORKERS_OWN, WORKERS_CONSUME = "workers", "workers, own client", "workers, consume"
REPEATED, FEWEST = "events repeated", "events of the worker with fewest, %"
ONE, TWO = "one worker", "two workers"


async def measure_workers(bench: Bench) -> None:
    """Publish to servers with one worker and with two, in turns, and consume from them."""
    async with contextlib.AsyncExitStack() as stack:
        servers = {}
        for subject, count in ((ONE, "1"), (TWO, "2")):
            environment = {"WINDSHIFT_WORKERS": count}
            started = windshift_server(bench.directory, bench.nats, environment=environment)
            servers[subject] = await stack.enter_async_context(started)
        for run in range(bench.options.runs):
            for subject, server in servers.items():
                bench.say(f"workers, run {run + 1} of {bench.options.runs}: {subject}")
                if h2load.available():
                    await _publish(bench, WORKERS, subject, server, bench.options.scaled(100_000), _by_h2load)
                await _publish(bench, WORKERS_OWN, subject, server, bench.options.scaled(50_000), _by_own)
                await consume(bench, subject, server, bench.options.scaled(50_000))


async def _publish(
    bench: Bench,
    measurement: str,
    subject: str,
    server: Running,
    count: int,
    load: Callable[[Bench, str, str, int], Awaitable[float]],
) -> None:
    async with new_stream(server.address, bench.broker) as stream:
        cpu = _cpu_seconds(server)
        per_second = await load(bench, server.address, stream, count)
        cpu = _cpu_seconds(server) - cpu
        stored = await bench.broker.count(stream)
    if stored != count:
        raise FailedToRun(f"{subject}: {count} sent, {stored} stored")
    add_costs(bench, measurement, subject, count, per_second, cpu)
    bench.say(f"    {number(per_second)} publishes/s, {number(cpu / count * 1e6)} µs each")


async def consume(bench: Bench, subject: str, server: Running, count: int) -> None:
    """Consume on two connections, one for each worker where there are two."""
    async with new_stream(server.address, bench.broker) as stream:
        await bench.broker.fill(stream, count, 100)
        consumer = await new_consumer(server.address, stream)
        cpu = _cpu_seconds(server)
        workers = 2 if subject == TWO else 1
        arguments = (server.address, stream, consumer, f"--count={count}", f"--workers={workers}")
        seen = await run_program(bench.directory, "load", "spread", *arguments)
        cpu = _cpu_seconds(server) - cpu
    add_costs(bench, WORKERS_CONSUME, subject, count, seen["per_second"], cpu)
    bench.figures.add(WORKERS_CONSUME, subject, REPEATED, seen["repeated"])
    bench.figures.add(WORKERS_CONSUME, subject, FEWEST, 100 * seen["by_worker"][0] / count)
    bench.say(f"    {number(seen['per_second'])} events/s, by worker: {seen['by_worker']}")


async def _by_h2load(bench: Bench, address: str, stream: str, count: int) -> float:
    return (await h2load.publish(bench.directory, address, stream, count)).per_second


async def _by_own(bench: Bench, address: str, stream: str, count: int) -> float:
    seen = await run_program(
        bench.directory, "load", "publish", address, stream, f"--count={count}", "--connections=1"
    )
    return float(seen["per_second"])


def _cpu_seconds(server: Running) -> float:
    """Return the CPU time of a server's process, and of its workers."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return sum(map(cpu_seconds_of, (server.pid, *map(int, children))))
