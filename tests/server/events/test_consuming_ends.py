"""How calls, deliveries and what is remembered of them come to an end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.nats.waiting import eventually
from tests.server.events.consuming import AT_ONCE, Consuming, Worker, prepare
from tests.server.events.keeping import Keeper, keep
from tests.server.events.test_giving_up import TWICE, failing, reject
from tests.support.broker import Broker, in_seconds
from tests.support.freed import alive, without_collector
from windshift.nats import NotConnected
from windshift.nats.connection import Subscription
from windshift.nats.jetstream.pulling import ACK, TERMINATE, Puller
from windshift.server.domain.errors import PermissionDenied, ShuttingDown
from windshift.server.events.consuming.call import ConsumeCall
from windshift.server.events.consuming.commands import Action, Command, Limit
from windshift.server.events.consuming.flow import Window
from windshift.server.events.consuming.protocol import ConsumeProtocol
from windshift.server.events.consuming.state import CallState
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.dead_letters.replay_queue import Lease
from windshift.server.events.model import ConsumerKey
from windshift.server.events.retries import RetryPolicy

Unique = Callable[[], str]


@pytest.fixture
async def keeper(own_broker: Broker) -> Keeper:
    """Give a test a store of dead letters of its own."""
    return await keep(own_broker)


class Sending:
    """Stands between a call and its acknowledgements."""

    def __init__(self, consuming: Consuming) -> None:
        self.requests = consuming.nats.requests
        self.real = self.requests.send

    def replace(self, send: Callable[..., Any]) -> None:
        """Send by this function from now on."""
        self.requests.send = send  # type: ignore[method-assign]


async def test_a_reject_whose_dead_letter_is_not_written_yet(keeper: Keeper, unique: Unique) -> None:
    """When its client leaves, the event is with others at once."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=30.0)
    assert consuming.shared is not None
    writing, writer = asyncio.Event(), consuming.shared.writer
    write = writer.write

    async def write_for_ever(*_: object) -> Any:
        writing.set()
        await asyncio.Event().wait()

    writer.write = write_for_ever  # type: ignore[method-assign, assignment]
    async with consuming.worker() as first:
        await consuming.publish()
        reject(first, (await first.event()).id, Action.DEAD_LETTER)
        await asyncio.wait_for(writing.wait(), 10)
        await first.vanish()
    writer.write = write  # type: ignore[method-assign]
    left = time.monotonic()
    async with consuming.worker() as second:
        await second.event(within=20)
    assert time.monotonic() - left < 15


async def test_a_call_that_is_over_is_freed_at_once(broker: Broker, unique: Unique) -> None:
    """With all that it knew, without the garbage collector."""
    consuming = await prepare(broker, unique())
    await consuming.publish(3)
    parts = CallState, ConsumeProtocol, Puller, Window
    with without_collector():
        async with consuming.worker(10) as worker:
            worker.ack(*(each.id for each in await worker.events(2)))
            await worker.told()
            assert alive(*parts) == ["CallState", "ConsumeProtocol", "Puller", "Window"]
        vars(worker).clear()  # it and its call hold each other, which a real client does not
        await eventually(lambda: not alive(*parts))


async def test_a_client_that_leaves_while_its_call_ends(keeper: Keeper, unique: Unique) -> None:
    """What it holds is with others at once, and nobody counts the call any more."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=30.0)
    ending, may_end, shared = asyncio.Event(), asyncio.Event(), consuming.shared
    assert shared is not None

    async def receive() -> Any:
        try:
            return await Worker.receive(first)
        except asyncio.CancelledError:
            ending.set()
            await may_end.wait()
            raise

    first = consuming.open()
    first.receive = receive  # type: ignore[method-assign]
    first.subscribe(consuming.stream, consuming.consumer)
    await consuming.publish()
    await first.event()
    first.consume_call.drain()
    await asyncio.wait_for(ending.wait(), 30)
    first.call.cancel()
    await asyncio.wait([first.call])
    may_end.set()
    assert not shared.calls.of(ConsumerKey(consuming.stream, consuming.consumer))
    async with consuming.worker() as second:
        await second.event(within=AT_ONCE)


def hold_inboxes_open(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Have inboxes close later: return what is set when one is to be closed, and what lets it be."""
    closing, may_close, drain = asyncio.Event(), asyncio.Event(), Subscription.drain

    async def drain_later(inbox: Subscription, timeout: float) -> None:
        closing.set()
        await may_close.wait()
        await drain(inbox, timeout)

    monkeypatch.setattr(Subscription, "drain", drain_later)
    return closing, may_close


@pytest.mark.parametrize("command", [None, Limit(1)], ids=["at the end", "with a smaller window"])
async def test_a_client_that_leaves_while_an_inbox_is_closed(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch, command: Command | None
) -> None:
    """What is on its way to it then is with others at once."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=30.0)
    first = consuming.open()
    first.subscribe(consuming.stream, consuming.consumer, 10)
    await consuming.publish()
    await first.event()
    closing, may_close = hold_inboxes_open(monkeypatch)
    first.say(command)
    await asyncio.wait_for(closing.wait(), 30)
    first.call.cancel()
    await consuming.publish()
    await consuming.settled({"num_ack_pending": 2})
    may_close.set()
    await asyncio.wait([first.call])
    assert first.call.cancelled()
    async with consuming.worker() as second:
        assert {(await second.event(within=AT_ONCE)).id for _ in range(2)} == {1, 2}


async def test_a_delivery_whose_time_ends_while_its_call_does(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted as expired."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=2.0)
    worker = consuming.open()
    worker.subscribe(consuming.stream, consuming.consumer)
    await consuming.publish()
    await worker.event()
    closing, may_close = hold_inboxes_open(monkeypatch)
    worker.say(None)
    await asyncio.wait_for(closing.wait(), 30)
    await asyncio.sleep(2.0)  # its time
    may_close.set()
    await asyncio.wait([worker.call])
    counts = worker.consume_call._shared.counts
    assert (counts.in_flight, counts.expired) == (0, 1)


async def test_a_client_that_leaves_while_a_replay_is_given_back(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What else it holds is with others at once."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=30.0)
    giving_back, may_give_back = asyncio.Event(), asyncio.Event()

    async def give_back(*_: object) -> bool:
        giving_back.set()
        return await may_give_back.wait()

    monkeypatch.setattr(Lease, "give_back", give_back)
    first = consuming.open()
    first.subscribe(consuming.stream, consuming.consumer)
    await consuming.publish()
    reject(first, (await first.event()).id, Action.DEAD_LETTER)
    await first.told()
    ((seq, stored_ns),) = (await keeper.store.recall(consuming.stream, "c", in_seconds(30))).items()
    letter = DeadLetterId(consuming.stream, "c", seq, stored_ns)
    assert await keeper.replays.add(letter, 1, in_seconds(30))
    await first.event()
    await consuming.publish()
    await first.event()
    first.say(None)
    await asyncio.wait_for(giving_back.wait(), 30)
    await first.vanish()
    may_give_back.set()
    async with consuming.worker() as second:
        assert (await second.event(within=AT_ONCE)).id == 2


async def test_a_call_that_is_ended_as_its_time_to_subscribe_runs_out(keeper: Keeper, unique: Unique) -> None:
    """It ends for either reason, and whoever ends it goes on."""
    consuming = await failing(keeper, unique(), TWICE)
    worker = consuming.quick(subscribe_timeout=timedelta(milliseconds=5)).open()
    await asyncio.sleep(0)
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        worker.consume_call.drain()
        ended.set()

    loop.call_later(0.01, end)
    time.sleep(0.05)  # so both are due in one turn of the loop  # noqa: ASYNC251
    await asyncio.wait_for(ended.wait(), 30)
    assert isinstance(await worker.outcome(), ShuttingDown)


class Denying:
    """Rules by which nobody may have what the consumer chooses."""

    def use_consumer(self, *_: str) -> None:
        """Let everybody attach."""

    def consume(self, *_: str, **__: object) -> None:
        raise PermissionDenied("p", "consume", "consume", "r", "rule")

    def follow(self, *_: object) -> None:
        """Tell nobody of other rules."""


async def test_a_call_that_is_denied_leaves_nothing(keeper: Keeper, unique: Unique) -> None:
    """Nobody counts as a user of what is remembered of the consumer."""
    consuming = await failing(keeper, unique(), TWICE)
    assert consuming.shared is not None
    rules: Any = Denying()
    for _ in range(3):
        worker = Worker()
        worker.subscribe(consuming.stream, consuming.consumer)
        with pytest.raises(PermissionDenied):
            await ConsumeCall(consuming.shared, worker, consuming.options, rules).run()
    assert [settled.users for settled in consuming.shared.settled._known.values()] == [0]


async def test_an_ack_that_is_answered_after_the_call(
    keeper: Keeper, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    """An ack of a last attempt harms nothing when the broker answers it late, and is counted."""
    once = RetryPolicy(1, timedelta(milliseconds=1), timedelta(milliseconds=5), dead_letters=True)
    consuming = await failing(keeper, unique(), once)
    sending, held_up = Sending(consuming), asyncio.Queue[Callable[[], None]]()

    def send(subject: bytes, payload: bytes, headers: bytes, handler: Any, deadline: float) -> bytes:
        if payload != ACK:
            return sending.real(subject, payload, headers, handler, deadline)
        return sending.real(
            subject, payload, headers, lambda told: held_up.put_nowait(lambda: handler(told)), deadline
        )

    async with consuming.worker() as worker:
        await consuming.publish()
        event = await worker.event()
        sending.replace(send)
        worker.ack(event.id)
        answer = await asyncio.wait_for(held_up.get(), 10)
        await worker.vanish()
    with caplog.at_level(logging.ERROR):
        answer()
        await asyncio.sleep(0)
    assert not caplog.records


async def test_a_drop_is_told_once(keeper: Keeper, unique: Unique) -> None:
    """An event counts as dropped when the broker has stored that, however often it was tried."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=30.0)
    consuming = consuming.quick(confirm_timeout=timedelta(seconds=1))
    assert consuming.shared is not None
    sending, refused = Sending(consuming), [None, None]

    def send(subject: bytes, payload: bytes, headers: bytes, handler: Any, deadline: float) -> bytes:
        if payload == TERMINATE and refused:
            refused.pop()
            raise NotConnected
        return sending.real(subject, payload, headers, handler, deadline)

    async with consuming.worker() as worker:
        await consuming.publish()
        event = await worker.event()
        sending.replace(send)
        for _ in range(3):
            reject(worker, event.id, Action.DROP)
            await worker.told()
        assert consuming.shared.stats.drops["REJECTED"] == 1


async def test_an_event_of_a_stream_that_was_made_anew(keeper: Keeper, unique: Unique) -> None:
    """Nothing is told of it that is known of another event with its id."""
    name = unique()
    before = await failing(keeper, name, TWICE)
    async with before.worker() as worker:
        await before.publish()
        reject(worker, (await worker.event()).id, Action.RETRY, "card declined")
        await worker.told()
        await worker.event()
    await before.delete("STREAM")
    after = replace(await failing(keeper, name, TWICE), shared=before.shared)
    async with after.worker() as worker:
        await after.publish()
        reject(worker, (await worker.event()).id, Action.DEAD_LETTER)
        await worker.told()
    ((seq, stored_ns),) = (await keeper.store.recall(name, "c", in_seconds(30))).items()
    letter = await keeper.get(DeadLetterId(name, "c", seq, stored_ns))
    assert letter is not None
    assert letter.failure.first_delivery_ns >= stored_ns
    assert letter.failure.reason == ""
