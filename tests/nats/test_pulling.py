"""Pulling from a consumer: requests, what arrives in answer to them, and settling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.nats.waiting import eventually
from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import Message
from windshift.nats import headers as h
from windshift.nats.jetstream.api import ConsumerState
from windshift.nats.jetstream.pulling import (
    ACK,
    PROGRESS,
    TERMINATE,
    Arrival,
    Notice,
    PullEnded,
    Puller,
    PullOptions,
    nak,
    read_status,
    split_ack_subject,
)

Unique = Callable[[], str]

# --- What is read -----------------------------------------------------------------------------------------

PLAIN = b"$JS.ACK.ORDERS.billing.3.17.42.1795532049123456789.5"
WITH_DOMAIN = b"$JS.ACK.hub.ACCHASH.ORDERS.billing.3.17.42.1795532049123456789.5.x1"
LATER = WITH_DOMAIN + b".more.tokens"


@pytest.mark.parametrize("reply", [PLAIN, WITH_DOMAIN, LATER])
def test_the_reply_subject_tells_which_delivery_it_is(reply: bytes) -> None:
    """Attempt, sequences, time and what is left come from the subject, old form or new."""
    assert split_ack_subject(reply) == [b"3", b"17", b"42", b"1795532049123456789", b"5"]


@pytest.mark.parametrize("reply", [b"", b"$JS.ACK.a", b"$JS.ACK.a.b.c.d.e.f", b"x", PLAIN + b".x"])
def test_other_reply_subjects_are_no_delivery(reply: bytes) -> None:
    """What JetStream did not send is not taken for a delivery."""
    with pytest.raises(ValueError):
        split_ack_subject(reply)


@pytest.mark.parametrize(
    ("status", "left", "meaning"),
    [
        (b"100 Idle Heartbeat", (), Notice.ALIVE),
        (b"404 No Messages", (), PullEnded(1, 0, too_large=False)),
        (b"408 Request Timeout", (7, 9), PullEnded(7, 9, too_large=False)),
        (b"408 Interest Expired", (7,), PullEnded(7, 0, too_large=False)),
        (b"408 Request Timeout", (), Notice.LOST),
        (b"409 Batch Completed", (0, 9), PullEnded(0, 9, too_large=False)),
        (b"409 Message Size Exceeds MaxBytes", (3, 9), PullEnded(3, 9, too_large=True)),
        (b"409 Leadership Change", (), Notice.LOST),
        (b"409 Consumer Deleted", (), Notice.DELETED),
        (b"409 Consumer is push based", (), Notice.REFUSED),
        (b"409 Exceeded MaxRequestBatch of 10", (), Notice.REFUSED),
        (b"400 Bad Request - heartbeat value too large", (), Notice.REFUSED),
        (b"423 Nats-Wrong-Pin-Id", (3,), PullEnded(3, 0, too_large=False)),
        (b"503", (), Notice.UNHEARD),
        (b"503 with words", (), Notice.UNHEARD),
        (b"999 of a later server", (), Notice.REFUSED),
        (b"nonsense", (), Notice.REFUSED),
        (b"", (), Notice.REFUSED),
    ],
)
def test_statuses(status: bytes, left: tuple[int, ...], meaning: PullEnded | Notice) -> None:
    """Each status of the server is the end of a request, of all requests, a sign of life, or doubt."""
    names = (b"Nats-Pending-Messages", b"Nats-Pending-Bytes")
    lines = b"".join(h.line(name, b"%d" % number) for name, number in zip(names, left, strict=False))
    assert read_status(b"NATS/1.0 " + status + b"\r\n" + lines + h.END) == meaning


def test_no_headers_are_doubt() -> None:
    """What has neither a reply subject nor headers came from nobody known."""
    assert read_status(b"") is Notice.REFUSED


def test_a_delay_is_written_in_nanoseconds() -> None:
    """Without a delay the plain form is used: the server takes 0 as none anyway."""
    assert nak(0) == nak(-1) == b"-NAK"
    assert nak(1_500_000_000) == b'-NAK {"delay": 1500000000}'


# --- A real consumer --------------------------------------------------------------------------------------


class Pulling:
    """A consumer of a stream of its own, and what arrives from it.

    Attributes:
        arrivals: everything, in order.
    """

    def __init__(self, broker: Broker, stream: str, options: PullOptions) -> None:
        self.broker = broker
        self.stream = stream
        self.arrivals = asyncio.Queue[Arrival]()
        self.puller = Puller(broker.connection, stream, "c", options, self.arrivals.put_nowait)

    def publish(self, *bodies: bytes, headers: bytes = b"") -> None:
        for body in bodies:
            self.broker.connection.publish(f"{self.stream}.a".encode(), body, headers)

    async def arrival(self) -> Arrival:
        async with asyncio.timeout(20):
            return await self.arrivals.get()

    async def messages(self, count: int) -> list[Message]:
        """Take so many messages; nothing else may arrive between them."""
        messages = [await self.arrival() for _ in range(count)]
        assert all(isinstance(each, Message) for each in messages)
        return [each for each in messages if isinstance(each, Message)]

    async def registered(self) -> None:
        """Wait until the server has a request of ours."""
        async with asyncio.timeout(20):
            while not await self._requests():  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.005)

    async def _requests(self) -> int:
        info = await self.broker.api.call(f"CONSUMER.INFO.{self.stream}.c", None, in_seconds(20))
        return int(info["num_waiting"])

    async def state(self) -> ConsumerState:
        state = await self.broker.api.consumer(self.stream, "c", in_seconds(20))
        assert state is not None
        return state


def told_by(message: Message) -> tuple[int, ...]:
    """Read which delivery a message is: attempt, sequences of stream and consumer, time, and what is left."""
    return tuple(map(int, split_ack_subject(message.reply)))


async def pulling(broker: Broker, stream: str, options: PullOptions | None = None, **config: Any) -> Pulling:
    """Make a stream and a consumer of it, and open an inbox."""
    await broker.stream(stream)
    config = {"durable_name": "c", "ack_policy": "explicit"} | config
    await broker.api.create_consumer(stream, "c", config, in_seconds(20))
    some = Pulling(broker, stream, options or PullOptions())
    assert some.puller.open()
    return some


async def test_a_request_that_does_not_wait(broker: Broker, unique: Unique) -> None:
    """It ends at once when there is nothing, and brings what there is, however large."""
    some = await pulling(broker, unique())
    assert some.puller.pull(1, no_wait=True)
    assert await some.arrival() == PullEnded(1, 0, too_large=False)
    some.publish(bytes(500_000))
    assert some.puller.pull(1, 20_000)
    assert await some.arrival() == PullEnded(1, 20_000, too_large=True)
    assert some.puller.pull(1, no_wait=True)
    [message] = await some.messages(1)
    assert len(message.body) == 500_000


async def test_messages_and_their_acknowledgements(broker: Broker, unique: Unique) -> None:
    """As many messages come as were asked for, each says which one it is, and stays settled once it is."""
    some = await pulling(broker, unique())
    some.publish(b"1", b"2", b"3")
    async with asyncio.timeout(20):
        while (await some.state()).pending < 3:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)
    assert some.puller.pull(2)
    first, second = await some.messages(2)
    assert (first.subject, first.body, second.body) == (f"{some.stream}.a".encode(), b"1", b"2")
    stored = await broker.api.message(some.stream, {"seq": 1}, in_seconds(20))
    assert stored is not None
    assert told_by(first) == (1, 1, 1, stored.unix_ns, 2)
    some.puller.tell(first.reply, ACK)
    some.puller.tell(second.reply, ACK)
    assert some.puller.pull(1)
    [third] = await some.messages(1)
    assert told_by(third)[:2] == (1, 3)
    async with asyncio.timeout(20):
        while (state := await some.state()).settled_to < 2:  # noqa: ASYNC110 - the server takes acks later
            await asyncio.sleep(0.005)
    assert (state.pending, state.unsettled, state.settled_to, state.delivered_to) == (0, 1, 2, 3)


async def test_messages_that_come_again(broker: Broker, unique: Unique) -> None:
    """A message that was handed back comes again, at once or after its delay; one that was ended does not."""
    some = await pulling(broker, unique())
    some.publish(b"1")
    some.puller.pull(10)
    [message] = await some.messages(1)
    some.puller.tell(message.reply, nak(0))
    [message] = await some.messages(1)
    assert told_by(message)[0] == 2
    handed_back = asyncio.get_running_loop().time()
    some.puller.tell(message.reply, nak(nanoseconds_of(0.3)))
    [message] = await some.messages(1)
    assert asyncio.get_running_loop().time() - handed_back > 0.25
    assert told_by(message)[0] == 3
    some.puller.tell(message.reply, TERMINATE)
    some.publish(b"2")
    [message] = await some.messages(1)
    assert message.body == b"2"
    async with asyncio.timeout(20):
        while (await some.state()).unsettled != 1:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)


def nanoseconds_of(seconds: float) -> int:
    """Convert seconds."""
    return int(seconds * 1_000_000_000)


async def test_progress_prolongs_a_delivery(broker: Broker, unique: Unique) -> None:
    """A message is not given to somebody else while progress is told of it, and is after that."""
    some = await pulling(broker, unique(), ack_wait=nanoseconds_of(0.5))
    some.publish(b"1")
    some.puller.pull(10)
    [message] = await some.messages(1)
    loop = asyncio.get_running_loop()
    until = loop.time() + 1.5
    while loop.time() < until:
        some.puller.tell(message.reply, PROGRESS)
        await asyncio.sleep(0.02)
    assert some.arrivals.empty()
    [again] = await some.messages(1)
    assert told_by(again)[0] == 2


async def test_headers_that_look_like_a_status(broker: Broker, unique: Unique) -> None:
    """A stored message may carry any header; only what has no reply subject is a status."""
    some = await pulling(broker, unique())
    headers = h.block(((b"Status", b"408"), (b"Description", b"Request Timeout")))
    some.publish(b"1", headers=headers)
    some.puller.pull(1)
    [message] = await some.messages(1)
    assert (message.headers, message.body) == (headers, b"1")


async def test_signs_of_life_and_the_end_of_a_request(broker: Broker, unique: Unique) -> None:
    """A request without messages is kept alive by heartbeats and ends in time, with what it had left."""
    some = await pulling(broker, unique(), PullOptions(expires=1.0, heartbeat=0.2))
    some.publish(b"1")
    some.puller.pull(5, max_bytes=10_000)
    [message] = await some.messages(1)
    size = 10_000 - len(message.subject) - len(message.reply) - len(message.body)
    assert await some.arrival() is Notice.ALIVE
    while (arrival := await some.arrival()) is Notice.ALIVE:
        pass
    assert isinstance(arrival, PullEnded)
    assert arrival == PullEnded(4, arrival.bytes_left, too_large=False)
    assert abs(arrival.bytes_left - size) < 100


async def test_a_limit_in_bytes(broker: Broker, unique: Unique) -> None:
    """A request ends before a message that it has no room for, and says so; the next one may have room."""
    some = await pulling(broker, unique())
    some.publish(bytes(100), bytes(5000))
    some.puller.pull(10, max_bytes=1000)
    await some.messages(1)
    arrival = await some.arrival()
    assert isinstance(arrival, PullEnded)
    assert (arrival.left, arrival.too_large) == (9, True)
    some.puller.pull(10, max_bytes=10_000)
    [message] = await some.messages(1)
    assert len(message.body) == 5000


async def test_a_consumer_that_goes_away(broker: Broker, unique: Unique) -> None:
    """Its end is told to who has a request, and who makes one later learns that nobody hears it."""
    some = await pulling(broker, unique())
    some.puller.pull(1)
    await some.registered()
    assert await broker.api.delete_consumer(some.stream, "c", in_seconds(20))
    assert await some.arrival() is Notice.DELETED
    while some.arrivals.empty():  # while a server forgets a consumer it may drop a request
        some.puller.pull(1)
        await broker.requests.round_trip(in_seconds(20))
    assert await some.arrival() is Notice.UNHEARD


async def test_more_than_a_consumer_allows(broker: Broker, unique: Unique) -> None:
    """A request that the consumer does not take is refused."""
    some = await pulling(broker, unique(), max_batch=5)
    some.puller.pull(6)
    assert await some.arrival() is Notice.REFUSED


async def test_an_inbox_that_was_dropped(broker: Broker, unique: Unique) -> None:
    """What answers requests from before arrives nowhere once another inbox is open, or none."""
    some = await pulling(broker, unique())
    some.puller.pull(5)
    await some.registered()
    assert some.puller.open()
    some.publish(b"1")
    await broker.api.stream_info(some.stream, in_seconds(20))
    await some.state()
    assert some.arrivals.empty()
    some.puller.forget()
    assert not some.puller.pull(1)
    assert some.arrivals.empty()


async def test_close_hands_over_what_is_on_its_way(broker: Broker, unique: Unique) -> None:
    """What was sent before `close` arrives until it returns, in order; nothing comes later."""
    some = await pulling(broker, unique())
    some.publish(*(b"%d" % number for number in range(500)))
    some.puller.pull(1000)
    first = await some.messages(1)
    await some.puller.close()
    rest = await some.messages(some.arrivals.qsize())
    assert [each.body for each in first + rest] == [b"%d" % number for number in range(1 + len(rest))]
    assert rest
    some.publish(b"late")
    await some.state()
    assert some.arrivals.empty()
    await some.puller.close()


async def test_without_a_connection(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """There is no inbox and no request then, and settling does no harm; a new inbox works afterwards."""
    some = await pulling(own_broker, "S")
    some.publish(b"1")
    some.puller.pull(1)
    [message] = await some.messages(1)
    own_nats_server.kill()
    await own_broker.lost()
    assert not some.puller.pull(1)
    assert not some.puller.open()
    assert not some.puller.pull(1)
    some.puller.tell(message.reply, ACK)
    some.puller.tell(message.reply, nak(0))
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(20))
    await some.puller.close()
    some = await pulling(own_broker, "S")  # in memory, it was gone with its server
    some.publish(b"2")
    some.puller.pull(1)
    assert (await some.messages(1))[0].body == b"2"


async def test_nothing_is_left_of_a_puller(broker: Broker, unique: Unique) -> None:
    """Opening and closing inboxes leaves nothing behind."""
    some = await pulling(broker, unique())
    wire = broker.connection._wire
    assert wire is not None
    receivers, hooks = len(wire._receivers), len(broker.connection.violations._hooks)
    for _ in range(10):
        assert some.puller.open()
    await some.puller.close()
    await eventually(lambda: len(wire._receivers) == receivers - 1)
    assert len(broker.connection.violations._hooks) == hooks - 1
    assert some.puller.open()
    some.puller.forget()
    assert len(wire._receivers) == receivers - 1
