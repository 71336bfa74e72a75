"""Consumers that are moved, as the calls see it that consume from them: told in time, late, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from tests.nats.waiting import eventually
from tests.server.events.consuming import Consuming, prepare, share
from tests.server.events.test_consume_protocol import Call, reject, snapshot
from tests.support.broker import Broker, in_seconds
from windshift.nats.jetstream.api import StreamState
from windshift.nats.jetstream.pulling import ACK
from windshift.nats.times import Time
from windshift.server.events.consumers import new_config
from windshift.server.events.consuming.calls import Calls
from windshift.server.events.consuming.commands import Ack, Action
from windshift.server.events.consuming.doubt import Doubt
from windshift.server.events.consuming.pending_acks import CommandKind
from windshift.server.events.consuming.redelivery import Settled
from windshift.server.events.consuming.state import CallState
from windshift.server.events.consuming.work import EndOutcome, Keep, Learn, LookUp, Verify
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy
from windshift.server.events.runs import ALWAYS, Run, with_run
from windshift.server.events.specs import ConsumerSpec

Unique = Callable[[], str]
PLAIN = RetryPolicy()
FIRST = snapshot().run
SECOND = Run(FIRST.created, 1, 7)


def moved(call: Call) -> None:
    """Let a call see that its consumer is in another run."""
    call.protocol.begin_run(SECOND, Settled(), 0.0)
    found = snapshot(call.protocol.state.policy)
    state = replace(found.info, config=with_run(found.info.config, SECOND))
    call.protocol.consumer_seen(replace(found, info=state))
    call.turn()
    if call.protocol.state.policy.dead_letters:
        assert Learn() in call.work()
        call.protocol.consumer_seen(replace(found, info=state))
        call.protocol.learned({})


# --- Runs -------------------------------------------------------------------------------------------------


def test_runs_lie_in_the_metadata() -> None:
    """What is written is read; what others have there is kept, and what is odd is no run."""
    found = snapshot()
    config = with_run({"metadata": {"a": "b"}}, SECOND)
    assert config["metadata"]["a"] == "b"
    assert Run.of(replace(found.info, config=config)) == SECOND
    for odd in ("", "1", "1.", "-1.2", "a.b", "1.2.3"):
        state = replace(found.info, config={"metadata": {"windshift.run": odd}})
        assert Run.of(state) == FIRST


CREATED = Time(1_900_000_000, 0)
BEFORE, LONG_AFTER = Time(CREATED.seconds - 20, 0), Time(CREATED.seconds + 61, 0)


@pytest.mark.parametrize(
    "run",
    [
        Run("2030-03-17T17:46:40Z", 0, 7),
        Run("2026-11-24T00:00:00Z", CREATED.seconds * 10**9, 7),
    ],
    ids=["made", "moved"],
)
def test_what_is_of_a_run(run: Run) -> None:
    """Later positions, whatever the clocks say, and times that are later by more than clocks differ."""
    assert not run.has(7, CREATED)
    assert run.has(8, CREATED)
    assert run.has(8, BEFORE)
    assert not run.has(7, BEFORE)
    assert run.has(3, LONG_AFTER)


def test_what_is_of_a_run_whose_position_is_unknown() -> None:
    """What is not older than the consumer."""
    run = Run("2030-03-17T17:46:40Z")
    assert run.has(1, CREATED)
    assert not run.has(8, BEFORE)
    assert ALWAYS.has(1, Time(0, 0))


def test_one_run_follows_another() -> None:
    """Of the same consumer, and only forwards."""
    assert SECOND.follows(FIRST)
    assert not FIRST.follows(SECOND)
    assert not SECOND.follows(SECOND)
    assert not Run("another", 1).follows(FIRST)


# --- Calls that are told ----------------------------------------------------------------------------------


def test_holding_still() -> None:
    """What is held is dropped, nothing more is taken, and what was sent is waited for."""
    call = Call(PLAIN)
    call.hold(1)
    call.hold(2)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    call.protocol.hold_still(SECOND, 10.0)
    assert call.protocol.is_busy
    assert call.protocol.takes_drain()
    assert not call.protocol.takes_inbox(0.0)
    call.arrive(3)
    assert call.turn() == []
    assert call.sent() == [ACK]
    assert call.told() == [([1], [], [])]
    assert [call.protocol.is_busy] == [False]  # mypy takes it for what it was
    call.protocol.command(Ack([StreamSeq(2)]), 0.0)
    assert call.told() == [([], [2], [])]
    moved(call)
    assert [call.protocol.takes_inbox(0.0)] == [True]
    call.sequence = 0
    call.hold(1)


def test_nobody_moves_it() -> None:
    """After a while the call looks, and goes on."""
    call = Call(PLAIN)
    call.protocol.hold_still(SECOND, 10.0)
    call.protocol.takes_drain()
    assert call.protocol.due <= 10.0
    call.turn(10.0)
    assert LookUp() in call.work()
    call.protocol.consumer_seen(snapshot(PLAIN))
    assert call.protocol.takes_inbox(10.0)


def test_what_is_unanswered_is_invalid_afterwards() -> None:
    """An ack, a dead letter that is written too late, and an event that is looked at."""
    call = Call()
    for seq in (1, 2):
        call.hold(seq)
    call.arrive(3, attempt=2)
    call.turn()
    verify = next(each for each in call.work() if isinstance(each, Verify))
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    call.protocol.command(reject(2, Action.DEAD_LETTER), 0.0)
    (keep,) = call.work()
    assert isinstance(keep, Keep)
    moved(call)
    assert call.told() == [([], [1], []), ([], [2], [])]
    call.protocol.settling.prepared(keep, EndOutcome.DECIDED, 0.0)
    call.protocol.incoming.verified(verify, 0.0, 0.0, has_ended=False)
    assert call.turn() == []
    call.protocol.state.effects.sends.clear()
    assert call.tells() == []


def test_calls_that_come_meanwhile() -> None:
    """They hold still as well, unless their consumer is another one of that name."""

    async def attach() -> None:
        calls: Any = Calls()  # any, since this attaches only what decides in a call
        key, found = ConsumerKey("S", "c"), snapshot(PLAIN)
        old, new, other = Call(PLAIN), Call(PLAIN), Call(PLAIN)
        calls.attach(key, old.protocol, found)
        old.hold(1)
        old.protocol.command(Ack([StreamSeq(1)]), 0.0)
        assert calls.hold_still(key, SECOND) == 1
        old.sent()
        assert calls.hold_still(key, SECOND) == 0
        calls.attach(key, new.protocol, found)
        assert new.protocol.takes_drain()
        other.protocol.state.run = Run("later")
        calls.attach(key, other.protocol, found)
        assert not other.protocol.takes_drain()

    asyncio.run(attach())


# --- Calls that are not told ------------------------------------------------------------------------------


def test_deliveries_that_are_counted_anew() -> None:
    """They wait until the consumer is looked up; then they are the first ones of the new run."""
    call = Call(PLAIN)
    for seq in (1, 2, 3):
        call.hold(seq)
    call.sequence = 0
    call.arrive(1)
    assert call.turn() == []
    call.turn()
    assert call.work() == [LookUp()]
    call.protocol.command(Ack([StreamSeq(2)]), 0.0)
    assert call.sent() == []  # it may be about a delivery of before
    call.arrive(2)
    moved(call)
    assert call.told() == [([], [2], [])]
    for verify in call.work():  # it is not known since when they have been on their way
        assert isinstance(verify, Verify)
        call.protocol.incoming.verified(verify, 0.0, 0.0, has_ended=False)
    assert [each.id for each in call.turn()] == [1, 2]
    call.protocol.command(Ack([StreamSeq(1), StreamSeq(2), StreamSeq(3)]), 0.0)
    assert call.sent() == [ACK, ACK]
    assert call.told() == [([1, 2], [3], [])]


def test_deliveries_that_only_seem_to_be_counted_anew() -> None:
    """Where the consumer was not moved, everything goes on."""
    call = Call(PLAIN)
    call.hold(1)
    call.hold(2)
    call.sequence = 0
    call.arrive(3)
    assert call.turn() == []
    call.turn()
    call.protocol.consumer_seen(snapshot(PLAIN))
    assert [each.id for each in call.turn()] == [3]


def test_deliveries_that_are_counted_anew_while_the_broker_does_not_answer() -> None:
    """The consumer is looked up until it is seen: what waits does not wait for another cause to look."""
    call = Call(PLAIN)
    for seq in (1, 2):
        call.hold(seq)
    call.sequence = 0
    call.arrive(3)
    assert call.turn() == []
    call.turn()
    assert call.work() == [LookUp()]
    call.protocol.state.doubts.unseen()
    call.turn()
    assert call.work() == [Learn()]
    call.protocol.consumer_seen(snapshot(PLAIN))
    call.protocol.learned({})
    assert [each.id for each in call.turn()] == [3]


def test_a_server_that_was_asleep() -> None:
    """It looks the consumer up before it sends anything: others may not have waited for it."""
    call = Call(PLAIN)
    call.hold(1)
    call.state.pauses.look(1.0)
    call.protocol.command(Ack([StreamSeq(1)]), 5.0)
    assert call.sent(5.0) == []
    call.turn(5.0)
    assert call.work() == [LookUp()]
    call.protocol.consumer_seen(snapshot(PLAIN))
    assert call.sent(5.0) == [ACK]
    assert call.told() == [([1], [], [])]


def test_a_server_that_was_asleep_while_it_asked() -> None:
    """The answer may be from before others went on without it: nothing is sent before the next one."""
    call = Call()
    call.hold(1)
    call.protocol.state.doubts.add(Doubt.DEAD_LETTERS, 0.0)
    call.turn()
    assert call.work() == [Learn()]
    call.state.pauses.look(1.0)
    call.protocol.command(Ack([StreamSeq(1)]), 5.0)
    call.turn(5.0)
    assert call.work() == [LookUp()]
    call.protocol.consumer_seen(snapshot())
    call.protocol.learned({})
    assert call.sent(5.0) == []
    call.turn(5.0)
    assert call.work() == [Learn()]
    call.protocol.consumer_seen(snapshot())
    call.protocol.learned({})
    assert call.sent(5.0) == [ACK]


def test_an_ack_without_an_answer() -> None:
    """A consumer that was moved behind the event leaves it unanswered: it is looked up."""
    call = Call(PLAIN)
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (pending,) = call.protocol.state.effects.sends
    pending.sent = True
    call.turn(6.0)
    assert call.told() == [([], [], [1])]
    call.turn(6.0)
    assert LookUp() in call.work()


def test_the_end_of_a_call_that_waits_for_the_consumer() -> None:
    """What it was told is still sent."""
    call = Call(PLAIN)
    call.hold(1)
    call.protocol.lost(1.0)
    call.protocol.connected(1.0)
    call.protocol.command(Ack([StreamSeq(1)]), 1.0)
    call.protocol.state.end(None)
    call.turn(1.0)
    assert Learn() in call.work()
    call.protocol.consumer_seen(snapshot(PLAIN))
    assert call.sent(1.0) == [ACK]


async def move(consuming: Consuming, seq: int, run: Run) -> None:
    """Move a consumer, and tell nobody."""
    nats, key = consuming.nats, (consuming.stream, consuming.consumer)
    config = (await consuming.info())["config"]
    await nats.api.update_consumer(*key, with_run(config, run), in_seconds(30))
    await nats.api.change(f"CONSUMER.RESET.{key[0]}.{key[1]}", {"seq": seq}, in_seconds(30))


async def test_a_call_finds_out_by_itself(broker: Broker, unique: Unique) -> None:
    """With a real broker: what it held is invalid, and what it had settled comes again."""
    consuming = (await prepare(broker, unique())).quick(confirm_timeout=timedelta(seconds=5))
    await consuming.publish(6)
    async with consuming.worker(4) as worker:
        assert [event.id for event in await worker.events(4)] == [1, 2, 3, 4]
        worker.ack(1, 2)
        assert await worker.told() == (CommandKind.ACK, [1, 2], [], [])
        assert [event.id for event in await worker.events(2)] == [5, 6]
        created = (await consuming.info())["created"]
        await move(consuming, 1, Run(created, 1, 0))
        again: list[Any] = []
        worker.ack(3, 4, 5, 6)
        while len(again) < 4:
            again.append(await worker.event(15))
        assert {event.attempt for event in again} <= {1, 2}
        seen = {event.id for event in again}
        while seen != {1, 2, 3, 4, 5, 6}:
            while not worker.confirmations.empty():
                await worker.told()
            worker.ack(*(event.id for event in again))
            again = [await worker.event(15)]
            seen.add(again[0].id)


def is_in(state: CallState, run: Run) -> bool:
    """Tell whether a call is in a run."""
    return state.run == run


async def test_an_ephemeral_consumer_that_was_moved_is_kept_for_who_stays(
    broker: Broker, unique: Unique
) -> None:
    """Its end is not near as long as this server has another call of it, in whichever run that began."""
    consuming = await prepare(broker, unique())
    config = new_config("e", ConsumerSpec(consuming.stream), StreamState({}, 0))
    await broker.api.create_consumer(consuming.stream, "e", config, in_seconds(30))
    consuming = replace(consuming, consumer="e", shared=share(broker))
    created = (await consuming.info())["created"]
    run = Run(created, 1, 0)
    async with consuming.worker() as stays:
        async with consuming.worker() as leaves:
            await move(consuming, 1, run)
            for worker in (stays, leaves):
                attachment = worker.consume_call._attachment
                assert attachment is not None
                attachment.noted("moved")
                await eventually(partial(is_in, attachment.protocol.state, run))
        assert (await consuming.info())["config"]["inactive_threshold"] == config["inactive_threshold"]
