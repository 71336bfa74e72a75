"""The NATS client of a server, wired as the composition root wires it, for tests of what stands on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from windshift.nats import (
    Connection,
    ConnectionOptions,
    JetStreamError,
    NoReply,
    Requests,
    parse_servers,
)
from windshift.nats import headers as h
from windshift.nats.jetstream.acks import PubAck, read_pub_ack
from windshift.nats.jetstream.api import JetStream

QUICK = ConnectionOptions(
    servers=(),
    inbox_prefix="_INBOX_windshift",
    start_timeout=timedelta(seconds=30),
    reconnect_wait=timedelta(milliseconds=20),
    close_timeout=timedelta(milliseconds=200),
)


@dataclass(frozen=True, slots=True)
class Broker:
    """A connection, requests on it and JetStream's API."""

    connection: Connection
    requests: Requests
    api: JetStream

    async def stream(self, name: str, *subjects: str, **config: object) -> str:
        """Create a stream in memory and return its name. Wait for servers of a cluster that are away."""
        request = {"name": name, "subjects": list(subjects) or [f"{name}.>"], "storage": "memory", **config}
        deadline = in_seconds(30)
        while True:
            try:
                await self.api.call(f"STREAM.CREATE.{name}", request, deadline)
            except JetStreamError as error:
                if "offline" not in error.description or in_seconds(0) > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return name

    async def publish(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> PubAck:
        """Store a message once somebody listens; return the server's word for it.

        In a cluster a new stream is not known everywhere at once.
        """
        block = h.block((name.encode(), value.encode()) for name, value in (headers or {}).items())
        deadline = in_seconds(30)
        while True:
            answer = await self.requests.request(subject.encode(), body, block, deadline)
            if answer is not NoReply.NO_RESPONDERS or in_seconds(0) > deadline:
                break
            await asyncio.sleep(0.01)
        assert isinstance(answer, bytes), answer
        return read_pub_ack(answer)

    async def lost(self) -> None:
        """Wait until the connection has noticed that it is gone."""
        while self.connection.connected:  # noqa: ASYNC110 - `on_lost` is for the code under test
            await asyncio.sleep(0.005)

    async def messages(self, stream: str) -> int:
        """Count what a stream holds."""
        info = await self.api.stream_info(stream, in_seconds(30))
        return int(info["state"]["messages"])


def in_seconds(seconds: float) -> float:
    """Return a deadline, in the running loop's time."""
    return asyncio.get_running_loop().time() + seconds


@asynccontextmanager
async def connect(url: str, options: ConnectionOptions = QUICK) -> AsyncIterator[Broker]:
    """Connect to a server for as long as the block lasts."""
    connection = Connection(replace(options, servers=parse_servers(url)))
    requests = Requests(connection)
    await connection.connect()
    try:
        yield Broker(connection, requests, JetStream(requests))
    finally:
        await connection.close()


@contextmanager
def on_create(connection: Connection, hook: Callable[[], object]) -> Iterator[None]:
    """Call `hook` whenever the creation of a consumer was sent."""
    publish = connection.publish

    def spy(subject: bytes, *arguments: bytes, **named: bytes) -> None:
        publish(subject, *arguments, **named)
        if subject.startswith(b"$JS.API.CONSUMER.CREATE."):
            hook()

    connection.publish = spy  # type: ignore[method-assign]
    try:
        yield
    finally:
        del connection.publish


async def no_consumers(broker: Broker, stream: str) -> None:
    """Wait until a stream has no consumers."""
    async with asyncio.timeout(30):
        while (await broker.api.stream_info(stream, in_seconds(30)))["state"]["consumer_count"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
