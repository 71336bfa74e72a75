"""Publishing against a real nats-server: what is stored and refused, and when the broker goes."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.nats.waiting import eventually
from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import Message
from windshift.nats.jetstream.api import StoredMessage
from windshift.nats.jetstream.writes import WriteOptions, Writes, _Found
from windshift.nats.times import Time, parse_rfc3339
from windshift.server.auth.permissions import ListEntry, Permissions, Role
from windshift.server.auth.policy import Principal
from windshift.server.auth.subjects import SubjectPatterns, tokens
from windshift.server.config.telemetry import SamplerConfig
from windshift.server.domain.errors import (
    BrokerUnavailable,
    EventTooLarge,
    InvalidField,
    OutcomeUnknown,
    StreamFull,
    TooManyInFlight,
    UnboundSubject,
    WrongLastId,
)
from windshift.server.events import headers
from windshift.server.events.counts import CANCELLED, Counts
from windshift.server.events.model import PublishReceipt, PublishRequest
from windshift.server.events.publish import Publisher
from windshift.server.telemetry.propagation import TraceContext
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

Unique = Callable[[], str]

TYPE_URL = "type.googleapis.com/windshift.test.v1.StringValue"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def publisher(broker: Broker, options: WriteOptions | None = None) -> Publisher:
    """Make a publisher on this connection."""
    return Publisher(broker.api, Writes(broker.requests, broker.api, options))


def event(subject: str, body: bytes = b"body", **more: Any) -> PublishRequest:
    """Make a publish of a small event."""
    return PublishRequest(subject, TYPE_URL, body)._replace(**more)


async def stored(broker: Broker, stream: str, sequence: int) -> StoredMessage:
    """Read one message of a stream."""
    message = await broker.api.message(stream, {"seq": sequence}, in_seconds(30))
    assert message is not None
    return message


async def test_id_is_the_sequence(broker: Broker, unique: Unique) -> None:
    """Publish returns the event's sequence in the stream."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    receipts = [await publish(event(f"{stream}.a"), in_seconds(30)) for _ in range(3)]
    assert receipts == [(number, False) for number in (1, 2, 3)]


async def test_as_it_lies_in_the_stream(broker: Broker, unique: Unique) -> None:
    """Subject, body and headers are those that other programs rely on."""
    stream = await broker.stream(unique())
    request = PublishRequest(
        f"{stream}.placed",
        "https://types.example/acme.orders.v1.Placed",
        b"\x00\xff",
        time=Time(-1, 5),
        idempotency_key="order 17",
        expected_last_id=0,
        trace=TraceContext(PARENT, "a=1"),
    )
    await publisher(broker).publish(request, in_seconds(30))
    message = await stored(broker, stream, 1)
    assert (message.subject, message.body) == (f"{stream}.placed", b"\x00\xff")
    assert message.headers == (
        (b"WS-Data-Type", b"acme.orders.v1.Placed"),
        (b"WS-Published-Time", b"1969-12-31T23:59:59.000000005Z"),
        (b"Nats-Msg-Id", b"order 17"),
        (b"Nats-Expected-Last-Sequence", b"0"),
        (b"WS-Trace-Parent", PARENT.encode()),
        (b"WS-Trace-State", b"a=1"),
    )


async def test_least_headers_and_the_servers_time(broker: Broker, unique: Unique) -> None:
    """An event without options has two headers; its time is the server's, in UTC with nanoseconds."""
    stream = await broker.stream(unique())
    before = time.time_ns()
    await publisher(broker).publish(event(f"{stream}.a"), in_seconds(30))
    after = time.time_ns()
    (_, (name, value)) = headers = (await stored(broker, stream, 1)).headers
    assert headers[0] == (b"WS-Data-Type", b"windshift.test.v1.StringValue")
    assert name == b"WS-Published-Time"
    text = value.decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    moment = parse_rfc3339(text)
    assert moment is not None
    assert before <= moment.seconds * 10**9 + moment.nanos <= after


async def test_same_key_is_stored_once(broker: Broker, unique: Unique) -> None:
    """The same key gives the id of the first publish, also for another subject, and all at once."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    keyed = event(f"{stream}.a", idempotency_key="k")
    first = await publish(keyed, in_seconds(30))
    again = await asyncio.gather(*(publish(keyed, in_seconds(30)) for _ in range(100)))
    other = await publish(keyed._replace(subject=f"{stream}.b"), in_seconds(30))
    assert first == (1, False)
    assert {*again, other} == {(1, True)}
    assert await broker.messages(stream) == 1


async def test_expected_last_id(broker: Broker, unique: Unique) -> None:
    """The stream's last id is expected, whatever the subject; a mismatch tells both and stores nothing."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    assert await publish(event(f"{stream}.a", expected_last_id=0), in_seconds(30)) == (1, False)
    assert await publish(event(f"{stream}.b", expected_last_id=1), in_seconds(30)) == (2, False)
    for expected in (0, 1, 3, 2**63 - 1):
        with pytest.raises(WrongLastId) as caught:
            await publish(event(f"{stream}.a", expected_last_id=expected), in_seconds(30))
        assert caught.value.metadata == {"expected": str(expected), "actual": "2"}
    assert await broker.messages(stream) == 2


async def test_expected_last_id_outlives_a_purge(broker: Broker, unique: Unique) -> None:
    """A purge does not reset the last id: 0 is right only where nothing was ever stored."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    await publish(event(f"{stream}.a"), in_seconds(30))
    await broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
    with pytest.raises(WrongLastId):
        await publish(event(f"{stream}.a", expected_last_id=0), in_seconds(30))
    assert await publish(event(f"{stream}.a", expected_last_id=1), in_seconds(30)) == (2, False)


async def test_repeat_of_a_conditional_publish(broker: Broker, unique: Unique) -> None:
    """A repeated conditional publish with a key gives the id of the first, whatever came after."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    conditional = event(f"{stream}.a", expected_last_id=0, idempotency_key="k")
    assert await publish(conditional, in_seconds(30)) == (1, False)
    await publish(event(f"{stream}.a"), in_seconds(30))
    assert await publish(conditional, in_seconds(30)) == (1, True)
    with pytest.raises(WrongLastId):
        await publish(conditional._replace(idempotency_key="other"), in_seconds(30))
    assert await broker.messages(stream) == 2


def principal(name: str, role: Role | None = None, *shared: str) -> Principal:
    """Make a principal."""
    patterns = SubjectPatterns()
    for number, subject in enumerate(shared):
        patterns.add(tokens(subject), number)
    return Principal(
        name, Permissions(name, [role or Role("none")]), shared_keys=patterns if shared else None
    )


async def test_keys_of_principals(broker: Broker, unique: Unique) -> None:
    """Each has keys of its own, whatever the others use; the longest name and key fit."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    keyed = event(f"{stream}.a", idempotency_key="k" * 256)
    callers = [principal(name) for name in ("ann", "ann-", "a" * 64)]
    for number, caller in enumerate((*callers, None), 1):
        for is_again in (False, True):
            assert await publish(keyed._replace(caller=caller), in_seconds(30)) == (number, is_again)
    assert await broker.messages(stream) == 4


async def test_shared_keys(broker: Broker, unique: Unique) -> None:
    """Where principals share keys, these are the broker's; ids are for those who see the stream."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    keyed = event(f"{stream}.a", idempotency_key="k")
    seeing = Role("sees", {"streams.view": (ListEntry(stream, 1),)})
    ann, bob = principal("ann", None, f"{stream}.a"), principal("bob", seeing, f"{stream}.>")
    assert await publish(keyed._replace(caller=ann), in_seconds(30)) == (1, False)
    assert await publish(keyed._replace(caller=bob), in_seconds(30)) == (1, True)
    assert await publish(keyed, in_seconds(30)) == (1, True)
    assert await publish(keyed._replace(caller=ann), in_seconds(30)) == (0, True)
    other = keyed._replace(caller=ann, subject=f"{stream}.b")
    assert await publish(other, in_seconds(30)) == (2, False)  # keys of these subjects are not shared
    forged = keyed._replace(caller=ann, idempotency_key="ws:ann:k")
    assert await publish(forged, in_seconds(30)) == (3, False)


async def test_conditional_publishes_of_principals(broker: Broker, unique: Unique) -> None:
    """A repeat is known by the principal's own key alone; the last id is for those who see the stream."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    conditional = event(f"{stream}.a", expected_last_id=0, idempotency_key="k")
    ann = conditional._replace(caller=principal("ann"))
    seeing = Role("sees", {"streams.consume": (ListEntry(stream, 1),)})
    assert await publish(ann, in_seconds(30)) == (1, False)
    assert await publish(ann, in_seconds(30)) == (1, True)
    assert await publish(ann._replace(expected_last_id=10**12), in_seconds(30)) == (1, True)
    for caller, actual in ((principal("bob"), None), (principal("eve", seeing), 1)):
        for expected in (0, 10**12):
            with pytest.raises(WrongLastId) as caught:
                await publish(conditional._replace(caller=caller, expected_last_id=expected), in_seconds(30))
            told = {} if actual is None else {"actual": str(actual)}
            assert caught.value.metadata == {"expected": str(expected), **told}
    assert await broker.messages(stream) == 1


async def test_one_of_many_conditional_publishes_wins(broker: Broker, unique: Unique) -> None:
    """Of many publishes with the same expectation exactly one is stored."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    request = event(f"{stream}.a", expected_last_id=0)
    outcomes = await asyncio.gather(
        *(publish(request, in_seconds(30)) for _ in range(50)), return_exceptions=True
    )
    assert [outcome for outcome in outcomes if isinstance(outcome, tuple)] == [(1, False)]
    assert sum(isinstance(outcome, WrongLastId) for outcome in outcomes) == 49


@pytest.mark.parametrize("body", [0, 1])
async def test_broker_limit_counts_headers(broker: Broker, unique: Unique, body: int) -> None:
    """What fits with its headers is stored; one byte more is refused before it reaches the broker."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    limit = broker.connection.max_payload
    headers = len(
        b"NATS/1.0\r\nWS-Data-Type: windshift.test.v1.StringValue\r\n"
        b"WS-Published-Time: 2026-01-01T00:00:00.000000000Z\r\n\r\n"
    )
    assert await publish(event(f"{stream}.a", bytes(limit - headers)), in_seconds(30)) == (1, False)
    with pytest.raises(EventTooLarge) as caught:
        await publish(event(f"{stream}.a", bytes(limit - headers + 1)), in_seconds(30))
    assert caught.value.metadata["limit"] == str(limit)
    assert broker.connection.reconnects == 0


async def test_stream_limit(broker: Broker, unique: Unique) -> None:
    """An event larger than its stream allows is refused with the stream's limit."""
    stream = await broker.stream(unique(), max_msg_size=200)
    publish = publisher(broker).publish
    await publish(event(f"{stream}.a"), in_seconds(30))
    with pytest.raises(EventTooLarge) as caught:
        await publish(event(f"{stream}.a", bytes(200)), in_seconds(30))
    assert caught.value.metadata == {"limit": "200", "name": stream}


@pytest.mark.parametrize(
    "limit",
    [{"max_msgs": 1}, {"max_bytes": 200}, {"max_msgs_per_subject": 1, "discard_new_per_subject": True}],
)
async def test_full_stream(broker: Broker, unique: Unique, limit: dict[str, Any]) -> None:
    """A stream that discards new events when it is full says so."""
    stream = await broker.stream(unique(), discard="new", **limit)
    publish = publisher(broker).publish
    await publish(event(f"{stream}.a"), in_seconds(30))
    with pytest.raises(StreamFull):
        await publish(event(f"{stream}.a"), in_seconds(30))
    assert await broker.messages(stream) == 1


async def test_unbound_subject(broker: Broker, unique: Unique) -> None:
    """A subject that no stream takes is told at once."""
    subject = unique()
    with pytest.raises(UnboundSubject) as caught:
        await publisher(broker).publish(event(subject), in_seconds(30))
    assert caught.value.metadata == {"subject": subject}


@pytest.mark.parametrize("key", ["", "k"])
async def test_unbound_subject_that_somebody_listens_to(broker: Broker, unique: Unique, key: str) -> None:
    """With a listener the broker does not say that no stream takes a subject; it is found out then."""
    subject = unique()
    broker.connection.subscribe(subject.encode(), lambda _: None)
    publish = publisher(broker, WriteOptions(doubt_after=timedelta(milliseconds=10))).publish
    with pytest.raises(UnboundSubject):
        await publish(event(subject, idempotency_key=key), in_seconds(30))
    await broker.stream(unique(), subject)
    assert await publish(event(subject, idempotency_key=key), in_seconds(30)) == (1, False)


async def test_slow_answers_are_waited_for(
    own_nats_server: NatsServer, own_broker: Broker, unique: Unique
) -> None:
    """An answer that takes longer than `doubt_after` counts like any other, and the publish is sent once."""
    stream = await own_broker.stream(unique())
    publish = publisher(own_broker, WriteOptions(doubt_after=timedelta(milliseconds=10))).publish
    own_nats_server.freeze()
    publishing = asyncio.create_task(publish(event(f"{stream}.a"), in_seconds(30)))
    while len(own_broker.requests) < 2:  # noqa: ASYNC110 - until the stream is looked up as well
        await asyncio.sleep(0.005)
    own_nats_server.thaw()
    assert await publishing == (1, False)
    assert await own_broker.messages(stream) == 1


async def test_no_leader_for_a_while(broker: Broker, unique: Unique) -> None:
    """While a stream that exists does not answer, the publish is tried again."""
    writes = Writes(broker.requests, broker.api)
    subject = unique()
    writes._found[subject.encode()] = _Found(in_seconds(60))  # what a look-up in an election would find
    publish = Publisher(broker.api, writes).publish
    with pytest.raises(BrokerUnavailable):
        await publish(event(subject), in_seconds(0.1))
    publishing = asyncio.create_task(publish(event(subject), in_seconds(30)))
    await asyncio.sleep(0.05)
    await broker.stream(unique(), subject)
    assert await publishing == (1, False)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("subject", {"subject": ""}),
        ("subject", {"subject": "a.*"}),
        ("subject", {"subject": "a.>"}),
        ("subject", {"subject": "$JS.API.STREAM.DELETE.X"}),
        ("subject", {"subject": "_INBOX.x"}),
        ("subject", {"subject": "x" * 256}),
        ("data.type_url", {"type_url": ""}),
        ("data.type_url", {"type_url": "type.googleapis.com/"}),
        ("data.type_url", {"type_url": "type.googleapis.com/" + "x" * 1025}),
        ("idempotency_key", {"idempotency_key": " k"}),
        ("idempotency_key", {"idempotency_key": "k" * 257}),
        ("idempotency_key", {"idempotency_key": "a\r\nNats-Rollup: all"}),
        ("expected_last_id", {"expected_last_id": 2**63}),
    ],
)
async def test_invalid_fields(broker: Broker, field: str, change: dict[str, Any]) -> None:
    """What is wrong with a request is told by the field's name, before anything is sent."""
    with pytest.raises(InvalidField) as caught:
        await publisher(broker).publish(event("orders.a")._replace(**change), in_seconds(30))
    assert caught.value.field == field


async def test_waits_for_the_broker(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A publish while the broker is gone is stored once it is back, and once only."""
    stream, publish = await own_broker.stream("S", storage="file"), publisher(own_broker).publish
    own_nats_server.kill()
    await own_broker.lost()
    publishing = [asyncio.create_task(publish(event("S.a"), in_seconds(30))) for _ in range(5)]
    await asyncio.sleep(0.05)
    own_nats_server.start()
    assert sorted(await asyncio.gather(*publishing)) == [(number, False) for number in range(1, 6)]
    assert await own_broker.messages(stream) == 5


async def test_broker_stays_away(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A publish that was never sent fails as unavailable at the deadline, and is not stored later."""
    stream, publish = await own_broker.stream("S", storage="file"), publisher(own_broker).publish
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(BrokerUnavailable):
        await publish(event("S.a"), in_seconds(0.05))
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(30))
    assert await own_broker.messages(stream) == 0


async def test_lost_answer_with_a_key(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A publish with a key whose answer was lost is sent again and stored once."""
    stream, publish = await own_broker.stream("S", storage="file"), publisher(own_broker).publish
    own_nats_server.freeze()
    publishing = [
        asyncio.create_task(publish(event("S.a", idempotency_key=f"k{number}"), in_seconds(30)))
        for number in range(5)
    ]
    await asyncio.sleep(0.05)
    own_nats_server.kill()
    own_nats_server.start()
    receipts = await asyncio.gather(*publishing)
    assert sorted(seq for seq, _ in receipts) == [1, 2, 3, 4, 5]
    assert await own_broker.messages(stream) == 5


async def test_lost_answer_without_a_key(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A publish without a key whose answer was lost is not sent again: its outcome is unknown."""
    await own_broker.stream("S", storage="file")
    own_nats_server.freeze()
    publishing = asyncio.create_task(publisher(own_broker).publish(event("S.a"), in_seconds(30)))
    await asyncio.sleep(0.05)
    own_nats_server.kill()
    with pytest.raises(OutcomeUnknown):
        await publishing


@pytest.mark.parametrize("key", ["", "k"])
async def test_no_answer_by_the_deadline(own_nats_server: NatsServer, own_broker: Broker, key: str) -> None:
    """A publish that was sent and not answered in time has an unknown outcome, key or not."""
    await own_broker.stream("S")
    own_nats_server.freeze()
    with pytest.raises(OutcomeUnknown):
        await publisher(own_broker).publish(event("S.a", idempotency_key=key), in_seconds(0.05))
    own_nats_server.thaw()


async def test_bound_on_what_is_under_way(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """Beyond the bound a publish waits for its turn until its deadline; nothing of it was sent."""
    stream = await own_broker.stream("S")
    publish = publisher(own_broker, WriteOptions(max_in_flight=2, max_waiting=2)).publish
    own_nats_server.freeze()
    sent = [asyncio.create_task(publish(event("S.sent"), in_seconds(30))) for _ in range(2)]
    waiting = [asyncio.create_task(publish(event("S.waits"), in_seconds(30))) for _ in range(1)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyInFlight):
        await publish(event("S.late"), in_seconds(0.05))
    waiting.append(asyncio.create_task(publish(event("S.waits"), in_seconds(30))))
    await asyncio.sleep(0)
    with pytest.raises(TooManyInFlight):
        await publish(event("S.beyond"), in_seconds(30))
    own_nats_server.thaw()
    assert sorted(await asyncio.gather(*sent, *waiting)) == [(number, False) for number in (1, 2, 3, 4)]
    assert await own_broker.messages(stream) == 4


async def test_what_was_waited_for_at_the_deadline(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A publish that its deadline ends tells what it was waiting for."""
    await own_broker.stream("S")
    publish = publisher(own_broker, WriteOptions(max_in_flight=1)).publish
    own_nats_server.freeze()
    sent = asyncio.create_task(publish(event("S.a"), in_seconds(1.5)))
    await asyncio.sleep(0)
    with pytest.raises(TooManyInFlight):
        await publish(event("S.a"), in_seconds(0.05))
    with pytest.raises(OutcomeUnknown):
        await sent
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(BrokerUnavailable):
        await publish(event("S.a"), in_seconds(0.05))


async def test_cancelled_before_the_deadline(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A call whose client went away is cancelled and nothing else, and leaves nothing behind."""
    await own_broker.stream("S")
    writes = Writes(own_broker.requests, own_broker.api, WriteOptions(max_in_flight=1))
    publish = Publisher(own_broker.api, writes).publish
    own_nats_server.freeze()
    tasks = [asyncio.create_task(publish(event("S.a"), in_seconds(30))) for _ in range(2)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    assert [type(outcome) for outcome in await asyncio.gather(*tasks, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 2
    assert len(own_broker.requests) == 0
    assert writes.in_flight == 0
    own_nats_server.thaw()


class Begun:
    """A publish without a task: what came of it."""

    def __init__(self, publisher: Publisher, request: PublishRequest, seconds: float) -> None:
        self.receipts: list[PublishReceipt] = []
        self.rest: list[Callable[[], Awaitable[PublishReceipt]]] = []
        self.answer = self.receipts.append
        self.go_on = self.rest.append
        self.abandon = publisher.begin(
            request, headers.now(), in_seconds(seconds), self, lambda receipt: receipt
        )

    async def outcome(self) -> PublishReceipt:
        """Return what it came to, in a task if there is need."""
        async with asyncio.timeout(20):
            while not (self.receipts or self.rest):  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.002)
        return await self.rest.pop()() if self.rest else self.receipts.pop()


async def test_those_who_wait_for_a_slot_take_turns(broker: Broker, unique: Unique) -> None:
    """Also those that began without a task: for whom they are is in the request."""
    stream = await broker.stream(unique())
    order: list[str] = []

    async def finish(begun: Begun, asker: str) -> None:
        await begun.outcome()
        order.append(asker)

    writes = Writes(broker.requests, broker.api, WriteOptions(max_in_flight=1))
    assert writes._small.slots.take_now("")
    async with asyncio.TaskGroup() as group:
        for asker in "aaab":
            begun = Begun(Publisher(broker.api, writes), event(f"{stream}.a", asker=asker), 20)
            group.create_task(finish(begun, asker))
        await asyncio.sleep(0)
        writes._small.slots.give_back("")
    assert order == ["a", "b", "a", "a"]


async def test_without_a_task(broker: Broker, unique: Unique) -> None:
    """What is simply stored needs none; all else goes on in one, with the outcome that it would have had."""
    stream, counts = await broker.stream(unique()), Counts()
    writes = Writes(broker.requests, broker.api)
    publisher = Publisher(broker.api, writes, counts)
    begun = Begun(publisher, event(f"{stream}.a"), 5)
    assert (await begun.outcome(), begun.rest) == ((1, False), [])
    keyed = event(f"{stream}.a", idempotency_key="k")
    assert await Begun(publisher, keyed, 5).outcome() == (2, False)
    assert await Begun(publisher, keyed, 5).outcome() == (2, True)
    with pytest.raises(WrongLastId):
        await Begun(publisher, event(f"{stream}.a", expected_last_id=1), 5).outcome()
    with pytest.raises(UnboundSubject):
        await Begun(publisher, event(f"{unique()}.a"), 5).outcome()
    with pytest.raises(EventTooLarge):
        await Begun(publisher, event(f"{stream}.a", bytes(2_000_000)), 5).outcome()
    with pytest.raises(InvalidField):
        Begun(publisher, event("a b"), 5)
    assert (counts.published, counts.duplicates) == (2, 1)
    assert {reason: number for reason, number in counts.failures.items() if number} == {
        InvalidField.reason: 1,
        WrongLastId.reason: 1,
        UnboundSubject.reason: 1,
        EventTooLarge.reason: 1,
    }
    assert writes.in_flight == 0


async def test_abandoned_without_a_task(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """Nothing is left of it; one that found no slot waits in a task, and so does one that is in doubt."""
    await own_broker.stream("S")
    options, counts = WriteOptions(max_in_flight=1, doubt_after=timedelta(milliseconds=10)), Counts()
    writes = Writes(own_broker.requests, own_broker.api, options)
    publisher = Publisher(own_broker.api, writes, counts)
    own_nats_server.freeze()
    first, second = (Begun(publisher, event("S.a"), 20) for _ in range(2))
    assert (len(second.rest), writes.in_flight) == (1, 1)
    first.abandon()
    assert (writes.in_flight, len(own_broker.requests)) == (0, 0)
    assert counts.failures[CANCELLED] == 1
    second.abandon()  # before its task has begun
    assert counts.failures[CANCELLED] == 2
    third = Begun(publisher, event("S.a"), 20)
    async with asyncio.timeout(20):
        while not third.rest:  # noqa: ASYNC110 - only the clock knows
            await asyncio.sleep(0.002)
    assert writes.in_flight == 1
    own_nats_server.thaw()
    assert await third.outcome() == (2, False)
    assert writes.in_flight == 0


async def test_abandoned_before_the_task_that_traces(broker: Broker, unique: Unique) -> None:
    """It is counted, and its span ends with that."""
    spans, counts = list[Span](), Counts()
    writes = Writes(broker.requests, broker.api)
    publisher = Publisher(broker.api, writes, counts, Tracer(Sampler(SamplerConfig()), spans.append))
    begun = Begun(publisher, event(f"{unique()}.a"), 20)
    assert (len(begun.rest), spans) == (1, [])
    begun.abandon()
    assert [(span.name, span.error) for span in spans] == [("send", CANCELLED)]
    assert counts.failures[CANCELLED] == 1


async def test_an_answer_that_comes_before_the_task_that_doubts(broker: Broker, unique: Unique) -> None:
    """It is heard; and nothing is left where the publish is abandoned before that task."""
    subject, asked = unique(), asyncio.Queue[Message]()
    broker.connection.subscribe(subject.encode(), asked.put_nowait)
    options = WriteOptions(doubt_after=timedelta(milliseconds=10))
    writes = Writes(broker.requests, broker.api, options)
    first, second = (Begun(Publisher(broker.api, writes), event(subject), 20) for _ in range(2))
    await eventually(lambda: bool(first.rest and second.rest))
    broker.connection.publish((await asked.get()).reply, b'{"stream":"S","seq":7}')
    await broker.requests.round_trip(in_seconds(20))
    assert await first.outcome() == (7, False)
    second.abandon()
    assert writes.in_flight == 0
    await eventually(lambda: len(broker.requests) == 0)


async def test_crashes_under_load(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """What was confirmed is stored once and under its id, after repeated crashes of the broker under load."""
    stream, publish = await own_broker.stream("S", storage="file"), publisher(own_broker).publish
    confirmed: dict[str, int] = {}
    stop = asyncio.Event()

    async def keep_publishing(name: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            key = f"{name}-{number}"
            request = event(f"S.{name}", idempotency_key=key)
            confirmed[key] = (await publish(request, in_seconds(20)))[0]

    async with asyncio.TaskGroup() as group:
        for name in range(64):
            group.create_task(keep_publishing(name))
        for _ in range(3):
            await asyncio.sleep(0.15)
            own_nats_server.kill()
            await own_broker.lost()
            own_nats_server.start()
            await own_broker.connection.wait_ready(in_seconds(30))
        await asyncio.sleep(0.15)
        stop.set()
    assert await own_broker.messages(stream) == len(confirmed) == len(set(confirmed.values()))
    sample = list(confirmed.items())[:: max(1, len(confirmed) // 500)]
    for key, seq in sample:
        assert (b"Nats-Msg-Id", key.encode()) in (await stored(own_broker, stream, seq)).headers
