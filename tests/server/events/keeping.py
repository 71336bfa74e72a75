"""What the tests of dead letters and replays share: both on a real broker, and events to give up on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.broker import Broker, in_seconds
from windshift.nats import JetStreamError, Message
from windshift.nats.jetstream.codes import STREAM_NOT_FOUND
from windshift.nats.jetstream.writes import Writes
from windshift.server.broker.room import PullRoom
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.dead_letters.model import Cause, DeadLetter, DeadLetterId, Failure
from windshift.server.events.dead_letters.replay_queue import STREAM as REPLAYS
from windshift.server.events.dead_letters.replay_queue import ReplayQueue
from windshift.server.events.dead_letters.store import STREAM, DeadLetterStore
from windshift.server.events.dead_letters.writer import DeadLetterWriter
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import Notes


@dataclass(frozen=True, slots=True)
class Keeper:
    """The storage of dead letters and replays, as one server has it."""

    broker: Broker
    store: DeadLetterStore
    writer: DeadLetterWriter
    replays: ReplayQueue
    notes: Notes

    async def publish(self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Publish an event; return its id."""
        return (await self.broker.publish(subject, body, headers)).sequence

    async def failure(self, stream: str, seq: int, consumer: str = "c", **told: object) -> Failure:
        """Have a consumer give up on an event that is stored."""
        stored = await self.broker.api.message(stream, {"seq": seq}, in_seconds(30))
        assert stored is not None
        return failure(DeadLetterId(stream, consumer, StreamSeq(seq), stored.unix_ns), **told)

    async def given_up(
        self, stream: str, count: int, consumer: str = "c", **told: object
    ) -> list[DeadLetter]:
        """Publish events, and have the consumer give up on each."""
        written = []
        for number in range(count):
            seq = await self.publish(f"{stream}.{number}", b"%d" % number)
            _, letter = await self.writer.write(
                await self.failure(stream, seq, consumer, **told), in_seconds(30)
            )
            assert letter is not None
            written.append(letter)
        return written

    async def outstanding(self, stream: str = "", consumer: str = "") -> frozenset[DeadLetterId]:
        """Return which dead letters of a consumer, a stream or all are being replayed."""
        page = await self.replays.page(ConsumerKey(stream, consumer), 0, in_seconds(20), 500)
        return frozenset(each.id for each in page.pointers)

    async def get(self, id: DeadLetterId) -> DeadLetter:  # noqa: A002
        """Read a dead letter that is there."""
        letter = await self.store.get(id, in_seconds(30))
        assert letter is not None
        return letter

    async def next(self, stream: str, consumer: str) -> Message:
        """Receive the next message of a JetStream consumer, once that has a leader."""
        connection = self.broker.connection
        arrived: asyncio.Queue[Message] = asyncio.Queue()
        inbox = connection.inbox()
        subscription = connection.subscribe(inbox, arrived.put_nowait)
        pull = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode()
        request = b'{"batch":1,"expires":5000000000}'
        async with asyncio.timeout(20):
            while True:
                connection.publish(pull, request, reply=inbox)
                message = await arrived.get()
                if message.reply:
                    break
                await asyncio.sleep(0.05)
        subscription.unsubscribe()
        return message

    async def settle(self, message: Message, word: bytes = b"+ACK") -> None:
        """Settle a message, and wait until the broker has."""
        assert await self.broker.requests.request(message.reply, word, b"", in_seconds(30)) == b""

    def shared(self) -> Shared:
        """Build what consume calls share."""
        nats = self.broker
        shared = Shared(nats.requests, nats.api, self.store, self.replays, self.notes, PullRoom())
        shared.follow()
        return shared

    async def entries(self) -> int:
        """Count all that the stream of dead letters holds, overflow messages included."""
        return await self.broker.messages(STREAM)


def failure(id: DeadLetterId, **told: object) -> Failure:  # noqa: A002
    """Say that a consumer gave up."""
    return Failure(id, 3, 1_000, 2_000, Cause.REJECTED)._replace(**told)  # type: ignore[arg-type]  # checked there


async def keep(broker: Broker, default_replicas: int = 1) -> Keeper:
    """Wire the storage as the composition root does."""
    writes = Writes(broker.requests, broker.api)
    notes = Notes(broker.connection)
    notes.start()
    store = DeadLetterStore(broker.api, writes, default_replicas)
    return Keeper(
        broker,
        store,
        DeadLetterWriter(broker.connection, broker.api, store, notes),
        ReplayQueue(broker.api, writes, notes, default_replicas),
        notes,
    )


async def forget_all(broker: Broker) -> None:
    """Delete Windshift's own streams of dead letters and replays.

    Another stream on disk stays: nats-server stumbles over a stream that is made while its last one goes.
    """
    await broker.api.call("STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["other"]}, in_seconds(20))
    for stream in (STREAM, REPLAYS):
        try:
            await broker.api.change(f"STREAM.DELETE.{stream}", None, in_seconds(30))
        except JetStreamError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
