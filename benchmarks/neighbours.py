"""A healthy consume call beside many whose clients never read."""

from __future__ import annotations

import asyncio

from .bench import Bench
from .broker import new_consumer, new_stream
from .figures import WINDSHIFT, number
from .memory import full_consumer
from .processes import Running, program, run_program

NEIGHBOURS = "stalled neighbours"
P99, TIMES = "p99 of a delivery, ms", "p99 beside them, times that alone"
KIB_EACH, KEPT = "KiB for each of them", "growth after they are gone, MiB"
_COUNT = 100
_SETTLE = 4.0
"""Seconds for the stalled calls to fill what they can fill, and for a server to let go of them."""


async def measure_neighbours(bench: Bench) -> None:
    """Deliveries to one call that reads, alone, beside 100 stalled calls, and alone again."""
    async with full_consumer(bench) as (server, path, message):
        arguments = ("stalled", server.address, path, message.hex(), f"--count={_COUNT}")
        for run in range(bench.options.runs):
            bench.say(f"{NEIGHBOURS}, run {run + 1} of {bench.options.runs}")
            first = await _deliver(bench, server)
            before = server.resident_kib()
            async with program(bench.directory, "peers", *arguments):
                await asyncio.sleep(_SETTLE)
                each = (server.resident_kib() - before) / _COUNT
                beside = await _deliver(bench, server)
            await asyncio.sleep(_SETTLE)
            kept = (server.resident_kib() - before) / 1024
            alone = (first + await _deliver(bench, server)) / 2
            _add(bench, {KIB_EACH: each, KEPT: kept, TIMES: beside / alone})
            bench.figures.add(NEIGHBOURS, "alone", P99, alone)
            bench.figures.add(NEIGHBOURS, "beside them", P99, beside)


def _add(bench: Bench, figures: dict[str, float]) -> None:
    for quantity, value in figures.items():
        bench.figures.add(NEIGHBOURS, WINDSHIFT, quantity, value)
        bench.say(f"    {quantity}: {number(value)}")


async def _deliver(bench: Bench, server: Running) -> float:
    """Return the p99 of deliveries, in ms."""
    seconds = 4 if bench.options.quick else 10
    async with new_stream(server.address, bench.broker) as stream:
        consumer = await new_consumer(server.address, stream)
        arguments = (server.address, stream, consumer, f"--seconds={seconds}")
        seen = await run_program(bench.directory, "load", "deliver", *arguments)
    bench.say(f"    p50 {seen['p50_ms']:.2f} ms, p99 {seen['p99_ms']:.2f} ms")
    return float(seen["p99_ms"])
