"""Publishing in several ways that are compared with each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import h2load
from .bench import Bench
from .broker import new_stream
from .figures import number
from .processes import FailedToRun, Running
from .throughput import add_costs

_TURNS = 4
"""A run is so many turns of each way, there and back: A B C, C B A, …"""


@dataclass(frozen=True, slots=True)
class Way:
    """A server, and how it is called.

    Attributes:
        server: its process.
        headers: what every publish carries.
        tls: whether it speaks TLS.
    """

    server: Running
    headers: tuple[str, ...] = ()
    tls: bool = False


async def compare_publishing(
    bench: Bench, measurement: str, ways: Mapping[str, Way], owner: Running, count: int
) -> None:
    """Publish ``count`` events in each way, as often as there are runs.

    What differs is small, and machines change their speed from one second to the next: so the ways take turns
    within each run, all on one stream.

    Args:
        bench: the setting.
        measurement: what the figures are called.
        ways: by the name of their subject.
        owner: makes the stream: a server that asks nobody who he is.
        count: publishes in a run.
    """
    each = count // _TURNS
    for run in range(bench.options.runs):
        bench.say(f"{measurement}, run {run + 1} of {bench.options.runs}")
        cpu, seconds = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
        async with new_stream(owner.address, bench.broker) as stream:
            for name, way in ways.items():
                await _publish(bench, stream, name, way, each // 5)  # to warm up
            for turn in range(_TURNS):
                for name in list(ways)[:: -1 if turn % 2 else 1]:
                    used, took = await _publish(bench, stream, name, ways[name], each)
                    cpu[name] += used
                    seconds[name] += took
            sent = len(ways) * (_TURNS * each + each // 5)
            stored = await bench.broker.count(stream)
        if stored != sent:
            raise FailedToRun(f"{measurement}: {sent} sent, {stored} stored")
        for name in ways:
            published = _TURNS * each
            rate, cost = published / seconds[name], cpu[name] / published * 1e6
            add_costs(bench, measurement, name, published, rate, cpu[name])
            bench.say(f"    {name}: {number(rate)} publishes/s, {number(cost)} µs each")


async def _publish(bench: Bench, stream: str, name: str, way: Way, count: int) -> tuple[float, float]:
    """Return the server's CPU time, and the time that it took."""
    before = way.server.cpu_seconds()
    address = way.server.address
    load = await h2load.publish(bench.directory, address, stream, count, way.headers, tls=way.tls)
    if load.answered != count:
        raise FailedToRun(f"{name}: {count} sent, {load.answered} answered")
    return way.server.cpu_seconds() - before, count / load.per_second
