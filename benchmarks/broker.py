"""The broker as the driver needs it: filling streams, and looking what they hold."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Protocol

import nats
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.test.v1 import test_pb2
from windshift.rpc import Channel

from .credentials import credentials_of
from .h2load import publish_request
from .processes import FailedToRun, run_program

SERVICE = "/windshift.events.v1alpha1.EventsService"
_HEADERS = {
    "WS-Data-Type": test_pb2.StringValue.DESCRIPTOR.full_name,
    "WS-Published-Time": "2026-01-01T00:00:00.000000000Z",
}
_names = (f"bench-{secrets.token_hex(4)}-{number}" for number in itertools.count(1))
"""Others than those of any run before: a broker that is not ours keeps its streams."""


class Storage(Protocol):
    """What a measurement needs of the broker behind a server."""

    async def count(self, stream: str) -> int:
        """Return how many events a stream holds."""

    async def delete(self, stream: str) -> None:
        """Delete a stream; nothing happens when there is none."""

    async def fill(self, stream: str, count: int, size: int) -> None:
        """Put at least ``count`` events, texts of ``size`` bytes, into an empty stream."""


class Broker:
    """A connection to the broker, and the streams that measurements use."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=60)

    async def count(self, stream: str) -> int:
        """Return how many events a stream holds."""
        return (await self._jetstream.stream_info(stream)).state.messages

    async def delete(self, stream: str) -> None:
        """Delete a stream; nothing happens when there is none."""
        with contextlib.suppress(NotFoundError):
            await self._jetstream.delete_stream(stream)

    async def fill(self, stream: str, count: int, size: int) -> None:
        """Put exactly ``count`` events, texts of ``size`` bytes, into an empty stream.

        Raises:
            FailedToRun: they did not arrive.
        """
        payload = publish_request(stream, size).data.value
        for done in range(0, count, 2000):
            for _ in range(min(2000, count - done) - 1):
                await self._client.publish(stream, payload, headers=_HEADERS)
            await self._jetstream.publish(stream, payload, headers=_HEADERS)  # after the others are stored
        for _ in range(100):
            if await self.count(stream) >= count:
                return
            await asyncio.sleep(0.1)
        raise FailedToRun(f"the stream did not take {count} events")

    async def keep_filling(self, stream: str, per_second: int, size: int) -> None:
        """Put so many events into a stream in each second, until cancelled."""
        payload = publish_request(stream, size).data.value
        began, done = time.monotonic(), 0
        while True:
            while done < (time.monotonic() - began) * per_second:
                await self._client.publish(stream, payload, headers=_HEADERS)
                done += 1
            await asyncio.sleep(1 / per_second)

    async def make_streams(self, prefix: str, count: int, first: int = 0) -> None:
        """Make many empty streams, in memory: such as ``prefix-00017``, with that as the only subject.

        Args:
            prefix: of their names.
            count: the number after the last one's.
            first: the number of the first one.
        """
        left = iter(range(first, count))

        async def make() -> None:
            for index in left:
                name = f"{prefix}-{index:05}"
                await self._jetstream.add_stream(name=name, subjects=[name], storage="memory")

        await asyncio.gather(*(make() for _ in range(20)))

    @contextlib.asynccontextmanager
    async def roomy_stream(self, consumers: int) -> AsyncIterator[str]:
        """Make a stream for so many consumers: where none says how many, nats-server takes 1,000."""
        name = next(_names)
        await self._jetstream.add_stream(name=name, subjects=[name], max_consumers=consumers)
        try:
            yield name
        finally:
            await self.delete(name)

    async def texts(self, stream: str) -> Counter[str]:
        """Return the texts of all events of a stream, and how often each lies there."""
        found: Counter[str] = Counter()
        left = await self.count(stream)
        reader = await self._jetstream.pull_subscribe(stream, stream=stream)
        while left > 0:
            messages = await reader.fetch(min(left, 1000), timeout=5)
            found.update(test_pb2.StringValue.FromString(message.data).value for message in messages)
            left -= len(messages)
            for message in messages:
                await message.ack()
        await reader.unsubscribe()
        return found


class Behind:
    """A broker that only a server of the contract reaches; its streams stay."""

    def __init__(self, address: str, directory: Path) -> None:
        self._address = address
        self._directory = directory

    async def count(self, stream: str) -> int:
        """Publish one more event: its id says how many came before it."""
        request = publish_request(stream, 100)
        async with Channel(self._address) as channel:
            answer = await channel.unary(f"{SERVICE}/PublishEvent", request, events_pb.PublishEventResponse)
        return answer.id - 1

    async def delete(self, stream: str) -> None:
        """Do nothing: the contract cannot delete a stream."""

    async def fill(self, stream: str, count: int, size: int) -> None:
        """Publish the events; their texts have 100 bytes, whatever `size` says."""
        arguments = (self._address, stream, f"--count={count}")
        seen = await run_program(self._directory, "load", "publish", *arguments)
        if seen["failures"]:
            raise FailedToRun(f"the stream did not take {count} events: {seen['failures']}")


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Broker]:
    """Connect to a nats-server."""
    client = await nats.connect(f"nats://{address}")
    try:
        yield Broker(client)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def new_stream(address: str, broker: Storage | None = None, *, token: str = "") -> AsyncIterator[str]:
    """Make a stream through a Windshift server, that allows fast ingest; its only subject is its name.

    Args:
        address: the server.
        broker: deletes the stream at the end; None = it stays.
        token: of somebody who may do it; empty = nobody asks.
    """
    name = next(_names)
    request = events_pb.EnsureStreamRequest(name=name, subjects={"subjects": [name]}, fast_ingest=True)
    async with Channel(address) as channel:
        response, metadata = events_pb.EnsureStreamResponse, credentials_of(token)
        await channel.unary(f"{SERVICE}/EnsureStream", request, response, metadata=metadata)
    try:
        yield name
    finally:
        if broker is not None:
            await broker.delete(name)


async def new_consumers(address: str, stream: str, prefix: str, count: int, first: int = 0) -> None:
    """Make many consumers of all events of a stream, such as ``prefix-17``.

    Args:
        address: the server.
        stream: their stream.
        prefix: of their names.
        count: the number after the last one's.
        first: the number of the first one.
    """
    left = iter(range(first, count))

    async def make(channel: Channel) -> None:
        for index in left:
            request = events_pb.EnsureConsumerRequest(stream=stream, name=f"{prefix}-{index}")
            getattr(request, "from").start = True
            await channel.unary(f"{SERVICE}/EnsureConsumer", request, events_pb.EnsureConsumerResponse)

    async with Channel(address) as channel:
        await asyncio.gather(*(make(channel) for _ in range(20)))


async def new_consumer(
    address: str,
    stream: str,
    *,
    timeout_seconds: int | None = None,
    token: str = "",
    subjects: Iterable[str] = (),
) -> str:
    """Make a consumer of a stream, from the first event, and return its name.

    Args:
        address: the server.
        stream: its stream.
        timeout_seconds: within which an event must be settled; None = the default.
        token: of somebody who may do it; empty = nobody asks.
        subjects: of the events; none = all of the stream.
    """
    request = events_pb.EnsureConsumerRequest(stream=stream, name=next(_names), subjects=subjects)
    getattr(request, "from").start = True
    if timeout_seconds is not None:
        request.processing_timeout.FromSeconds(timeout_seconds)
    async with Channel(address) as channel:
        response, metadata = events_pb.EnsureConsumerResponse, credentials_of(token)
        answer = await channel.unary(f"{SERVICE}/EnsureConsumer", request, response, metadata=metadata)
    return answer.id
