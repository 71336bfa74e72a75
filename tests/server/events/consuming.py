"""What the tests of consuming share: clients in memory, attached to real consumers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import inf
from typing import Any, Final

from tests.support.broker import Broker as NatsBroker
from tests.support.broker import in_seconds
from windshift.nats.jetstream.pulling import PullOptions
from windshift.nats.jetstream.writes import Writes
from windshift.server.broker.room import PullRoom
from windshift.server.events.consuming.call import ConsumeCall
from windshift.server.events.consuming.commands import Ack, Command, Ping, Reject, Subscribe
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.pending_acks import CommandKind, Confirmation
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.dead_letters.replay_queue import ReplayQueue
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.deliveries import Delivery
from windshift.server.events.model import StreamSeq
from windshift.server.events.notes import Notes

QUICK = ConsumeOptions(
    subscribe_timeout=timedelta(seconds=30),
    lookup_timeout=timedelta(seconds=30),
    confirm_timeout=timedelta(seconds=20),
    stall_timeout=timedelta(seconds=0.2),
    pull=PullOptions(expires=2.0, heartbeat=0.2),
)
"""The broker's silence tells soon; a test in which a time must run out shortens that."""

PATIENT = PullOptions(expires=60.0, heartbeat=30.0)
"""For tests in which something is to happen long before the silence of the broker tells it, too."""
AT_ONCE = 10.0
"""Seconds that a busy machine may need for what happens at once: less than any timer of such tests."""


def share(nats: NatsBroker) -> Shared:
    """Build what consume calls share."""
    api, writes, notes = nats.api, Writes(nats.requests, nats.api), Notes(nats.connection)
    store, replays = DeadLetterStore(api, writes, 1), ReplayQueue(api, writes, notes, 1)
    shared = Shared(nats.requests, api, store, replays, notes, PullRoom())
    shared.follow()
    return shared


Outcome = tuple[CommandKind, list[int], list[int], list[int]]


class Worker:
    """A client in memory: what it was sent waits in queues, in the order in which it came."""

    def __init__(self) -> None:
        self.timeout: timedelta | None = None
        self.linger: timedelta | None = None
        self.max_batch = 0
        self.tokens: dict[int, bytes] = {}
        self.queued = 0
        self.deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        self.confirmations: asyncio.Queue[Outcome] = asyncio.Queue()
        self.attached = asyncio.Event()
        self.call: asyncio.Task[None]
        self.consume_call: ConsumeCall
        self._commands: asyncio.Queue[Command | None] = asyncio.Queue()
        self._reads = asyncio.Event()

    # What the test does

    def say(self, *commands: Command | None) -> None:
        """Send commands; None ends the client's side."""
        for command in commands:
            self._commands.put_nowait(command)

    def subscribe(self, stream: str, consumer: str, window: int = 0) -> None:
        """Send the first message."""
        self.say(Subscribe(stream, consumer, window))

    def ack(self, *ids: int) -> None:
        """Send an ack."""
        self.say(Ack(sequences(ids)))

    def ping(self, *ids: int) -> None:
        """Send a ping."""
        self.say(Ping(sequences(ids)))

    def reject(self, *ids: int, delay: float | None = None, permanently: bool = False) -> None:
        """Send a reject, with a delay in seconds."""
        delay_ns = None if delay is None else round(delay * 10**9)
        self.say(Reject(sequences(ids), permanently, delay_ns))

    async def event(self, within: float = 30) -> Delivery:
        """Return the next delivery."""
        async with asyncio.timeout(within):
            return await self.deliveries.get()

    async def events(self, count: int) -> list[Delivery]:
        """Return the next deliveries."""
        return [await self.event() for _ in range(count)]

    async def told(self, within: float = 30) -> Outcome:
        """Return the next confirmation."""
        async with asyncio.timeout(within):
            return await self.confirmations.get()

    async def nothing(self, seconds: float = 0.15) -> None:
        """See that no delivery comes."""
        try:
            delivery = await self.event(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"unexpected {delivery}")

    @property
    def has_been_heard(self) -> bool:
        """Whether everything that was said was received."""
        return self._commands.empty()

    def stall(self, queued: int = 1 << 20) -> None:
        """Stop reading."""
        self.queued = queued
        self._reads.clear()

    def read_on(self) -> None:
        """Read again."""
        self.queued = 0
        self._reads.set()

    async def vanish(self) -> None:
        """Be gone, as when the connection broke."""
        self.call.cancel()
        await asyncio.wait([self.call])

    async def outcome(self, within: float = 30) -> Exception | None:
        """Return how the call ended."""
        async with asyncio.timeout(within):
            try:
                await self.call
            except Exception as error:  # noqa: BLE001 - the test looks at it
                return error
        return None

    # What the server does

    async def ready(self) -> None:
        """Wait until the client reads."""
        if self.queued:
            await self._reads.wait()

    async def receive(self) -> Iterator[Command] | None:
        """Return what was said."""
        batch = [await self._commands.get()]
        while not self._commands.empty() and batch[-1] is not None:
            batch.append(self._commands.get_nowait())
        if batch[-1] is None and len(batch) > 1:
            self._commands.put_nowait(batch.pop())
        commands = [command for command in batch if command is not None]
        return iter(commands) if commands else None

    def subscribed(
        self, subscribe: Subscribe, processing_timeout: timedelta, linger: timedelta | None
    ) -> None:
        """Take the answer to the subscription."""
        self.max_batch = subscribe.max_batch
        self.timeout = processing_timeout
        self.linger = linger
        self.attached.set()

    def deliver(self, deliveries: Sequence[Delivery], tokens: Sequence[bytes] = ()) -> None:
        """Take deliveries."""
        assert self.attached.is_set()
        for number, delivery in enumerate(deliveries):
            self.tokens[delivery.id] = tokens[number] if tokens else b""
            self.deliveries.put_nowait(delivery)

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        """Take confirmations."""
        for confirmation in confirmations:
            ids, invalid, failed = (sorted(map(int, some)) for some in confirmation.lists())
            self.confirmations.put_nowait((confirmation.kind, ids, invalid, failed))


def sequences(ids: tuple[int, ...]) -> list[StreamSeq]:
    """Name events by their ids."""
    return [StreamSeq(seq) for seq in ids]


@dataclass(frozen=True, slots=True)
class Consuming:
    """A stream and a consumer of a real broker, and whoever consumes from it."""

    nats: NatsBroker
    stream: str
    consumer: str
    options: ConsumeOptions = QUICK
    shared: Shared | None = None

    def quick(self, **changes: Any) -> Consuming:
        """Change timers."""
        return replace(self, options=replace(self.options, **changes))

    def on(self, nats: NatsBroker) -> Consuming:
        """Consume by another connection, as another server would."""
        return replace(self, nats=nats, shared=None)

    def open(self) -> Worker:
        """Begin a call; nothing was said yet."""
        worker = Worker()
        worker.consume_call = ConsumeCall(self.shared or share(self.nats), worker, self.options)
        worker.call = asyncio.create_task(worker.consume_call.run())
        return worker

    @asynccontextmanager
    async def worker(self, window: int = 0) -> AsyncIterator[Worker]:
        """Attach a client for the length of a block."""
        worker = self.open()
        worker.subscribe(self.stream, self.consumer, window)
        attached = asyncio.ensure_future(worker.attached.wait())
        await asyncio.wait([attached, worker.call], timeout=30, return_when=asyncio.FIRST_COMPLETED)
        attached.cancel()
        try:
            yield worker
        finally:
            await worker.vanish()

    async def publish(self, count: int = 1, body: bytes = b"data", **headers: str) -> None:
        """Publish to the stream, and wait until it is stored."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await asyncio.gather(*(self.nats.publish(f"{self.stream}.x", body, named) for _ in range(count)))

    async def info(self) -> dict[str, Any]:
        """Return what the broker knows of the consumer."""
        return await self.nats.api.call(f"CONSUMER.INFO.{self.stream}.{self.consumer}", None, in_seconds(30))

    async def pending(self) -> int:
        """Count the deliveries that the broker sees as unsettled."""
        return int((await self.info())["num_ack_pending"])

    async def settled(self, expected: dict[str, int], within: float = 30) -> None:
        """Wait until the broker's count of something is as expected."""
        deadline = in_seconds(within)
        while True:
            info = await self.info()
            seen = {name: int(info[name]) for name in expected}
            if seen == expected:
                return
            assert in_seconds(0) < deadline, f"{seen}, not {expected}"
            await asyncio.sleep(0.01)

    async def delete(self, what: str) -> None:
        """Delete the consumer or the stream."""
        name = f"{self.stream}.{self.consumer}" if what == "CONSUMER" else self.stream
        await self.nats.api.call(f"{what}.DELETE.{name}", None, in_seconds(30))


async def prepare(nats: NatsBroker, name: str, ack_wait: float = 30.0, **config: object) -> Consuming:
    """Make a stream, and a consumer of all of it."""
    await nats.stream(name, storage=config.pop("storage", "memory"))
    await make_consumer(nats, name, "c", ack_wait, **config)
    return Consuming(nats, name, "c")


async def make_consumer(
    nats: NatsBroker, stream: str, name: str, ack_wait: float = 30.0, **config: object
) -> None:
    """Make a consumer of a stream's events from the first on."""
    request = {
        "name": name,
        "durable_name": name,
        "ack_policy": "explicit",
        "ack_wait": round(ack_wait * 10**9),
        "max_waiting": 10_000,
        "max_ack_pending": 20_000,
        **config,
    }
    operation = f"CONSUMER.CREATE.{stream}.{name}"
    await nats.api.call(operation, {"stream_name": stream, "config": request}, in_seconds(30))


_CROSSING: Final = 2.5
"""Seconds for which a delivery may be under way: less than until the next, which takes an event's timeout."""


@dataclass
class Tally:
    """What several clients saw together, while they acked everything, and tried again what failed."""

    total: int
    confirmed: dict[int, float] = field(default_factory=dict)
    """When each was confirmed, in the loop's time."""
    in_doubt: set[int] = field(default_factory=set)
    """Events of which an ack failed. The broker may have it all the same; on a busy machine the event's time
    is over before the next try, which is invalid then, and the event does not come again."""
    repeated: set[int] = field(default_factory=set)
    """Events that were delivered again although their ack had been confirmed, and not just then: on a busy
    machine another delivery may have been under way."""
    is_settled: bool = False
    """Whether the broker has settled everything."""

    @property
    def complete(self) -> bool:
        """Whether everything was settled, and the clients were told."""
        return self.is_settled and len(self.confirmed.keys() | self.in_doubt) >= self.total

    async def work(self, consuming: Consuming, window: int) -> None:
        """Consume until everything is settled."""
        async with consuming.worker(window) as worker:
            while not self.complete:
                assert not worker.call.done(), worker.call
                self._take_confirmations(worker)
                try:
                    delivery = await worker.event(0.05)
                except TimeoutError:
                    continue
                if in_seconds(-_CROSSING) > self.confirmed.get(delivery.id, inf):
                    self.repeated.add(delivery.id)
                worker.ack(delivery.id)

    def _take_confirmations(self, worker: Worker) -> None:
        while not worker.confirmations.empty():
            _, done, _, failed = worker.confirmations.get_nowait()
            self.confirmed |= {id_: in_seconds(0) for id_ in done if id_ not in self.confirmed}
            self.in_doubt.update(failed)
            if failed:
                worker.ack(*failed)


async def consume_all(
    consumings: Sequence[Consuming], total: int, trouble: Coroutine[Any, Any, None]
) -> Tally:
    """Have a client of each server consume so many events together, with some trouble meanwhile."""
    tally = Tally(total)
    async with asyncio.timeout(110), asyncio.TaskGroup() as group:
        for number, consuming in enumerate(consumings):
            retrying = consuming.quick(confirm_timeout=timedelta(seconds=1))
            group.create_task(tally.work(retrying, (1, 20, 200)[number % 3]))
        await trouble
        await consumings[0].settled({"num_ack_pending": 0, "num_pending": 0}, within=100)
        tally.is_settled = True
    return tally
