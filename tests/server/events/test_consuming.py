"""Consuming on a real broker: deliveries, settlements, and how calls end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from time import time_ns

import pytest
import uvloop

from tests.nats.waiting import eventually
from tests.server.events.consuming import (
    AT_ONCE,
    PATIENT,
    Consuming,
    make_consumer,
    prepare,
    share,
)
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats.jetstream.api import JetStream, JsonObject
from windshift.nats.jetstream.pulling import PullOptions
from windshift.server.broker.room import WHOLE
from windshift.server.domain.errors import (
    AlreadySubscribed,
    ConsumerNotFound,
    InvalidField,
    ShuttingDown,
    StreamNotFound,
    SubscribeExpected,
    UnsupportedCombination,
)
from windshift.server.events.consumers import MAX_ACK_PENDING
from windshift.server.events.consuming import call, work_runner
from windshift.server.events.consuming.commands import Limit, Subscribe
from windshift.server.events.consuming.flow import LARGEST_LIMIT, STUCK
from windshift.server.events.consuming.interfaces import STALLED, ConsumeOptions
from windshift.server.events.consuming.pauses import LONG
from windshift.server.events.consuming.pending_acks import CommandKind
from windshift.server.events.consuming.protocol import ConsumeProtocol
from windshift.server.events.deliveries import DeliveryName, name_of
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.token_key import key_of

Unique = Callable[[], str]


@pytest.fixture
async def consuming(broker: Broker, unique: Unique) -> Consuming:
    """Prepare a stream with a consumer on the shared broker."""
    return await prepare(broker, unique())


# Deliveries


async def test_an_event_arrives_as_it_was_published(consuming: Consuming) -> None:
    """Subject, type, time, key and trace are the publisher's; the id is the sequence in the stream."""
    await consuming.publish()
    await consuming.publish(
        body=b"body",
        WS_Data_Type="acme.Placed",
        WS_Published_Time="2026-11-24T14:54:09.000000001Z",
        Nats_Msg_Id="key",
        WS_Trace_Parent="parent",
        WS_Trace_State="state",
    )
    async with consuming.worker() as worker:
        first, second = await worker.events(2)
    assert (first.id, first.type_name, first.attempt, first.idempotency_key) == (1, "", 1, None)
    assert abs(first.time.seconds - second.time.seconds) > 0
    assert (second.id, second.subject, second.data) == (2, f"{consuming.stream}.x", b"body")
    assert (second.type_name, second.idempotency_key) == ("acme.Placed", "key")
    assert (second.time.nanos, second.trace_parent, second.trace_state) == (1, "parent", "state")


async def test_a_subject_that_is_no_text_harms_nobody(consuming: Consuming, nats_server: NatsServer) -> None:
    """Another program may publish to any bytes; the event arrives, and so does what follows."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    subject = consuming.stream.encode() + b".\xff"
    writer.write(b'CONNECT {"headers":true,"verbose":false}\r\nPUB %s 4\r\ndata\r\n' % subject)
    header = b"NATS/1.0\r\nWS-Data-Type: \xff\r\n\r\n"
    writer.write(b"HPUB %s.h %d %d\r\n%s\r\nPING\r\n" % (subject[:-2], len(header), len(header), header))
    await reader.readuntil(b"PONG\r\n")
    writer.close()
    await consuming.publish()
    async with consuming.worker() as worker:
        odd, second, plain = await worker.events(3)
    assert (odd.subject, odd.data) == (f"{consuming.stream}.\ufffd", b"data")
    assert second.type_name == "\ufffd"
    assert plain.subject == f"{consuming.stream}.x"


async def test_a_call_leaves_nothing_behind(consuming: Consuming) -> None:
    """Subscriptions, hooks, tasks and answers that are waited for are as many as before."""
    consuming = replace(consuming, shared=share(consuming.nats))  # made once, as in a server
    await consuming.publish(20)

    def counts() -> tuple[int, ...]:
        connection = consuming.nats.connection
        assert connection._wire is not None
        subscriptions = connection._wire._receivers  # nothing public tells
        hooks = len(connection.on_lost) + len(connection.on_connected)
        return len(subscriptions), hooks, len(asyncio.all_tasks()), len(consuming.nats.requests)

    before = counts()
    for number in range(20):
        async with consuming.worker() as worker:
            if number % 2:
                event = await worker.event()
                worker.ack(event.id)
                await worker.told()
            if number % 3:
                worker.say(None)
                await worker.outcome()
    assert counts() == before


async def test_the_timeout_is_told(broker: Broker, unique: Unique) -> None:
    """The answer to the subscription says how long a delivery may take."""
    consuming = await prepare(broker, unique(), ack_wait=12.5)
    async with consuming.worker() as worker:
        assert worker.timeout == timedelta(seconds=12.5)


async def test_events_that_are_published_later_arrive_at_once(consuming: Consuming) -> None:
    """A pull request stands at the broker all the time."""
    async with consuming.quick(pull=PATIENT).worker() as worker:
        for _ in range(3):
            await consuming.publish()
            await worker.event(within=AT_ONCE)


async def test_an_idle_call_goes_on(consuming: Consuming) -> None:
    """Pull requests that ran out are renewed."""
    consuming = consuming.quick(pull=PullOptions(expires=0.8, heartbeat=0.4))
    async with consuming.worker(window=3) as worker:
        await asyncio.sleep(2 * consuming.options.pull.expires + 0.2)
        await consuming.publish(3)
        await worker.events(3)
        await consuming.settled({"num_ack_pending": 3, "num_redelivered": 0})


async def test_ids_only_grow(consuming: Consuming) -> None:
    """Without rejects and timeouts one subscriber sees the order of the stream, and no event twice."""
    await consuming.publish(2000)
    seen = []
    async with consuming.worker(window=100) as worker:
        for _ in range(2000):
            event = await worker.event()
            seen.append(event.id)
            worker.ack(event.id)
        for _ in range(2000):
            assert (await worker.told())[1]
    assert seen == list(range(1, 2001))
    await consuming.settled({"num_ack_pending": 0, "num_pending": 0, "num_redelivered": 0})


# The window


@pytest.mark.parametrize("window", [1, 2, 7, 50, 0, 500])
async def test_the_window_opens_at_once_and_holds(consuming: Consuming, window: int) -> None:
    """As many deliveries as agreed come without any ack, and no more; 0 stands for 50."""
    await consuming.publish(600)
    async with consuming.worker(window) as worker:
        await worker.events(window or 50)
        await worker.nothing()
        assert await consuming.pending() == (window or 50)


@pytest.mark.parametrize(("window", "batch"), [(1, 1), (5, 1), (50, 7), (200, 25)])
async def test_the_broker_never_sees_the_window_exceeded(
    consuming: Consuming, window: int, batch: int
) -> None:
    """However a client acks, the unsettled deliveries stay within what it agreed to."""
    await consuming.publish(1000)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await consuming.pending())

    watching = asyncio.create_task(watch())
    async with consuming.worker(window) as worker:
        for _ in range(1000 // batch):
            worker.ack(*(event.id for event in await worker.events(min(batch, window))))
            await worker.told()
        watching.cancel()
    assert 0 < most <= window


async def test_a_slot_is_free_again_after_the_timeout(broker: Broker, unique: Unique) -> None:
    """A client that forgets its events is handed others, or the same again."""
    consuming = await prepare(broker, unique(), ack_wait=0.5)
    await consuming.publish(1)
    async with consuming.worker(window=1) as worker:
        assert [(await worker.event()).attempt for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("size", [1000, 20_000, 60_000, 300_000, 900_000])
async def test_events_of_any_size_arrive(consuming: Consuming, size: int) -> None:
    """The limit on the bytes under way delays no event for good."""
    await consuming.publish(12, body=bytes(size))
    await consuming.publish(3)
    async with consuming.worker() as worker:
        assert [len(event.data) for event in await worker.events(15)] == [size] * 12 + [4] * 3


async def test_a_larger_window_is_filled_at_once(consuming: Consuming) -> None:
    """Also when everything was quiet: the call asks for more as soon as it hears of it."""
    await consuming.publish(3)
    async with consuming.quick(pull=PATIENT).worker(window=1) as worker:
        for size in (2, 3):
            await worker.event(within=AT_ONCE)
            await asyncio.sleep(2 * STUCK)  # what is timed after a delivery is over
            worker.say(Limit(size))
        assert (await worker.event(within=AT_ONCE)).id == 3


# Settling


async def test_an_ack_is_stored_before_it_is_confirmed(consuming: Consuming) -> None:
    """When the confirmation arrives, the broker has the event settled."""
    await consuming.publish(2)
    async with consuming.worker() as worker:
        await worker.events(2)
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [1], [], [])
        assert await consuming.pending() == 1


async def test_what_is_not_settled_comes_again(broker: Broker, unique: Unique) -> None:
    """After the timeout the event is delivered again, and the first delivery's ack is invalid until then."""
    consuming = await prepare(broker, unique(), ack_wait=1.0)
    await consuming.publish()
    async with consuming.worker(window=1) as idle:
        await idle.event()
        async with consuming.worker() as worker:
            again = await worker.event()
            assert (again.id, again.attempt) == (1, 2)
            idle.ack(1)
            assert await idle.told() == (CommandKind.ACK, [], [1], [])
            worker.ack(1)
            assert await worker.told() == (CommandKind.ACK, [1], [], [])


async def test_an_ack_after_a_pause_of_the_process(consuming: Consuming) -> None:
    """The call asks at once whether the consumer was moved meanwhile, and settles the event then."""
    consuming = replace(consuming, shared=share(consuming.nats))
    assert consuming.shared is not None
    patient = timedelta(seconds=3 * AT_ONCE)
    async with consuming.quick(pull=PATIENT, confirm_timeout=patient).worker() as worker:
        for ago in (2 * LONG, 0.0):
            consuming.shared.pauses.look(in_seconds(-ago))
        await consuming.publish()
        await worker.event()
        await asyncio.sleep(2 * STUCK)  # what is timed after a delivery is over
        consuming.shared.pauses.look(in_seconds(0))
        worker.ack(1)
        assert await worker.told(within=AT_ONCE) == (CommandKind.ACK, [1], [], [])


async def test_a_rejected_event_comes_again_at_once(consuming: Consuming) -> None:
    """Without a delay, or with one of 0, nothing is waited for."""
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        for attempt, delay in ((2, None), (3, 0.0)):
            worker.reject(1, delay=delay)
            assert await worker.told() == (CommandKind.REJECT, [1], [], [])
            assert (await worker.event(within=AT_ONCE)).attempt == attempt


@pytest.mark.parametrize(("delay", "timeout"), [(0.1, 30.0), (1.7, 1.0)])
async def test_a_delay_is_kept(broker: Broker, unique: Unique, delay: float, timeout: float) -> None:
    """A rejected event comes again after its delay, be that shorter or longer than the timeout."""
    consuming = await prepare(broker, unique(), ack_wait=timeout)
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        asked_at = in_seconds(0)
        worker.reject(1, delay=delay)
        assert (await worker.told())[1] == [1]
        again = await worker.event(within=delay + AT_ONCE)
        assert again.attempt == 2
        assert delay <= in_seconds(0) - asked_at + 0.005


async def test_a_permanent_reject_is_final(broker: Broker, unique: Unique) -> None:
    """The event is not delivered to this consumer again; it stays in the stream."""
    consuming = await prepare(broker, unique(), ack_wait=0.7)
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        worker.reject(1, permanently=True)
        assert await worker.told() == (CommandKind.REJECT, [1], [], [])
        await worker.nothing(1.1)
    assert await consuming.nats.messages(consuming.stream) == 1
    assert await consuming.pending() == 0


async def test_pings_hold_an_event(broker: Broker, unique: Unique) -> None:
    """As long as it pings in time, a client keeps its delivery."""
    consuming = await prepare(broker, unique(), ack_wait=1.0)
    await consuming.publish()
    async with consuming.worker() as worker, consuming.worker() as other:
        holder = worker if (await asyncio.wait_for(_first(worker, other), 30)) is worker else other
        for _ in range(8):
            await asyncio.sleep(0.3)
            holder.ping(1)
            assert await holder.told() == (CommandKind.PING, [1], [], [])
        holder.ack(1)
        assert (await holder.told())[1] == [1]
        assert worker.deliveries.empty()
        assert other.deliveries.empty()
    await consuming.settled({"num_ack_pending": 0, "num_redelivered": 0})


async def _first(*workers: object) -> object:
    """Return whichever worker was handed an event, having taken it."""
    while True:
        for worker in workers:
            if not worker.deliveries.empty():  # type: ignore[attr-defined]
                worker.deliveries.get_nowait()  # type: ignore[attr-defined]
                return worker
        await asyncio.sleep(0.005)


async def test_each_command_is_confirmed_once_and_in_order(consuming: Consuming) -> None:
    """Known, unknown, repeated and settled ids, in one go."""
    await consuming.publish(4)
    async with consuming.worker() as worker:
        await worker.events(4)
        worker.ack(1, 99, 1)
        worker.ping(2, 1)
        worker.ack()
        worker.reject(3, delay=60)
        worker.ack(3)
        worker.ack(2, 4)
        assert [await worker.told() for _ in range(6)] == [
            (CommandKind.ACK, [1], [99], []),
            (CommandKind.PING, [2], [1], []),
            (CommandKind.ACK, [], [], []),
            (CommandKind.REJECT, [3], [], []),
            (CommandKind.ACK, [], [3], []),
            (CommandKind.ACK, [2, 4], [], []),
        ]
        assert worker.confirmations.empty()


async def test_another_calls_events_are_invalid(consuming: Consuming) -> None:
    """A call settles only what was delivered on it."""
    await consuming.publish()
    async with consuming.worker(window=1) as holder:
        await holder.event()
        async with consuming.worker() as other:
            for say in (other.ack, other.ping, other.reject):
                say(1)
            assert [(await other.told())[1:] for _ in range(3)] == [([], [1], [])] * 3
        holder.ack(1)
        assert (await holder.told())[1] == [1]
    await consuming.settled({"num_ack_pending": 0, "num_redelivered": 0})


# Several subscribers


async def test_subscribers_share_the_events(consuming: Consuming) -> None:
    """Each event goes to one of them, and all get some."""
    async with consuming.worker(10) as one, consuming.worker(10) as two, consuming.worker(10) as three:
        await consuming.publish(30)
        seen = [sorted(e.id for e in await worker.events(10)) for worker in (one, two, three)]
    assert sorted(chain.from_iterable(seen)) == list(range(1, 31))


async def test_servers_share_the_events(consuming: Consuming, nats_server: NatsServer) -> None:
    """Subscribers of two servers are served alike."""
    async with (
        connect(nats_server.url) as elsewhere,
        consuming.worker(10) as here,
        consuming.on(elsewhere).worker(10) as there,
    ):
        await consuming.publish(20)
        seen = [e.id for worker in (here, there) for e in await worker.events(10)]
        assert sorted(seen) == list(range(1, 21))


async def test_many_idle_subscribers_all_get_an_event(consuming: Consuming) -> None:
    """None of them is forgotten by the broker."""
    shared = share(consuming.nats)
    minute = timedelta(minutes=1)
    patient = replace(consuming, shared=shared).quick(
        pull=PATIENT, subscribe_timeout=minute, lookup_timeout=minute, stall_timeout=minute
    )
    async with asyncio.timeout(55):
        workers = [patient.open() for _ in range(300)]
        for worker in workers:
            worker.subscribe(consuming.stream, consuming.consumer, 1)
        await consuming.settled({"num_waiting": 300}, within=40)
        await consuming.publish(300)
        events = await asyncio.gather(*(worker.event(40) for worker in workers))
        assert sorted(event.id for event in events) == list(range(1, 301))
        for worker in workers:
            worker.call.cancel()
        await asyncio.wait([worker.call for worker in workers])


async def test_a_call_has_a_turn_only_for_its_own_deliveries_that_others_take_over(
    consuming: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all clients of a consumer come back at once, each call hears of all of them."""
    consuming = replace(consuming, shared=share(consuming.nats))
    assert consuming.shared is not None
    turns: list[float] = []
    advance = ConsumeProtocol.advance

    def counted(protocol: ConsumeProtocol, now: float) -> None:
        turns.append(now)
        advance(protocol, now)

    await consuming.publish()
    async with consuming.quick(pull=PATIENT).worker() as worker:
        event = await worker.event()
        await asyncio.sleep(2 * STUCK)  # what is timed after a delivery is over
        (call,) = consuming.shared.calls.of(ConsumerKey(consuming.stream, consuming.consumer))
        monkeypatch.setattr(ConsumeProtocol, "advance", counted)
        for name in (DeliveryName(StreamSeq(2), 1, 2), name_of(event.reply)):
            assert not turns
            assert call.taken(9, [name]) == []
            call.objected(9, [name.seq])  # to another call
            for _ in range(5):
                await asyncio.sleep(0)
        assert turns


# The end of a call


async def test_a_client_that_ends_its_side_gets_its_confirmations(consuming: Consuming) -> None:
    """After the last confirmation the call ends well, and what was not settled is released."""
    await consuming.publish(30)
    async with consuming.worker(20) as worker:
        await worker.events(20)
        worker.ack(*range(1, 11))
        worker.reject(11, delay=60)
        worker.say(None)
        assert await worker.outcome() is None
        assert await worker.told() == (CommandKind.ACK, list(range(1, 11)), [], [])
        assert await worker.told() == (CommandKind.REJECT, [11], [], [])
    async with consuming.worker(50) as next_one:
        events = await next_one.events(19)
    assert sorted((e.id, e.attempt) for e in events) == [
        *((seq, 2) for seq in range(12, 21)),
        *((seq, 1) for seq in range(21, 31)),
    ]


async def test_what_a_vanished_client_held_is_released_at_once(consuming: Consuming) -> None:
    """Its events go to another subscriber long before their timeout, as attempt 2."""
    await consuming.publish(40)
    async with consuming.worker(40) as worker:
        await worker.events(40)  # all of them, before there is another subscriber
        worker.ack(1)
        await worker.told()
        async with consuming.worker(100) as other:
            await worker.vanish()
            events = [await other.event(within=AT_ONCE) for _ in range(39)]
        assert {event.attempt for event in events} == {2}
        assert sorted(event.id for event in events) == list(range(2, 41))


@pytest.mark.parametrize("wait", [0.0, 0.001, 0.003, 0.01, 0.03])
async def test_what_was_on_its_way_is_released_too(consuming: Consuming, wait: float) -> None:
    """A call that ends while events stream in leaves none of them with the broker until the timeout."""
    await consuming.publish(2000)
    async with consuming.worker(1000):
        await asyncio.sleep(wait)
    async with consuming.worker(2000) as other, asyncio.timeout(30):
        assert sorted([(await other.event()).id for _ in range(2000)]) == list(range(1, 2001))


async def test_release_does_not_undo_an_ack(consuming: Consuming) -> None:
    """A client that acks and vanishes has settled its events."""
    await consuming.publish(50)
    async with consuming.worker() as worker:
        await worker.events(50)
        worker.ack(*range(1, 51))
        await asyncio.sleep(0)
    await consuming.settled({"num_ack_pending": 0, "num_redelivered": 0})


@pytest.mark.parametrize(("what", "error"), [("CONSUMER", ConsumerNotFound), ("STREAM", StreamNotFound)])
async def test_a_deleted_consumer_ends_the_call(
    consuming: Consuming, what: str, error: type[Exception]
) -> None:
    """The client learns at once which of the two is gone."""
    async with consuming.quick(pull=PATIENT).worker() as worker:
        await consuming.settled({"num_waiting": 1})
        await consuming.delete(what)
        assert isinstance(await worker.outcome(within=AT_ONCE), error)


@pytest.mark.parametrize(("what", "error"), [("CONSUMER", ConsumerNotFound), ("STREAM", StreamNotFound)])
async def test_a_deleted_consumer_ends_a_call_with_a_full_window(
    consuming: Consuming, what: str, error: type[Exception]
) -> None:
    """Without a request at the broker the next ack brings it to light."""
    await consuming.publish()
    async with consuming.quick(pull=PATIENT).worker(window=1) as worker:
        await worker.event()
        await consuming.delete(what)
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [], [], [1])
        assert isinstance(await worker.outcome(within=AT_ONCE), error)


@pytest.mark.parametrize("listener", [False, True])
@pytest.mark.parametrize(("what", "error"), [("CONSUMER", ConsumerNotFound), ("STREAM", StreamNotFound)])
async def test_a_deleted_consumer_ends_a_call_that_asks_for_nothing(
    consuming: Consuming, what: str, error: type[Exception], *, listener: bool
) -> None:
    """A client that works on a full window is told in the end, also when others listen to what is asked."""
    await consuming.publish()
    if listener:  # with one the broker does not say that nobody else heard a request
        consuming.nats.connection.subscribe(f"$JS.ACK.{consuming.stream}.>".encode(), lambda _: None)
    async with consuming.quick(confirm_timeout=timedelta(seconds=1)).worker(window=1) as worker:
        await worker.event()
        await consuming.delete(what)
        if listener:
            worker.ack(1)
        assert isinstance(await worker.outcome(), error)


async def test_a_consumer_that_was_made_anew_is_another(consuming: Consuming) -> None:
    """A call belongs to the consumer it found."""
    async with consuming.quick(pull=PATIENT).worker() as worker:
        await consuming.settled({"num_waiting": 1})
        await consuming.delete("CONSUMER")
        await make_consumer(consuming.nats, consuming.stream, "c")
        assert isinstance(await worker.outcome(within=AT_ONCE), ConsumerNotFound)


async def test_a_drain_lets_confirmations_out(consuming: Consuming) -> None:
    """The call ends with SHUTTING_DOWN after what was asked is answered; the rest is released."""
    await consuming.publish(3)
    async with consuming.worker() as worker:
        await worker.events(3)
        worker.ack(1, 2)
        while not worker.has_been_heard:  # noqa: ASYNC110 - until the ack is on its way
            await asyncio.sleep(0)
        worker.consume_call.drain()
        assert isinstance(await worker.outcome(), ShuttingDown)
        assert await worker.told() == (CommandKind.ACK, [1, 2], [], [])
    async with consuming.worker() as other:
        assert [(event.id, event.attempt) for event in await other.events(1)] == [(3, 2)]


async def test_a_drain_ends_a_call_that_has_not_subscribed(consuming: Consuming) -> None:
    """Nobody waits for a first message then."""
    worker = consuming.open()
    await asyncio.sleep(0)
    worker.consume_call.drain()
    assert isinstance(await worker.outcome(), ShuttingDown)


# Mistakes


async def test_the_first_message_must_subscribe(consuming: Consuming) -> None:
    """Anything else, nothing at all, and silence end the call."""
    early, gone = consuming.open(), consuming.open()
    silent = consuming.quick(subscribe_timeout=timedelta(seconds=1)).open()
    early.ack(1)
    gone.say(None)
    for worker in (early, gone, silent):
        assert isinstance(await worker.outcome(), SubscribeExpected)


async def test_a_second_subscription_ends_the_call(consuming: Consuming) -> None:
    """What was asked before it is confirmed first."""
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        worker.ack(1)
        worker.subscribe(consuming.stream, consuming.consumer)
        worker.ack(1)
        assert isinstance(await worker.outcome(), AlreadySubscribed)
        assert await worker.told() == (CommandKind.ACK, [1], [], [])
        assert worker.confirmations.empty()


async def test_a_contradictory_reject_ends_the_call(consuming: Consuming) -> None:
    """Permanently and a delay exclude each other; the event is released."""
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        worker.reject(1, permanently=True, delay=0)
        assert isinstance(await worker.outcome(), InvalidField)
    async with consuming.worker() as other:
        assert (await other.event(within=AT_ONCE)).attempt == 2


async def test_what_does_not_exist_is_not_found(consuming: Consuming, unique: Unique) -> None:
    """The error says which of stream and consumer is missing."""
    worker = consuming.open()
    worker.subscribe(consuming.stream, "missing")
    assert isinstance(await worker.outcome(), ConsumerNotFound)
    worker = consuming.open()
    worker.subscribe(unique(), consuming.consumer)
    assert isinstance(await worker.outcome(), StreamNotFound)


async def test_malformed_subscriptions_are_refused(consuming: Consuming) -> None:
    """Names are checked before anything reaches the broker."""
    worker = consuming.open()
    worker.say(Subscribe("a.b", "c", 0))
    assert isinstance(await worker.outcome(), InvalidField)


@pytest.mark.parametrize("config", [{"deliver_subject": "push.x"}, {"ack_policy": "none", "ack_wait": 0}])
async def test_consumers_of_another_kind_are_refused(consuming: Consuming, config: dict[str, object]) -> None:
    """A consumer that pushes, or that is not settled event by event, cannot be consumed from."""
    request = {"max_waiting": 0} if "deliver_subject" in config else {}
    await make_consumer(consuming.nats, consuming.stream, "odd", **request | config)  # type: ignore[arg-type]
    worker = consuming.open()
    worker.subscribe(consuming.stream, "odd")
    assert isinstance(await worker.outcome(), UnsupportedCombination)


# Slow clients


async def test_a_client_that_does_not_read_is_sent_little(consuming: Consuming) -> None:
    """What waits for it is bounded in bytes, others get the rest, and it goes on when it reads again."""
    await consuming.publish(300, body=bytes(10_000))
    async with consuming.worker(200) as slow:
        slow.stall()
        held, before = await consuming.pending(), -1
        while not 0 < held == before:
            await asyncio.sleep(0.3)  # until no more come
            held, before = await consuming.pending(), held
        assert held * 10_000 <= 4 * STALLED
        async with consuming.worker(300) as other:
            for _ in range(300 - held):
                other.ack((await other.event()).id)
        slow.read_on()
        assert len({(await slow.event()).id for _ in range(held)}) == held


async def test_a_client_that_read_before_costs_little_when_it_stops(consuming: Consuming) -> None:
    """Even then only the requests under way bring more."""
    await consuming.publish(1500, body=bytes(10_000))
    async with consuming.worker(1000) as worker:
        for _ in range(600):
            worker.ack((await worker.event()).id)
        worker.stall()
        before = worker.deliveries.qsize()
        await asyncio.sleep(0.3)
        held = await consuming.pending() - before
        assert held * 10_000 <= 5 * LARGEST_LIMIT


async def test_a_client_that_settled_nothing_costs_little_when_it_stops(consuming: Consuming) -> None:
    """What it seemed to read may lie in buffers on the way to it."""
    await consuming.publish(100, body=bytes(10_000))
    async with consuming.worker(300) as worker:
        await worker.events(100)
        worker.stall()
        await consuming.publish(200, body=bytes(10_000))
        await asyncio.sleep(0.3)
        assert (await consuming.pending() - 100) * 10_000 <= 4 * STALLED


async def test_acks_are_taken_from_a_client_that_does_not_read_yet(consuming: Consuming) -> None:
    """A client that settles everything before it reads again is not left hanging."""
    await consuming.publish(50)
    async with consuming.worker(50) as worker:
        events = await worker.events(50)
        worker.stall(STALLED + 1)
        for event in events:
            worker.ack(event.id)
        await consuming.settled({"num_ack_pending": 0})


async def test_expired_events_are_not_sent_to_a_client_that_reads_again(
    broker: Broker, unique: Unique
) -> None:
    """What waited too long for a stalled client went to another one."""
    consuming = await prepare(broker, unique(), ack_wait=1.0)
    async with consuming.worker() as slow:
        await consuming.settled({"num_waiting": 1})
        slow.stall()
        await consuming.publish(2)
        async with consuming.worker() as other:
            for event in await other.events(2):
                assert event.attempt > 1
                other.ack(event.id)
            slow.read_on()
            await slow.nothing()
            await consuming.publish(40)
            await slow.event()


def test_timers_that_are_due_already(nats_server: NatsServer, unique: Unique) -> None:
    """A turn that is overdue may be asked for again and again, on uvloop too, which makes no timer of it."""

    async def consume() -> None:
        async with connect(nats_server.url) as broker:
            consuming = await prepare(broker, unique())
            async with consuming.worker() as worker:
                attachment, now = worker.consume_call._attachment, asyncio.get_running_loop().time()
                assert attachment is not None
                for late in (1, 2, 3):
                    attachment.protocol.state.window.due = now - late
                    attachment._timer.set(now - late, now - late)
                await consuming.publish()
                assert (await worker.event()).id == 1

    uvloop.run(consume())


async def test_deliveries_that_fill_a_request_to_the_last_byte(broker: Broker, unique: Unique) -> None:
    """The broker ends such a request without a word; deliveries go on nevertheless."""
    stream = unique()
    await broker.stream(stream, first_seq=10_000_000)
    await make_consumer(broker, stream, "c")
    consuming = Consuming(broker, stream, "c", ConsumeOptions())
    # From its thousandth on, the broker counts 128 bytes for each of these, of which 16 KiB are a multiple.
    reply = f"$JS.ACK.{stream}.c.1.10000000.1000.{time_ns()}.1000"
    await consuming.publish(10_000, bytes(128 - len(f"{stream}.x") - len(reply)))
    for window, count in ((50, 1000), (1000, 7000)):
        async with consuming.worker(window) as worker:
            for _ in range(count):
                worker.ack((await worker.event()).id)


async def test_a_consumer_that_is_changed_while_it_gets_a_key(
    consuming: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call has the timeout of the configuration that was read last."""
    real, is_changed = JetStream.consumer_info, asyncio.Event()

    async def changed(api: JetStream, stream: str, name: str, deadline: float) -> JsonObject | None:
        info = await real(api, stream, name, deadline)
        if info is None or not key_of(info["config"]) or is_changed.is_set():
            return info
        is_changed.set()
        await api.update_consumer(stream, name, info["config"] | {"ack_wait": 5 * 10**9}, deadline)
        return await real(api, stream, name, deadline)

    monkeypatch.setattr(JetStream, "consumer_info", changed)
    worker = consuming.open()
    worker.say(Subscribe(consuming.stream, consuming.consumer, 1, linger=timedelta(seconds=1)))
    await asyncio.wait_for(worker.attached.wait(), 30)
    assert worker.timeout == timedelta(seconds=5)
    await worker.vanish()


async def test_room_for_large_events_that_is_long_in_coming(
    consuming: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nobody is answered who has it, a call waits."""
    monkeypatch.setattr(work_runner, "_ELECTION", 0.02)
    async with consuming.worker() as worker:
        room = worker.consume_call._shared.room
        share = room.whole.take_now(WHOLE, "somebody else")
        assert share is not None
        await consuming.publish(body=bytes(600_000))
        await eventually(lambda: room.whole.waiting == 1)
        await worker.nothing(0.2)
        assert not worker.call.done()
        share.give_back()
        assert (await worker.event()).id == 1


async def test_long_delays_leave_room_for_other_events(broker: Broker, unique: Unique) -> None:
    """However many events wait long for another attempt, those that come after are delivered."""
    consuming = await prepare(broker, unique(), max_ack_pending=MAX_ACK_PENDING)
    async with replace(consuming, options=ConsumeOptions()).worker(window=1_000) as worker:
        for _ in range(MAX_ACK_PENDING // 1_000 + 1):
            await consuming.publish(1_000)
            rest = [int(event.id) for event in await worker.events(1_000)]
            while rest:
                worker.reject(*rest, delay=3600)
                _, _, invalid, rest = await worker.told(within=30)
                assert not invalid
        await consuming.publish()
        assert (await worker.event(within=30)).id == MAX_ACK_PENDING + 1_001
        assert (await consuming.info())["config"]["max_ack_pending"] > MAX_ACK_PENDING


@pytest.mark.parametrize(("ids", "pauses"), [(1, 0), (5000, 3)])
async def test_others_run_between_commands_with_many_ids(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch, ids: int, pauses: int
) -> None:
    """While somebody is hindered, it is looked after each of them whether the step is long."""
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(call, "hinders", lambda: True)
    monkeypatch.setattr(call, "pause", look)
    consuming = await prepare(broker, unique())
    async with consuming.worker() as worker:
        for kind in (worker.ack, worker.ping, worker.reject):
            kind(*range(1, ids + 1))
        for _ in range(3):
            await worker.told()
    assert looks == pauses
