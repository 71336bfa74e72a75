"""Measure a program on the client library beside the same one on FastStream, on one stream, in one run.

    python -m benchmarks.side_by_side [--events 3000] [--runs 3] [--kills 10]

Both book the same orders (`benchmarks/booking`): one by Windshift, one by FastStream's NATS broker on the
same nats-server. First each works alone, in turns, on orders that are there already: events per second and
the CPU of the worker; once with a total that all 32 handlers compete for, of a tenth of the orders, and once
without. Then both work at the same time on orders that are being published, without the total, while the
nats-server and Windshift are killed together: what is never booked or kept, and what is booked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import nats

import windshift as ws
from examples.orders._gen.shop.orders.v1.orders_pb2 import Item, OrderPlaced, RunningTotal

from .booking import read_notes
from .processes import (
    BIN,
    ROOT,
    FailedToRun,
    Running,
    drive,
    free_port,
    nats_server,
    running,
    windshift_server,
)

FASTSTREAM = ROOT / ".venv-faststream" / "bin" / "python"
OURS, THEIRS = "windshift", "faststream"
LIMIT = 300.0
"""Seconds that anything may take."""


@contextlib.asynccontextmanager
async def worker(
    which: str, directory: Path, windshift: str, nats_url: str, *, counted: bool = True
) -> AsyncIterator[tuple[Running, Path]]:
    """Run one of the two programs; give it with the file of its notes."""
    notes = directory / f"{which}.notes"
    notes.unlink(missing_ok=True)
    python = BIN / "python" if which == OURS else FASTSTREAM
    command = [str(python), "-m", f"benchmarks.booking.with_{which}", str(notes)]
    environment = {"WINDSHIFT_ADDRESS": windshift, "NATS_URL": nats_url, "COUNT": str(int(counted))}
    async with running(which, command, directory, environment, read=False) as started:
        yield started, notes


def orders(count: int) -> Iterator[object]:
    """Give orders; of a hundred, one is bad, and one is no order at all."""
    for number in range(count):
        if number % 100 == 98:
            yield RunningTotal(orders=number)
        else:
            items = [Item(product="tea", quantity=1 + number % 3, price_cents=100)] * (number % 100 != 99)
            yield OrderPlaced(order_id=str(number), customer="north", items=items)


def bookable(count: int) -> int:
    """Return how many of so many orders can be booked."""
    return sum(number % 100 < 98 for number in range(count))


async def until_booked(started: Running, notes: Path, count: int) -> list[tuple[int, float]]:
    """Wait until so many different orders are booked, or nothing is for a while; return the notes."""
    before, give_up = -1, time.monotonic() + LIMIT
    while True:
        found = read_notes(notes)
        different = len({event_id for event_id, _ in found})
        if different != before:
            before, give_up = different, time.monotonic() + 30.0
        if different >= count or time.monotonic() > give_up:
            return found
        if started.process.returncode is not None:
            raise FailedToRun(f"{started.name} ended: {started.last_words()}")
        await asyncio.sleep(0.05)


async def rate(which: str, directory: Path, count: int, *, counted: bool) -> tuple[float, float]:
    """Book orders that are there already; return the orders per second, and CPU of the worker, µs each."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        async with (
            nats_server(Path(folder)) as broker,
            windshift_server(Path(folder), broker) as windshift,
            ws.connect(windshift.address) as client,
        ):
            await client.streams.ensure("orders", subjects=["orders.>"])
            await client.publish_many(orders(count), subject="orders.placed")
            async with worker(
                which, Path(folder), windshift.address, f"nats://{broker.address}", counted=counted
            ) as (started, notes):
                found = await until_booked(started, notes, bookable(count))
                cpu = started.cpu_seconds()
    if len({event_id for event_id, _ in found}) != bookable(count):
        raise FailedToRun(f"{which}: {len(found)} of {bookable(count)} booked")
    times = [at for _, at in found]
    return len(found) / (max(times) - min(times)), cpu / len(found) * 1e6


@dataclass(slots=True)
class Broken:
    """A nats-server and a Windshift on it that can be killed, and come again on their ports."""

    directory: Path
    nats_port: int
    port: int
    stack: contextlib.AsyncExitStack
    running: tuple[Running, ...] = ()

    async def start(self) -> None:
        """Start both."""
        enter = self.stack.enter_async_context
        broker = await enter(nats_server(self.directory, self.nats_port))
        windshift = await enter(windshift_server(self.directory, broker, port=self.port))
        self.running = (broker, windshift)

    async def kill(self) -> None:
        """Kill both at the same time."""
        for each in self.running:
            os.kill(each.pid, signal.SIGKILL)
        for each in self.running:
            await each.process.wait()


@dataclass(frozen=True, slots=True)
class Losses:
    """How many orders were never booked nor kept, and how many were booked more than once."""

    lost: int
    twice: int


async def losses(directory: Path, count: int, kills: int) -> dict[str, Losses]:
    """Have both work while orders are published and servers are killed; say what each made of them."""
    async with contextlib.AsyncExitStack() as stack:
        broken = Broken(directory, free_port(), free_port(), stack)
        await broken.start()
        address, url = f"127.0.0.1:{broken.port}", f"nats://127.0.0.1:{broken.nats_port}"
        client = await stack.enter_async_context(ws.connect(address, timeout=60))
        await client.streams.ensure("orders", subjects=["orders.>"])
        workers = {
            which: await stack.enter_async_context(worker(which, directory, address, url, counted=False))
            for which in (OURS, THEIRS)
        }
        publishing = asyncio.create_task(_publish(client, count, seconds=4.0 * kills))
        for number in range(kills):
            await asyncio.sleep(3.0)
            await broken.kill()
            await broken.start()
            print(f"  kill {number + 1} of {kills}", flush=True)
        await publishing
        result = {}
        for which, (started, notes) in workers.items():
            found = Counter(event_id for event_id, _ in await until_booked(started, notes, bookable(count)))
            kept = await (_ours(client) if which == OURS else _theirs(url))
            twice = sum(1 for times in found.values() if times > 1)
            result[which] = Losses(lost=count - len(found) - kept, twice=twice)
            print(f"  {which}: {len(found)} booked, {kept} kept", flush=True)
    return result


async def _publish(client: ws.Client, count: int, seconds: float) -> None:
    async with client.publisher(in_flight=64) as out:
        for number, order in enumerate(orders(count)):
            _ = await out.send("orders.placed", order)
            if number % 20 == 0:
                await asyncio.sleep(20 * seconds / count)


async def _ours(client: ws.Client) -> int:
    """Return how many events there are dead letters of."""
    await client.stream("orders").consumer("accounting").idle(60)
    return len({letter.event.id async for letter in client.dead_letters.list(stream="orders")})


async def _theirs(url: str) -> int:
    """Return how many messages the program has kept."""
    connection = await nats.connect(url)
    try:
        return int((await connection.jetstream().stream_info("orders-dead")).state.messages)
    finally:
        await connection.close()


async def measure(count: int, runs: int, kills: int) -> None:
    """Measure, and print tables."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        if runs:
            print(f"{'':<26} {OURS:>12} {THEIRS:>12} {'ratio':>7}")
        for counted, orders_each in ((False, count), (True, count // 10)) if runs else ():
            found: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
            for _ in range(runs):
                for which, values in found.items():
                    values.append(await rate(which, directory, orders_each, counted=counted))
            for place, what in enumerate(("events/s", "worker's CPU, µs/event")):
                ours, theirs = ([each[place] for each in found[which]] for which in (OURS, THEIRS))
                ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
                a, b = statistics.median(ours), statistics.median(theirs)
                note = "  with the total" if counted else ""
                print(f"{what:<26} {a:>12,.0f} {b:>12,.0f} {ratio:>7.2f}{note}", flush=True)
        if kills:
            for which, each in (await losses(directory, count, kills)).items():
                print(f"{which}: {each.lost} lost, {each.twice} booked twice, of {count} in {kills} kills")


@click.command()
@click.option("--events", "count", default=3_000, help="Orders of each measurement.")
@click.option("--runs", default=3, help="Of each rate.")
@click.option("--kills", default=10, help="Of servers, under both programs.")
def main(count: int, runs: int, kills: int) -> None:
    """Measure a program on the client library beside the same one on FastStream."""
    if not FASTSTREAM.exists():
        raise SystemExit("FastStream is not there: run `make faststream`")
    drive(measure(count, runs, kills))


if __name__ == "__main__":
    main()
