"""Measure the client library beside a plain grpc.aio client, on one server, in one run.

    python -m benchmarks.sdk [--events 20000] [--runs 3]

Clients are processes of their own and take turns, A B A B …; CPU is that of the client alone. The plain one
is what one would write first: a task for each event, its ack written under a lock, and unary publishes, 128
at once.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import grpc.aio

import windshift as ws
from windshift.protos import events, test

from .processes import FailedToRun, drive, nats_server, output, windshift_server

WINDOW = 200
IN_FLIGHT = 128
SUBSCRIPTIONS = 256
SERVICE = "/windshift.events.v1alpha1.EventsService/"
BARS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "handlers/s": ("at least 4 x", lambda ratio: ratio >= 4),
    "CPU per event": ("at most 0.15 x", lambda ratio: ratio <= 0.15),
    "publishes/s": ("at least 1.4 x", lambda ratio: ratio >= 1.4),
    "CPU per publish": ("at most 0.4 x", lambda ratio: ratio <= 0.4),
    "publish beside 256": ("at most 2 x", lambda ratio: ratio <= 2),
}  # fmt: skip


async def consume_ours(address: str, stream: str, consumer: str, count: int) -> None:
    """Handle events with the library."""
    seen, done = 0, asyncio.Event()

    async def handle(delivery: ws.Delivery[test.StringValue]) -> None:
        nonlocal seen
        seen += bool(delivery.event.data.value)
        if seen == count:
            done.set()

    async with ws.connect(address) as client:
        reader = client.stream(stream).consumer(consumer)
        async with reader.running(handle, concurrency=160, prefetch=40):
            await done.wait()


async def consume_plain(address: str, stream: str, consumer: str, count: int) -> None:
    """Handle events with grpc.aio."""
    confirmed = seen = 0
    writing, tasks = asyncio.Lock(), set()
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(
            SERVICE + "Consume",
            request_serializer=events.EventsRequest.SerializeToString,
            response_deserializer=events.EventsResponse.FromString,
        )()

        async def handle(event: events.Event) -> None:
            nonlocal seen
            seen += bool(test.StringValue.FromString(event.data.value).value)
            async with writing:
                await call.write(events.EventsRequest(ack=events.EventsRequest.Ack(ids=[event.id])))

        subscribe = events.EventsRequest.Subscribe(
            stream=stream, consumer=consumer, max_processing_events=WINDOW
        )
        await call.write(events.EventsRequest(subscribe=subscribe))
        async for response in call:
            kind = response.WhichOneof("response")
            if kind == "event":
                task = asyncio.ensure_future(handle(response.event))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            elif kind == "ack_confirmation":
                confirmed += len(response.ack_confirmation.ids)
                if confirmed >= count:
                    break
        call.cancel()
    if seen < count:
        raise SystemExit("events are missing")


async def publish_ours(address: str, stream: str, _: str, count: int) -> None:
    """Publish with the library."""
    async with ws.connect(address, timeout=60) as client:
        messages = (test.StringValue(value=f"{number:0100}") for number in range(count))
        await client.publish_many(messages, subject=stream, in_flight=IN_FLIGHT)


async def publish_plain(address: str, stream: str, _: str, count: int) -> None:
    """Publish with grpc.aio."""
    numbers = iter(range(count))
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(
            SERVICE + "Publish",
            request_serializer=events.PublishEventRequest.SerializeToString,
            response_deserializer=events.PublishEventResponse.FromString,
        )

        async def work() -> None:
            for number in numbers:
                key = f"plain-{time.time_ns()}-{number}"
                request = events.PublishEventRequest(subject=stream, idempotency_key=key)
                request.data.Pack(test.StringValue(value=f"{number:0100}"))
                await call(request, timeout=60)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def starve(address: str, stream: str, consumer: str, count: int) -> None:
    """Print how long a publish takes beside `consumer` (a number) subscriptions."""

    async def handle(delivery: ws.Delivery[Any]) -> None:
        """Do nothing."""

    async with ws.connect(address) as client, AsyncExitStack() as open_ones:
        for number in range(int(consumer)):
            reader = await client.stream(stream).consumers.ensure(None, subjects=[f"{stream}.none.{number}"])
            await open_ones.enter_async_context(reader.running(handle, concurrency=1))
        await asyncio.sleep(1.0)
        times = []
        for _ in range(count):
            started = time.perf_counter()
            await client.publish(stream, test.StringValue(value="x" * 100))
            times.append(time.perf_counter() - started)
    print(json.dumps({"median": statistics.median(times)}))


JOBS: dict[str, Callable[[str, str, str, int], Coroutine[Any, Any, None]]] = {
    "consume-ours": consume_ours,
    "consume-plain": consume_plain,
    "publish-ours": publish_ours,
    "publish-plain": publish_plain,
}


def job(name: str, address: str, stream: str, consumer: str, count: int) -> None:
    """Do one thing in a process of its own, and print its rate and CPU."""
    if name == "starve":
        asyncio.run(starve(address, stream, consumer, count))
        return
    _ = ws.Client, ws.Stream  # loads what the jobs use
    started, cpu = time.perf_counter(), _cpu()
    asyncio.run(JOBS[name](address, stream, consumer, count))
    seconds = time.perf_counter() - started
    print(json.dumps({"rate": count / seconds, "cpu": (_cpu() - cpu) / count * 1e6}))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _run(
    directory: Path, name: str, address: str, stream: str, consumer: str, count: int
) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.sdk", "--job", name, address, stream, consumer, str(count)]
    text, _ = await output(directory, command)
    result: dict[str, float] = json.loads(text)
    return result


async def measure(count: int, runs: int) -> None:
    """Measure, and print a table."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in BARS}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        async with (
            nats_server(directory) as nats,
            windshift_server(directory, nats) as server,
            ws.connect(server.address) as client,
        ):
            address = server.address
            stream = await client.streams.ensure("bench", subjects=["bench", "bench.>"])
            for number in range(runs):
                results = {}
                for name in ("publish-ours", "publish-plain", "consume-ours", "consume-plain"):
                    await stream.consumers.ensure(f"{name}-{number}", start=ws.START)
                    if name == "publish-ours":
                        await stream.purge()
                    held = count if name.startswith("publish") else 2 * count  # both have published
                    results[name] = await _run(directory, name, address, "bench", f"{name}-{number}", held)
                    print(f"  {name}: {results[name]}", flush=True)
                for key, kind, what in (
                    ("publishes/s", "publish", "rate"),
                    ("CPU per publish", "publish", "cpu"),
                    ("handlers/s", "consume", "rate"),
                    ("CPU per event", "consume", "cpu"),
                ):
                    found[key].append((results[f"{kind}-ours"][what], results[f"{kind}-plain"][what]))
                alone = await _run(directory, "starve", address, "bench", "0", 200)
                beside = await _run(directory, "starve", address, "bench", str(SUBSCRIPTIONS), 200)
                found["publish beside 256"].append((beside["median"] * 1e6, alone["median"] * 1e6))
    print(f"Medians of {runs} runs; CPU and times in µs.")
    print(f"{'':<20} {'ours':>10} {'plain':>10} {'ratio':>7}")
    for name, pairs in found.items():
        ratio = statistics.median(ours / plain for ours, plain in pairs)
        ours, plain = (statistics.median(values) for values in zip(*pairs, strict=True))
        text, met = BARS[name]
        outcome = "met" if met(ratio) else "MISSED"
        print(f"{name:<20} {ours:>10.1f} {plain:>10.1f} {ratio:>7.2f}   {text}: {outcome}")


@click.command()
@click.option("--events", "count", default=20_000, help="Events of each measurement.")
@click.option("--runs", default=3)
@click.option("--job", "task", nargs=5, type=str, hidden=True, default=None)
def main(count: int, runs: int, task: tuple[str, str, str, str, str] | None) -> None:
    """Measure the client library beside a plain grpc.aio client."""
    if task is not None:
        name, address, stream, consumer, number = task
        job(name, address, stream, consumer, int(number))
        return
    try:
        drive(measure(count, runs))
    except FailedToRun as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
