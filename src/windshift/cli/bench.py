"""`windshift bench`: what a server takes and gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import click

import windshift as ws
from windshift.cli.failing import CONFLICT, Failure
from windshift.cli.options import Group, takes
from windshift.cli.session import Session, with_session

T = TypeVar("T")

_STREAM = "windshift-bench"


@click.group(cls=Group)
def bench() -> None:
    """Measure publishing, consuming and latency, on a stream that is made for it and deleted."""


_takes_load = takes(
    click.option("--count", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True),
    click.option("--size", type=click.IntRange(0, 900_000), default=128, show_default=True, help="Bytes."),
    click.option("--storage", type=click.Choice(["file", "memory"]), default="file", show_default=True),
)


@asynccontextmanager
async def _stream(session: Session, storage: Any) -> AsyncIterator[ws.Stream]:
    if [info async for info in session.client.streams.list(_STREAM) if info.name == _STREAM]:
        hint = f"does another bench run? if not: `windshift streams rm {_STREAM}`"
        raise Failure(f"there is a stream {_STREAM!r} already", CONFLICT, hint=hint)
    stream = await session.client.streams.ensure(_STREAM, subjects=[f"{_STREAM}.>"], storage=storage)
    try:
        yield stream
    finally:
        await stream.delete()


def _payload(size: int) -> Any:
    from windshift.protos import test

    return test.StringValue(value="x" * max(0, size - 4))


@contextmanager
def _told_alone() -> Iterator[None]:
    """Raise what failed first in a group of tasks: a command says one thing."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _beside(handling: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T:
    """Do some work while events are handled, which ends with it. If either fails, the other is cancelled."""
    with _told_alone():
        async with asyncio.TaskGroup() as group:
            running = group.create_task(handling)
            result = await work
            running.cancel()
    return result


async def _publish(session: Session, count: int, size: int, in_flight: int) -> list[float]:
    """Publish so many events, and return how long each took, in seconds."""
    times: list[float] = []
    message, left = _payload(size), iter(range(count))

    async def work() -> None:
        for _ in left:
            started = time.perf_counter()
            await session.client.publish(f"{_STREAM}.x", message)
            times.append(time.perf_counter() - started)
            progress.add()

    with session.out.progress("published") as progress, _told_alone():
        async with asyncio.TaskGroup() as group:
            for _ in range(min(in_flight, count)):
                group.create_task(work())
    return times


def _milliseconds(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000


def _tell(session: Session, verb: str, count: int, seconds: float, times: Sequence[float]) -> None:
    rate = count / seconds
    value: dict[str, Any] = {"count": count, "seconds": round(seconds, 3), "per_second": round(rate, 1)}
    line = f"{verb} {rate:,.0f}/s"
    if times:
        middle, late = _milliseconds(times, 0.5), _milliseconds(times, 0.99)
        value |= {"p50_ms": round(middle, 3), "p99_ms": round(late, 3)}
        line += f", p50 {middle:.1f} ms, p99 {late:.1f} ms"
    session.out.item(value, line)


@bench.command(examples=["windshift bench publish --count 1000"])
@_takes_load
@click.option("--in-flight", type=click.IntRange(1, 200), default=128, show_default=True, help="At once.")
@with_session
async def publish(session: Session, count: int, size: int, storage: str, in_flight: int) -> None:
    """Publish events, each with a key, and wait for each to be stored."""
    async with _stream(session, storage):
        started = time.perf_counter()
        times = await _publish(session, count, size, in_flight)
        _tell(session, "published", count, time.perf_counter() - started, times)


@bench.command(examples=["windshift bench consume --count 1000 --storage memory"])
@_takes_load
@click.option(
    "--concurrency", type=click.IntRange(1, 10_000), default=256, show_default=True, help="At once."
)
@with_session
async def consume(session: Session, count: int, size: int, storage: str, concurrency: int) -> None:
    """Publish events, then consume them with a handler that does nothing, and acknowledge each."""
    async with _stream(session, storage) as stream:
        await _publish(session, count, size, 128)
        consumer = await stream.consumers.ensure("bench", start=ws.START)
        finished = asyncio.Event()

        async def handle(_: ws.Delivery[Any]) -> None:
            progress.add()
            if progress.count == count:
                finished.set()

        async def measure() -> float:
            started = time.perf_counter()
            await finished.wait()
            return time.perf_counter() - started

        with session.out.progress("consumed") as progress:
            seconds = await _beside(consumer.run(handle, concurrency=concurrency), measure())
        _tell(session, "consumed", progress.count, seconds, ())


@bench.command(examples=["windshift bench latency --count 100"])
@_takes_load
@with_session
async def latency(session: Session, count: int, size: int, storage: str) -> None:
    """Publish one event after the other, and measure each from its publisher to a handler."""
    async with _stream(session, storage) as stream:
        consumer = await stream.consumers.ensure("bench", start=ws.START)
        arrived: asyncio.Queue[float] = asyncio.Queue()

        async def handle(_: ws.Delivery[Any]) -> None:
            arrived.put_nowait(time.perf_counter())

        times, message = [], _payload(size)

        async def measure() -> float:
            await session.client.publish(f"{_STREAM}.x", message)
            await arrived.get()  # the first one waits for the subscription
            began = time.perf_counter()
            for _ in range(count):
                started = time.perf_counter()
                await session.client.publish(f"{_STREAM}.x", message)
                times.append(await arrived.get() - started)
                progress.add()
            return time.perf_counter() - began

        with session.out.progress("measured") as progress:
            seconds = await _beside(consumer.run(handle, concurrency=1), measure())
        _tell(session, "delivered", count, seconds, times)
