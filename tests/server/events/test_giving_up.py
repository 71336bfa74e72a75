"""Giving up on events: what a client sees of it, and that crashes between the steps change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from tests.server.events.consuming import Consuming, Outcome, Worker, make_consumer, prepare
from tests.server.events.keeping import Keeper, keep
from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import Message
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.commands import Action, Reject
from windshift.server.events.consuming.pending_acks import CommandKind
from windshift.server.events.consuming.work_runner import WorkRunner
from windshift.server.events.dead_letters.model import Cause, DeadLetterId, Failure
from windshift.server.events.dead_letters.replay_queue import Cancelling, Clock, Lease
from windshift.server.events.dead_letters.store import STREAM, Charge, DeadLetterStore
from windshift.server.events.dead_letters.writer import Written
from windshift.server.events.model import StreamSeq
from windshift.server.events.notes import CONSUMER, ELECTED
from windshift.server.events.retries import METADATA_KEY, RetryPolicy, policy_metadata
from windshift.server.events.runs import Run

Unique = Callable[[], str]

TWICE = RetryPolicy(2, timedelta(milliseconds=1), timedelta(milliseconds=50), dead_letters=True)


async def failing(
    keeper: Keeper, name: str, policy: RetryPolicy, ack_wait: float = 30.0, **config: object
) -> Consuming:
    """Prepare a consumer with a policy."""
    metadata = {METADATA_KEY: policy_metadata(policy)}
    consuming = await prepare(keeper.broker, name, ack_wait, metadata=metadata, **config)
    return replace(consuming, shared=keeper.shared())


@pytest.fixture
async def keeper(own_broker: Broker) -> Keeper:
    """Keep dead letters on the test's own nats-server."""
    return await keep(own_broker)


def reject(worker: Worker, seq: int, action: Action = Action.UNSPECIFIED, reason: str = "") -> None:
    """Reject an event."""
    worker.say(Reject([StreamSeq(seq)], False, None, reason, action=action))


async def letters(keeper: Keeper, consuming: Consuming) -> dict[int, int]:
    """Return the ids of events that are dead letters, and how many replays of each failed."""
    found = {}
    ended = await keeper.store.recall(consuming.stream, consuming.consumer, in_seconds(30))
    for seq, stored_ns in ended.items():
        id_ = DeadLetterId(consuming.stream, consuming.consumer, seq, stored_ns)
        letter = await keeper.store.get(id_, in_seconds(30))
        if letter is not None:  # its end may have been claimed
            found[int(seq)] = letter.failure.replay_count
    return found


async def next_of(*workers: Worker) -> Worker:
    """Wait for an event; return who got it."""
    async with asyncio.timeout(20):
        while True:
            for worker in workers:
                if not worker.deliveries.empty():
                    await worker.event()
                    return worker
            await asyncio.sleep(0.01)


async def only_letter(keeper: Keeper, consuming: Consuming) -> DeadLetterId:
    """Return the id of the one dead letter that there is."""
    ended = await keeper.store.recall(consuming.stream, consuming.consumer, in_seconds(30))
    ((seq, stored_ns),) = ended.items()
    return DeadLetterId(consuming.stream, consuming.consumer, seq, stored_ns)


async def eventually(ask: Callable[[], Awaitable[object]], expected: object) -> None:
    """Wait until an answer is as expected."""
    async with asyncio.timeout(20):
        while await ask() != expected:  # noqa: ASYNC110 - what is asked lies in the broker
            await asyncio.sleep(0.01)


async def test_the_last_attempt_is_kept(own_broker: Broker, keeper: Keeper, unique: Unique) -> None:
    """An event whose last attempt is rejected is a dead letter when that is confirmed, and is settled."""
    consuming = await failing(keeper, unique(), TWICE)
    await consuming.publish()
    async with consuming.worker() as worker:
        for attempt in (1, 2):
            assert (await worker.event()).attempt == attempt
            reject(worker, 1, reason=f"reason {attempt}")
            assert await worker.told() == (CommandKind.REJECT, [1], [], [])
        letter = await keeper.get(await only_letter(keeper, consuming))
        failure = letter.failure
        assert (failure.cause, failure.attempts, failure.reason) == (Cause.MAX_ATTEMPTS, 2, "reason 2")
        assert 0 < failure.first_delivery_ns < failure.last_delivery_ns
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})


async def test_timeouts_use_attempts_up(own_broker: Broker, keeper: Keeper, unique: Unique) -> None:
    """After the last attempt has timed out there is no further one, and what the last reject said is kept."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=0.8)
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        reject(worker, 1, reason="before")
        await worker.told()
        await worker.event()
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        letter = await keeper.get(await only_letter(keeper, consuming))
        assert (letter.failure.cause, letter.failure.reason) == (Cause.MAX_ATTEMPTS, "before")
        assert letter.failure.attempts == 2
        assert worker.deliveries.empty()


async def test_a_crash_before_the_event_is_settled(
    own_broker: Broker, keeper: Keeper, unique: Unique
) -> None:
    """A dead letter whose event was not settled is no reason to make another attempt."""
    consuming = await failing(keeper, unique(), TWICE)
    await consuming.publish(2)
    async with consuming.worker() as worker:
        await worker.events(2)
        await keeper.writer.write(await keeper.failure(consuming.stream, 1), in_seconds(30))
        await worker.vanish()
    async with consuming.worker() as worker:
        assert (await worker.event()).id == 2
        worker.ack(2)
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert worker.deliveries.empty()
        assert await letters(keeper, consuming) == {1: 0}


async def test_a_dead_letter_that_takes_longer_than_the_timeout(
    own_broker: Broker, keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is not delivered again meanwhile: somebody else could acknowledge it."""
    write = keeper.writer.write

    async def slowly(failure: Failure, deadline: float, run: Run, charge: Charge | None) -> object:
        await asyncio.sleep(1.2)
        return await write(failure, deadline, run, charge)

    monkeypatch.setattr(keeper.writer, "write", slowly)
    consuming = await failing(keeper, unique(), TWICE, ack_wait=0.6)
    consuming = consuming.quick(confirm_timeout=timedelta(seconds=30))
    await consuming.publish()
    async with consuming.worker() as worker, consuming.worker() as other:
        first = await next_of(worker, other)
        reject(first, 1, Action.DEAD_LETTER)
        assert await first.told() == (CommandKind.REJECT, [1], [], [])
        assert worker.deliveries.empty()
        assert other.deliveries.empty()
        await consuming.settled({"num_ack_pending": 0, "num_redelivered": 0})


async def test_dead_letters_out_of_reach(
    own_broker: Broker, keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nobody can tell whether an event is a dead letter it waits, and no attempt is counted."""
    end, refusals = keeper.store.end, iter(range(2))

    async def at_last(letter_id: DeadLetterId, deadline: float) -> object:
        for _ in refusals:
            raise BrokerUnavailable
        return await end(letter_id, deadline)

    monkeypatch.setattr(keeper.store, "end", at_last)
    consuming = await failing(keeper, unique(), TWICE, ack_wait=0.5)
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        reject(worker, 1)
        await worker.told()
        assert (await worker.event()).attempt == 2


async def test_deliveries_that_the_broker_forgot(own_broker: Broker, keeper: Keeper, unique: Unique) -> None:
    """An event that is a dead letter is settled too when the broker takes its delivery for the first."""
    consuming = await failing(keeper, unique(), TWICE)
    await consuming.publish(2)
    await keeper.writer.write(await keeper.failure(consuming.stream, 1), in_seconds(30))
    async with consuming.worker() as worker:
        assert (await worker.event()).id == 2
        worker.ack(2)
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert worker.deliveries.empty()


async def test_dead_letters_of_an_earlier_consumer(
    own_broker: Broker, keeper: Keeper, unique: Unique
) -> None:
    """A consumer that was made anew gets the events that the one before it gave up on."""
    stream = unique()
    await own_broker.stream(stream, storage="memory")
    seq = await keeper.publish(f"{stream}.x")
    await keeper.writer.write(await keeper.failure(stream, seq), in_seconds(30))
    consuming = await failing(keeper, stream, TWICE)
    async with consuming.worker() as worker:
        assert (await worker.event()).id == seq
        reject(worker, seq, Action.DEAD_LETTER)
        assert await worker.told() == (CommandKind.REJECT, [seq], [], [])
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})


async def test_a_full_stream_of_dead_letters(own_broker: Broker, keeper: Keeper, unique: Unique) -> None:
    """What cannot be kept is not settled: it is held, comes again, and is kept when there is room."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=0.75)
    await keeper.store.ensure(1, in_seconds(30))
    await limit(own_broker, 1)
    await keeper.given_up(await own_broker.stream(unique()), 1)
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        reject(worker, 1, Action.DEAD_LETTER)
        assert await worker.told() == (CommandKind.REJECT, [], [], [1])
        assert (await worker.event()).attempt == 2
        reject(worker, 1)
        assert await worker.told() == (CommandKind.REJECT, [], [], [1])
        await eventually(consuming.pending, 1)
        await limit(own_broker, 10)
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert await letters(keeper, consuming) == {1: 0}
        assert worker.deliveries.empty()


async def limit(broker: Broker, most: int) -> None:
    """Say how many dead letters may be kept."""
    info = await broker.api.stream_info(STREAM, in_seconds(30))
    await broker.api.call(f"STREAM.UPDATE.{STREAM}", info["config"] | {"max_msgs": most}, in_seconds(30))


async def test_a_change_of_mind(own_broker: Broker, keeper: Keeper, unique: Unique) -> None:
    """An event that is a dead letter, and could not be settled as that, cannot be acknowledged any more."""
    consuming = await failing(keeper, unique(), RetryPolicy())
    await consuming.publish()
    async with consuming.worker() as worker:
        delivery = await worker.event()
        attachment = worker.consume_call._attachment
        assert attachment is not None
        held = attachment.protocol.state.window.get(delivery.id)
        assert held is not None
        held.reply, real = held.reply.replace(f".{consuming.consumer}.".encode(), b".nobody."), held.reply
        reject(worker, 1, Action.DEAD_LETTER)
        assert await worker.told() == (CommandKind.REJECT, [], [], [1])
        assert await letters(keeper, consuming) == {1: 0}
        held.reply = real
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [], [1], [])
        assert await letters(keeper, consuming) == {1: 0}


async def test_replays_fit_a_full_window(own_broker: Broker, keeper: Keeper, unique: Unique) -> None:
    """A client that holds all it may gets a replay next, and never holds more."""
    consuming = await failing(keeper, unique(), TWICE)
    await consuming.publish(4)
    async with consuming.worker(window=1) as worker:
        await worker.event()
        reject(worker, 1, Action.DEAD_LETTER)
        await worker.told()
        assert (await worker.event()).id == 2
        assert await keeper.replays.add(await only_letter(keeper, consuming), 1, in_seconds(30))
        seen: list[int] = []
        for held in (2, 3, 4, 1):
            await worker.nothing()
            worker.ack(held if not seen else seen[-1])
            assert await worker.told() is not None
            if len(seen) < 3:
                seen.append((await worker.event()).id)
        assert sorted(seen) == [1, 3, 4]
        assert await letters(keeper, consuming) == {}


async def test_a_replay_that_is_given_up_on_counts(
    own_broker: Broker, keeper: Keeper, unique: Unique
) -> None:
    """A replay counts its attempts anew; when they are used up the dead letter stays."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=2.0)
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        reject(worker, 1, Action.DEAD_LETTER)
        await worker.told()
        for number in (1, 2):
            assert await keeper.replays.add(await only_letter(keeper, consuming), number, in_seconds(30))
            assert [(await worker.event(10)).attempt, (await worker.event(10)).attempt] == [1, 2]
            await eventually(partial(letters, keeper, consuming), {1: number})
            await eventually(partial(keeper.outstanding, consuming.stream, "c"), frozenset())
        assert worker.deliveries.empty()


async def replayed(keeper: Keeper, consuming: Consuming, worker: Worker) -> DeadLetterId:
    """Reject an event for good, and have it replayed."""
    await consuming.publish()
    await worker.event()
    reject(worker, 1, Action.DEAD_LETTER)
    await worker.told()
    letter = await only_letter(keeper, consuming)
    assert await keeper.replays.add(letter, 1, in_seconds(30))
    await worker.event()
    return letter


async def test_an_ack_whose_replay_is_cancelled_meanwhile(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is invalid, and the dead letter stays: the server stood still until the event's time was over."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=1.0)
    stalled, may_go_on, prepare_ack = asyncio.Event(), asyncio.Event(), WorkRunner._prepare

    async def stall(runner: WorkRunner, work: w.EndReplay) -> None:
        stalled.set()
        await may_go_on.wait()
        await prepare_ack(runner, work)

    async with consuming.worker(window=1) as worker:
        letter = await replayed(keeper, consuming, worker)
        monkeypatch.setattr(WorkRunner, "_prepare", stall)
        worker.ack(1)
        await asyncio.wait_for(stalled.wait(), 30)
        await overdue(keeper, letter)
        assert await cancel(keeper, letter) is Cancelling.CANCELLED
        may_go_on.set()
        assert await worker.told() == (CommandKind.ACK, [], [1], [])
        assert await letters(keeper, consuming) == {1: 0}


async def die_in(part: type, work: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acknowledge an event, and have the server die in the middle of that."""
    reached = asyncio.Event()

    async def die(*_: object) -> bool:
        reached.set()
        raise BrokerUnavailable

    monkeypatch.setattr(part, work, die)
    worker.ack(1)
    await asyncio.wait_for(reached.wait(), 30)
    await worker.vanish()


@pytest.mark.parametrize(("part", "work"), [(DeadLetterStore, "claim_replay"), (Lease, "end")])
async def test_an_ack_that_was_cut_short(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch, part: type, work: str
) -> None:
    """It counts, wherever its server died: the replay is neither cancelled nor delivered again."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=1.0)
    async with consuming.worker() as worker:
        letter = await replayed(keeper, consuming, worker)
        await die_in(part, work, worker, monkeypatch)
    monkeypatch.undo()
    await overdue(keeper, letter)
    assert await cancel(keeper, letter) is Cancelling.LEASED
    async with consuming.worker() as worker:
        await eventually(partial(keeper.outstanding, consuming.stream, "c"), frozenset())
        assert await letters(keeper, consuming) == {}
        await worker.nothing()


async def cut_short(*_: object, **__: object) -> bool:
    """Fail as when the broker is away."""
    raise BrokerUnavailable


async def test_an_ack_that_failed_for_now(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has the event as before: it pings, and acknowledges it again."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=20.0)
    async with consuming.worker() as worker:
        await replayed(keeper, consuming, worker)
        monkeypatch.setattr(DeadLetterStore, "claim_replay", cut_short)
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [], [], [1])
        monkeypatch.undo()
        worker.ping(1)
        assert await worker.told() == (CommandKind.PING, [1], [], [])
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [1], [], [])
        assert await letters(keeper, consuming) == {}
        assert await keeper.outstanding(consuming.stream, "c") == frozenset()


async def test_a_reject_after_an_ack_that_failed(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is too late once the ack has decided how the event ends: no dead letter stays."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=20.0)
    async with consuming.worker() as worker:
        await replayed(keeper, consuming, worker)
        monkeypatch.setattr(DeadLetterStore, "delete", cut_short)
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [], [], [1])
        monkeypatch.undo()
        reject(worker, 1, Action.DEAD_LETTER)
        assert await worker.told() == (CommandKind.REJECT, [], [1], [])
        await eventually(partial(keeper.outstanding, consuming.stream, "c"), frozenset())
        assert await letters(keeper, consuming) == {}


async def test_an_ack_of_what_was_purged(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives up on the event meanwhile makes no dead letter, which would be removed then."""
    consuming = await failing(keeper, unique(), TWICE)
    stalled, may_go_on, delete = asyncio.Event(), asyncio.Event(), DeadLetterStore.delete

    async def stall(*arguments: Any, **options: Any) -> bool:
        monkeypatch.undo()
        stalled.set()
        await may_go_on.wait()
        return await delete(*arguments, **options)

    async with consuming.worker() as worker:
        letter = await replayed(keeper, consuming, worker)
        assert await keeper.store.delete(letter, in_seconds(30))
        monkeypatch.setattr(DeadLetterStore, "delete", stall)
        worker.ack(1)
        await asyncio.wait_for(stalled.wait(), 30)
        failure = await keeper.failure(consuming.stream, 1, replay_count=1)
        written, _ = await keeper.writer.write(failure, in_seconds(30))
        may_go_on.set()
        assert (written, await worker.told()) == (Written.ENDED, (CommandKind.ACK, [1], [], []))
        assert await letters(keeper, consuming) == {}


async def test_an_ack_that_was_cut_short_before_the_consumer_was_made_anew(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not count for the event of the other consumer of that name, which is a dead letter again."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=3.0)
    async with consuming.worker() as worker:
        await replayed(keeper, consuming, worker)
        await die_in(DeadLetterStore, "claim_replay", worker, monkeypatch)
    monkeypatch.undo()
    await consuming.delete("CONSUMER")
    metadata = {METADATA_KEY: policy_metadata(TWICE)}
    await make_consumer(keeper.broker, consuming.stream, "c", 3.0, metadata=metadata)
    async with consuming.worker() as worker:
        await worker.event()
        reject(worker, 1, Action.DEAD_LETTER)
        assert await worker.told() == (CommandKind.REJECT, [1], [], [])
        await eventually(partial(keeper.outstanding, consuming.stream, "c"), frozenset())
        assert await letters(keeper, consuming) == {1: 0}


async def test_an_ack_that_finds_no_room(keeper: Keeper, unique: Unique) -> None:
    """What is left to do of it waits until there is room, and other replays do not wait for that."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=1.5)
    async with consuming.worker() as worker:
        await replayed(keeper, consuming, worker)
        await consuming.publish()
        await worker.event()
        reject(worker, 2, Action.DEAD_LETTER)
        assert await worker.told() == (CommandKind.REJECT, [2], [], [])
        await limit(keeper.broker, 2)
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [], [], [1])
        ended = await keeper.store.recall(consuming.stream, "c", in_seconds(30))
        second = DeadLetterId(consuming.stream, "c", StreamSeq(2), ended[StreamSeq(2)])
        assert await keeper.replays.add(second, 1, in_seconds(30))
        for _ in range(2):
            assert (await worker.event()).id == 2
        await limit(keeper.broker, 10)
        await eventually(partial(keeper.outstanding, consuming.stream, "c"), frozenset())
        assert await letters(keeper, consuming) == {2: 1}


async def overdue(keeper: Keeper, letter: DeadLetterId) -> None:
    """Wait until the time of a replay that was delivered has run out."""
    async with asyncio.timeout(30):
        while True:
            pointer, clock = await keeper.replays.find(letter, in_seconds(30)), await now(keeper)
            assert pointer is not None
            if clock.seconds_until(pointer.free_at_ns, in_seconds(0)) <= 0:
                return
            await asyncio.sleep(0.05)


async def now(keeper: Keeper) -> Clock:
    """Read the broker's clock."""
    clock = await keeper.replays.clock(in_seconds(30))
    assert clock is not None
    return clock


async def cancel(keeper: Keeper, letter: DeadLetterId) -> Cancelling:
    """Cancel a replay."""
    return await keeper.replays.cancel(letter, await now(keeper), in_seconds(30))


async def test_replays_go_on_after_a_restart(
    own_nats_server: NatsServer, own_broker: Broker, keeper: Keeper, unique: Unique
) -> None:
    """A replay that was under way when the broker was killed is delivered when it is back."""
    consuming = await failing(keeper, unique(), TWICE, storage="file")
    consuming = consuming.quick(confirm_timeout=timedelta(seconds=1))
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        reject(worker, 1, Action.DEAD_LETTER)
        await worker.told()
        letter = await only_letter(keeper, consuming)
        await worker.vanish()
    assert await keeper.replays.add(letter, 1, in_seconds(30))
    own_nats_server.kill()
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(30))
    async with consuming.worker() as worker:
        assert (await worker.event(within=20)).id == 1
        own_nats_server.kill()
        own_nats_server.start()
        told: Outcome = (CommandKind.ACK, [], [], [1])
        while told == (CommandKind.ACK, [], [], [1]):
            worker.ack(1)
            told = await worker.told()
        assert told == (CommandKind.ACK, [1], [], [])
        assert await letters(keeper, consuming) == {}


async def test_a_policy_is_followed_at_once(own_broker: Broker, keeper: Keeper, unique: Unique) -> None:
    """Calls that are open follow a policy that is changed."""
    consuming = await failing(keeper, unique(), RetryPolicy(), ack_wait=1.0)
    await consuming.publish()
    async with consuming.worker() as worker:
        for attempt in (1, 2, 3):
            assert (await worker.event()).attempt == attempt
            reject(worker, 1)
            await worker.told()
        info = await consuming.info()
        config = info["config"] | {"metadata": {METADATA_KEY: policy_metadata(TWICE)}}
        request = {"stream_name": consuming.stream, "config": config, "action": "update"}
        await own_broker.api.call(f"CONSUMER.CREATE.{consuming.stream}.c", request, in_seconds(30))
        attachment = worker.consume_call._attachment
        assert attachment is not None
        attachment.noted(CONSUMER)
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert await letters(keeper, consuming) == {1: 0}


async def test_an_ack_after_the_event_was_given_up_on(keeper: Keeper, unique: Unique) -> None:
    """It is invalid: the consumer has another leader, which let another server give up."""
    consuming = await failing(keeper, unique(), TWICE)
    await consuming.publish(2)
    async with consuming.worker() as worker:
        await worker.events(2)
        reject(worker, 1)
        reject(worker, 2)
        await worker.told()
        await worker.told()
        assert [event.attempt for event in await worker.events(2)] == [2, 2]
        await keeper.writer.write(await keeper.failure(consuming.stream, 1), in_seconds(30))
        keeper.notes.tell(ELECTED, consuming.stream, consuming.consumer)
        worker.ack(1, 2)
        assert await worker.told() == (CommandKind.ACK, [2], [1], [])
        assert await letters(keeper, consuming) == {1: 0}


async def test_an_ack_that_a_crash_left_without_an_answer(
    own_nats_server: NatsServer, keeper: Keeper, unique: Unique
) -> None:
    """Nobody works once more on an event whose ack is under way when the broker is killed."""
    consuming = await failing(keeper, unique(), TWICE, ack_wait=10.0, storage="file")
    consuming = consuming.quick(confirm_timeout=timedelta(seconds=1))
    await consuming.publish()
    async with consuming.worker() as worker, consuming.worker() as other:
        holder = worker if (await first_event(worker, other)) == 0 else other
        lost = asyncio.Event()
        keeper.broker.connection.on_lost.append(lost.set)
        own_nats_server.freeze()
        holder.ack(1)
        while not holder.has_been_heard:  # noqa: ASYNC110 - until the ack is on its way
            await asyncio.sleep(0)
        own_nats_server.kill()
        await lost.wait()
        own_nats_server.start()
        told = await holder.told(within=20)
        while told == (CommandKind.ACK, [], [], [1]):
            holder.ack(1)
            told = await holder.told(within=20)
        assert told == (CommandKind.ACK, [1], [], [])
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert worker.deliveries.empty()
        assert other.deliveries.empty()


async def first_event(*workers: Worker) -> int:
    """Say which of several workers gets the next event."""
    waiting = [asyncio.create_task(worker.deliveries.get()) for worker in workers]
    done, pending = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return waiting.index(done.pop())


async def test_deliveries_that_waited_for_a_sleeping_server(keeper: Keeper, unique: Unique) -> None:
    """What a server reads after a pause is not handed out when its time was over in the meantime."""
    consuming = await failing(keeper, unique(), RetryPolicy(), ack_wait=1.5)
    assert consuming.shared is not None
    async with consuming.worker() as worker:
        now = asyncio.get_running_loop().time()
        consuming.shared.pauses.look(now - 2.25)
        await consuming.publish()
        await worker.nothing(0.3)
        consuming.shared.pauses.look(asyncio.get_running_loop().time())
        event = await worker.event()
        assert event.attempt == 2
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [1], [], [])


async def test_an_event_that_is_acknowledged_while_it_comes_again(keeper: Keeper, unique: Unique) -> None:
    """Another delivery that is here already when an ack is confirmed is not handed out."""
    consuming = await failing(keeper, unique(), RetryPolicy())
    await consuming.publish()
    async with consuming.worker() as worker:
        event = await worker.event()
        worker.stall()
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [1], [], [])
        attachment = worker.consume_call._attachment
        assert attachment is not None
        reply = f"$JS.ACK.{consuming.stream}.c.2.1.2.{event.stored_ns}.0".encode()
        attachment._arrive(Message(0, b"s", reply, b"", b""))
        worker.read_on()
        await worker.nothing()


async def test_what_was_settled_is_known_to_the_next_call(
    own_nats_server: NatsServer, keeper: Keeper, unique: Unique
) -> None:
    """Clients that come back after a crash of the broker get nothing that they had settled before."""
    consuming = await failing(keeper, unique(), RetryPolicy(), ack_wait=1.5, storage="file")
    await consuming.publish(200)
    async with consuming.worker(window=200) as worker:
        ids = [int(event.id) for event in await worker.events(200)]
        worker.ack(*ids)
        assert await worker.told() == (CommandKind.ACK, ids, [], [])
        own_nats_server.kill()
        await keeper.broker.lost()
    own_nats_server.start()
    await keeper.broker.connection.wait_ready(in_seconds(30))
    async with consuming.worker(window=200) as worker:
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert worker.deliveries.empty()
