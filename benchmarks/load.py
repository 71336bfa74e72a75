"""The load client: a process that drives a server through ``windshift.rpc`` and prints what it saw as JSON.

    python -m benchmarks.load publish|many|rate|consume|deliver|share|active|spread|idle|connect --help

Its own cost counts: on a small machine it shares the cores with the server and the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import click
import nats
from hdrh.histogram import HdrHistogram

from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift.rpc import Channel, ClientCall, RpcError
from windshift.rpc._gen.grpc.health.v1 import health_pb2

from .credentials import credentials_of
from .direct import multiplexed
from .h2load import PUBLISH, publish_request
from .reporting import reporting, tell, tell_and_wait

EVENTS = "/windshift.events.v1alpha1.EventsService/Events"
GET_SERVER = "/windshift.admin.v1alpha1.AdminService/GetServer"
HEALTH = "/grpc.health.v1.Health/Check"
PUBLISH_BATCH = "/windshift.events.v1alpha1.EventsService/PublishBatch"
PUBLISH_STREAM = "/windshift.events.v1alpha1.EventsService/PublishStream"
_STREAMS_PER_CONNECTION = 100
_UNANSWERED = 2000
"""Events of a PublishStream that wait for their results."""
_LONGEST = 3_600_000_000
"""Of the latencies, in microseconds."""


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Drive a server and print what was seen as a line of JSON."""


def _consuming(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of a command that consumes."""
    return click.argument("address")(click.argument("stream")(click.argument("consumer")(command)))


_token = click.option("--token", default="", help="Of somebody who may do it.")


@main.command("publish")
@click.argument("address")
@click.argument("subject")
@click.option("--count", default=100_000, help="Publishes.")
@click.option("--connections", default=4)
@click.option("--inflight", default=50, help="Calls under way on each connection.")
@_token
@reporting
async def _publish(
    address: str, subject: str, count: int, connections: int, inflight: int, token: str
) -> dict[str, Any]:
    """Publish as fast as the answers allow."""
    request = publish_request(subject, 100)
    left = iter(range(count))
    failures: Counter[str] = Counter()
    metadata = credentials_of(token)

    async def worker(channel: Channel) -> None:
        for _ in left:
            try:
                await channel.unary(PUBLISH, request, events_pb.PublishEventResponse, metadata=metadata)
            except RpcError as error:
                failures[f"{error.code.name}: {error.message}"] += 1

    channels = [Channel(address) for _ in range(connections)]
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker(channel) for channel in channels for _ in range(inflight)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    await _close(channels)
    return {"per_second": count / seconds, "client_cpu_us": cpu / count * 1e6, "failures": failures}


@main.command("many")
@click.argument("address")
@click.argument("subject")
@click.option("--count", default=200_000, help="Events.")
@click.option("--each", default=100, help="Events in a request.")
@click.option(
    "--way",
    default="stream",
    type=click.Choice(["stream", "stream, keys", "stream without ids", "batch", "atomic"]),
)
@_token
@reporting
async def _many(address: str, subject: str, count: int, each: int, way: str, token: str) -> dict[str, Any]:
    """Publish many events with each request: on one PublishStream, or in batches, eight under way."""
    send = _stream if way.startswith("stream") else _batches
    return await send(address, subject, count, each, way, token)


async def _stream(address: str, subject: str, count: int, each: int, way: str, token: str) -> dict[str, Any]:
    """Send the bytes of one request again and again, or with other keys each time."""
    events = [publish_request(subject, 100)] * each
    request = events_pb.PublishStreamRequest(events=events, without_ids="without" in way)
    payload = request.SerializeToString()
    answered = failed = sent = 0
    async with Channel(address) as channel:
        call = channel.stream(PUBLISH_STREAM, events_pb.PublishStreamResponse, metadata=credentials_of(token))
        started, cpu = time.perf_counter(), time.process_time()
        while answered < count:
            while sent < count and sent - answered < _UNANSWERED:
                if count - sent < each:
                    del request.events[count - sent :]
                    payload = request.SerializeToString()
                if way == "stream, keys":
                    for place, event in enumerate(request.events, sent):
                        event.idempotency_key = f"key-{place}"
                    payload = request.SerializeToString()
                call.send_bytes(payload)
                sent += len(request.events)
            for response in await call.receive_many():
                answered += response.count
                failed += len(response.errors)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        call.cancel()
    return {"per_second": count / seconds, "client_cpu_us": cpu / count * 1e6, "failures": {"events": failed}}


async def _batches(address: str, subject: str, count: int, each: int, way: str, token: str) -> dict[str, Any]:
    event = publish_request(subject, 100)
    request = events_pb.PublishBatchRequest(events=[event] * each, atomic=way == "atomic")
    metadata = credentials_of(token)
    left = iter(range(count // each))
    failed = 0

    async def worker(channel: Channel) -> None:
        nonlocal failed
        for _ in left:
            response = await channel.unary(
                PUBLISH_BATCH, request, events_pb.PublishBatchResponse, metadata=metadata
            )
            failed += len(response.errors)

    async with Channel(address) as channel:
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker(channel) for _ in range(8)))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"per_second": count / seconds, "client_cpu_us": cpu / count * 1e6, "failures": {"events": failed}}


class Pacer:
    """Says when the next call is due, from a thread: an event loop's timers round to whole milliseconds."""

    def __init__(self, rate: float, total: int) -> None:
        self._interval = 1 / rate
        self._total = total
        self.fd = os.eventfd(0)
        self.started = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin; from now on ``fd`` can be read once for each call that is due."""
        self.started = time.perf_counter() + 0.05
        self._thread.start()

    def due(self, number: int) -> float:
        """Return the time at which a call is due, in ``time.perf_counter`` seconds."""
        return self.started + number * self._interval

    def _run(self) -> None:
        for number in range(self._total):
            delay = self.due(number) - time.perf_counter()
            if delay > 0:
                time.sleep(delay)
            os.eventfd_write(self.fd, 1)


@contextlib.asynccontextmanager
async def publishing(
    address: str, subject: str, *, direct: bool = False
) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Connect to a server, or with `direct` to nats-server; give what publishes an event of 100 bytes."""
    request = publish_request(subject, 100)
    if direct:
        async with await nats.connect(address) as client:
            yield partial(await multiplexed(client), subject, request.data.value)
    else:
        async with Channel(address) as channel:
            yield partial(channel.unary, PUBLISH, request, events_pb.PublishEventResponse)


@main.command("rate")
@click.argument("address")
@click.argument("subject")
@click.option("--per-second", default=2500.0)
@click.option("--seconds", default=10.0)
@click.option("--direct", is_flag=True, help="By a NATS client; the address is nats-server's.")
@reporting
async def _rate(
    address: str, subject: str, per_second: float, seconds: float, *, direct: bool
) -> dict[str, Any]:
    """Publish at a fixed rate, whatever the answers do; latency counts from the time a call was due."""
    total = int(per_second * seconds)
    latencies, lateness = [0.0] * total, [0.0] * total
    failures: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    begun = 0
    all_begun = loop.create_future()

    async def call(number: int, due: float) -> None:
        lateness[number] = time.perf_counter() - due
        try:
            await publish()
        except RpcError as error:
            failures[f"{error.code.name}: {error.message}"] += 1
        latencies[number] = time.perf_counter() - due

    def begin() -> None:
        nonlocal begun
        for _ in range(os.eventfd_read(pacer.fd)):
            task = loop.create_task(call(begun, pacer.due(begun)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            begun += 1
        if begun == total:
            all_begun.set_result(None)

    async with publishing(address, subject, direct=direct) as publish:
        await publish()
        sys.setswitchinterval(0.000_05)
        gc.disable()  # its pauses would count as the server's
        pacer = Pacer(per_second, total)
        loop.add_reader(pacer.fd, begin)
        pacer.start()
        await all_begun
        await asyncio.gather(*tasks)
        loop.remove_reader(pacer.fd)
    p50, p99, p99_9 = percentiles(latencies, 50, 99, 99.9)
    return {
        "p50_ms": p50,
        "p99_ms": p99,
        "p99_9_ms": p99_9,
        "late_p99_ms": percentiles(lateness, 99)[0],
        "failures": failures,
        "sent": total + 1,
    }


def percentiles(seconds: Iterable[float], *percents: float) -> list[float]:
    """Return percentiles of latencies in milliseconds, exact to a thousandth.

    They are recorded once all calls have ended, so that recording takes nothing from the load.
    """
    latencies = HdrHistogram(1, _LONGEST, 3)
    for latency in seconds:
        latencies.record_value(min(round(latency * 1e6), _LONGEST))
    return [latencies.get_value_at_percentile(percent) / 1000 for percent in percents]


def _subscribe(
    channel: Channel, stream: str, consumer: str, window: int, token: str = "", batch: int = 0
) -> ClientCall[events_pb.EventsResponse]:
    """Open a consume call."""
    call = channel.stream(EVENTS, events_pb.EventsResponse, metadata=credentials_of(token))
    subscribe = events_pb.EventsRequest.Subscribe(
        stream=stream, consumer=consumer, max_processing_events=window, max_batch=batch
    )
    call.send(events_pb.EventsRequest(subscribe=subscribe))
    return call


@main.command("consume")
@_consuming
@click.option("--count", default=50_000, help="Events that are confirmed.")
@click.option("--acks", default=1, help="Ids in an ack.")
@click.option("--window", default=200, help="Events unsettled at once.")
@click.option("--batch", default=0, help="Events in a response; 0 = one.")
@_token
@reporting
async def _consume(
    address: str, stream: str, consumer: str, count: int, acks: int, window: int, batch: int, token: str
) -> dict[str, Any]:
    """Consume and acknowledge on one call."""
    seen: set[int] = set()
    received = confirmed = invalid = 0
    pending: list[int] = []
    started = 0.0
    async with Channel(address) as channel:
        call = _subscribe(channel, stream, consumer, window, token, batch)
        await call.receive()
        cpu = time.process_time()
        while confirmed + invalid < count:
            responses = await call.receive_many()
            if not responses:
                raise click.ClickException("the server ended the call")
            started = started or time.perf_counter()
            for response in responses:
                if not response.HasField("ack_confirmation"):
                    events = response.batch.events if response.HasField("batch") else (response.event,)
                    for event in events:
                        received += 1
                        event_id = event.id
                        seen.add(event_id)
                        pending.append(event_id)
                        if len(pending) >= acks or received >= count:
                            call.send(events_pb.EventsRequest(ack=events_pb.EventsRequest.Ack(ids=pending)))
                            pending.clear()
                else:
                    confirmation = response.ack_confirmation
                    confirmed += len(confirmation.ids)
                    invalid += len(confirmation.invalid_ids) + len(confirmation.temporary_failed_ids)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        call.cancel()
    return {
        "per_second": confirmed / seconds,
        "client_cpu_us": cpu / count * 1e6,
        "confirmed": confirmed,
        "invalid": invalid,
        "duplicates": received - len(seen),
    }


@main.command("deliver")
@_consuming
@click.option("--per-second", default=500.0)
@click.option("--seconds", default=10.0)
@reporting
async def _deliver(
    address: str, stream: str, consumer: str, per_second: float, seconds: float
) -> dict[str, Any]:
    """Publish at a fixed rate and consume; latency counts from when a publish was due to its delivery.

    The stream must be empty. Each event is acknowledged.
    """
    request = publish_request(stream, 100)
    total = int(per_second * seconds)
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[None] = asyncio.Queue()

    def release() -> None:
        for _ in range(os.eventfd_read(pacer.fd)):
            due.put_nowait(None)

    async def publish_all(channel: Channel) -> None:
        for _ in range(total):
            await due.get()
            await channel.unary(PUBLISH, request, events_pb.PublishEventResponse)

    async with Channel(address) as publishing, Channel(address) as consuming:
        call = _subscribe(consuming, stream, consumer, 100)
        await call.receive()
        sys.setswitchinterval(0.000_05)
        pacer = Pacer(per_second, total)
        loop.add_reader(pacer.fd, release)
        pacer.start()
        publisher = loop.create_task(publish_all(publishing))
        while len(latencies) < total:
            for response in await call.receive_many():
                if response.HasField("event"):
                    number = response.event.id - 1  # one publisher, in order
                    latencies.append(time.perf_counter() - pacer.due(number))
                    call.send(events_pb.EventsRequest(ack=events_pb.EventsRequest.Ack(ids=[number + 1])))
        await publisher
        loop.remove_reader(pacer.fd)
        call.cancel()
    p50, p99 = percentiles(latencies, 50, 99)
    return {"p50_ms": p50, "p99_ms": p99}


@main.command("idle")
@_consuming
@click.option("--count", default=1000, help="Calls.")
@click.option("--timeout", default=30.0, help="Seconds to wait for the events.")
@_token
@reporting
async def _idle(
    address: str, stream: str, consumer: str, count: int, timeout: float, token: str
) -> dict[str, Any]:
    """Open many consume calls and wait; a line on stdin begins the wait for events, another ends it all."""
    served = 0
    async with asyncio.TaskGroup() as group:
        channels, calls = await _open(address, stream, [consumer] * count, token)
        await asyncio.to_thread(tell_and_wait, {"open": len(calls)})

        async def wait(call: ClientCall[events_pb.EventsResponse]) -> None:
            nonlocal served
            if await call.receive() is not None:
                served += 1

        started = time.perf_counter()
        waiting = [group.create_task(wait(call)) for call in calls]
        await asyncio.wait(waiting, timeout=timeout)
        seconds = time.perf_counter() - started
        for task in waiting:
            task.cancel()
    seen = {"served": served, "seconds": seconds}
    await asyncio.to_thread(tell_and_wait, seen)
    await _close(channels)
    return seen


@main.command("share")
@_consuming
@click.option("--count", default=50_000, help="Events.")
@click.option("--calls", default=10, help="Consume calls.")
@reporting
async def _share(address: str, stream: str, consumer: str, count: int, calls: int) -> dict[str, Any]:
    """Consume and acknowledge on many calls of one consumer, one event at a time."""
    return await _settle(address, stream, [consumer] * calls, count, window=10)


@main.command("active")
@click.argument("address")
@click.argument("stream")
@click.argument("prefix")
@click.option("--count", default=50_000, help="Deliveries, of all consumers together.")
@click.option("--consumers", default=10, help="Each with one consume call.")
@reporting
async def _active(address: str, stream: str, prefix: str, count: int, consumers: int) -> dict[str, Any]:
    """Consume and acknowledge on a call each of many consumers, PREFIX-0 and so on, one event at a time."""
    names = [f"{prefix}-{index}" for index in range(consumers)]
    return await _settle(address, stream, names, count, window=200)


async def _settle(
    address: str, stream: str, consumers: Sequence[str], count: int, window: int
) -> dict[str, Any]:
    """Open a consume call for each of the consumers, which may be one and the same, and say so.

    Then acknowledge events until ``count`` are settled, say how fast, and end the calls after a line on
    stdin. What was not confirmed in time is acknowledged again: so many calls may ask more of the broker at
    once than it answers in seconds.
    """
    confirmed, started = 0, 0.0
    channels, opened = await _open(address, stream, consumers, window=window)
    tell({"open": len(opened)})
    over = asyncio.Event()

    async def work(call: ClientCall[events_pb.EventsResponse]) -> None:
        nonlocal confirmed, started
        settled: set[int] = set()
        while responses := await call.receive_many():
            started = started or time.perf_counter()
            for response in responses:
                told, before = response.ack_confirmation, len(settled)
                settled.update(told.ids, told.invalid_ids)
                confirmed += len(settled) - before
                again = told.temporary_failed_ids
                if response.HasField("event") or again:
                    ids = again or [response.event.id]
                    call.send(events_pb.EventsRequest(ack=events_pb.EventsRequest.Ack(ids=ids)))
            if confirmed >= count:
                over.set()

    working = [asyncio.create_task(work(call)) for call in opened]
    await over.wait()
    seconds = time.perf_counter() - started
    for each in working:
        each.cancel()
    seen = {"per_second": confirmed / seconds}
    # To end calls costs as well, and is no part of what an event costs
    await asyncio.to_thread(tell_and_wait, seen)
    await _close(channels)
    return seen


@main.command("spread")
@_consuming
@click.option("--count", default=50_000, help="Events.")
@click.option("--connections", default=2, help="Each with one consume call.")
@click.option("--workers", default=1, help="Of the server.")
@reporting
async def _spread(
    address: str, stream: str, consumer: str, count: int, connections: int, workers: int
) -> dict[str, Any]:
    """Consume on a call of each connection, as many connections to each worker, and acknowledge each event.

    Report how many events came to each worker, and how many came more than once. None is acknowledged before
    each call has one, so there must be more of them than the windows of all calls but one.
    """
    channels = await _to_each_worker(address, connections // workers, workers)
    ids: Counter[int] = Counter()
    received: Counter[int] = Counter({worker: 0 for worker, _ in channels})
    confirmed, started = 0, 0.0
    served, over = asyncio.Barrier(len(channels)), asyncio.Event()

    async def work(worker: int, channel: Channel) -> None:
        nonlocal confirmed, started
        call = _subscribe(channel, stream, consumer, 200)
        await call.receive()
        responses = await call.receive_many()
        await served.wait()
        started = started or time.perf_counter()
        while responses:
            for response in responses:
                if response.HasField("event"):
                    event_id = response.event.id
                    ids[event_id] += 1
                    received[worker] += 1
                    call.send(events_pb.EventsRequest(ack=events_pb.EventsRequest.Ack(ids=[event_id])))
                else:
                    confirmed += len(response.ack_confirmation.ids)
            if confirmed >= count:
                over.set()
            responses = await call.receive_many()

    working = [asyncio.create_task(work(worker, channel)) for worker, channel in channels]
    async with asyncio.timeout(300):
        await over.wait()
    seconds = time.perf_counter() - started
    for each in working:
        each.cancel()
    await _close([channel for _, channel in channels])
    return {
        "per_second": confirmed / seconds,
        "by_worker": sorted(received.values()),
        "repeated": received.total() - len(ids),
    }


async def _to_each_worker(address: str, each: int, workers: int) -> list[tuple[int, Channel]]:
    """Connect until there are so many connections to each worker: the kernel chooses one for each."""
    found: list[tuple[int, Channel]] = []
    while len(found) < each * workers:
        channel = Channel(address)
        answer = await channel.unary(GET_SERVER, admin_pb.GetServerRequest(), admin_pb.GetServerResponse)
        worker = answer.server.worker
        if sum(worker == other for other, _ in found) < each:
            found.append((worker, channel))
        else:
            await channel.close()
    return found


@main.command("connect")
@click.argument("address")
@click.option("--count", default=1000, help="Connections.")
@reporting
async def _connect(address: str, count: int) -> dict[str, Any]:
    """Open many connections and keep them until a line comes on stdin."""
    channels = [Channel(address) for _ in range(count)]
    for channel in channels:
        await channel.unary(HEALTH, health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse)
    await asyncio.to_thread(tell_and_wait, {"open": count})
    await _close(channels)
    return {"connections": count}


async def _open(
    address: str, stream: str, consumers: Sequence[str], token: str = "", window: int = 10
) -> tuple[list[Channel], list[ClientCall[events_pb.EventsResponse]]]:
    """Open a consume call of each consumer, many on each connection."""
    channels: list[Channel] = []
    calls: list[ClientCall[events_pb.EventsResponse]] = []
    for begun in range(0, len(consumers), _STREAMS_PER_CONNECTION):
        channels.append(Channel(address))
        some = consumers[begun : begun + _STREAMS_PER_CONNECTION]
        # Not all at once: a lookup of the consumer takes its turn.
        opened = [_subscribe(channels[-1], stream, consumer, window, token) for consumer in some]
        await asyncio.gather(*(call.receive() for call in opened))
        calls += opened
    return channels, calls


async def _close(channels: list[Channel]) -> None:
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    main()
