"""What metrics and traces cost: server CPU of an event that is published and consumed, with and without."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from . import h2load
from .bench import Bench
from .broker import new_consumer, new_stream
from .figures import number
from .processes import FailedToRun, Running, program, run_program, windshift_server

TELEMETRY = "telemetry"
PUBLISH, CONSUME = "publish, server CPU, µs each", "consume, server CPU, µs each"
BOTH = "both, server CPU, µs each"

OFF_TRACED = "off, calls not sampled"
UNSAMPLED = "on, calls not sampled"
OFF = "off, calls without trace"
ONE_PERCENT = "on, 1 % recorded"
ALL = "on, all recorded"

_NOT_SAMPLED = ("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",)
_SWITCHED_OFF = {"WINDSHIFT_METRICS": "false"}
_WINDOW = 200


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run a server and to call it.

    Attributes:
        environment: its settings.
        headers: what every publish carries.
    """

    environment: dict[str, str]
    headers: tuple[str, ...] = field(default=())


def variants(collector: str) -> dict[str, Variant]:
    """Return the ways that are compared, those next to each other that form a pair."""
    sent = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector}"}
    one = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    return {
        OFF_TRACED: Variant(_SWITCHED_OFF, _NOT_SAMPLED),
        UNSAMPLED: Variant(sent, _NOT_SAMPLED),
        OFF: Variant(_SWITCHED_OFF),
        ONE_PERCENT: Variant(sent | one),
        ALL: Variant(sent),
    }


async def measure_telemetry(bench: Bench) -> None:
    """Publish events and consume them, on servers that differ in what they tell."""
    if not bench.has_h2load("telemetry"):
        return
    count = bench.options.scaled(60_000)
    async with contextlib.AsyncExitStack() as stack:
        collector, _ = await stack.enter_async_context(program(bench.directory, "collector"))
        ways = variants(collector.address)
        servers = {}
        for name, way in ways.items():
            started = windshift_server(bench.directory, bench.nats, environment=way.environment)
            servers[name] = await stack.enter_async_context(started)
        for run in range(bench.options.runs):
            for name, server in servers.items():
                bench.say(f"telemetry, run {run + 1} of {bench.options.runs}: {name}")
                await _measure(bench, name, server, ways[name].headers, count)


async def _measure(bench: Bench, name: str, server: Running, headers: tuple[str, ...], count: int) -> None:
    """Take the server's CPU time for both ways of an event."""
    async with new_stream(server.address, bench.broker) as stream:
        begun = server.cpu_seconds()
        load = await h2load.publish(bench.directory, server.address, stream, count, headers)
        published = server.cpu_seconds()
        consumer = await new_consumer(server.address, stream)
        arguments = (f"--count={count}", "--acks=1", f"--window={_WINDOW}")
        await run_program(bench.directory, "load", "consume", server.address, stream, consumer, *arguments)
        consumed = server.cpu_seconds()
    if load.answered != count:
        raise FailedToRun(f"{name}: {count} sent, {load.answered} answered")
    for quantity, seconds in (
        (PUBLISH, published - begun),
        (CONSUME, consumed - published),
        (BOTH, consumed - begun),
    ):
        bench.figures.add(TELEMETRY, name, quantity, seconds / count * 1e6)
    bench.say(f"    {number((consumed - begun) / count * 1e6)} µs each")
