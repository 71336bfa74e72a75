"""What the tests of streams and consumers share: both on a real broker, and looks at what lies there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.support.broker import Broker, in_seconds
from windshift.nats import Message
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.times import parse_rfc3339
from windshift.server.events.consumers import Consumers
from windshift.server.events.model import ConsumerKey
from windshift.server.events.specs import (
    ConsumerSpec,
    FromAggregate,
    FromMirror,
    FromSubjects,
    SourceSpec,
    StreamSpec,
)
from windshift.server.events.streams import Streams


class Letters:
    """Dead letters that note what they are asked for, and are as many as they are told."""

    def __init__(self) -> None:
        self.ensured: list[int | None] = []
        self.counted: dict[tuple[str, str], int] = {}
        self.last = 0

    async def ensure(self, replicas: int | None, _deadline: float) -> None:
        """Note the replicas."""
        self.ensured.append(replicas)

    async def count(self, stream: str, consumer: str, _deadline: float) -> int:
        """Return the number that was set."""
        return self.counted.get((stream, consumer), 0)

    async def last_position(self, _deadline: float) -> int:
        """Return that of the last one."""
        return self.last


class Told:
    """Notes that were sent."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str, str]] = []

    def send(self, kind: str, stream: str, consumer: str) -> None:
        """Keep it."""
        self.notes.append((kind, stream, consumer))


class NoReplays:
    """Replays where there are none."""

    async def position(self, _deadline: float) -> int:
        """Return that there never was one."""
        return 0

    async def forget(self, _consumer: ConsumerKey, _upto: int, _deadline: float) -> int:
        """Return that there was nothing to forget."""
        return 0


@dataclass(frozen=True, slots=True)
class Management:
    """Streams and consumers of one broker."""

    broker: Broker
    streams: Streams
    consumers: Consumers

    async def ensure(self, spec: StreamSpec) -> dict[str, Any]:
        """Ensure a stream and return the configuration that the broker stores."""
        await self.streams.ensure(spec, in_seconds(30))
        return await self.stored_stream(spec.name)

    async def consume(self, spec: ConsumerSpec) -> dict[str, Any]:
        """Ensure a consumer and return what the broker knows of it."""
        return await self.stored_consumer(spec.stream, await self.consumers.ensure(spec, in_seconds(30)))

    async def stored_stream(self, name: str) -> dict[str, Any]:
        """Return the configuration of a stream as the broker stores it."""
        config: dict[str, Any] = (await self.broker.api.stream_info(name, in_seconds(30)))["config"]
        return config

    async def stored_consumer(self, stream: str, name: str) -> dict[str, Any]:
        """Return what the broker knows of a consumer."""
        return await self.broker.api.call(f"CONSUMER.INFO.{stream}.{name}", None, in_seconds(30))

    async def tell(self, operation: str, **request: Any) -> None:
        """Do with the broker what another program might do."""
        await self.broker.api.call(operation, request, in_seconds(30))

    async def publish(self, *subjects: str, **headers: str) -> list[PubAck]:
        """Publish an empty event to each subject."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return [await self.broker.publish(subject, headers=named) for subject in subjects]

    async def subjects(self, stream: str) -> dict[str, int]:
        """Count a stream's events by subject."""
        info = await self.broker.api.call(f"STREAM.INFO.{stream}", {"subjects_filter": ">"}, in_seconds(30))
        counts: dict[str, int] = info["state"].get("subjects") or {}
        return counts

    async def stored_at(self, stream: str, seq: int) -> int:
        """Return when the broker stored an event, in nanoseconds since 1970."""
        answer = await self.broker.api.call(f"STREAM.MSG.GET.{stream}", {"seq": seq}, in_seconds(30))
        time = parse_rfc3339(answer["message"]["time"])
        assert time is not None
        return time.seconds * 10**9 + time.nanos

    async def next_ids(self, stream: str, consumer: str, most: int = 100, *, wait: bool = False) -> list[int]:
        """Fetch what a consumer would be handed now, or wait for so many, and return the ids."""
        ids: list[int] = []
        done = asyncio.Event()

        def take(message: Message) -> None:
            if message.reply:
                ids.append(int(message.reply.split(b".")[5]))
            else:
                done.set()
            if len(ids) == most:
                done.set()

        inbox = self.broker.connection.inbox()
        subscription = self.broker.connection.subscribe(inbox, take)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode()
        request = b'{"batch":%d,%s}' % (most, b'"expires":4000000000' if wait else b'"no_wait":true')
        self.broker.connection.publish(subject, request, reply=inbox)
        async with asyncio.timeout(30):
            await done.wait()
        subscription.unsubscribe()
        return ids


def manage(
    broker: Broker,
    default_replicas: int = 1,
    dead_letters: Any = None,
    notes: Any = None,
) -> Management:
    """Wire streams and consumers as the composition root does, without dead letters unless they are given."""
    kept: Any = dead_letters or Letters()
    told: Any = notes or Told()
    replays: Any = NoReplays()
    consumers = Consumers(broker.api, kept, told, replays)
    return Management(broker, Streams(broker.api, default_replicas), consumers)


async def eventually(question: Callable[[], Awaitable[object]], answer: object) -> None:
    """Ask until the answer is right: the broker copies between streams in its own time."""
    async with asyncio.timeout(30):
        while await question() != answer:  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0.02)


def on(*subjects: str, name: str, **options: Any) -> StreamSpec:
    """Wish for a stream of these subjects."""
    return StreamSpec(name, FromSubjects(subjects), **options)


def copy(name: str, *sources: SourceSpec) -> StreamSpec:
    """Wish for an aggregate."""
    return StreamSpec(name, FromAggregate(sources))


def mirror(name: str, source: SourceSpec, **options: Any) -> StreamSpec:
    """Wish for a mirror."""
    return StreamSpec(name, FromMirror(source), **options)


async def source_stream(management: Management, name: str, events: int = 0) -> str:
    """Make a stream with events on `<name>.1`, `<name>.2` and so on."""
    await management.ensure(on(f"{name}.>", name=name))
    await management.publish(*(f"{name}.{number}" for number in range(1, events + 1)))
    return name
