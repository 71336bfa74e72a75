"""The limits: what a client of NATS reaches in the same run, with no server of ours between.

That is Go's ``nats bench`` where the program ``nats`` is installed, else our own client of NATS.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from .bench import Bench
from .processes import FailedToRun, output, run_program

NATS_BENCH, OWN = "NATS alone, nats bench", "NATS alone, own client"
_PROGRAM = "nats"
_HEADERS = (
    "--header=WS-Data-Type:windshift.test.v1.StringValue",
    "--header=WS-Published-Time:2026-01-01T00:00:00.000000000Z",
)


@dataclass(frozen=True, slots=True)
class Publishing:
    """A way to publish straight to NATS.

    Attributes:
        command: what `nats bench js pub` calls it.
        clients: connections of `nats bench`; our own client has one.
        each: events that a client has unanswered, or that an atomic batch has.
        keys: whether each event has an id.
        own: whether our own client can do it.
    """

    command: str = "async"
    clients: int = 1
    each: int = 2000
    keys: bool = False
    own: bool = True


@dataclass(frozen=True, slots=True)
class Reached:
    """What a client reached.

    Attributes:
        client: which one.
        per_second: events in a second.
        client_cpu_us: CPU time of an event, of the client.
    """

    client: str
    per_second: float
    client_cpu_us: float


def installed() -> bool:
    """Whether there is Go's ``nats``."""
    return shutil.which(_PROGRAM) is not None


async def publish(bench: Bench, stream: str, count: int, way: Publishing) -> Reached:
    """Publish texts of 100 bytes."""
    if installed():
        arguments = ["pub", way.command, stream, f"--clients={way.clients}", f"--batch={way.each}"]
        arguments += ["--size=102B", *_HEADERS, *(["--dedup"] if way.keys else [])]
        return await _nats_bench(bench, stream, count, arguments)
    options = [f"--unanswered={way.clients * way.each}", *(["--keys"] if way.keys else [])]
    options += [f"--atomic={way.each}"] if way.command == "atomic" else []
    return await _own(bench, count, ["publish", bench.nats.address, stream, *options])


async def consume(bench: Bench, stream: str, consumer: str, count: int, acks: int, window: int) -> Reached:
    """Consume and acknowledge events; `nats bench` does not wait for confirmations."""
    if installed():
        arguments = ["consume", f"--consumer={consumer}", f"--batch={window}"]
        return await _nats_bench(bench, stream, count, arguments)
    arguments = ["consume", bench.nats.address, stream, consumer, f"--acks={acks}", f"--window={window}"]
    return await _own(bench, count, arguments)


async def _nats_bench(bench: Bench, stream: str, count: int, arguments: Iterable[str]) -> Reached:
    command = [_PROGRAM, "--no-context", f"--server=nats://{bench.nats.address}", "bench", "js", *arguments]
    command += [f"--stream={stream}", f"--msgs={count}", "--no-progress"]
    text, cpu = await output(bench.directory, command)
    return Reached(NATS_BENCH, rate_of(text), cpu / count * 1e6)


def rate_of(text: str) -> float:
    """Read the report of ``nats bench``.

    Raises:
        FailedToRun: it is no report.
    """
    found = re.search(r" stats: ([\d,]+) msgs/sec", text)
    if found is None:
        raise FailedToRun(f"nats bench reported nothing: {text[-500:]}")
    return float(found[1].replace(",", ""))


async def _own(bench: Bench, count: int, arguments: Iterable[str]) -> Reached:
    seen = await run_program(bench.directory, "direct", *arguments, f"--count={count}")
    if seen["failed"]:
        raise FailedToRun(f"{OWN}: {seen['failed']} of {count} failed")
    return Reached(OWN, seen["per_second"], seen["cpu_us"])
